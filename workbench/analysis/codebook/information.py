"""What a code tells of its place and of its image's class, beyond what chance seems to tell.

Chance is measured, not assumed: classes are shuffled among images, never among tokens, for the tokens of one image are
alike; places are shuffled within each image.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import Codes, parse_codes
from workbench.analysis.codebook.mutual_information import (
    entropy,
    mutual_information,
    pair_counts,
    within_groups,
)
from workbench.analysis.inputs import class_names
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.sampling import describe_subset, subsample
from workbench.core.errors import NotApplicable

MOST_TOKENS = 2_000_000  # of more, random images are taken
SUPPORT = 10  # tokens: of rarer codes nothing is said alone
MOST_POINTS = 3000


@dataclass(frozen=True)
class Told:
    """What the codes of one book tell of one thing, bits a token."""

    book: int
    of: str  # "position" or "class"
    plug_in: float  # biased upward
    shuffled: float  # mean over shuffles: what is due to chance
    deviation: float  # of the shuffles
    most: float  # the thing's own entropy: all there is to tell

    @property
    def corrected(self) -> float:
        """What is left beyond chance."""
        return self.plug_in - self.shuffled


@dataclass(frozen=True, eq=False)
class CodeInformation(Result):
    """What codes tell of position and class, and how pure the commoner codes are."""

    told: tuple[Told, ...]
    support: np.ndarray = field(
        repr=False
    )  # int (m,) how often each of some codes was chosen, at least SUPPORT
    purity: np.ndarray = field(
        repr=False
    )  # (m,) the share of its tokens in its most frequent class
    purity_shuffled: np.ndarray = field(
        repr=False
    )  # (m,) the same with classes shuffled among images
    coverage: float  # share of the tokens whose codes have that support
    commoner: int  # codes with that support
    bits: float  # entropy of a token's code, mean over books
    images: int
    of: int  # images in the evidence
    tokens: int
    shuffles: int
    seed: int

    def mean(self, of: str, name: str) -> float:
        """The mean over books of a number of what is told of position or class; NaN where it was not asked."""
        found = [getattr(t, name) for t in self.told if t.of == of]
        return float(np.mean(found)) if found else float("nan")

    def figure(self) -> go.Figure:
        """Bits told of each thing beside chance, and each commoner code's purity."""
        things = list(dict.fromkeys(t.of for t in self.told))
        figure = make_subplots(rows=1, cols=2, column_widths=[0.45, 0.55], horizontal_spacing=0.14)
        for name, field_, colour, pattern in (
            ("beyond chance", "corrected", COLORS[0], ""),
            ("chance (shuffled)", "shuffled", COLORS[6], "/"),
        ):
            values = [max(self.mean(of, field_), 0) for of in things]
            look = {"color": colour, "pattern": {"shape": pattern}}
            hover = f"{name}: %{{y:.3f}} bits<extra></extra>"
            figure.add_bar(
                x=things, y=values, name=name, marker=look, hovertemplate=hover, row=1, col=1
            )
        figure.update_xaxes(title="what a code tells of", row=1, col=1)
        figure.update_yaxes(title="bits a token, plug-in", row=1, col=1)
        for name, purity, colour, symbol in (
            ("classes shuffled among images", self.purity_shuffled, COLORS[6], "x"),
            ("codes", self.purity, COLORS[0], "circle"),
        ):
            marker = {"color": colour, "symbol": symbol, "size": 5, "opacity": 0.75}
            figure.add_scatter(
                x=self.support, y=purity, mode="markers", marker=marker, name=name, row=1, col=2
            )
        figure.update_xaxes(
            title=f"times chosen, at least {SUPPORT}",
            type="log",
            row=1,
            col=2,
            **_ticks(self.support),
        )
        figure.update_yaxes(title="share in its commonest class", range=[0, 1.03], row=1, col=2)
        said = f"n = {describe_subset(self.images, self.of)}, {self.tokens:,} tokens · {self.shuffles} shuffles, seed {self.seed}"
        title = {"text": "What codes tell", "subtitle": {"text": said}}
        legend = {
            "orientation": "h",
            "y": -0.2,
            "yanchor": "top",
            "traceorder": "normal",
            "itemsizing": "constant",
        }
        return apply_theme(
            figure.update_layout(
                title=title, height=440, barmode="stack", bargap=0.5, legend=legend
            )
        )

    def table(self) -> pd.DataFrame:
        """One row for each book and thing, in bits a token."""
        columns = ("book", "of", "plug_in", "shuffled", "deviation", "corrected", "most")
        return pd.DataFrame([{name: getattr(t, name) for name in columns} for t in self.told])

    def summary(self) -> str:
        """What is told beyond chance, of all there is to tell."""
        parts = [
            f"{round(self.mean(of, 'corrected'), 2) + 0.0:.2f} of {self.mean(of, 'most'):.2f} bits of its {of}, above"
            f" {self.mean(of, 'shuffled'):.2f} by chance,"
            for of in dict.fromkeys(t.of for t in self.told)
        ]
        sentence = (
            f"A token's code, of {self.bits:.2f} bits, tells {' and '.join(parts)}".removesuffix(
                ","
            )
            + "."
        )
        if len(self.support):
            pure, chance = (
                float(np.average(p, weights=self.support))
                for p in (self.purity, self.purity_shuffled)
            )
            sentence += (
                f" {100 * pure:.0f} % of a code's tokens are of its commonest class, {100 * chance:.0f} % by chance"
                f" (codes chosen {SUPPORT} times or more, {100 * self.coverage:.0f} % of the tokens)."
            )
        return sentence


def code_information(
    codes: np.ndarray,
    codebook: np.ndarray,
    labels: np.ndarray | None = None,
    active: np.ndarray | None = None,
    *,
    shuffles: Annotated[int, Range(1, 20)] = 5,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeInformation:
    """Measure the mutual information of codes (n, tokens) with their place and with their image's class (n,).

    Of more than two million tokens random images are taken. Raises NotApplicable for under two images, or where there
    is neither a second place nor a second class; UserError for labels that are not n and what `read` refuses.
    """
    found, n = parse_codes(codes, codebook, active, "Code information"), len(codes)
    if n < 2:
        raise NotApplicable(f"Code information needs at least 2 images; this evidence has {n}.")
    class_names(labels, (), n)
    random = np.random.default_rng(seed)
    images = subsample(n, max(2, MOST_TOKENS // codes.shape[1]), random)
    classes = (
        None if labels is None else np.unique(np.asarray(labels)[images], return_inverse=True)[1]
    )
    told, purities, bits = [], [], []
    for book in range(found.books):
        code, image, position = found.of_book(book, images)
        bits.append(entropy(np.bincount(code)))
        if len(np.unique(position)) > 1:
            shuffled = [
                mutual_information(code, within_groups(position, image, random))
                for _ in range(shuffles)
            ]
            told.append(_told(book, "position", code, position, shuffled))
        if classes is not None and classes.any():
            others = [random.permutation(classes)[image] for _ in range(shuffles)]
            shuffled = [mutual_information(code, other) for other in others]
            told.append(_told(book, "class", code, classes[image], shuffled))
            purities.append((_purity(code, classes[image]), _purity(code, others[0])))
    if not told:
        raise NotApplicable(
            "Code information needs two tokens of a book, or images of two classes; here is neither."
        )
    told.sort(key=lambda t: (t.of, t.book))
    support, purity, shuffled, coverage, commoner = _commoner(purities, random)
    sizes = (len(images), n, int(_tokens(found, images)), shuffles, seed)
    return CodeInformation(
        tuple(told), support, purity, shuffled, coverage, commoner, float(np.mean(bits)), *sizes
    )


def _ticks(support: np.ndarray) -> dict[str, list]:
    """One, two and five in every power of ten around the numbers."""
    top = max(int(support.max(initial=1)), 2 * SUPPORT)
    values = [d * 10**i for i in range(9) for d in (1, 2, 5) if SUPPORT <= d * 10**i <= 2 * top]
    values = values if len(values) <= 6 else [v for v in values if str(v)[0] == "1"]
    return {"tickvals": values, "ticktext": [f"{v:,}" for v in values]}


def _told(book: int, of: str, code: np.ndarray, thing: np.ndarray, shuffled: list[float]) -> Told:
    deviation = float(np.std(shuffled, ddof=1)) if len(shuffled) > 1 else float("nan")
    most = entropy(np.bincount(thing))
    return Told(
        book, of, mutual_information(code, thing), float(np.mean(shuffled)), deviation, most
    )


def _purity(code: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each code was chosen, and by its most frequent class, both int (k,)."""
    codes, _, counts = pair_counts(code, classes)
    most = np.zeros(int(code.max()) + 1, np.int64)
    np.maximum.at(most, codes, counts)
    return np.bincount(code), most


def _commoner(
    purities: list[tuple[tuple[np.ndarray, np.ndarray], ...]], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """Support, purity and shuffled purity of some codes with enough support, the share of tokens that all such codes
    have, and how many those are.
    """
    if not purities:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0), float("nan"), 0
    support = np.concatenate([mine[0] for mine, _ in purities])
    most, shuffled = (np.concatenate([pair[i][1] for pair in purities]) for i in (0, 1))
    kept = np.flatnonzero(support >= SUPPORT)
    coverage = float(support[kept].sum() / support.sum())
    commoner = len(kept)
    kept = kept[subsample(commoner, MOST_POINTS, random)]
    return (
        support[kept],
        most[kept] / support[kept],
        shuffled[kept] / support[kept],
        coverage,
        commoner,
    )


def _tokens(found: Codes, images: np.ndarray) -> int:
    return (
        found.rows.shape[1] * len(images)
        if found.active is None
        else np.asarray(found.active[images], bool).sum()
    )
