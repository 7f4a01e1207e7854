"""Figure of a count of modes: gains and their nulls, agreement, and the modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.latents.mode_assignment import MAX_GALLERY_MODES, ModeGallery
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.sampling import describe_subset

if TYPE_CHECKING:
    from workbench.analysis.latents.modes import MixtureModes

BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, GRAY = COLORS[:7]
COVARIANCE_NAMES = {"diag": "diagonal", "full": "full", "tied": "shared"}
# Heights on the screen, in pixels.
CURVES_HEIGHT_PX = 330
GALLERY_ROW_HEIGHT_PX = 46
GAP_HEIGHT_PX = 110


def draw(result: MixtureModes) -> go.Figure:
    """Draw the curves and the sizes of the modes, and example images if there are any.

    Parameters
    ----------
    result : MixtureModes
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    rows = min(int(result.assignment.max()) + 1, MAX_GALLERY_MODES)
    if result.gallery is None:
        height = 460
        figure = make_subplots(1, 3, column_widths=[0.44, 0.3, 0.26], horizontal_spacing=0.1)
        agreement_row, agreement_col = 1, 2
        sizes_row = 1
    else:
        gallery_height = GALLERY_ROW_HEIGHT_PX * max(rows, 2)
        height = CURVES_HEIGHT_PX + GAP_HEIGHT_PX + gallery_height + 150
        figure = make_subplots(
            2,
            3,
            specs=[[{"colspan": 2}, None, {}], [{}, {}, {}]],
            column_widths=[0.36, 0.36, 0.28],
            row_heights=[CURVES_HEIGHT_PX, gallery_height],
            horizontal_spacing=0.09,
            vertical_spacing=GAP_HEIGHT_PX / (CURVES_HEIGHT_PX + GAP_HEIGHT_PX + gallery_height),
        )
        agreement_row, agreement_col = 1, 3
        sizes_row = 2
        _draw_gallery(figure, result.gallery)
    _draw_gain(figure, result, row=1, col=1)
    _draw_agreement(figure, result, row=agreement_row, col=agreement_col)
    _draw_sizes(figure, result, rows, row=sizes_row, col=3)
    sample = describe_subset(result.n, result.of, stratified=result.is_stratified)
    covariance = f"{COVARIANCE_NAMES[result.covariance]} covariance"
    parts = [f"n = {sample}", result.basis, covariance, f"seed {result.seed}"]
    if result.preset != "ours":
        parts.insert(3, f"preset: {result.preset}")
    subtitle = " · ".join(parts)
    title = f"{result.range_text} (90 % range, shaded; best {result.best})"
    figure.update_layout(title={"text": title, "subtitle": {"text": subtitle}}, height=height)
    figure.update_layout(legend={"orientation": "h", "y": -70 / (height - 120), "yanchor": "top"})
    return apply_theme(figure)


def _draw_gain(figure: go.Figure, result: MixtureModes, row: int, col: int) -> None:
    modes = result.modes
    null, gain, error = result.null_gain, result.gain, result.gain_error
    panel = {"row": row, "col": col}
    _draw_band(figure, modes, gain - error, gain + error, "rgba(0,114,178,0.25)", **panel)
    if len(null) > 1:
        low, high = null.min(axis=0), null.max(axis=0)
        _draw_band(figure, modes, low, high, "rgba(127,127,127,0.3)", **panel)
    hover = "%{x} modes: %{y:.3~g} nats<extra></extra>"
    style: dict[str, Any] = {"mode": "lines+markers", "marker_size": 5, "hovertemplate": hover}
    style |= panel
    line = {"color": GRAY, "dash": "dash"}
    figure.add_scatter(x=modes, y=null.mean(axis=0), name="Gaussian", line=line, **style)
    if result.untrained_gain is not None:
        line = {"color": VERMILION, "dash": "dot"}
        figure.add_scatter(
            x=modes, y=result.untrained_gain, name="untrained encoder", line=line, **style
        )
    line = {"color": BLUE}
    figure.add_scatter(x=modes, y=gain, name="latents, ±1 s.e.", legendrank=1, line=line, **style)
    best_marker = {"symbol": "star", "size": 15, "color": VERMILION, "line": {"width": 0}}
    bic_marker = {"symbol": "diamond-open", "size": 12, "color": PINK, "line": {"width": 2}}
    for name, k, marker in (
        ("best", result.best, best_marker),
        ("BIC", result.bic_best, bic_marker),
    ):
        figure.add_scatter(
            x=[k],
            y=gain[modes == k],
            mode="markers",
            marker=marker,
            name=f"{name}: {k}",
            hovertemplate=hover,
            **panel,
        )
    figure.add_vrect(
        x0=result.low - 0.4,
        x1=result.high + 0.4,
        fillcolor=ORANGE,
        opacity=0.25,
        line_width=0,
        layer="below",
        **panel,
    )
    figure.update_xaxes(title="number of modes", **panel)
    figure.update_yaxes(
        title="held-out gain, nats per image", range=_gain_range(gain, error, result), **panel
    )


def _gain_range(gain: np.ndarray, error: np.ndarray, result: MixtureModes) -> list[float]:
    """Return axis limits around the curve of the latents; a null far below may be cut off."""
    top, low = float((gain + error).max()), float((gain - error).min())
    if result.untrained_gain is not None:
        top = max(top, float(result.untrained_gain.max()))
        low = min(low, float(result.untrained_gain.min()))
    top = max(top, float(result.null_gain.max()), 0.05)
    low = min(low, 0.0, max(float(result.null_gain.min()), -0.6 * top))
    return [low - 0.05 * (top - low), top + 0.08 * (top - low)]


def _draw_band(
    figure: go.Figure, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str, **panel: int
) -> None:
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=color,
        mode="lines",
        line_width=0,
        hoverinfo="skip",
        showlegend=False,
        **panel,
    )


def _draw_agreement(figure: go.Figure, result: MixtureModes, row: int, col: int) -> None:
    style = {
        "x": result.modes[1:],
        "mode": "lines+markers",
        "marker_size": 5,
        "hovertemplate": "%{x} modes: %{y:.2f}<extra></extra>",
        "row": row,
        "col": col,
    }
    figure.add_scatter(
        y=result.stability[1:], name="agreement of fits (Rand)", line_color=GREEN, **style
    )
    if result.classes is not None:
        nmi, shuffled = result.classes.nmi[1:], result.classes.shuffled_nmi[1:]
        figure.add_scatter(y=nmi, name="agreement with classes (NMI)", line_color=ORANGE, **style)
        line = {"color": ORANGE, "dash": "dot"}
        figure.add_scatter(y=shuffled, name="agreement with shuffled classes", line=line, **style)
    figure.update_xaxes(title="number of modes", row=row, col=col)
    figure.update_yaxes(
        title="agreement (1 is perfect)",
        range=[min(-0.04, float(result.stability.min()) - 0.03), 1.04],
        row=row,
        col=col,
    )


def _draw_sizes(figure: go.Figure, result: MixtureModes, rows: int, row: int, col: int) -> None:
    sizes = np.bincount(result.assignment)
    figure.add_bar(
        x=sizes[:rows],
        y=np.arange(rows),
        orientation="h",
        marker_color=SKY,
        hovertemplate="mode %{y}: %{x} images<extra></extra>",
        showlegend=False,
        row=row,
        col=col,
    )
    title = "mode" if len(sizes) <= rows else f"mode ({rows} largest of {len(sizes)})"
    figure.update_xaxes(title="images", rangemode="tozero", row=row, col=col)
    figure.update_yaxes(
        title=title,
        range=[rows - 0.5, -0.5],
        dtick=1,
        showgrid=False,
        ticklabelstandoff=4,
        row=row,
        col=col,
    )


def _draw_gallery(figure: go.Figure, gallery: ModeGallery) -> None:
    _draw_images(figure, gallery.nearest, gallery.rows, "nearest to the mean", col=1)
    if gallery.random is None:
        figure.update_xaxes(visible=False, row=2, col=2)
        figure.update_yaxes(visible=False, row=2, col=2)
    else:
        _draw_images(figure, gallery.random, gallery.rows, "random others", col=2)


def _draw_images(figure: go.Figure, mosaic: np.ndarray, rows: int, title: str, col: int) -> None:
    names = [str(mode) for mode in range(rows)]
    grid = image_grid.draw(mosaic, names, (rows, 1), row_height=GALLERY_ROW_HEIGHT_PX)
    figure.add_trace(grid.data[0], row=2, col=col)
    figure.update_xaxes(grid.layout.xaxis, overwrite=False, title=title, row=2, col=col)
    figure.update_yaxes(
        grid.layout.yaxis, overwrite=False, title="mode" if col == 1 else None, row=2, col=col
    )
