"""Overlay the figures of one analysis for several runs, if they consist of curves only.

Curves in one panel are easier to compare than in panels below each other. Every curve has the color
of its run, and keeps its dashes and symbols.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.plotting.end_labels import CurveEnd, add_end_labels
from workbench.analysis.plotting.run_colors import dot

CURVE_TYPES = ("scatter", "scattergl")
DEFAULT_HEIGHT_PX = 480
LEGEND_ROW_PX = 22
LABEL_MARGIN_PX = 24  # of the label of a curve, with its line and dot
LETTER_WIDTH_PX = 6.5  # of a label
MARGINS_PX = 140  # of a figure, with its titles and the titles of its axes
BAND_OPACITY = "26"  # of a filled area: a sixth, as hexadecimal digits
TITLE_ENDS = ":,("  # a title is the same up to one of these, or as a whole


def can_overlay(figures: Sequence[go.Figure]) -> bool:
    """Return True if figures have the same axes, and only curves over numbers.

    Parameters
    ----------
    figures : sequence of plotly.graph_objects.Figure
        The figures of one analysis, one per run.

    Returns
    -------
    bool
    """
    frames = [_frame(figure) for figure in figures]
    return all(map(_has_only_curves, figures)) and all(frame == frames[0] for frame in frames)


def overlay(
    runs: Sequence[str], figures: Sequence[go.Figure], colors: Mapping[str, str]
) -> go.Figure:
    """Draw the curves of all figures into the panels of the first one.

    Parameters
    ----------
    runs : sequence of str
        The name of the run of each figure.
    figures : sequence of plotly.graph_objects.Figure
        Figures that `can_overlay` accepts.
    colors : mapping of str to str
        The color of each run.

    Returns
    -------
    plotly.graph_objects.Figure
        Curves that are the same in all figures, such as a null value, occur once.
    """
    figure = go.Figure(layout=figures[0].layout)
    shared = _shared_traces(figures)
    figure.add_traces([figures[0].data[i] for i in shared])
    for run, source in zip(runs, figures, strict=True):
        curves = [trace for i, trace in enumerate(source.data) if i not in shared]
        names = [trace.name for trace in curves if trace.name and trace.showlegend is not False]
        for trace in curves:
            name = run if len(names) <= 1 else f"{run}, {trace.name}"
            figure.add_trace(_colored(trace, colors[run], name))
    _label_ends(figure, runs, figures, colors)
    height = figures[0].layout.height or DEFAULT_HEIGHT_PX
    if figures[0].layout.legend.orientation == "h":  # otherwise the legend makes room
        width = LABEL_MARGIN_PX + LETTER_WIDTH_PX * max(map(len, runs))
        figure.update_layout(margin={"r": width})
    figure.update_layout(
        title=_common_title([source.layout.title for source in figures]),
        height=height + LEGEND_ROW_PX * (len(runs) - 1),
        showlegend=True,
    )
    return figure


def _has_only_curves(figure: go.Figure) -> bool:
    is_plain = not figure.layout.images and all(map(_is_curve, figure.data))
    return is_plain and any(map(_draws_line, figure.data))


def _draws_line(trace: Any) -> bool:
    return trace.mode is None or "lines" in trace.mode


def _is_curve(trace: Any) -> bool:
    if trace.type not in CURVE_TYPES or trace.x is None or trace.y is None:
        return False
    is_numeric = all(np.asarray(values).dtype.kind in "iuf" for values in (trace.x, trace.y))
    return is_numeric and isinstance(trace.marker.color, str | None)


def _frame(figure: go.Figure) -> dict[str, Any]:
    """Return what figures must have in common: axes, marks and texts, without their positions."""
    layout = figure.layout.to_plotly_json()
    axes = {
        name: (axis.get("title", {}).get("text"), axis.get("type"), str(axis.get("ticktext")))
        for name, axis in layout.items()
        if name[:5] in ("xaxis", "yaxis")
    }
    texts = [annotation.get("text") for annotation in layout.get("annotations", ())]
    return {**axes, "annotations": texts, "shapes": str(layout.get("shapes"))}


def _shared_traces(figures: Sequence[go.Figure]) -> list[int]:
    """Return the numbers of the traces that are the same in all figures, except the first curve.

    Runs with equal results still have a curve each.
    """
    num_traces = min(len(figure.data) for figure in figures)
    first = next(i for i, trace in enumerate(figures[0].data) if _draws_line(trace))
    return [
        i
        for i in range(num_traces)
        if i != first and _is_shared([figure.data[i] for figure in figures])
    ]


def _is_shared(traces: Sequence[Any]) -> bool:
    first, *rest = traces
    return all(
        np.array_equal(first.x, other.x)
        and np.array_equal(first.y, other.y, equal_nan=True)
        and first.name == other.name
        for other in rest
    )


def _colored(trace: Any, color: str, name: str) -> Any:
    """Return a curve in the color of its run, with its name in the legend and on hovering."""
    copy = type(trace)(trace)
    copy.update(name=name, legendgroup=name, line={"color": color}, marker={"color": color})
    if trace.fill:
        copy.fillcolor = color + BAND_OPACITY
    if trace.hovertemplate:
        copy.hovertemplate = f"{name}<br>{trace.hovertemplate}"
    return copy


def _label_ends(
    figure: go.Figure,
    runs: Sequence[str],
    figures: Sequence[go.Figure],
    colors: Mapping[str, str],
) -> None:
    """Write the name of each run at the end of its first curve in the first panel."""
    scale_x, scale_y = _scale(figure.layout.xaxis), _scale(figure.layout.yaxis)
    ends = []
    heights = []
    for run, source in zip(runs, figures, strict=True):
        curve = next(filter(_draws_line, source.data))
        if curve.xaxis not in (None, "x") or not len(curve.x):
            return
        x, y = scale_x(np.asarray(curve.x, float)), scale_y(np.asarray(curve.y, float))
        is_finite = np.isfinite(x) & np.isfinite(y)
        if not is_finite.any():
            continue
        last = int(np.flatnonzero(is_finite)[x[is_finite].argmax()])
        heights.append(y[is_finite])
        text = f"{dot(colors[run])} {run}"
        ends.append(CurveEnd(text=text, color=colors[run], x=float(x[last]), y=float(y[last])))
    extent = float(np.ptp(np.concatenate(heights))) if heights else 0.0
    plot_height = (figure.layout.height or DEFAULT_HEIGHT_PX) - MARGINS_PX
    pixels_per_unit = plot_height / extent if extent > 0 else 1.0
    add_end_labels(figure, ends, pixels_per_unit=pixels_per_unit, cell={})


def _scale(axis: Any) -> Any:
    return np.log10 if axis.type == "log" else np.asarray


def _common_title(titles: Sequence[Any]) -> dict[str, Any]:
    """Return the title, and the parts of the subtitle, that all figures have."""
    texts = [title.text or "" for title in titles]
    text = texts[0]
    if any(other != text for other in texts):
        prefix = os.path.commonprefix(texts)
        text = prefix[: max(prefix.rfind(end) for end in TITLE_ENDS)] if prefix else ""
    subtitles = [(title.subtitle.text or "").split(" · ") for title in titles]
    parts = [part for part in subtitles[0] if all(part in other for other in subtitles)]
    return {"text": text, "subtitle": {"text": " · ".join(parts)}}
