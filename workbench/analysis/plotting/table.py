"""Tables of text, drawn as figures that are readable in light and dark."""

import html
import textwrap
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.analysis.plotting.style import MARGIN, apply_theme

# Sizes on the screen, in pixels.
LINE_HEIGHT_PX = 19
ROW_PADDING_PX = 9
PAGE_WIDTH_PX = 800
LETTER_WIDTH_PX = 7.2
CELL_PADDING_PX = 16
MIN_WIDTH_LETTERS = 9
SLACK_PX = 14  # of the table, whose rows are slightly higher than their texts
BOTTOM_PX = 8
TRANSPARENT = "rgba(0,0,0,0)"  # the page's background shows through
RULE_COLOR = "rgba(127,127,127,0.45)"


def draw(
    columns: Mapping[str, Sequence[str]], widths: Sequence[int], *, title: str, subtitle: str
) -> go.Figure:
    """Draw columns of text as a figure. Long text is wrapped.

    Parameters
    ----------
    columns : mapping of str to sequence of str
        Header and cells of each column.
    widths : sequence of int
        Largest width of each column, in letters. All widths shrink by the same factor until the
        table fits a page, but not below nine letters.
    title, subtitle : str
        Texts above the table.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    available = (PAGE_WIDTH_PX - CELL_PADDING_PX * len(widths)) / LETTER_WIDTH_PX
    shrink = available / sum(widths)
    widths = [min(width, max(MIN_WIDTH_LETTERS, int(width * shrink))) for width in widths]
    cells = [
        [_wrap(text, width) for text in column]
        for column, width in zip(columns.values(), widths, strict=True)
    ]
    headers = [f"<b>{_wrap(name, width)}</b>" for name, width in zip(columns, widths, strict=True)]
    header_height = _row_height(headers)
    style = {"align": "left", "fill_color": TRANSPARENT, "line_color": RULE_COLOR, "font_size": 13}
    figure = go.Figure(
        go.Table(
            columnwidth=[width * LETTER_WIDTH_PX + CELL_PADDING_PX for width in widths],
            header={"values": headers, "height": header_height, **style},
            cells={"values": cells, "height": LINE_HEIGHT_PX + ROW_PADDING_PX, **style},
        )
    )
    height = header_height + sum(_row_height(row) for row in zip(*cells, strict=True))
    figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}},
        height=height + SLACK_PX + MARGIN["t"] + BOTTOM_PX,
        margin={"l": 0, "r": 0, "b": BOTTOM_PX},
    )
    return apply_theme(figure)


def _row_height(texts: Sequence[str]) -> int:
    lines = 1 + max(text.count("<br>") for text in texts)
    return lines * LINE_HEIGHT_PX + ROW_PADDING_PX


def _wrap(text: str, width: int) -> str:
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(text, width))
