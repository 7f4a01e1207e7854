"""The controls of an analysis, read from its signature: hosts turn them into widgets."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from workbench.analysis.base import Range
from workbench.core.coerce import coerce
from workbench.core.errors import unknown
from workbench.core.glossary import choice_label, control_term

Value = bool | int | float | str
MAX_SLIDER_VALUES = 1000  # a person cannot choose one of more values with a slider
# Earlier names of controls: addresses and saved views with them still open.
RENAMED_CONTROLS = {
    "colour": "color_by",
    "commonest": "num_codes",
    "least": "min_count",
    "most": "max_modes",
}


@dataclass(frozen=True)
class Control:
    """One keyword-only parameter of an analysis.

    Attributes
    ----------
    name : str
        Name of the parameter.
    kind : str
        `flag` is a check box, `choice` a menu, `integer` and `number` are sliders.
    default : bool, int, float or str
        Default value.
    choices : tuple of str
        Entries of a menu.
    low, high, step : float
        Range of a slider.
    label : str
        The word on the screen, from the glossary.
    tooltip : str
        Its definition; empty without an entry in the glossary.
    """

    name: str
    kind: Literal["flag", "choice", "integer", "number"]
    default: Value
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float = 1
    label: str = ""
    tooltip: str = ""

    @property
    def options(self) -> dict[str, str]:
        """The entries of a menu: what a choice means, and its value."""
        return {choice_label(choice): choice for choice in self.choices}

    @property
    def num_values(self) -> float:
        """Number of values of a slider."""
        return (self.high - self.low) / self.step + 1

    def accept(self, value: Any) -> Value:
        """Return a value from a widget, an address or a report in the type of the control.

        Raises
        ------
        UserError
            If the value has another type or is out of range.
        """
        if self.kind == "flag":
            return bool(coerce(bool, self.name, value))
        if self.kind == "choice":
            if value not in self.choices:
                raise unknown(self.name, str(value)[:60], self.choices)
            return str(value)
        kind = int if self.kind == "integer" else float
        return coerce(kind, self.name, value, low=self.low, high=self.high)


def controls(analysis: Callable[..., Any]) -> tuple[Control, ...]:
    """Return the controls of an analysis, in the order of its signature.

    Raises
    ------
    TypeError
        If a keyword-only parameter has no annotation from which a control can be made.
    """
    hints = typing.get_type_hints(analysis, include_extras=True)
    parameters = inspect.signature(analysis).parameters.values()
    result = [_control(p, hints[p.name]) for p in parameters if p.kind is p.KEYWORD_ONLY]
    terms = [control_term(analysis.__name__, control.name) for control in result]
    return tuple(
        replace(control, label=term.label, tooltip=term.tooltip)
        for control, term in zip(result, terms, strict=True)
    )


def current_names(analysis: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with earlier names of controls replaced by the present ones."""
    names = {control.name for control in controls(analysis)}
    current = {}
    for name, value in values.items():
        if name not in names and RENAMED_CONTROLS.get(name) in names:
            name = RENAMED_CONTROLS[name]
        current[name] = value
    return current


def coerce_controls(analysis: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Value]:
    """Return all controls of an analysis, with defaults for those that are not given.

    Parameters
    ----------
    analysis : callable
        The function whose keyword arguments are the controls.
    values : Mapping
        Values by name, as numbers or as text.

    Returns
    -------
    dict
        Values by name, in their types and in the order of the signature.

    Raises
    ------
    UserError
        If a control does not exist or its value is not valid.
    """
    control_by_name = {control.name: control for control in controls(analysis)}
    current = current_names(analysis, values)
    for name in current:
        if name not in control_by_name:
            within = f"of {analysis.__name__}"
            raise unknown("control", name[:60], control_by_name, within=within)
    return {
        name: control.accept(current[name]) if name in current else control.default
        for name, control in control_by_name.items()
    }


def _control(parameter: inspect.Parameter, hint: Any) -> Control:
    name, default = parameter.name, parameter.default
    if hint is bool:
        return Control(name=name, kind="flag", default=default)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return Control(name=name, kind="choice", default=default, choices=choices)
    if typing.get_origin(hint) is Annotated:
        kind, *extras = typing.get_args(hint)
        bounds = next((extra for extra in extras if isinstance(extra, Range)), None)
        if bounds is not None and kind in (int, float) and not isinstance(kind, types.UnionType):
            default_step = 1 if kind is int else (bounds.high - bounds.low) / 100
            return Control(
                name=name,
                kind="integer" if kind is int else "number",
                default=default,
                low=bounds.low,
                high=bounds.high,
                step=bounds.step or default_step,
            )
    raise TypeError(
        f"control `{name}` must be bool, Literal[...] or Annotated[int | float, Range(...)], "
        f"got {hint}"
    )
