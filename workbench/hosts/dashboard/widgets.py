"""Material widgets for the controls of an analysis."""

from collections.abc import Callable
from typing import Any

import panel_material_ui as pmui
from panel_material_ui.widgets.base import MaterialWidget

from workbench.workspace.controls import Control, Value


def control_widget(control: Control, value: Value) -> MaterialWidget:
    """Return the widget of a control at a value: a checkbox, a menu or a slider."""
    if control.kind == "flag":
        return pmui.Checkbox(label=control.label, value=value, description=control.tooltip)
    if control.kind == "choice":
        return pmui.Select(
            label=control.label,
            options=control.options,
            value=value,
            width=220,
            description=control.tooltip,
        )
    slider = pmui.IntSlider if control.kind == "integer" else pmui.FloatSlider
    number = int if control.kind == "integer" else float
    return slider(
        label=control.label,
        value=value,
        start=number(control.low),
        end=number(control.high),
        step=number(control.step),
        width=220,
        description=control.tooltip,
    )


def watch_widget(widget: MaterialWidget, action: Callable[[Any], None]) -> None:
    """Call an action when a person gives a widget a value; of a slider, when it is released."""
    if "value_throttled" in widget.param:
        # Also for an unchanged value: Python moves `value` without `value_throttled`.
        widget.param.watch(action, "value_throttled", onlychanged=False)
    else:
        widget.param.watch(action, "value")


def move_slider(widget: MaterialWidget, steps: int) -> Value:
    """Move a slider by a number of its steps, within its range, and return the new value."""
    slider: Any = widget
    value: Value = min(max(slider.value + steps * slider.step, slider.start), slider.end)
    slider.value = value
    return value
