"""The picture of latent maps: one scatter, or a panel for each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.latents.point_colors import OTHER_NAME
from workbench.analysis.plotting.style import COLORS, MAGNITUDE_SCALE, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.latents.projection import LatentMap, LatentMaps

MOST_NAMES = 20  # with more, points keep one colour and the name shows on hover
WEBGL = 4_000  # points above which the browser's graphics card draws them
SYMBOLS = ("circle", "diamond", "cross", "triangle-up")
PALETTE = COLORS[:6]  # black is lost on a dark page, and grey is for the rest
GREY = COLORS[6]
TALLEST = 420
COLUMNS, WIDTH, CAPTION = (
    3,
    900,
    70,
)  # of panels; screen pixels of a row of them, and of the words under each


def draw(result: LatentMap) -> go.Figure:
    """One map."""
    figure = go.Figure()
    many = len(result.places) > WEBGL
    for trace in _traces(result, _order(result.colours.names), many):
        figure.add_trace(trace)
    axis = "UMAP" if result.method == "umap" else "principal component"
    figure.update_xaxes(title=f"{axis} 1", zeroline=False)
    figure.update_yaxes(title=f"{axis} 2", zeroline=False, scaleanchor="x")
    text = f"Latent map, trust {result.trust:.2f}, continuity {result.continuity:.2f}"
    figure.update_layout(title={"text": text, "subtitle": {"text": _sample(result)}}, height=520)
    return apply_theme(_legend(figure, result))


def draw_all(result: LatentMaps) -> go.Figure:
    """A panel for each run, over the same stretch of the plane."""
    columns = min(COLUMNS, len(result.maps))
    rows, first = -(-len(result.maps) // columns), result.maps[0]
    low, high = _bounds(result)
    panel = WIDTH / columns * np.clip((high[1] - low[1]) / (high[0] - low[0]), 0.4, 1.2)
    panel = min(panel, TALLEST)
    inside = rows * panel + (rows - 1) * CAPTION
    figure = make_subplots(
        rows, columns, horizontal_spacing=0.06, vertical_spacing=CAPTION / inside
    )
    names = _order(tuple(name for one in result.maps for name in one.colours.names))
    many = sum(len(one.places) for one in result.maps) > WEBGL
    seen: set[str] = set()
    axis = "UMAP" if first.method == "umap" else "component"
    for i, (run, one, apart) in enumerate(
        zip(result.runs, result.maps, result.disparity, strict=True)
    ):
        row, col = i // columns + 1, i % columns + 1
        for trace in _traces(one, names, many):
            fresh = trace.name not in seen
            seen.add(trace.name)
            figure.add_trace(
                trace.update(showlegend=fresh, legendgroup=trace.name), row=row, col=col
            )
        said = f"trust {one.trust:.2f}, continuity {one.continuity:.2f}" + (
            f", disparity {apart:.2f}" if i else ""
        )
        figure.update_xaxes(title={"text": f"{run}<br>{said}", "font_size": 12}, row=row, col=col)
        figure.update_yaxes(title=f"{axis} 2" if col == 1 else " ", row=row, col=col)
    quiet = {"showticklabels": False, "zeroline": False}
    figure.update_xaxes(range=[low[0], high[0]], constrain="domain", **quiet)
    figure.update_yaxes(range=[low[1], high[1]], constrain="domain", **quiet)
    for y, x in zip(figure.select_yaxes(), figure.select_xaxes(), strict=True):
        y.scaleanchor = x.anchor.replace("y", "x")
    text = "Latent maps" + (f", laid onto {result.runs[0]}'s" if len(result.maps) > 1 else "")
    figure.update_layout(
        title={"text": text, "subtitle": {"text": _sample(first)}},
        height=int(inside) + 64 + CAPTION,
    )
    return apply_theme(_legend(figure, first))


def _legend(figure: go.Figure, result: LatentMap) -> go.Figure:
    title = {"title": {"text": result.colours.title}, "itemsizing": "constant"}
    named = len({trace.name for trace in figure.data}) > 1
    axis = {
        "colorscale": MAGNITUDE_SCALE,
        "colorbar": {"title": {"text": result.colours.title}, "thickness": 14},
    }
    return figure.update_layout(showlegend=named, legend=title, coloraxis=axis)


def _traces(result: LatentMap, names: list[str], many: bool) -> list[go.Scatter]:
    scatter, colours = go.Scattergl if many else go.Scatter, result.colours
    size = 6 if len(result.places) <= WEBGL else 4
    if colours.values is not None:
        hover = f"image %{{customdata}}, {colours.title} %{{marker.color:.3g}}<extra></extra>"
        marker = {"color": colours.values, "coloraxis": "coloraxis", "size": size, "opacity": 0.9}
        return [_trace(scatter, result, np.arange(len(result.places)), "images", marker, hover)]
    if not 0 < len(names) <= MOST_NAMES:
        marker = {"color": PALETTE[0], "size": size, "opacity": 0.9}
        text = list(colours.names) or None
        hover = "image %{customdata}" + (", %{text}" if text else "") + "<extra></extra>"
        return [
            _trace(scatter, result, np.arange(len(result.places)), "images", marker, hover).update(
                text=text
            )
        ]
    own, traces = np.array(colours.names), []
    for i, name in enumerate(names):
        marker = {"color": PALETTE[i % 6], "symbol": SYMBOLS[i // 6], "size": size, "opacity": 0.9}
        if name == OTHER_NAME:
            marker = {"color": GREY, "symbol": "circle", "size": size - 2, "opacity": 0.5}
        hover = f"image %{{customdata}}, {colours.by} {name}<extra></extra>"
        traces.append(_trace(scatter, result, np.flatnonzero(own == name), name, marker, hover))
    return traces


def _trace(
    scatter: type,
    result: LatentMap,
    those: np.ndarray,
    name: str,
    marker: dict[str, object],
    hover: str,
) -> go.Scatter:
    x, y = result.coordinates[those].T
    known = {"customdata": result.places[those], "meta": "image", "hovertemplate": hover}
    return scatter(x=x, y=y, mode="markers", name=name, marker=marker, **known)


def _bounds(result: LatentMaps) -> tuple[np.ndarray, np.ndarray]:
    every = np.concatenate([one.coordinates for one in result.maps])
    low, high = every.min(axis=0), every.max(axis=0)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _sample(result: LatentMap) -> str:
    return f"n = {result.part} · {result.neighbors} neighbours · seed {result.seed}"


def _order(names: tuple[str, ...]) -> list[str]:
    """Numbers by size, then names by letter, then the rest."""
    return sorted(
        set(names), key=lambda x: (x == OTHER_NAME, not x.isdigit(), int(x) if x.isdigit() else 0, x)
    )
