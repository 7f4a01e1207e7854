"""Figure of the comparison of latent spaces: a table with a cell per run and perspective."""

from __future__ import annotations

import html
import math
import textwrap
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.core.result_columns import decimals, number_text

if TYPE_CHECKING:
    from workbench.analysis.learnability.comparison import Cell, Column, Diffusability

GRAY = COLORS[6]
BAND_COLOR = "rgba(127,127,127,0.10)"  # of every second analysis
BEST_COLOR = "rgba(0,158,115,0.35)"
ARROWS = {"higher": "↑ higher", "lower": "↓ lower"}
TITLE_LETTERS = 10
MAX_COLUMNS = 14  # of a block, whose titles then fit next to each other
HOVER_LETTERS = 60
CELL_DIGITS = 3  # of the largest value of a column
ROW_HEIGHT_PX = 40
HEADER_HEIGHT_PX = 56  # three lines of column titles
GAP_PX = 24  # between blocks
MARGINS_PX = 120  # of the theme, above and below
CELL_KIND = "perspective"  # a click opens the analysis of the column with the run of the row
NULL_ROW = "null value"


def draw(result: Diffusability) -> go.Figure:
    """Draw one row per run and one column per perspective, and the null values below.

    Parameters
    ----------
    result : Diffusability
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
        Tables of more than 14 columns continue in another block of rows.
    """
    blocks = _blocks(result)
    block_height = HEADER_HEIGHT_PX + ROW_HEIGHT_PX * (len(result.runs) + 1)
    plot_height = len(blocks) * (block_height + GAP_PX) - GAP_PX
    figure = go.Figure()
    for i, columns in enumerate(blocks):
        top = i * (block_height + GAP_PX)
        bottom = top + block_height
        domain = (1 - bottom / plot_height, 1 - (top + HEADER_HEIGHT_PX) / plot_height)
        _draw_block(figure, result, columns, "" if i == 0 else str(i + 1), domain)
    subtitle = (
        f"compared with {result.runs[0]} · an arrow marks a published direction · green: best,"
        " without overlap of intervals · gray: not comparable"
    )
    figure.update_layout(
        title={"text": "Diffusability", "subtitle": {"text": subtitle}},
        height=MARGINS_PX + plot_height,
        showlegend=False,
        dragmode=False,
    )
    return apply_theme(figure)


def _blocks(result: Diffusability) -> list[tuple[Column, ...]]:
    """Return the columns in blocks of about equal width."""
    count = -(-len(result.columns) // MAX_COLUMNS)
    size = -(-len(result.columns) // count)
    return [result.columns[i : i + size] for i in range(0, len(result.columns), size)]


def _draw_block(
    figure: go.Figure,
    result: Diffusability,
    columns: tuple[Column, ...],
    axis: str,
    domain: tuple[float, float],
) -> None:
    """Draw some columns on axes of their own; `axis` is the number of the axes as a text."""
    _draw_bands(figure, result, columns, axis)
    entries = [
        (x, y, column, cell)
        for x, column in enumerate(columns)
        for y, cell in enumerate(column.cells)
    ]
    comparable = [entry for entry in entries if entry[3].is_comparable]
    incomparable = [entry for entry in entries if not entry[3].is_comparable]
    _draw_cells(figure, comparable, axis, "comparable", {})
    name = f"missing, or not comparable with {result.runs[0]}"
    _draw_cells(figure, incomparable, axis, name, {"color": GRAY})
    _draw_nulls(figure, result, columns, axis)
    num_rows = len(result.runs) + 1
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True, "tickmode": "array"}
    x_axis = {
        "anchor": f"y{axis}",
        "side": "top",
        "tickvals": list(range(len(columns))),
        "ticktext": [_title(column) for column in columns],
        "tickfont": {"size": 11},
        "tickangle": 0,
        # A shorter last block keeps the width of its columns.
        "range": [-0.5, len(_blocks(result)[0]) - 0.5],
    }
    y_axis = {
        "anchor": f"x{axis}",
        "domain": domain,
        "tickvals": list(range(num_rows)),
        "ticktext": [*result.runs, f"<i>{NULL_ROW}</i>"],
        "range": [num_rows - 0.5, -0.5],
        "automargin": True,
        "ticklabelstandoff": 6,
    }
    figure.update_layout({f"xaxis{axis}": plain | x_axis, f"yaxis{axis}": plain | y_axis})


def _draw_bands(
    figure: go.Figure, result: Diffusability, columns: tuple[Column, ...], axis: str
) -> None:
    """Shade the columns of every second analysis, and the best cells."""
    analyses = list(dict.fromkeys(column.analysis for column in result.columns))
    style = {"type": "rect", "xref": f"x{axis}", "line_width": 0, "layer": "below"}
    for x, column in enumerate(columns):
        if analyses.index(column.analysis) % 2 == 0:
            figure.add_shape(
                x0=x - 0.5,
                x1=x + 0.5,
                y0=0,
                y1=1,
                yref=f"y{axis} domain",
                fillcolor=BAND_COLOR,
                **style,
            )
        if column.best:
            y = result.runs.index(column.best)
            figure.add_shape(
                x0=x - 0.47,
                x1=x + 0.47,
                y0=y - 0.42,
                y1=y + 0.42,
                yref=f"y{axis}",
                fillcolor=BEST_COLOR,
                **style,
            )


def _draw_cells(
    figure: go.Figure,
    entries: list[tuple[int, int, Column, Cell]],
    axis: str,
    name: str,
    font: dict[str, str],
) -> None:
    if not entries:
        return
    figure.add_scatter(
        x=[x for x, _, _, _ in entries],
        y=[y for _, y, _, _ in entries],
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
        mode="markers+text",
        marker={"size": ROW_HEIGHT_PX - 8, "symbol": "square", "opacity": 0},
        text=[_text(column, cell.value) for _, _, column, cell in entries],
        textfont=font,
        name=name,
        meta=CELL_KIND,
        customdata=[f"{column.analysis}:{cell.run}" for _, _, column, cell in entries],
        hovertext=[_hover(column, cell) for _, _, column, cell in entries],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _draw_nulls(
    figure: go.Figure, result: Diffusability, columns: tuple[Column, ...], axis: str
) -> None:
    figure.add_scatter(
        x=list(range(len(columns))),
        y=[len(result.runs)] * len(columns),
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
        mode="text",
        text=[f"<i>{_text(column, column.reference.null)}</i>" for column in columns],
        textfont={"color": GRAY},
        hovertext=[
            f"{column.reference.null_case or 'no null value'}<br>{column.name}"
            for column in columns
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _title(column: Column) -> str:
    lines = textwrap.wrap(
        column.name, TITLE_LETTERS, break_on_hyphens=False, break_long_words=False
    )
    title = "<br>".join(lines)
    arrow = "" if column.better is None else f"<br><b>{ARROWS[column.better]}</b>"
    return title + arrow


def _text(column: Column, value: float) -> str:
    """Return a value with as many decimals as the others of its column."""
    values = [cell.value for cell in column.cells]
    return number_text(decimals(values, CELL_DIGITS), value, CELL_DIGITS)


def _hover(column: Column, cell: Cell) -> str:
    """Return the text of a cell: value, interval, null, direction, and why it is gray."""
    reference = column.reference
    lines = [f"<b>{html.escape(cell.run)} · {column.name}</b>", reference.meaning]
    perspective = cell.perspective
    if perspective is not None and not cell.is_missing:
        text = f"{perspective.value:.4g}"
        if not math.isnan(perspective.low):
            text += f" ({perspective.low:.4g} to {perspective.high:.4g}, 95 %)"
        if not math.isnan(perspective.null):
            text += f"; {perspective.null_case}: {perspective.null:.4g}"
        lines.append(text)
    if cell.reason:
        label = "Missing" if cell.is_missing else "Not comparable"
        lines.append(f"{label}: {html.escape(cell.reason)}")
    direction = f"better: {column.better}. " if column.better else ""
    lines.append(f"{direction}{reference.reason}")
    lines.append(f"Click to open {column.analysis.replace('_', ' ')}.")
    return "<br>".join("<br>".join(textwrap.wrap(line, HOVER_LETTERS)) for line in lines)
