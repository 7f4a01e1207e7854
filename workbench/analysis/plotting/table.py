"""A table as a figure: text in rows, readable in light and dark."""

import html
import textwrap
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.analysis.plotting.style import apply_theme

LINE, EDGE = 19, 9  # screen pixels of a line of text, and what a row has around it
PAGE, LETTER, PAD = (
    800,
    7.2,
    16,
)  # screen pixels of a table on a page, of a letter, and what a cell has around it
LEAST = 9  # letters
CLEAR, RULE = "rgba(0,0,0,0)", "rgba(127,127,127,0.45)"  # the page's own colour shows through


def draw(
    columns: Mapping[str, Sequence[str]], widths: Sequence[int], *, title: str, subtitle: str
) -> go.Figure:
    """A figure of columns of text by their heads; a column is at most `widths` letters wide, and longer text is broken.

    Widths shrink together until the table fits a page, but not below nine letters.
    """
    shrunk = (PAGE - PAD * len(widths)) / LETTER / sum(widths)
    widths = [min(width, max(LEAST, int(width * shrunk))) for width in widths]
    cells = [
        [_broken(text, width) for text in column]
        for column, width in zip(columns.values(), widths, strict=True)
    ]
    heads = [f"<b>{_broken(head, width)}</b>" for head, width in zip(columns, widths, strict=True)]
    lines = [1 + max(text.count("<br>") for text in row) for row in zip(*cells, strict=True)]
    head_lines = 1 + max(head.count("<br>") for head in heads)
    look = {"align": "left", "fill_color": CLEAR, "line_color": RULE, "font_size": 13}
    figure = go.Figure(
        go.Table(
            columnwidth=[width * LETTER + PAD for width in widths],
            header={"values": heads, "height": head_lines * LINE + EDGE, **look},
            cells={"values": cells, "height": LINE + EDGE, **look},
        )
    )
    height = head_lines * LINE + EDGE + sum(n * LINE + EDGE for n in lines)
    figure.update_layout(title={"text": title, "subtitle": {"text": subtitle}}, height=height + 140)
    return apply_theme(figure)


def _broken(text: str, width: int) -> str:
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(text, width))
