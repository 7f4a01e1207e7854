"""Widgets of ipywidgets for the controls of an analysis and for runs, and their layout."""

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import traitlets

from workbench.workspace.controls import MAX_SLIDER_VALUES, Control, Value

ROW_LAYOUT = {"flex_flow": "row wrap", "grid_gap": "4px 16px"}
LABEL_STYLE = {"description_width": "initial"}
LIST_LAYOUT = {**ROW_LAYOUT, "max_height": "96px", "overflow": "auto"}


class NameCheckboxes(widgets.Box):
    """A checkbox for each name.

    Parameters
    ----------
    names : sequence of str
        All names.
    value : sequence of str
        The checked ones.
    label : str
        Text before the checkboxes.

    Attributes
    ----------
    value : tuple of str
        The checked names, in the order of all names.
    """

    value = traitlets.Tuple(read_only=True)

    def __init__(self, names: Sequence[str], value: Sequence[str], label: str) -> None:
        self.checkboxes = {
            name: widgets.Checkbox(
                name in value, description=name, indent=False, layout={"width": "auto"}
            )
            for name in names
        }
        super().__init__([widgets.Label(label), *self.checkboxes.values()], layout=LIST_LAYOUT)
        self.set_trait("value", self._checked())
        for checkbox in self.checkboxes.values():
            checkbox.observe(self._on_checkbox, "value")

    def _on_checkbox(self, _: Any) -> None:
        self.set_trait("value", self._checked())

    def _checked(self) -> tuple[str, ...]:
        return tuple(name for name, checkbox in self.checkboxes.items() if checkbox.value)


def control_widget(control: Control, value: Value) -> widgets.ValueWidget:
    """Return the widget of a control: a checkbox, a menu, a slider or a field for a number."""
    options: dict[str, Any] = {
        "value": value,
        "description": control.label,
        "tooltip": control.tooltip,
        "style": LABEL_STYLE,
    }
    if control.kind == "flag":
        return widgets.Checkbox(indent=False, **options)
    if control.kind == "choice":
        return widgets.Dropdown(options=list(control.options.items()), **options)
    number = int if control.kind == "integer" else float
    if control.num_values > MAX_SLIDER_VALUES:
        field = widgets.BoundedIntText if number is int else widgets.BoundedFloatText
        return field(min=number(control.low), max=number(control.high), **options)
    slider = widgets.IntSlider if number is int else widgets.FloatSlider
    return slider(
        min=number(control.low),
        max=number(control.high),
        step=number(control.step),
        continuous_update=False,
        **options,
    )
