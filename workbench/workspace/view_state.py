"""What a person is looking at: the one thing hosts share, as a URL's query, as JSON, as a report's parameters."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from workbench import analysis
from workbench.core.errors import UserError, unknown
from workbench.workspace.controls import Value, coerce_controls
from workbench.workspace.selection import Selection

TABS = ("", "overview", "live", "lens", "map", "codes")  # beside the analyses; "": an analysis


@dataclass(frozen=True)
class ViewState:
    """Runs by name, the first one leading; a step (None: the last collected); an analysis and its controls.

    Where a tab beside the analyses is open, its name and what is set there; and what was picked, wherever it was.
    """

    runs: tuple[str, ...] = ()
    step: int | None = None
    analysis: str = "reconstruction"
    controls: Mapping[str, Value] = field(default_factory=dict)
    tab: str = ""
    looks: Mapping[str, Value] = field(default_factory=dict)  # what is set in that tab
    selection: Selection | None = None

    def __post_init__(self) -> None:
        if self.tab not in TABS:
            raise unknown("tab", self.tab, TABS[1:])
        coerce_controls(analysis.get(self.analysis), self.controls)

    def change(self, **changes: Any) -> "ViewState":
        """This state with some fields changed; another analysis or tab starts with its own controls."""
        if changes.get("tab", self.tab) != self.tab:
            changes.setdefault("looks", {})
        if changes.get("analysis", self.analysis) != self.analysis:
            changes.setdefault("controls", {})
        return replace(self, **changes)

    def to_query(self) -> str:
        """The state as a URL's query."""
        pairs = [("run", name) for name in self.runs] + [("analysis", self.analysis)]
        pairs += [("step", str(self.step))] if self.step is not None else []
        pairs += [(name, str(value)) for name, value in sorted(self.controls.items())]
        pairs += [("tab", self.tab)] if self.tab else []
        pairs += [
            (f"{self.tab}.{name}", _text(value)) for name, value in sorted(self.looks.items())
        ]
        if self.selection is not None:
            pairs += [("selection", json.dumps(self.selection.told(), separators=(",", ":")))]
        return urlencode(pairs)

    @classmethod
    def from_query(cls, query: str) -> "ViewState":
        """The state a URL's query tells. Raises UserError."""
        runs, rest = [], {}
        for name, value in parse_qsl(query.removeprefix("?")):
            if name == "run":
                runs.append(value)
            else:
                rest[name] = value
        told = {name: rest.pop(name, None) for name in ("step", "analysis", "tab", "selection")}
        if told["selection"] is not None:
            told["selection"] = _read(told["selection"])
        own = f"{told['tab']}."
        looks = {
            name.removeprefix(own): _value(rest.pop(name))
            for name in list(rest)
            if name.startswith(own)
        }
        return cls._checked({"runs": runs, "looks": looks, **told}, rest)

    def to_json(self) -> str:
        """The state as JSON."""
        selection = None if self.selection is None else self.selection.told()
        plain = {"controls": dict(self.controls), "looks": dict(self.looks), "selection": selection}
        return json.dumps({**asdict(replace(self, selection=None)), **plain})

    @classmethod
    def from_json(cls, text: str) -> "ViewState":
        """The state a JSON text tells. Raises UserError."""
        told = _read(text)
        return cls._checked(told, told.pop("controls", {}))

    @classmethod
    def _checked(cls, told: dict[str, Any], controls: Mapping[str, Any]) -> "ViewState":
        name = told.get("analysis") or cls.analysis
        values = coerce_controls(analysis.get(name), controls)
        given = {key: value for key, value in values.items() if key in controls}
        step = told.get("step")
        if step is not None and not str(step).isdigit():
            raise UserError(f"step takes a whole number; got `{step}`.")
        runs, step = tuple(map(str, told.get("runs", ()))), None if step is None else int(step)
        selection = None if told.get("selection") is None else Selection.of(told["selection"])
        return cls(
            runs, step, name, given, told.get("tab") or "", dict(told.get("looks", {})), selection
        )


def _read(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(f"this is not a saved view: {error}.") from None


def _text(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Value:
    """A number, true or false where the text is one, else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text
