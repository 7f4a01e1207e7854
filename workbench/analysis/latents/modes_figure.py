"""The picture of a count of modes: gains beside their nulls, agreement, and who is in each mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.latents.mode_assignment import MAX_GALLERY_MODES
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.sampling import describe_subset

if TYPE_CHECKING:
    from workbench.analysis.latents.modes import MixtureModes

BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, GREY = COLORS[:7]
KINDS = {"diag": "diagonal", "full": "full", "tied": "shared"}
ROW = 46  # screen pixels of a mode in the gallery


def draw(result: MixtureModes) -> go.Figure:
    """Two panels of curves; the modes' sizes beside them, or below with a gallery where there are images."""
    rows = min(int(result.assignment.max()) + 1, MAX_GALLERY_MODES)
    if result.gallery is None:
        figure = make_subplots(1, 3, column_widths=[0.44, 0.3, 0.26], horizontal_spacing=0.1)
        places, height = ((1, 1), (1, 2), (1, 3)), 460
    else:
        below = max(ROW * rows, 2 * ROW)
        specs = [[{"colspan": 2}, None, {}], [{}, {}, {}]]
        sizes = {"column_widths": [0.36, 0.36, 0.28], "row_heights": [330, below]}
        space = {"horizontal_spacing": 0.09, "vertical_spacing": 110 / (440 + below)}
        figure = make_subplots(2, 3, specs=specs, **sizes, **space)
        places, height = ((1, 1), (1, 3), (2, 3)), 330 + 110 + below + 150
        _gallery(figure, result)
    _gain(figure, result, *places[0])
    _agreement(figure, result, *places[1])
    _sizes(figure, result, rows, *places[2])
    caption = f"{result.basis} · {KINDS[result.covariance]} covariance · preset {result.preset}"
    caption = f"n = {describe_subset(result.n, result.of, stratified=result.is_stratified)} · {caption} · seed {result.seed}"
    title = f"{result.range} (90 % range, shaded; best {result.best})"
    figure.update_layout(title={"text": title, "subtitle": {"text": caption}}, height=height)
    figure.update_layout(legend={"orientation": "h", "y": -70 / (height - 120), "yanchor": "top"})
    return apply_theme(figure)


def _gain(figure: go.Figure, result: MixtureModes, row: int, col: int) -> None:
    modes, where = result.modes, {"row": row, "col": col}
    null, gain, error = result.null_gain, result.gain, result.gain_error
    _band(figure, modes, gain - error, gain + error, "rgba(0,114,178,0.25)", **where)
    if len(null) > 1:
        _band(figure, modes, null.min(axis=0), null.max(axis=0), "rgba(127,127,127,0.3)", **where)
    hover = "%{x} modes: %{y:.3g} nats<extra></extra>"
    look = {"mode": "lines+markers", "marker_size": 5, "hovertemplate": hover, **where}
    figure.add_scatter(
        x=modes, y=null.mean(axis=0), name="Gaussian", line={"color": GREY, "dash": "dash"}, **look
    )
    if result.untrained_gain is not None:
        line = {"color": VERMILION, "dash": "dot"}
        figure.add_scatter(
            x=modes, y=result.untrained_gain, name="before training", line=line, **look
        )
    figure.add_scatter(
        x=modes, y=gain, name="latents, ± 1 s.e.", legendrank=1, line={"color": BLUE}, **look
    )
    for chosen, name, symbol, size in (
        (result.best, "best", "star", 15),
        (result.bic_best, "BIC", "diamond-open", 12),
    ):
        marker = {
            "symbol": symbol,
            "size": size,
            "color": PINK if name == "BIC" else VERMILION,
            "line": {"width": 2},
        }
        marker |= {"line": {"width": 0}} if name == "best" else {}
        at = {
            "x": [chosen],
            "y": gain[modes == chosen],
            "mode": "markers",
            "marker": marker,
            "hovertemplate": hover,
        }
        figure.add_scatter(**at, name=f"{name}, {chosen}", **where)
    shade = {"fillcolor": ORANGE, "opacity": 0.25, "line_width": 0, "layer": "below"}
    figure.add_vrect(x0=result.low - 0.4, x1=result.high + 0.4, **shade, **where)
    figure.update_xaxes(title="number of modes", **where)
    figure.update_yaxes(
        title="held-out gain, nats an image", range=_near(gain, error, result), **where
    )


def _near(gain: np.ndarray, error: np.ndarray, result: MixtureModes) -> list[float]:
    """Bounds that hold the latents' curve: nulls that fall far below it would press it flat."""
    top, low = float((gain + error).max()), float((gain - error).min())
    if result.untrained_gain is not None:
        top, low = (
            max(top, float(result.untrained_gain.max())),
            min(low, float(result.untrained_gain.min())),
        )
    top = max(top, float(result.null_gain.max()), 0.05)
    low = min(low, 0.0, max(float(result.null_gain.min()), -0.6 * top))
    return [low - 0.05 * (top - low), top + 0.08 * (top - low)]


def _band(
    figure: go.Figure, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, **where: int
) -> None:
    band = {"x": [*x, *x[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "fillcolor": colour}
    figure.add_scatter(
        **band, mode="lines", line_width=0, hoverinfo="skip", showlegend=False, **where
    )


def _agreement(figure: go.Figure, result: MixtureModes, row: int, col: int) -> None:
    hover = "%{x} modes: %{y:.2f}<extra></extra>"
    look = {
        "x": result.modes[1:],
        "mode": "lines+markers",
        "marker_size": 5,
        "hovertemplate": hover,
    }
    look |= {"row": row, "col": col}
    figure.add_scatter(y=result.stability[1:], name="fits agree (Rand)", line_color=GREEN, **look)
    if result.classes is not None:
        classes = result.classes
        figure.add_scatter(y=classes.nmi[1:], name="say the class (NMI)", line_color=ORANGE, **look)
        line = {"color": ORANGE, "dash": "dot"}
        figure.add_scatter(y=classes.shuffled_nmi[1:], name="labels shuffled", line=line, **look)
    figure.update_xaxes(title="number of modes", row=row, col=col)
    figure.update_yaxes(
        title="agreement, 1 is perfect",
        range=[min(-0.04, float(result.stability.min()) - 0.03), 1.04],
        row=row,
        col=col,
    )


def _sizes(figure: go.Figure, result: MixtureModes, rows: int, row: int, col: int) -> None:
    sizes = np.bincount(result.assignment)
    hover = "mode %{y}: %{x} images<extra></extra>"
    bars = {
        "x": sizes[:rows],
        "y": np.arange(rows),
        "orientation": "h",
        "marker_color": SKY,
        "hovertemplate": hover,
    }
    figure.add_bar(**bars, showlegend=False, row=row, col=col)
    which = f"mode, the {rows} largest of {len(sizes)}" if len(sizes) > rows else "mode"
    figure.update_xaxes(title="images", rangemode="tozero", row=row, col=col)
    figure.update_yaxes(
        title=which,
        range=[rows - 0.5, -0.5],
        dtick=1,
        showgrid=False,
        ticklabelstandoff=4,
        row=row,
        col=col,
    )


def _gallery(figure: go.Figure, result: MixtureModes) -> None:
    shown = result.gallery
    for column, (title, picture) in enumerate(
        (("nearest the mean", shown.nearest), ("others, at random", shown.random))
    ):
        where = {"row": 2, "col": column + 1}
        if picture is None:
            figure.update_xaxes(visible=False, **where)
            figure.update_yaxes(visible=False, **where)
            continue
        drawn = image_grid.draw(
            picture, [str(i) for i in range(shown.rows)], (shown.rows, 1), row_height=ROW
        )
        figure.add_trace(drawn.data[0], **where)
        figure.update_xaxes(drawn.layout.xaxis, overwrite=False, title=title, **where)
        figure.update_yaxes(
            drawn.layout.yaxis, overwrite=False, title="mode" if column == 0 else None, **where
        )
