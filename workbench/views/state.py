"""What a person is looking at: the one thing hosts share, as a URL's query, as JSON, as a report's parameters."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from workbench import analysis
from workbench.errors import UserError
from workbench.views.controls import Value, accept


@dataclass(frozen=True)
class ViewState:
    """Runs by name, the first one leading; a step (None: the last collected); an analysis and its controls."""

    runs: tuple[str, ...] = ()
    step: int | None = None
    analysis: str = "reconstruction"
    controls: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        accept(analysis.get(self.analysis), self.controls)

    def change(self, **changes: Any) -> "ViewState":
        """This state with some fields changed; another analysis starts with its own controls."""
        if changes.get("analysis", self.analysis) != self.analysis:
            changes.setdefault("controls", {})
        return replace(self, **changes)

    def to_query(self) -> str:
        """The state as a URL's query."""
        pairs = [("run", name) for name in self.runs] + [("analysis", self.analysis)]
        pairs += [("step", str(self.step))] if self.step is not None else []
        return urlencode(pairs + [(name, str(value)) for name, value in sorted(self.controls.items())])

    @classmethod
    def from_query(cls, query: str) -> "ViewState":
        """The state a URL's query tells. Raises UserError."""
        runs, rest = [], {}
        for name, value in parse_qsl(query.removeprefix("?")):
            if name == "run":
                runs.append(value)
            else:
                rest[name] = value
        return cls._checked(
            {"runs": runs, "step": rest.pop("step", None), "analysis": rest.pop("analysis", None)}, rest
        )

    def to_json(self) -> str:
        """The state as JSON."""
        return json.dumps({**asdict(self), "controls": dict(self.controls)})

    @classmethod
    def from_json(cls, text: str) -> "ViewState":
        """The state a JSON text tells. Raises UserError."""
        try:
            told = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise UserError(f"this is not a saved view: {error}.") from None
        return cls._checked(told, told.pop("controls", {}))

    @classmethod
    def _checked(cls, told: dict[str, Any], controls: Mapping[str, Any]) -> "ViewState":
        name = told.get("analysis") or cls.analysis
        values = accept(analysis.get(name), controls)
        given = {key: value for key, value in values.items() if key in controls}
        step = told.get("step")
        if step is not None and not str(step).isdigit():
            raise UserError(f"step takes a whole number; got `{step}`.")
        return cls(tuple(map(str, told.get("runs", ()))), None if step is None else int(step), name, given)
