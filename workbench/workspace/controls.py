"""An analysis's controls, read off its signature: what a host turns into sliders, menus and boxes."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from workbench.analysis.base import Range
from workbench.core.errors import UserError, unknown

Value = bool | int | float | str


@dataclass(frozen=True)
class Control:
    """One keyword-only parameter: a box (bool), a menu (choices) or a slider (low, high, step)."""

    name: str
    kind: Literal["flag", "choice", "integer", "number"]
    default: Value
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float = 1

    @property
    def label(self) -> str:
        """The name as people read it."""
        return self.name.replace("_", " ")

    def accept(self, value: Any) -> Value:
        """The value in the control's type, from a widget, a URL or a report's parameter. Raises UserError."""
        if self.kind == "flag":
            if str(value).lower() in ("true", "false", "1", "0"):
                return str(value).lower() in ("true", "1")
            raise UserError(f"{self.name} is true or false; got `{value}`.")
        if self.kind == "choice":
            if value in self.choices:
                return value
            raise unknown(f"{self.name}", str(value), self.choices)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise UserError(
                f"{self.name} takes a number from {self.low:g} to {self.high:g}; got `{value}`."
            ) from None
        if not self.low <= number <= self.high or (
            self.kind == "integer" and number != int(number)
        ):
            what = "a whole number" if self.kind == "integer" else "a number"
            raise UserError(
                f"{self.name} takes {what} from {self.low:g} to {self.high:g}; got {value}."
            )
        return int(number) if self.kind == "integer" else number


def controls(analysis: Callable[..., Any]) -> tuple[Control, ...]:
    """The controls of an analysis, in the order of its signature."""
    hints = typing.get_type_hints(analysis, include_extras=True)
    parameters = inspect.signature(analysis).parameters.values()
    return tuple(
        _control(p, hints[p.name])
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and not _private(p)
    )


def coerce_controls(analysis: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Value]:
    """All of an analysis's controls: the given values, checked, and the defaults of the rest. Raises UserError."""
    known = {control.name: control for control in controls(analysis)}
    for name in values:
        if name not in known:
            raise unknown(f"control of {analysis.__name__}", name, known)
    return {
        name: c.accept(values[name]) if name in values else c.default for name, c in known.items()
    }


def _private(parameter: inspect.Parameter) -> bool:
    return parameter.name in (
        "tick",
        "should_stop",
    )  # how a host follows and stops long work: not for a person


def _control(parameter: inspect.Parameter, hint: Any) -> Control:
    name, default = parameter.name, parameter.default
    if hint is bool:
        return Control(name, "flag", default)
    if typing.get_origin(hint) is Literal:
        return Control(name, "choice", default, choices=typing.get_args(hint))
    if typing.get_origin(hint) is Annotated:
        kind, *extras = typing.get_args(hint)
        bounds = next((extra for extra in extras if isinstance(extra, Range)), None)
        if bounds is not None and kind in (int, float) and not isinstance(kind, types.UnionType):
            step = bounds.step or (1 if kind is int else (bounds.high - bounds.low) / 100)
            return Control(
                name,
                "integer" if kind is int else "number",
                default,
                (),
                bounds.low,
                bounds.high,
                step,
            )
    raise TypeError(
        f"control `{name}` must be bool, Literal[...] or Annotated[int | float, Range(...)]; it is {hint}"
    )
