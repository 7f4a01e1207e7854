"""The curves of a run while it trains: a panel for every term, the learning rate, the gradient and the speed."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, apply_theme
from workbench.workspace.live import QUIET, RunSnapshot, label, speeds

POINTS = 1000  # of a curve at most; of longer ones the means of equally many records each
LINES = 40  # events at most, the latest
LABELS = 10


def curves(
    look: RunSnapshot,
    *,
    log: bool = False,
    smoothing: float = 0.0,
    columns: int = 3,
    dark: bool = False,
) -> go.Figure:
    """Every logged number over the steps; `log` for axes of what is above 0, `smoothing` in [0, 1) of the last value's.

    Events are vertical lines; a zoom stays while the run goes on.
    """
    panels = _panels(look)
    rows = max(1, math.ceil(len(panels) / columns))
    titles = [f"<b>{name}</b>" for name in panels]
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=titles,
        vertical_spacing=0.28 / rows,
        horizontal_spacing=0.3 / columns,
    )
    for place, (name, (steps, values)) in enumerate(panels.items()):
        at = {"row": place // columns + 1, "col": place % columns + 1}
        colour, above = COLORS[place % (len(COLORS) - 1)], bool(len(values)) and values.min() > 0
        for trace in _traces(name, steps, values, smoothing, colour):
            figure.add_trace(trace, **at)
        figure.update_yaxes(
            type="log" if log and above else "linear", tickformat="~g", nticks=5, **at
        )
        if log and not above and len(values):
            figure.layout.annotations[place].text += " (not log: not all above 0)"
    figure.update_xaxes(matches="x", nticks=5, tickformat="~s")
    figure.update_annotations(font_size=12)
    _mark(figure, look, len(panels))
    figure = apply_theme(figure, dark=dark)
    margin = {"l": 56, "r": 16, "t": 28, "b": 28}
    return figure.update_layout(
        height=40 + 180 * rows, showlegend=False, uirevision="zoom", margin=margin
    )


def _panels(look: RunSnapshot) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values by name, thinned."""
    history = look.history
    if history.empty:
        return {}
    names = {
        **{term: term for term in look.terms},
        "lr": "learning rate",
        "gradient": "gradient norm",
    }
    panels = {
        title: _thinned(history["step"], history[name])
        for name, title in names.items()
        if name in history
    }
    fast = speeds(history)
    return panels | {"steps a second": _thinned(history["step"][fast.index], fast)}


def _thinned(steps: pd.Series, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    known = values.notna()
    x, y = steps[known].to_numpy(float), values[known].to_numpy(float)
    if len(x) <= POINTS:
        return x, y
    starts = np.linspace(0, len(x), POINTS, endpoint=False).astype(int)
    sizes = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def _traces(
    name: str, x: np.ndarray, y: np.ndarray, smoothing: float, colour: str
) -> list[go.Scatter]:
    """The curve, faint where a smoothed one is drawn over it."""
    said = f"step %{{x:,.0f}}<br>{name} %{{y:.4g}}<extra></extra>"
    look: dict[str, Any] = {"mode": "lines" if len(x) > 1 else "markers", "hovertemplate": said}
    raw = go.Scatter(
        x=x, y=y, line={"color": colour, "width": 1.5}, opacity=0.3 if smoothing else 1.0, **look
    )
    smooth = pd.Series(y).ewm(alpha=1 - smoothing).mean().to_numpy() if smoothing else y[:0]
    over = go.Scatter(x=x[: len(smooth)], y=smooth, line={"color": colour, "width": 2}, **look)
    return [raw, over]


def _mark(figure: go.Figure, look: RunSnapshot, panels: int) -> None:
    """A line in every panel for each event, and its name in the first; a change of what is optimised in vermilion."""
    by_step: dict[int, list[dict[str, Any]]] = {}
    for event in [event for event in look.events if event["event"] not in QUIET][-LINES:]:
        by_step.setdefault(event["step"], []).append(event)
    shapes = []
    for step, events in by_step.items():
        changed = any("value" in event for event in events)
        line = {
            "color": DEAD_COLOR if changed else "#888888",
            "width": 1,
            "dash": "solid" if changed else "dot",
        }
        for panel in ["", *range(2, panels + 1)][:panels]:
            axes = {"xref": f"x{panel}", "yref": f"y{panel} domain"}
            shapes.append(
                {"type": "line", "x0": step, "x1": step, "y0": 0, "y1": 1, "line": line, **axes}
            )
    figure.layout.shapes = shapes
    near = {
        "showarrow": False,
        "textangle": -90,
        "xanchor": "right",
        "yanchor": "top",
        "font": {"size": 10},
    }
    for step, events in list(by_step.items())[-LABELS:] if panels else ():
        said = ", ".join(dict.fromkeys(map(label, events)))
        figure.add_annotation(
            x=step, y=1, xref="x", yref="y domain", text=said, opacity=0.8, **near
        )
