"""Figure of training curves: one panel per logged number, with one color per run.

The panels of the loss are as wide as the figure and have the names of the runs at the ends of the
curves; the other panels are below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.end_labels import CurveEnd, add_end_labels
from workbench.analysis.plotting.run_colors import colors_of_runs, dot
from workbench.analysis.plotting.style import apply_theme

if TYPE_CHECKING:
    from workbench.analysis.runs.training_curves import TrainingCurve, TrainingCurves

COLUMNS = 3
LOSS_HEIGHT_PX = 270
PANEL_HEIGHT_PX = 170
ROW_GAP_PX = 76
TITLE_HEIGHT_PX = 120
LEGEND_HEIGHT_PX = 90
LABEL_WIDTH = 0.16  # share of the width, to the right of the loss
FAINT_OPACITY = 0.3
MAX_POINTS = 1000  # of a curve that are drawn; a longer one shows means of equally many records
X_TITLES = {"step": "step", "images": "training images", "minutes": "minutes of training"}


def draw(result: TrainingCurves) -> go.Figure:
    """Draw all runs into the panel of each number; held-out curves are dashed."""
    panels = result.panels
    cells, figure, plot_height = _subplots(result)
    colors = colors_of_runs(result.runs, result.run_colors)
    named: set[str] = set()
    for i, panel in enumerate(panels):
        cell = cells[i]
        curves = [curve for curve in result.curves if curve.panel == panel]
        for curve in curves:
            is_first = curve.run not in named
            named.add(curve.run)
            for trace in _traces(curve, colors[curve.run], showlegend=is_first):
                figure.add_trace(trace, **cell)
        is_log = result.log and all(curve.values.min() > 0 for curve in curves)
        if result.log and not is_log:
            figure.layout.annotations[i].text += " (linear: not all values are positive)"
        axis_type = "log" if is_log else "linear"
        y_title = curves[0].unit or panel
        figure.update_yaxes(type=axis_type, title=y_title, tickformat="~g", nticks=5, **cell)
        is_wide = panel in result.loss_panels
        if is_wide and len(result.runs) > 1:
            _add_labels(figure, curves, colors, is_log=is_log, cell=cell)
        has_ticks = is_wide or i >= len(panels) - COLUMNS
        x_title = X_TITLES[result.x] if has_ticks else ""
        figure.update_xaxes(title=x_title, showticklabels=has_ticks, **cell)
    figure.update_xaxes(matches="x", nticks=5, tickformat="~s", range=_range(result))
    figure.update_yaxes(title_standoff=4, title_font_size=11)
    subtitle = "solid: training · dashed: held-out items with averaged weights"
    if result.terms == "as optimized":
        subtitle += " · terms times the multipliers set during training"
    figure.update_layout(
        title={"text": "Training curves", "subtitle": {"text": subtitle}},
        height=plot_height + TITLE_HEIGHT_PX + LEGEND_HEIGHT_PX,
        showlegend=True,
        legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom"},
        uirevision="zoom",
    )
    return apply_theme(figure).update_layout(margin={"t": TITLE_HEIGHT_PX, "b": LEGEND_HEIGHT_PX})


def _subplots(result: TrainingCurves) -> tuple[list[dict[str, int]], go.Figure, int]:
    """Return the row and column of each panel, the empty panels, and their height in pixels."""
    num_wide = len(result.loss_panels)
    num_small = len(result.panels) - num_wide
    columns = max(1, min(COLUMNS, num_small))
    small_rows = math.ceil(num_small / columns)
    margin = LABEL_WIDTH if len(result.runs) > 1 else 0.0
    wide: list[dict[str, Any] | None] = [{"colspan": columns, "r": margin}]
    specs = [wide + [None] * (columns - 1) for _ in range(num_wide)]
    for row in range(small_rows):
        filled = num_small - row * columns
        specs.append([{} if column < filled else None for column in range(columns)])
    heights = [LOSS_HEIGHT_PX] * num_wide + [PANEL_HEIGHT_PX] * small_rows
    plot_height = sum(heights) + ROW_GAP_PX * (len(heights) - 1)
    figure = make_subplots(
        len(heights),
        columns,
        specs=specs,
        subplot_titles=[f"<b>{panel}</b>" for panel in result.panels],
        row_heights=heights,
        vertical_spacing=ROW_GAP_PX / plot_height,
        horizontal_spacing=0.24 / columns,
    )
    figure.update_annotations(font_size=12)
    cells = [{"row": i + 1, "col": 1} for i in range(num_wide)]
    cells += [
        {"row": num_wide + 1 + i // columns, "col": i % columns + 1} for i in range(num_small)
    ]
    return cells, figure, plot_height


def _add_labels(
    figure: go.Figure,
    curves: Sequence[TrainingCurve],
    colors: Mapping[str, str],
    *,
    is_log: bool,
    cell: dict[str, int],
) -> None:
    """Write the name of each run at the end of its curve of training."""
    scale = np.log10 if is_log else np.asarray
    values = scale(np.concatenate([curve.values for curve in curves]))
    extent = float(np.ptp(values))
    ends = []
    for curve in curves:
        if curve.is_held_out:
            continue
        line = curve.smoothed if len(curve.smoothed) else curve.values
        color = colors[curve.run]
        ends.append(
            CurveEnd(
                text=f"{dot(color)} {curve.run}",
                color=color,
                x=float(curve.x[-1]),
                y=float(scale(line[-1])),
            )
        )
    pixels_per_unit = LOSS_HEIGHT_PX / extent if extent > 0 else 1.0
    add_end_labels(figure, ends, pixels_per_unit=pixels_per_unit, cell=cell)


def _range(result: TrainingCurves) -> list[float] | None:
    """Return the range of the horizontal axes, without room for labels; None for one point."""
    ends = [end for curve in result.curves for end in (curve.x.min(), curve.x.max())]
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    return [low, high] if low < high else None


def _traces(curve: TrainingCurve, color: str, *, showlegend: bool) -> list[go.Scatter]:
    """Return the curve, and the smoothed curve over a faint one if there is smoothing."""
    has_smooth = len(curve.smoothed) > 0
    style: dict[str, Any] = {
        "x": _thin(curve.x),
        "name": curve.run,
        "legendgroup": curve.run,
        "customdata": _thin(curve.steps)[:, None],
        "mode": "lines" if len(curve.x) > 1 else "markers",
        "marker": {"color": color, "size": 7},
        "hovertemplate": (
            f"{curve.run}, step %{{customdata[0]:,.0f}}<br>{curve.name} %{{y:.4~g}}<extra></extra>"
        ),
    }
    line = {"color": color, "width": 1.8, "dash": "dash" if curve.is_held_out else "solid"}
    opacity = FAINT_OPACITY if has_smooth else 1.0
    in_legend = showlegend and not has_smooth
    raw = go.Scatter(
        y=_thin(curve.values), line=line, opacity=opacity, showlegend=in_legend, **style
    )
    if not has_smooth:
        return [raw]
    return [raw, go.Scatter(y=_thin(curve.smoothed), line=line, showlegend=showlegend, **style)]


def _thin(values: np.ndarray) -> np.ndarray:
    """Average neighboring entries so that at most `MAX_POINTS` remain."""
    n = len(values)
    if n <= MAX_POINTS:
        return values
    starts = np.linspace(0, n, MAX_POINTS, endpoint=False).astype(int)
    return np.add.reduceat(values, starts) / np.diff([*starts, n])
