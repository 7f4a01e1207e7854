"""The curves of a run during training: one panel per term, learning rate, gradient and speed."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, apply_theme
from workbench.workspace.run_snapshot import RunSnapshot, event_label, steps_per_second

MAX_POINTS = 1000  # per curve; longer curves show the means of equally many records
MAX_EVENT_LINES = 40
MAX_EVENT_LABELS = 10
# Events that happen in every run need no line.
ROUTINE_EVENTS = ("started", "saved", "evaluated", "finished", "stopped")
EVENT_COLOR = "#888888"


def curves(
    snapshot: RunSnapshot,
    *,
    log: bool = False,
    smoothing: float = 0.0,
    columns: int = 3,
    dark: bool = False,
) -> go.Figure:
    """Draw every logged number over the steps, with events as vertical lines.

    Parameters
    ----------
    snapshot : RunSnapshot
    log : bool
        Use logarithmic axes where all values are positive.
    smoothing : float
        Weight of the past in an exponential moving average, in [0, 1).
    columns : int
        Panels per row.
    dark : bool
        Draw for a dark page.

    Returns
    -------
    Figure
        Its zoom is kept when a host draws it again.
    """
    panels = _panels(snapshot)
    rows = max(1, math.ceil(len(panels) / columns))
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[f"<b>{name}</b>" for name in panels],
        vertical_spacing=0.28 / rows,
        horizontal_spacing=0.3 / columns,
    )
    for i, (name, (steps, values)) in enumerate(panels.items()):
        cell = {"row": i // columns + 1, "col": i % columns + 1}
        color = COLORS[i % (len(COLORS) - 1)]
        for trace in _traces(name, steps, values, smoothing, color):
            figure.add_trace(trace, **cell)
        is_positive = len(values) > 0 and values.min() > 0
        axis_type = "log" if log and is_positive else "linear"
        figure.update_yaxes(type=axis_type, tickformat="~g", nticks=5, **cell)
        if log and not is_positive and len(values):
            figure.layout.annotations[i].text += " (linear: not all values are positive)"
    figure.update_xaxes(matches="x", nticks=5, tickformat="~s")
    figure.update_annotations(font_size=12)
    _mark_events(figure, snapshot, len(panels))
    figure = apply_theme(figure, dark=dark)
    margin = {"l": 56, "r": 16, "t": 28, "b": 28}
    return figure.update_layout(
        height=40 + 180 * rows, showlegend=False, uirevision="zoom", margin=margin
    )


def _panels(snapshot: RunSnapshot) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the thinned steps and values of each panel, by title."""
    history = snapshot.history
    if history.empty:
        return {}
    titles = {term: term for term in snapshot.terms}
    titles |= {"lr": "learning rate", "gradient": "gradient norm"}
    panels = {
        title: _thin(history["step"], history[name])
        for name, title in titles.items()
        if name in history
    }
    speed = steps_per_second(history)
    panels["steps per second"] = _thin(history["step"][speed.index], speed)
    return panels


def _thin(steps: pd.Series, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Average neighboring records so that at most `MAX_POINTS` remain."""
    is_known = values.notna()
    x, y = steps[is_known].to_numpy(float), values[is_known].to_numpy(float)
    if len(x) <= MAX_POINTS:
        return x, y
    starts = np.linspace(0, len(x), MAX_POINTS, endpoint=False).astype(int)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _traces(
    name: str, x: np.ndarray, y: np.ndarray, smoothing: float, color: str
) -> list[go.Scatter]:
    """Return the curve, faint if smoothed, and the smoothed curve, empty without smoothing."""
    style: dict[str, Any] = {
        "mode": "lines" if len(x) > 1 else "markers",
        "hovertemplate": f"step %{{x:,.0f}}<br>{name} %{{y:.4g}}<extra></extra>",
    }
    smooth = y[:0]
    if smoothing:
        smooth = pd.Series(y).ewm(alpha=1 - smoothing).mean().to_numpy()
    opacity = 0.3 if smoothing else 1.0
    return [
        go.Scatter(x=x, y=y, line={"color": color, "width": 1.5}, opacity=opacity, **style),
        go.Scatter(x=x[: len(smooth)], y=smooth, line={"color": color, "width": 2}, **style),
    ]


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
