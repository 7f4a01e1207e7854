"""Figure of training curves: one panel per logged number, with one color per run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.run_colors import colors_of_runs
from workbench.analysis.plotting.style import apply_theme

if TYPE_CHECKING:
    from workbench.analysis.runs.training_curves import TrainingCurve, TrainingCurves

COLUMNS = 3
PANEL_HEIGHT_PX = 200
TITLE_HEIGHT_PX = 180
FAINT_OPACITY = 0.3
X_TITLES = {"step": "step", "images": "training images", "minutes": "minutes of training"}


def draw(result: TrainingCurves) -> go.Figure:
    """Draw all runs into the panel of each number; held-out curves are dashed."""
    panels = result.panels
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    specs: list[list[dict[str, Any] | None]] = [
        [{} if row * columns + column < len(panels) else None for column in range(columns)]
        for row in range(rows)
    ]
    figure = make_subplots(
        rows,
        columns,
        specs=specs,
        subplot_titles=[f"<b>{panel}</b>" for panel in panels],
        vertical_spacing=0.3 / rows,
        horizontal_spacing=0.24 / columns,
    )
    figure.update_annotations(font_size=12)
    colors = colors_of_runs(result.runs, result.run_colors)
    named: set[str] = set()
    for i, panel in enumerate(panels):
        cell = {"row": i // columns + 1, "col": i % columns + 1}
        curves = [curve for curve in result.curves if curve.panel == panel]
        for curve in curves:
            is_first = curve.run not in named
            named.add(curve.run)
            for trace in _traces(curve, colors[curve.run], showlegend=is_first):
                figure.add_trace(trace, **cell)
        is_log = result.log and all(curve.values.min() > 0 for curve in curves)
        if result.log and not is_log:
            figure.layout.annotations[i].text += " (linear: not all values are positive)"
        unit = f"{panel}, {curves[0].unit}" if curves[0].unit else panel
        figure.update_yaxes(
            type="log" if is_log else "linear", title=unit, tickformat="~g", nticks=5, **cell
        )
        is_last_row = i >= len(panels) - columns
        title = X_TITLES[result.x] if is_last_row else ""
        figure.update_xaxes(title=title, showticklabels=is_last_row, **cell)
    figure.update_xaxes(matches="x", nticks=5, tickformat="~s")
    figure.update_yaxes(title_standoff=4, title_font_size=11)
    subtitle = "solid: training · dashed: held-out items with averaged weights"
    if result.terms == "as optimized":
        subtitle += " · terms times the multipliers set during training"
    figure.update_layout(
        title={"text": "Training curves", "subtitle": {"text": subtitle}},
        height=TITLE_HEIGHT_PX + PANEL_HEIGHT_PX * rows,
        showlegend=True,
        legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom"},
        uirevision="zoom",
    )
    return apply_theme(figure).update_layout(margin={"t": 120, "b": 90})


def _traces(curve: TrainingCurve, color: str, *, showlegend: bool) -> list[go.Scatter]:
    """Return the curve, and the smoothed curve over a faint one if there is smoothing."""
    has_smooth = len(curve.smoothed) > 0
    style: dict[str, Any] = {
        "x": curve.x,
        "name": curve.run,
        "legendgroup": curve.run,
        "customdata": np.column_stack([curve.steps]),
        "mode": "lines" if len(curve.x) > 1 else "markers",
        "marker": {"color": color, "size": 7},
        "hovertemplate": (
            f"{curve.run}, step %{{customdata[0]:,.0f}}<br>{curve.name} %{{y:.4~g}}<extra></extra>"
        ),
    }
    line = {"color": color, "width": 1.8, "dash": "dash" if curve.is_held_out else "solid"}
    opacity = FAINT_OPACITY if has_smooth else 1.0
    traces = [
        go.Scatter(y=curve.values, line=line, opacity=opacity, showlegend=showlegend, **style)
    ]
    if has_smooth:
        traces.append(go.Scatter(y=curve.smoothed, line=line, showlegend=False, **style))
    return traces
