"""How much the codes of the same images changed since the checkpoint before."""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.codebook.mutual_information import entropy, mutual_information
from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.sampling import describe_subset, subsample
from workbench.core.errors import UserError

SHUFFLES = 5
MOST_TOKENS = 2_000_000  # of more, random images are taken for the agreement
MOST_POINTS = 3000


@dataclass(frozen=True)
class Changed:
    """One book between two checkpoints."""

    churn: float  # share of the tokens whose code changed
    born: int  # codes chosen now and not before
    died: int  # codes chosen before and not now
    kept: int  # codes chosen by both
    regrouped: (
        float  # 1 - adjusted mutual information: 0 where codes only swapped numbers, 1 by chance
    )


@dataclass(frozen=True, eq=False)
class CodeChurn(Result):
    """The changes of every book, and where in the image they are."""

    books: tuple[Changed, ...]
    churn: float  # share of all tokens whose code changed, mean over images
    low: float  # 95 % bootstrap interval over images
    high: float
    by_token: np.ndarray = field(
        repr=False
    )  # (tokens,) share of the images in which that token's code changed
    before: np.ndarray = field(repr=False)  # int (m,) how often some codes were chosen before
    after: np.ndarray = field(repr=False)  # int (m,) and now
    codes: int  # that were chosen, before or now
    compared: int  # images whose codes say how far they were regrouped
    images: int
    seed: int

    def figure(self) -> go.Figure:
        """How often codes were chosen, before against now, and churn by token."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.14)
        sides = (
            ("chosen by both", (self.before > 0) & (self.after > 0), COLORS[0], "circle"),
            ("born", self.before == 0, COLORS[2], "triangle-up"),
            ("× died", self.after == 0, DEAD_COLOR, "x"),
        )
        for name, mine, colour, symbol in sides:
            marker = {"color": colour, "symbol": symbol, "size": 6, "opacity": 0.7}
            figure.add_scatter(
                x=self.before[mine] + 1, y=self.after[mine] + 1, mode="markers", marker=marker, name=name,
                hoverinfo="skip", row=1, col=1,
            )  # fmt: skip
        top = float(max(self.before.max(), self.after.max(), 1)) + 1
        line = {
            "mode": "lines",
            "line": {"color": COLORS[6], "dash": "dash"},
            "name": "as often",
            "hoverinfo": "skip",
        }
        figure.add_scatter(x=[1, top], y=[1, top], **line, row=1, col=1)
        figure.update_xaxes(title="times chosen before, plus 1", type="log", dtick=1, row=1, col=1)
        figure.update_yaxes(title="times chosen now, plus 1", type="log", dtick=1, row=1, col=1)
        churn = 100 * self.by_token
        bars = {"marker": {"color": COLORS[1], "line": {"width": 0}}, "showlegend": False}
        figure.add_bar(x=np.arange(len(churn)), y=churn, **bars, row=1, col=2)
        figure.update_xaxes(title="token", row=1, col=2)
        figure.update_yaxes(
            title="codes changed, % of the images", rangemode="tozero", row=1, col=2
        )
        said = f"n = {self.images:,} images · {100 * self.churn:.2f} % of their tokens changed"
        drawn = (
            [describe_subset(len(self.before), self.codes, "codes")]
            if len(self.before) < self.codes
            else []
        )
        drawn += (
            [f"regrouped: {describe_subset(self.compared, self.images)}"]
            if self.compared < self.images
            else []
        )
        said += "".join(f"<br>{one}, seed {self.seed}" for one in drawn)
        title = {"text": "Codes since the checkpoint before", "subtitle": {"text": said}}
        figure.update_layout(
            title=title, height=440, legend={"orientation": "h", "y": -0.2, "yanchor": "top"}
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row a book."""
        columns = ("churn", "kept", "born", "died", "regrouped")
        return pd.DataFrame(
            [
                {"book": str(i), **{x: getattr(b, x) for x in columns}}
                for i, b in enumerate(self.books)
            ]
        )

    def summary(self) -> str:
        """The churn with its interval, births and deaths, and whether codes only swapped numbers."""
        born, died = sum(b.born for b in self.books), sum(b.died for b in self.books)
        if not self.churn:
            return f"No code changed since the checkpoint before, in any of {self.images:,} images."
        regrouped = 100 * float(np.mean([b.regrouped for b in self.books]))
        return (
            f"{100 * self.churn:.2f} % of the tokens changed their code since the checkpoint before (95 % interval"
            f" {100 * self.low:.2f} to {100 * self.high:.2f} %, {self.images:,} images); {born:,} codes were born and"
            f" {died:,} died. Whatever the codes are called, {regrouped:.2f} % of the grouping they make was lost."
        )


def code_churn(
    previous_codes: np.ndarray,
    codes: np.ndarray,
    codebook: np.ndarray,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeChurn:
    """Compare codes (n, tokens) with those of the same images at the checkpoint before.

    Adjusted mutual information (Vinh, Epps and Bailey 2010; bound: the mean of both entropies) does not heed what codes
    are called; its chance value is the mean over five shuffles. Tokens that are not `active` now are left out. Raises
    UserError where the two differ in shape and what `read` refuses.
    """
    if previous_codes.shape != codes.shape:
        a, b = (" × ".join(map(str, x.shape)) for x in (previous_codes, codes))
        raise UserError(f"The codes before are {a}, now {b}. Are both of the same images?")
    now, then = (parse_codes(x, codebook, active, "Code churn") for x in (codes, previous_codes))
    (changed, seen), each = np.zeros((2, codes.shape[1])), []
    for a, b in zip(then.parts(), now.parts(), strict=True):
        differ, counted = a != b, b >= 0
        changed, seen = changed + differ.sum(axis=0), seen + counted.sum(axis=0)
        with np.errstate(invalid="ignore"):
            each.append(differ.sum(axis=1) / counted.sum(axis=1))
    random = np.random.default_rng(seed)
    images = subsample(len(codes), max(1, MOST_TOKENS // codes.shape[1]), random)
    changes, block = [], codes.shape[1] // now.books
    for book in range(now.books):
        a, b = then.of_book(book, images)[0], now.of_book(book, images)[0]
        was, is_ = then.counts[book] > 0, now.counts[book] > 0
        part = slice(book * block, (book + 1) * block)
        churn = float(changed[part].sum() / seen[part].sum())
        sets = (int((is_ & ~was).sum()), int((was & ~is_).sum()), int((was & is_).sum()))
        changes.append(Changed(churn, *sets, 1 - adjusted_information(a, b, random)))
    either = np.flatnonzero((then.counts + now.counts).ravel())
    chosen = len(either)
    either = either[subsample(chosen, MOST_POINTS, random)]
    counts = (then.counts.ravel()[either], now.counts.ravel()[either])
    by_token = changed / np.maximum(seen, 1)
    mean = mean_interval(np.concatenate(each))
    return CodeChurn(
        tuple(changes), *mean, by_token, *counts, chosen, len(images), len(codes), seed
    )


def adjusted_information(a: np.ndarray, b: np.ndarray, random: np.random.Generator) -> float:
    """Adjusted mutual information of two labels, int (n,) from 0: 1 where one renames the other, 0 by chance."""
    if np.array_equal(a, b):
        return 1.0
    chance = float(np.mean([mutual_information(a, random.permutation(b)) for _ in range(SHUFFLES)]))
    most = (entropy(np.bincount(a)) + entropy(np.bincount(b))) / 2
    return (mutual_information(a, b) - chance) / (most - chance) if most > chance + 1e-12 else 1.0
