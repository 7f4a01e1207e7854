"""The curves of runs during training, with events: a figure that a host draws again."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.plotting.style import DEAD_COLOR, apply_theme
from workbench.analysis.runs.training_curves import X, training_curves, x_positions
from workbench.storage.training_log import TrainingLog
from workbench.workspace.run_snapshot import RunSnapshot, event_label

MAX_EVENT_LINES = 40
MAX_EVENT_LABELS = 10
# Events that happen in every run need no line.
ROUTINE_EVENTS = ("started", "saved", "evaluated", "finished", "stopped")
EVENT_COLOR = "#888888"
MARGIN_PX = {"l": 64, "r": 16, "t": 40, "b": 48}
LEGEND_HEIGHT_PX = 48  # below the horizontal axis of several runs


def curves(
    snapshot: RunSnapshot,
    other_logs: Sequence[TrainingLog] = (),
    *,
    x: X = "step",
    log: bool = False,
    smoothing: float = 0.0,
    dark: bool = False,
    run_colors: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw every logged number over training, with events as vertical lines.

    Parameters
    ----------
    snapshot : RunSnapshot
        The run that is followed, with its events.
    other_logs : sequence of TrainingLog
        Logs of runs that are drawn into the same panels.
    x : {"step", "images", "minutes"}
        The horizontal axis.
    log : bool
        Use logarithmic axes where all values are positive.
    smoothing : float
        Weight of the past in an exponential moving average, in [0, 1).
    dark : bool
        Draw for a dark page.
    run_colors : mapping of str to str, optional
        The color of each run.

    Returns
    -------
    Figure
        Its zoom is kept when a host draws it again. It is empty if nothing was logged.
    """
    logs = [item for item in (snapshot.log, *other_logs) if item.terms]
    if not logs:
        return apply_theme(go.Figure(), dark=dark)
    result = training_curves(logs, x=x, log=log, smoothing=smoothing)
    figure = result.with_run_colors(run_colors or {}).figure()
    _mark_dashes(figure, {curve.panel for curve in result.curves if curve.is_held_out})
    _mark_events(figure, snapshot, len(result.panels), x)
    legend_height = LEGEND_HEIGHT_PX if len(logs) > 1 else 0
    margin = MARGIN_PX | {"b": MARGIN_PX["b"] + legend_height}
    plot_height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    apply_theme(figure, dark=dark)
    return figure.update_layout(
        title=None,
        showlegend=len(logs) > 1,
        height=plot_height + margin["t"] + margin["b"],
        margin=margin,
    )


def _mark_dashes(figure: go.Figure, panels: set[str]) -> None:
    """Name the dashed curves in the titles of the panels that have them."""
    for title in figure.layout.annotations:
        if any(title.text.startswith(f"<b>{panel}</b>") for panel in panels):
            title.text += " · dashed: held-out items"


def _mark_events(figure: go.Figure, snapshot: RunSnapshot, num_panels: int, x: X) -> None:
    """Draw a line per event in every panel, and its label in the first panel."""
    events = [event for event in snapshot.events if event["event"] not in ROUTINE_EVENTS]
    by_position: dict[float, list[dict[str, Any]]] = {}
    for event in events[-MAX_EVENT_LINES:]:
        position = float(x_positions(snapshot.log, np.array([float(event["step"])]), x)[0])
        if np.isfinite(position):
            by_position.setdefault(position, []).append(event)

    shapes = []
    # Plotly calls the axes of the first panel x and y, of the second x2 and y2.
    axes = [str(i) if i > 1 else "" for i in range(1, num_panels + 1)]
    for position, events_there in by_position.items():
        line = {"color": EVENT_COLOR, "width": 1, "dash": "dot"}
        if any("value" in event for event in events_there):
            # The objective or the learning rate changed here.
            line = {"color": DEAD_COLOR, "width": 1, "dash": "solid"}
        for axis in axes:
            shape = {"type": "line", "x0": position, "x1": position, "y0": 0, "y1": 1, "line": line}
            shapes.append({**shape, "xref": f"x{axis}", "yref": f"y{axis} domain"})
    figure.layout.shapes = shapes

    for position, events_there in list(by_position.items())[-MAX_EVENT_LABELS:]:
        labels = dict.fromkeys(event_label(event) for event in events_there)
        figure.add_annotation(
            x=position,
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
