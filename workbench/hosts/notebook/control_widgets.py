"""Widgets of ipywidgets for the controls of an analysis, and the layout that views share."""

from typing import Any

import ipywidgets as widgets

from workbench.workspace.controls import Control, Value

ROW_LAYOUT = {"flex_flow": "row wrap", "grid_gap": "4px 16px"}
LABEL_STYLE = {"description_width": "initial"}


def control_widget(control: Control, value: Value) -> widgets.ValueWidget:
    """Return the widget of a control at a value: a checkbox, a menu or a slider."""
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
    slider = widgets.IntSlider if control.kind == "integer" else widgets.FloatSlider
    number = int if control.kind == "integer" else float
    return slider(
        min=number(control.low),
        max=number(control.high),
        step=number(control.step),
        continuous_update=False,
        **options,
    )
