"""Material widgets: the controls of an analysis, fields for text, and links with a button."""

from collections.abc import Callable
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel_material_ui.widgets.base import MaterialWidget

from workbench.core.html_templates import render_text
from workbench.workspace.controls import MAX_SLIDER_VALUES, Control, Value


def control_widget(control: Control, value: Value) -> MaterialWidget:
    """Return the widget of a control: a checkbox, a menu, a slider or a field for a number."""
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
    is_integer = control.kind == "integer"
    slider: Any = pmui.IntSlider if is_integer else pmui.FloatSlider
    if control.num_values > MAX_SLIDER_VALUES:
        slider = pmui.IntInput if is_integer else pmui.FloatInput
    number = int if is_integer else float
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


def set_value(widget: MaterialWidget, value: Value) -> None:
    """Set a widget to a value. A slider that was shortened is extended if the value needs it."""
    end = widget.param.values().get("end")
    if end is not None and isinstance(value, int | float) and value > end:
        widget.param.update(end=value)
    widget.param.update(value=value)


def shorten(widget: MaterialWidget, end: int) -> None:
    """End a slider or a field for a number at a value that depends on the data.

    It is hidden if the data leave nothing to choose.
    """
    values = widget.param.values()
    start, value = values["start"], values["value"]
    end_shown = max(end, start + 1)
    widget.param.update(end=end_shown, value=min(value, end_shown), visible=end > start)


def move_slider(widget: MaterialWidget, steps: int) -> Value:
    """Move a slider by a number of its steps, within its range, and return the new value."""
    slider: Any = widget
    value: Value = min(max(slider.value + steps * slider.step, slider.start), slider.end)
    slider.value = value
    return value


def text_line(label: str, description: str) -> pmui.TextInput:
    """Return a field for one line of text."""
    return pmui.TextInput(
        label=label, description=description, size="small", sizing_mode="stretch_width"
    )


def text_area(label: str, description: str) -> pmui.TextAreaInput:
    """Return a field for Markdown that grows with its text."""
    return pmui.TextAreaInput(
        label=label,
        description=description,
        rows=1,
        max_rows=8,
        auto_grow=True,
        size="small",
        sizing_mode="stretch_width",
    )


def linked_row(name: str, address: str, description: str, remove: Callable[[], None]) -> pn.Row:
    """Return a link with a button that removes it."""
    button = pmui.Button(
        label="×", variant="text", size="small", width=36, margin=0, description=description
    )
    button.on_click(lambda _: remove())
    text = render_text(
        '<a href="{{ address }}" style="color: inherit">{{ name }}</a>', address=address, name=name
    )
    link = pn.pane.HTML(text, sizing_mode="stretch_width")
    return pn.Row(button, link, margin=0, sizing_mode="stretch_width")
