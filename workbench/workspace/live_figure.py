"""The curves of one run during training, with its events: a figure that a host draws again."""

from typing import Any

import plotly.graph_objects as go

from workbench.analysis.plotting.style import DEAD_COLOR, apply_theme
from workbench.analysis.runs.training_curves import training_curves
from workbench.workspace.run_snapshot import RunSnapshot, event_label

MAX_EVENT_LINES = 40
MAX_EVENT_LABELS = 10
# Events that happen in every run need no line.
ROUTINE_EVENTS = ("started", "saved", "evaluated", "finished", "stopped")
EVENT_COLOR = "#888888"
MARGIN_PX = {"l": 64, "r": 16, "t": 40, "b": 48}


def curves(
    snapshot: RunSnapshot, *, log: bool = False, smoothing: float = 0.0, dark: bool = False
) -> go.Figure:
    """Draw every logged number over the steps, with events as vertical lines.

    Parameters
    ----------
    snapshot : RunSnapshot
    log : bool
        Use logarithmic axes where all values are positive.
    smoothing : float
        Weight of the past in an exponential moving average, in [0, 1).
    dark : bool
        Draw for a dark page.

    Returns
    -------
    Figure
        Its zoom is kept when a host draws it again. It is empty if nothing was logged.
    """
    if not snapshot.log.terms:
        return apply_theme(go.Figure(), dark=dark)
    result = training_curves([snapshot.log], log=log, smoothing=smoothing)
    figure = result.figure()
    _mark_events(figure, snapshot, len(result.panels))
    height = figure.layout.height - 130  # without title and legend
    apply_theme(figure, dark=dark)
    return figure.update_layout(title=None, showlegend=False, height=height, margin=MARGIN_PX)


def _mark_events(figure: go.Figure, snapshot: RunSnapshot, num_panels: int) -> None:
    """Draw a line per event in every panel, and its label in the first panel."""
    events = [event for event in snapshot.events if event["event"] not in ROUTINE_EVENTS]
    by_step: dict[int, list[dict[str, Any]]] = {}
    for event in events[-MAX_EVENT_LINES:]:
        by_step.setdefault(event["step"], []).append(event)

    shapes = []
    # Plotly calls the axes of the first panel x and y, of the second x2 and y2.
    axes = [str(i) if i > 1 else "" for i in range(1, num_panels + 1)]
    for step, step_events in by_step.items():
        line = {"color": EVENT_COLOR, "width": 1, "dash": "dot"}
        if any("value" in event for event in step_events):
            # The objective or the learning rate changed here.
            line = {"color": DEAD_COLOR, "width": 1, "dash": "solid"}
        for axis in axes:
            shape = {"type": "line", "x0": step, "x1": step, "y0": 0, "y1": 1, "line": line}
            shapes.append({**shape, "xref": f"x{axis}", "yref": f"y{axis} domain"})
    figure.layout.shapes = shapes

    if not num_panels:
        return
    for step, step_events in list(by_step.items())[-MAX_EVENT_LABELS:]:
        labels = dict.fromkeys(event_label(event) for event in step_events)
        figure.add_annotation(
            x=step,
            y=1,
            xref="x",
            yref="y domain",
            text=", ".join(labels),
            opacity=0.8,
            showarrow=False,
            textangle=-90,
            xanchor="right",
            yanchor="top",
            font={"size": 10},
        )
