"""Figure of the comparison of latent spaces: a table with a cell per run and perspective."""

from __future__ import annotations

import html
import math
import textwrap
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.analysis.plotting.style import COLORS, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.diffusability.comparison import Cell, Column, Diffusability

GRAY = COLORS[6]
BAND_COLOR = "rgba(127,127,127,0.10)"  # of every second analysis
BEST_COLOR = "rgba(0,158,115,0.35)"
ARROWS = {"higher": "↑ higher", "lower": "↓ lower"}
TITLE_LETTERS = 12
HOVER_LETTERS = 60
ROW_HEIGHT_PX = 40
HEADER_HEIGHT_PX = 56  # three lines of column titles
MARGINS_PX = 120  # of the theme, above and below
CELL_KIND = "perspective"  # a click opens the analysis of the column with the run of the row
NULL_ROW = "null value"


def draw(result: Diffusability) -> go.Figure:
    """Draw one row per run and one column per perspective, and the null values below.

    Parameters
    ----------
    result : Diffusability

    Returns
    -------
    plotly.graph_objects.Figure
    """
    figure = go.Figure()
    _draw_bands(figure, result)
    entries = [
        (x, y, column, cell)
        for x, column in enumerate(result.columns)
        for y, cell in enumerate(column.cells)
    ]
    comparable = [entry for entry in entries if entry[3].is_comparable]
    others = [entry for entry in entries if not entry[3].is_comparable]
    _draw_cells(figure, comparable, "comparable", {})
    name = f"missing, or not comparable with {result.runs[0]}"
    _draw_cells(figure, others, name, {"color": GRAY})
    _draw_nulls(figure, result)
    num_rows = len(result.runs) + 1
    plot_height = HEADER_HEIGHT_PX + ROW_HEIGHT_PX * num_rows
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(result.columns))),
        ticktext=[_title(column) for column in result.columns],
        tickfont_size=11,
        tickangle=0,
        side="top",
        range=[-0.5, len(result.columns) - 0.5],
        showgrid=False,
        zeroline=False,
        fixedrange=True,
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(num_rows)),
        ticktext=[*result.runs, f"<i>{NULL_ROW}</i>"],
        range=[num_rows - 0.5, -0.5],
        domain=[0, 1 - HEADER_HEIGHT_PX / plot_height],
        showgrid=False,
        zeroline=False,
        automargin=True,
        ticklabelstandoff=6,
        fixedrange=True,
    )
    subtitle = (
        f"compared with {result.runs[0]} · an arrow marks a published direction · green: best, and"
        " apart from all others · gray: not comparable"
    )
    figure.update_layout(
        title={"text": "Diffusability", "subtitle": {"text": subtitle}},
        height=MARGINS_PX + plot_height,
        showlegend=False,
        dragmode=False,
    )
    return apply_theme(figure)


def _draw_bands(figure: go.Figure, result: Diffusability) -> None:
    """Shade the columns of every second analysis, and the best cells."""
    analyses = list(dict.fromkeys(column.analysis for column in result.columns))
    for x, column in enumerate(result.columns):
        if analyses.index(column.analysis) % 2 == 0:
            figure.add_vrect(
                x0=x - 0.5, x1=x + 0.5, fillcolor=BAND_COLOR, line_width=0, layer="below"
            )
        if column.best:
            y = result.runs.index(column.best)
            figure.add_shape(
                type="rect",
                x0=x - 0.47,
                x1=x + 0.47,
                y0=y - 0.42,
                y1=y + 0.42,
                fillcolor=BEST_COLOR,
                line_width=0,
                layer="below",
            )


def _draw_cells(
    figure: go.Figure,
    entries: list[tuple[int, int, Column, Cell]],
    name: str,
    font: dict[str, str],
) -> None:
    if not entries:
        return
    figure.add_scatter(
        x=[x for x, _, _, _ in entries],
        y=[y for _, y, _, _ in entries],
        mode="markers+text",
        marker={"size": ROW_HEIGHT_PX - 8, "symbol": "square", "opacity": 0},
        text=["–" if cell.is_missing else f"{cell.value:.3g}" for _, _, _, cell in entries],
        textfont=font,
        name=name,
        meta=CELL_KIND,
        customdata=[f"{column.analysis}:{cell.run}" for _, _, column, cell in entries],
        hovertext=[_hover(column, cell) for _, _, column, cell in entries],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _draw_nulls(figure: go.Figure, result: Diffusability) -> None:
    nulls = [column.reference.null for column in result.columns]
    figure.add_scatter(
        x=list(range(len(result.columns))),
        y=[len(result.runs)] * len(result.columns),
        mode="text",
        text=["–" if math.isnan(null) else f"<i>{null:.3g}</i>" for null in nulls],
        textfont={"color": GRAY},
        hovertext=[
            f"{column.reference.null_case or 'no null value'}<br>{column.name}"
            for column in result.columns
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _title(column: Column) -> str:
    title = "<br>".join(textwrap.wrap(column.name, TITLE_LETTERS, break_on_hyphens=False))
    arrow = "" if column.better is None else f"<br><b>{ARROWS[column.better]}</b>"
    return title + arrow


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
