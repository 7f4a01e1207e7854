"""The picture of a book's distances: two panels."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.codebook.distances import CAUSES, MEANING, CodeDistances
from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, apply_theme

BINS = 40


def draw(result: CodeDistances) -> go.Figure:
    """Histograms of nearest-code distances, and bars of what became of the codes."""
    figure = make_subplots(rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.27)
    distances = np.concatenate([b.distances for b in result.books])
    chosen = np.concatenate([b.chosen for b in result.books])
    edges = np.linspace(distances.min(), distances.max() or 1, BINS + 1)
    for name, mine, look in (
        ("used codes", chosen, {"color": COLORS[0]}),
        ("× dead codes", ~chosen, {"color": DEAD_COLOR, "pattern": {"shape": "x", "size": 5}}),
    ):
        if mine.any():
            figure.add_bar(
                x=(edges[1:] + edges[:-1]) / 2, y=np.histogram(distances[mine], edges)[0], name=name,
                width=edges[1] - edges[0], marker={"line": {"width": 0}, **look}, row=1, col=1,
            )  # fmt: skip
    figure.update_xaxes(title="distance to the nearest other code", row=1, col=1)
    figure.update_yaxes(title="codes looked at", row=1, col=1)
    _fates(figure, result)
    first, several = result.books[0], len(result.books) > 1
    drawn = (
        "" if first.looked_at == first.size else f", {first.looked_at:,} drawn (seed {result.seed})"
    )
    each = f"{len(result.books)} books of " if several else ""
    subtitle = f"{each}{first.size:,} codes{drawn} · {result.dimensions} dimensions · bars: mean of the books"
    subtitle = subtitle if several else subtitle.rpartition(" · ")[0]
    title = {
        "text": "How far apart codes lie, and why some are dead",
        "subtitle": {"text": subtitle},
    }
    figure.update_layout(title=title, height=420, barmode="stack", bargap=0.25)
    return apply_theme(
        figure.update_layout(
            legend={"orientation": "h", "y": -0.2, "yanchor": "top", "traceorder": "normal"}
        )
    )


def _fates(figure: go.Figure, result: CodeDistances) -> None:
    names = ["used", *(f"× {MEANING[cause]}" for cause in CAUSES)]
    codes = [np.mean([b.used for b in result.books])]
    codes += [np.mean([b.dead[cause] for b in result.books]) for cause in CAUSES]
    text = [f"{x:,.1f}" if x % 1 else f"{x:,.0f}" for x in codes]
    colours = [COLORS[0], *[DEAD_COLOR] * len(CAUSES)]
    figure.add_bar(
        x=codes, y=names, orientation="h", text=text, textposition="outside", cliponaxis=False, showlegend=False,
        marker={"color": colours}, hovertemplate="%{y}: %{x:,.1f} codes<extra></extra>", row=1, col=2,
    )  # fmt: skip
    figure.update_xaxes(title="codes", range=[0, max(codes) * 1.15], row=1, col=2)
    figure.update_yaxes(
        tickmode="array", tickvals=names, ticktext=names, autorange="reversed", row=1, col=2
    )
    figure.update_yaxes(ticklabelstandoff=4, row=1, col=2)  # the words are its title
