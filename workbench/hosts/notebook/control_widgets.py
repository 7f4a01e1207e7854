"""Widgets of ipywidgets for the controls of an analysis, and the layout that views share."""

from typing import Any

import ipywidgets as widgets

from workbench.workspace.controls import MAX_SLIDER_VALUES, Control, Value

ROW_LAYOUT = {"flex_flow": "row wrap", "grid_gap": "4px 16px"}
LABEL_STYLE = {"description_width": "initial"}


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
