"""Combine the figures of one analysis for several runs in one figure: overlaid or stacked.

Every figure keeps its geometry. Axes of the same role have a common range, so that panels can be
compared by eye, and what a figure draws in the first color has the color of its run.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from workbench.analysis.curve_overlay import can_overlay, overlay
from workbench.analysis.plotting.run_colors import colors_of_runs, dot
from workbench.analysis.plotting.style import COLORS, MARGIN, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.side_by_side import SideBySide

DEFAULT_HEIGHT_PX = 480
LEGEND_WIDTH_PX = 840  # of a legend below a figure on the screen
LEGEND_ROW_PX = 20
LEGEND_MARGIN_PX = 36  # above and below a legend
SYMBOL_WIDTH_PX = 50
LETTER_WIDTH_PX = 7
AXIS_TITLE_PX = 66  # between a figure and the legend below it
TITLE_SHIFT_PX = 20  # of a panel's title, above the titles of its subplots
AXIS = re.compile(r"([xy])axis(\d*)")
REFERENCE = re.compile(r"([xy])(\d*)( domain)?")
GRID_TRACES = ("heatmap", "image", "contour")  # their axes count cells or pixels
MAIN_COLOR = COLORS[0]
Json = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """The position of one figure in the stack.

    Attributes
    ----------
    index : int
        Number of the figure from the top.
    bottom, height : float
        Of its plotting area, as fractions of that of the whole figure.
    height_px : float
        Height of its plotting area in pixels.
    axes_before : int
        Added to the numbers of its axes.
    """

    index: int
    bottom: float
    height: float
    height_px: float
    axes_before: int

    def y(self, value: float) -> float:
        """Return a vertical position in the figure as a position in the stack."""
        return self.bottom + value * self.height

    def axis(self, reference: str) -> str:
        """Return the reference of an axis, such as `x2` or `y domain`, in the stack."""
        match = REFERENCE.fullmatch(reference)
        if match is None:
            return reference  # paper, free, or a category
        letter, number, suffix = match.groups()
        shifted = int(number or 1) + self.axes_before
        return f"{letter}{_number(shifted)}{suffix or ''}"


def draw(result: SideBySide) -> go.Figure:
    """Draw the figures of all runs below each other, or curves of all runs in one figure.

    Parameters
    ----------
    result : SideBySide
        The results to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    colors = colors_of_runs(result.runs, result.run_colors)
    originals = [item.with_run_colors(result.run_colors).figure() for item in result.results]
    if can_overlay(originals):
        return apply_theme(overlay(result.runs, originals, colors))
    figures = [json.loads(figure.to_json()) for figure in originals]
    for run, figure in zip(result.runs, figures, strict=True):
        _recolor(figure, colors[run])
        figure["layout"] = {"xaxis": {}, "yaxis": {}} | figure["layout"]
    panels, height = _panels(figures)
    layout = {
        name: value
        for name, value in figures[0]["layout"].items()
        if not AXIS.fullmatch(name) and name not in ("title", "template", "legend", "height")
    }
    layout |= {"annotations": [], "shapes": [], "images": [], "height": height}
    data: list[Json] = []
    for run, figure, panel in zip(result.runs, figures, panels, strict=True):
        data += _traces(figure, panel)
        _add_layout(layout, figure["layout"], panel)
        layout["annotations"].append(_title(figure["layout"], panel, f"{dot(colors[run])} {run}"))
    _share_ranges(layout, figures, panels)
    return _themed(go.Figure({"data": data, "layout": layout}), figures)


def _themed(stack: go.Figure, figures: list[Json]) -> go.Figure:
    apply_theme(stack)
    margin = {side: max(_margin(figure, side) for figure in figures) for side in ("l", "r")}
    margin |= {"t": _margin(figures[0], "t"), "b": _margin(figures[-1], "b")}
    return stack.update_layout(margin=margin)


def _margin(figure: Json, side: str) -> float:
    """Return a margin of a figure in pixels, with the space of a legend below it."""
    margin = figure["layout"].get("margin", {}).get(side, MARGIN[side])
    if side != "b":
        return margin
    if _has_legend_below(figure["layout"]):
        margin = max(margin, MARGIN["b"] + _legend_height(figure))
    return max(margin, MARGIN["b"] + _names_height(figure))


def _names_height(figure: Json) -> float:
    """Estimate the height of names below a horizontal axis, which turn if they are too wide."""
    heights = [0.0]
    for trace in figure["data"]:
        names = [x for x in _listed(trace.get("x")) if isinstance(x, str)]
        axis = figure["layout"].get("xaxis" + trace.get("xaxis", "x")[1:], {})
        left, right = axis.get("domain", [0, 1])
        longest = max(map(len, names), default=0) * LETTER_WIDTH_PX
        if longest * len(set(names)) > LEGEND_WIDTH_PX * (right - left):
            heights.append(longest)
    return max(heights)


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else []  # numbers are stored as bytes


def _legend_height(figure: Json) -> float:
    """Estimate the height of a horizontal legend, whose columns have the same width."""
    traces = figure["data"]
    names = {t["name"] for t in traces if t.get("name") and t.get("showlegend") is not False}
    widest = max(map(len, names), default=0) * LETTER_WIDTH_PX + SYMBOL_WIDTH_PX
    columns = max(1, LEGEND_WIDTH_PX // widest)
    return -(-len(names) // columns) * LEGEND_ROW_PX + LEGEND_MARGIN_PX


def _has_legend_below(layout: Json) -> bool:
    legend = layout.get("legend", {})
    is_low = legend.get("yref") == "container" or legend.get("y", 0) < 0
    return legend.get("orientation") == "h" and is_low


def _panels(figures: list[Json]) -> tuple[list[Panel], float]:
    """Return the positions of the figures, and the height of all of them in pixels."""
    layouts = [figure["layout"] for figure in figures]
    heights = [layout.get("height") or DEFAULT_HEIGHT_PX for layout in layouts]
    tops = [_margin(figure, "t") for figure in figures]
    bottoms = [_margin(figure, "b") for figure in figures]
    total = sum(heights)
    plot_height = total - tops[0] - bottoms[-1]
    num_axes = max(
        (int(match[2] or 1) for layout in layouts for match in _axis_names(layout)), default=1
    )
    panels = []
    above = 0.0  # pixels from the top of the whole figure
    for i, height in enumerate(heights):
        bottom = total - above - height + bottoms[i] - bottoms[-1]
        panel = Panel(
            index=i,
            bottom=bottom / plot_height,
            height=(height - tops[i] - bottoms[i]) / plot_height,
            height_px=height - tops[i] - bottoms[i],
            axes_before=i * num_axes,
        )
        panels.append(panel)
        above += height
    return panels, total


def _axis_names(layout: Mapping[str, Any]) -> Iterator[re.Match[str]]:
    return (match for name in layout if (match := AXIS.fullmatch(name)))


def _number(number: int) -> str:
    """Return the number of an axis or a legend as Plotly writes it: nothing for the first."""
    return "" if number == 1 else str(number)


def _traces(figure: Json, panel: Panel) -> list[Json]:
    """Return the traces with the axes, the legend and the color bars of their panel."""
    traces = copy.deepcopy(figure["data"])
    for trace in traces:
        if "domain" in trace:
            ends = trace["domain"].get("y", [0, 1])
            trace["domain"]["y"] = [panel.y(end) for end in ends]
        else:
            trace["xaxis"] = panel.axis(trace.get("xaxis", "x"))
            trace["yaxis"] = panel.axis(trace.get("yaxis", "y"))
        trace["legend"] = f"legend{_number(panel.index + 1)}"
        if "legendgroup" in trace:
            trace["legendgroup"] = f"{panel.index} {trace['legendgroup']}"
        if panel.index and trace.get("meta") == "code":
            del trace["meta"]  # a code has another meaning in another run
        for owner in (trace, trace.get("marker", {}), trace.get("line", {})):
            if isinstance(owner, dict) and "colorbar" in owner:
                _move_colorbar(owner["colorbar"], panel)
    return traces


def _move_colorbar(bar: Json, panel: Panel) -> None:
    bar["y"] = panel.y(bar.get("y", 0.5))
    if bar.get("lenmode", "fraction") == "fraction":
        bar["len"] = bar.get("len", 1) * panel.height


def _add_layout(layout: Json, source: Json, panel: Panel) -> None:
    """Add the axes, the legend and everything that is drawn on top of a figure."""
    for match in _axis_names(source):
        letter = match[1]
        number = int(match[2] or 1) + panel.axes_before
        axis = copy.deepcopy(source[match[0]])
        for name in ("anchor", "overlaying", "matches", "scaleanchor"):
            if isinstance(axis.get(name), str):
                axis[name] = panel.axis(axis[name])
        axis.setdefault("anchor", f"{'y' if letter == 'x' else 'x'}{_number(number)}")
        if letter == "y":
            axis["domain"] = [panel.y(end) for end in axis.get("domain", [0, 1])]
        elif "position" in axis:
            axis["position"] = panel.y(axis["position"])
        layout[f"{letter}axis{_number(number)}"] = axis
    legend = copy.deepcopy(source.get("legend", {}))
    legend["y"] = panel.y(legend.get("y", 1))
    if _has_legend_below(source):
        legend.pop("yref", None)
        legend |= {"y": panel.y(-AXIS_TITLE_PX / panel.height_px), "yanchor": "top"}
    layout[f"legend{_number(panel.index + 1)}"] = legend
    for kind in ("annotations", "shapes", "images"):
        for item in source.get(kind, ()):
            layout[kind].append(_moved(item, panel))


def _moved(item: Json, panel: Panel) -> Json:
    """Return an annotation, a shape or an image in its panel."""
    moved = copy.deepcopy(item)
    for name in ("xref", "yref", "axref", "ayref"):
        if name in moved:
            moved[name] = panel.axis(moved[name])
    if moved.get("yref", "paper") == "paper":
        for name in ("y", "y0", "y1"):
            if name in moved:
                moved[name] = panel.y(moved[name])
        if "sizey" in moved:
            moved["sizey"] *= panel.height
    return moved


def _title(source: Json, panel: Panel, run: str) -> Json:
    """Return the title of a figure, after the name of its run, as an annotation above its panel."""
    title = source.get("title", {})
    text = f"<b>{run}</b> · {title.get('text', '')}"
    subtitle = title.get("subtitle", {}).get("text")
    if subtitle:
        text += f"<br><span style='font-size:12px'>{subtitle}</span>"
    position = {"x": 0, "xref": "paper", "xanchor": "left", "yref": "paper", "yanchor": "bottom"}
    return {
        **position,
        "y": panel.y(1),
        "yshift": TITLE_SHIFT_PX,
        "text": text,
        "align": "left",
        "font": {"size": 15},
        "showarrow": False,
    }


def _share_ranges(layout: Json, figures: list[Json], panels: list[Panel]) -> None:
    """Give the axes of the same role the same range, except those that count cells or pixels."""
    roles = {match[0] for figure in figures for match in _axis_names(figure["layout"])}
    for role in sorted(roles):
        if any(_is_fixed(figure, role) for figure in figures):
            continue
        letter, number = AXIS.fullmatch(role).groups()  # type: ignore[union-attr]
        axes = [
            layout[f"{letter}axis{_number(int(number or 1) + panel.axes_before)}"]
            for panel in panels
        ]
        if len({axis.get("type") for axis in axes}) > 1:
            continue
        ranges = [axis["range"] for axis in axes if "range" in axis]
        if len(ranges) == len(axes):
            lows, highs = zip(*ranges, strict=True)
            if all(low < high for low, high in ranges):
                for axis in axes:
                    axis["range"] = [min(lows), max(highs)]
        elif not ranges:
            for axis in axes[1:]:
                axis["matches"] = f"{letter}{number}"


def _is_fixed(figure: Json, role: str) -> bool:
    """Return True if an axis has no range that could be shared."""
    axis = figure["layout"].get(role)
    if axis is None or "matches" in axis or "scaleanchor" in axis or "overlaying" in axis:
        return True
    letter, number = AXIS.fullmatch(role).groups()  # type: ignore[union-attr]
    return any(
        trace["type"] in GRID_TRACES and trace.get(f"{letter}axis", letter) == f"{letter}{number}"
        for trace in figure["data"]
    )


def _recolor(figure: Json, color: str) -> None:
    """Exchange the first color of a figure and the color of the run, except in color scales."""
    if color == MAIN_COLOR:
        return
    exchanged = {MAIN_COLOR: color, color: MAIN_COLOR}
    table = {key.lower(): value for key, value in exchanged.items()}
    table |= {_rgb(key): _rgb(value) for key, value in exchanged.items()}
    pattern = re.compile("|".join(map(re.escape, table)), re.IGNORECASE)

    def exchange(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v if k == "colorscale" else exchange(v) for k, v in value.items()}
        if isinstance(value, list):
            return [exchange(item) for item in value]
        if isinstance(value, str) and value.startswith(("#", "rgba")):
            return pattern.sub(lambda match: table[match[0].lower()], value)
        return value

    figure["data"] = exchange(figure["data"])


def _rgb(color: str) -> str:
    """Return the start of a translucent color."""
    return f"rgba({','.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))},"
