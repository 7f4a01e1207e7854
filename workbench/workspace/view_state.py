"""The view that a person looks at, as the query of an address, as JSON or as parameters."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from workbench import analysis
from workbench.core.coerce import coerce
from workbench.core.errors import UserError, unknown
from workbench.workspace.controls import Value, coerce_controls, current_names
from workbench.workspace.filters import shorten
from workbench.workspace.selection import Selection

TABS = ("", "overview", "table", "live", "train", "lens", "map", "codes")


@dataclass(frozen=True)
class ViewState:
    """Runs, an analysis or a tab with its settings, and a selection.

    Attributes
    ----------
    runs : tuple of str
        Names of the runs; the first is the primary run.
    step : int or None
        Step of the primary run's evidence; None is the last one.
    analysis : str
        Name of the analysis.
    controls : Mapping
        Controls of the analysis that differ from their defaults.
    tab : str
        The open tab other than an analysis; empty for the analysis.
    tab_options : Mapping
        Settings of that tab.
    selection : Selection or None
        The selected images.
    side_by_side : bool
        Whether an analysis of one run is shown for all selected runs, in one figure.

    Raises
    ------
    UserError
        If the tab, the analysis or a control does not exist.
    """

    runs: tuple[str, ...] = ()
    step: int | None = None
    analysis: str = "image_comparison"
    controls: Mapping[str, Value] = field(default_factory=dict)
    tab: str = ""
    tab_options: Mapping[str, Value] = field(default_factory=dict)
    selection: Selection | None = None
    side_by_side: bool = False

    def __post_init__(self) -> None:
        if self.tab not in TABS:
            raise unknown("tab", shorten(self.tab), TABS[1:])
        coerce_controls(analysis.get(self.analysis), self.controls)

    def change(self, **changes: Any) -> "ViewState":
        """Return this state with some fields changed.

        Another analysis starts with its default controls, another tab with its default settings.
        """
        if changes.get("tab", self.tab) != self.tab:
            changes.setdefault("tab_options", {})
        if changes.get("analysis", self.analysis) != self.analysis:
            changes.setdefault("controls", {})
        return replace(self, **changes)

    def to_query(self) -> str:
        """Return the state as the query of an address."""
        pairs = [("run", name) for name in self.runs]
        pairs.append(("analysis", self.analysis))
        if self.step is not None:
            pairs.append(("step", str(self.step)))
        if self.side_by_side:
            pairs.append(("side_by_side", "True"))
        pairs += [(name, str(value)) for name, value in sorted(self.controls.items())]
        if self.tab:
            pairs.append(("tab", self.tab))
        for name, value in sorted(self.tab_options.items()):
            pairs.append((f"{self.tab}.{name}", _to_text(value)))
        if self.selection is not None:
            text = json.dumps(self.selection.to_dict(), separators=(",", ":"))
            pairs.append(("selection", text))
        return urlencode(pairs)

    @classmethod
    def from_query(cls, query: str) -> "ViewState":
        """Return the state in the query of an address.

        Raises
        ------
        UserError
            If the query is not one of `to_query`.
        """
        pairs = parse_qsl(query.removeprefix("?"))
        runs = [value for name, value in pairs if name == "run"]
        rest: dict[str, Any] = {name: value for name, value in pairs if name != "run"}
        names = ("step", "analysis", "tab", "selection", "side_by_side")
        values = {name: rest.pop(name, None) for name in names}
        if values["selection"] is not None:
            values["selection"] = _parse_object(values["selection"])
        prefix = f"{values['tab']}."
        options = {
            name.removeprefix(prefix): _from_text(rest.pop(name))
            for name in list(rest)
            if name.startswith(prefix)
        }
        return cls._from_values({"runs": runs, "tab_options": options, **values}, rest)

    def to_json(self) -> str:
        """Return the state as JSON."""
        values = {
            "runs": list(self.runs),
            "step": self.step,
            "analysis": self.analysis,
            "controls": dict(self.controls),
            "tab": self.tab,
            "tab_options": dict(self.tab_options),
            "selection": None if self.selection is None else self.selection.to_dict(),
            "side_by_side": self.side_by_side,
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "ViewState":
        """Return the state of `to_json`.

        Raises
        ------
        UserError
            If the text is not one of `to_json`.
        """
        values = _parse_object(text)
        return cls._from_values(values, values.pop("controls", {}))

    @classmethod
    def _from_values(cls, values: dict[str, Any], controls: Mapping[str, Any]) -> "ViewState":
        try:
            name = str(values.get("analysis") or cls.analysis)
            current = current_names(analysis.get(name), controls)
            checked = coerce_controls(analysis.get(name), current)
            step = coerce(int | None, "step", values.get("step"))
            if step is not None and step < 0:
                raise UserError(f"step must be at least 0, got {step}.")
            selection = values.get("selection")
            # Saved views of earlier versions call the settings of a tab `looks`.
            options = values.get("tab_options") or values.get("looks") or {}
            if values.get("tab") == "map":
                options = current_names(analysis.get("latent_map"), options)
            return cls(
                runs=tuple(map(str, values.get("runs", ()))),
                step=step,
                analysis=name,
                controls={key: value for key, value in checked.items() if key in current},
                tab=str(values.get("tab") or ""),
                tab_options=dict(options),
                selection=None if selection is None else Selection.from_dict(selection),
                side_by_side=bool(
                    coerce(bool, "side_by_side", values.get("side_by_side") or False)
                ),
            )
        except UserError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"This is not a saved view: {error}.") from None


def _parse_object(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"This is not a saved view: {error}.") from None


def _to_text(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _from_text(text: str) -> Value:
    """Return a number or a boolean where the text is one, otherwise the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text
