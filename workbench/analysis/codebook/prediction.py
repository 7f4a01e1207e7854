"""How many bits a code still tells when its place, or the code to its left, is known: judged on held-out images.

A plug-in conditional entropy falls with every context that is rarely seen. Here each fifth of the images is predicted
from the counts of the others: a context's, and a constant number of pseudo-tokens of all codes' (MacKay and Peto 1995),
so that a context never seen costs what no context costs. The constant that serves a fold is the one that costs least in
the other folds. Chance is measured: places are shuffled within each image.
"""

from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import check_grid, parse_codes
from workbench.analysis.codebook.mutual_information import entropy, within_groups
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.sampling import describe_subset, subsample
from workbench.core.errors import NotApplicable

FOLDS, LEAST = 5, 10  # parts the images are split into, and how many images there must be
HALF = 0.5  # tokens added to every code's count (Krichevsky and Trofimov 1981)
MOST_TOKENS = 500_000  # of more, random images are taken
CONSTANTS = np.array(
    [1, 3, 10, 30, 100, 300, 1000, 3000, 1e4, 1e5]
)  # pseudo-tokens of a context that are tried
GIVEN = ("nothing", "its place", "the code to its left")


@dataclass(frozen=True)
class Prediction:
    """The cost of one book's codes on held-out images, given one thing."""

    book: int
    given: str  # of GIVEN; "the code before it" where tokens have no grid
    bits: float  # a token: the mean over images
    low: float  # 95 % bootstrap interval over images
    high: float
    shuffled: float  # the same with the tokens of each image in random order


@dataclass(frozen=True)
class CodePrediction(Result):
    """Bits a token, given nothing, its place and its left neighbour."""

    predictions: tuple[Prediction, ...]
    most: float  # log2 of the codes of a book
    entropy: float  # plug-in, of the codes alone: mean over books, bits
    images: int
    of: int  # images in the evidence
    tokens: int
    seed: int

    @property
    def given(self) -> tuple[str, ...]:
        """What was given, in order."""
        return tuple(dict.fromkeys(p.given for p in self.predictions))

    def mean(self, given: str, name: str) -> float:
        """The mean over books of a number."""
        return float(np.mean([getattr(p, name) for p in self.predictions if p.given == given]))

    def figure(self) -> go.Figure:
        """A row for each thing given: the cost with its interval, beside it the shuffled cost; lines for what is known
        of the codes alone.
        """
        figure, given = go.Figure(), list(self.given)[::-1]
        value, low, high, chance = (
            [self.mean(g, name) for g in given] for name in ("bits", "low", "high", "shuffled")
        )
        for name, bits, dash in (
            ("log2 of the codes", self.most, "dash"),
            ("entropy, plug-in", self.entropy, "dot"),
        ):
            line = {"color": COLORS[6], "dash": dash}
            figure.add_scatter(x=[bits] * len(given), y=given, mode="lines", name=name, line=line)
        mark = {"symbol": "diamond-open", "size": 12, "color": COLORS[6], "line": {"width": 2}}
        figure.add_scatter(x=chance, y=given, mode="markers", name="places shuffled", marker=mark)
        up, down = np.subtract(high, value), np.subtract(value, low)
        figure.add_scatter(
            x=value, y=given, mode="markers", name="as they are", marker={"size": 10, "color": COLORS[0]},
            error_x={"type": "data", "symmetric": False, "array": up, "arrayminus": down},
            hovertemplate="given %{y}: %{x:.3f} bits<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(title="bits a token, on held-out images")
        figure.update_yaxes(title="given", range=[-0.6, len(given) - 0.4])
        books = len(self.predictions) // len(given)
        each = f" · mean of {books} books" if books > 1 else ""
        said = f"n = {describe_subset(self.images, self.of)}, {self.tokens:,} tokens{each} · bars: 95 % bootstrap · seed {self.seed}"
        title = {"text": "What is left to tell of a code", "subtitle": {"text": said}}
        legend = {"orientation": "h", "y": -0.26, "yanchor": "top", "traceorder": "reversed"}
        return apply_theme(figure.update_layout(title=title, height=400, legend=legend))

    def table(self) -> pd.DataFrame:
        """One row for each book and thing given, in bits a token."""
        return pd.DataFrame([asdict(p) for p in self.predictions]).assign(
            most=self.most, entropy=self.entropy
        )

    def summary(self) -> str:
        """What a code costs given nothing and each thing, beside chance and all there is to tell."""
        alone, *others = self.given
        told = [
            f"{self.mean(g, 'bits'):.2f} given {g} ({self.mean(g, 'shuffled'):.2f} shuffled)"
            for g in others
        ]
        return (
            f"A token's code costs {self.mean(alone, 'bits'):.2f} bits on held-out images, {' and '.join(told)}; its"
            f" plug-in entropy is {self.entropy:.2f} and log2 of the codes {self.most:.2f} bits."
        )


def code_prediction(
    codes: np.ndarray,
    codebook: np.ndarray,
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodePrediction:
    """Predict codes (n, tokens) of held-out images from their place in the book's block, and from their left neighbour.

    The neighbour is of the same book and row of the grid; without a grid it is the token before. Of more than
    half a million tokens random images are taken. Raises NotApplicable for under 10 images or one token a book, and
    UserError for a grid that does not hold the tokens and what `read` refuses.
    """
    found, (n, tokens) = parse_codes(codes, codebook, active, "Code prediction"), codes.shape
    check_grid(grid, tokens)
    if n < LEAST:
        raise NotApplicable(
            f"Code prediction needs at least {LEAST} images; this evidence has {n}."
        )
    if tokens == found.books:
        raise NotApplicable("Code prediction needs two tokens of a book; here each has one.")
    random = np.random.default_rng(seed)
    images = subsample(n, max(LEAST, MOST_TOKENS // tokens), random)
    folds, ids = random.permutation(len(images)) % FOLDS, found.ids(images)
    names = (*GIVEN[:2], GIVEN[2] if grid is not None else "the code before it")
    predictions, plug_in = [], []
    image = np.repeat(np.arange(len(images)), tokens // found.books)
    for book, block in enumerate(np.split(ids, found.books, axis=1)):
        mixed = within_groups(block.ravel(), image, random).reshape(block.shape)
        own, chance = (
            _costs(x, folds, found.size, _row(grid, book, x.shape[1])) for x in (block, mixed)
        )
        plug_in.append(entropy(found.counts[book]))
        for name, mine, shuffled in zip(names, own, chance, strict=True):
            predictions.append(
                Prediction(book, name, *mean_interval(mine), float(np.nanmean(shuffled)))
            )
    predictions.sort(key=lambda p: names.index(p.given))
    sizes = (len(images), n, int((ids >= 0).sum()), seed)
    return CodePrediction(
        tuple(predictions), float(np.log2(found.size)), float(np.mean(plug_in)), *sizes
    )


def _row(grid: tuple[int, int] | None, book: int, block: int) -> np.ndarray:
    """The row of the grid of each token of a book's block, int (block,); one row where there is no grid."""
    places = np.arange(book * block, (book + 1) * block)
    return np.zeros(block, int) if grid is None else places // grid[1]


def _costs(codes: np.ndarray, folds: np.ndarray, size: int, row: np.ndarray) -> list[np.ndarray]:
    """Bits a token of each image (n,), given nothing, the place and the code to the left; -1 marks no token."""
    left = np.full_like(codes, -1)
    left[:, 1:] = np.where(row[1:] == row[:-1], codes[:, :-1], -1)
    place = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)
    image, _ = at = np.nonzero(codes >= 0)
    costs = [
        _least(held_out_bits(codes[at], x[at], folds[image], size), folds[image])
        for x in (0 * left, place, left)
    ]
    tokens = np.bincount(image, minlength=len(codes))
    with np.errstate(
        invalid="ignore"
    ):  # an image without active tokens costs NaN, which means leave out
        return [np.bincount(image, cost, len(codes)) / tokens for cost in costs]


def held_out_bits(
    codes: np.ndarray,
    contexts: np.ndarray,
    folds: np.ndarray,
    size: int,
    constants: np.ndarray = CONSTANTS,
) -> np.ndarray:
    """Minus log2 of the probability of each code (t,) in its context from the other folds, by each constant: (t, c).

    (pairs + constant * share) / (contexts + constant), where a code's share is (times + 1/2) / (tokens + size / 2).
    """
    _, context = np.unique(contexts, return_inverse=True)
    _, pair = np.unique(context * size + codes, return_inverse=True)
    bits = np.empty((len(codes), len(constants)))
    for fold in np.unique(folds):
        out = folds == fold
        times, seen, together = (
            np.bincount(x[~out], minlength=x.max() + 1)[x[out], None]
            for x in (codes, context, pair)
        )
        share = (times + HALF) / ((~out).sum() + HALF * size)
        bits[out] = -np.log2((together + constants * share) / (seen + constants))
    return bits


def _least(bits: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Of bits (t, c) of each constant those, (t,), of the constant that costs least in the other folds."""
    found = np.empty(len(bits))
    for fold in np.unique(folds):
        out = folds == fold
        found[out] = bits[out, bits[~out].mean(axis=0).argmin()]
    return found
