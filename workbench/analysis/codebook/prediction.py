"""Conditional entropy of codes given their position or left neighbor, on held-out images.

A plug-in conditional entropy falls with every context that is rare. Here, each fifth of the images
is predicted from the counts of the others: those of its context, plus a constant number of
pseudo-tokens with the overall code distribution (MacKay and Peto 1995), so that an unseen context
costs as much as no context. The constant for a fold is the one with the lowest cost in the other
folds. Chance is measured by shuffling positions within each image.
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
from workbench.analysis.stats.sampling import Subset, describe_subset, subsample
from workbench.core.errors import NotApplicable

NUM_FOLDS = 5
MIN_IMAGES = 10
MAX_TOKENS = 500_000  # larger evidence is reduced to random images
PSEUDO_COUNT = 0.5  # tokens added to the count of every code (Krichevsky and Trofimov 1981)
# Candidates for the number of pseudo-tokens per context.
CONSTANTS = np.array([1, 3, 10, 30, 100, 300, 1000, 3000, 1e4, 1e5])
NO_CONTEXT = "nothing"
POSITION = "position"
LEFT_CODE = "left code"
PREVIOUS_CODE = "previous code"  # takes the place of LEFT_CODE if tokens have no grid


@dataclass(frozen=True)
class ContextCost:
    """Cost of the codes of one codebook on held-out images, given one context."""

    codebook: int
    context: str
    bits: float  # bits per token, mean over images
    low: float  # 95 % bootstrap interval over images
    high: float
    shuffled: float  # the same with the tokens of each image in random order


@dataclass(frozen=True, kw_only=True)
class CodePrediction(Result):
    """Bits per token without context, given the position, and given the left neighbor."""

    costs: tuple[ContextCost, ...]
    max_bits: float  # log2 of the codebook size
    entropy: float  # plug-in entropy of the codes, mean over codebooks, in bits
    images: int
    images_total: int  # images in the evidence
    tokens: int
    seed: int

    @property
    def contexts(self) -> tuple[str, ...]:
        """The contexts, in the order of the costs."""
        return tuple(dict.fromkeys(cost.context for cost in self.costs))

    def mean(self, context: str, name: str) -> float:
        """Return the mean of a field over codebooks."""
        return float(np.mean([getattr(c, name) for c in self.costs if c.context == context]))

    def figure(self) -> go.Figure:
        """Draw the cost given each context with its interval, and the cost of shuffled codes."""
        figure = go.Figure()
        contexts = list(self.contexts)[::-1]
        for name, bits, dash in (
            ("log2 of the codebook size", self.max_bits, "dash"),
            ("plug-in entropy", self.entropy, "dot"),
        ):
            figure.add_scatter(
                x=[bits] * len(contexts),
                y=contexts,
                mode="lines",
                name=name,
                line={"color": COLORS[6], "dash": dash},
            )
        figure.add_scatter(
            x=[self.mean(context, "shuffled") for context in contexts],
            y=contexts,
            mode="markers",
            name="positions shuffled",
            marker={
                "symbol": "diamond-open",
                "size": 12,
                "color": COLORS[6],
                "line": {"width": 2},
            },
        )
        self._add_costs(figure, contexts)
        figure.update_xaxes(title="bits per token, on held-out images")
        figure.update_yaxes(title="context", range=[-0.6, len(contexts) - 0.4])
        figure.update_layout(
            title={"text": "Code entropy given context", "subtitle": {"text": self._subtitle()}},
            height=400,
            legend={"orientation": "h", "y": -0.26, "yanchor": "top", "traceorder": "reversed"},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per codebook and context, in bits per token."""
        table = pd.DataFrame([asdict(cost) for cost in self.costs])
        return table.assign(max_bits=self.max_bits, entropy=self.entropy)

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return Subset.if_partial(self.images, self.images_total)

    def summary(self) -> str:
        """State the cost without context and given each context, with its chance value."""
        without, *contexts = self.contexts
        parts = [
            f"{self.mean(context, 'bits'):.2f} given its {context}"
            f" ({self.mean(context, 'shuffled'):.2f} if shuffled)"
            for context in contexts
        ]
        return (
            f"A code costs {self.mean(without, 'bits'):.2f} bits on held-out images,"
            f" {' and '.join(parts)}. Its plug-in entropy is {self.entropy:.2f} bits,"
            f" of at most {self.max_bits:.2f}.{self.subset_note()}"
        )

    def _add_costs(self, figure: go.Figure, contexts: list[str]) -> None:
        bits = [self.mean(context, "bits") for context in contexts]
        low = [self.mean(context, "low") for context in contexts]
        high = [self.mean(context, "high") for context in contexts]
        figure.add_scatter(
            x=bits,
            y=contexts,
            mode="markers",
            name="codes",
            marker={"size": 10, "color": COLORS[0]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": np.subtract(high, bits),
                "arrayminus": np.subtract(bits, low),
            },
            hovertemplate="%{y}: %{x:.3f} bits<extra></extra>",
        )

    def _subtitle(self) -> str:
        num_codebooks = len(self.costs) // len(self.contexts)
        scope = f" · mean of {num_codebooks} codebooks" if num_codebooks > 1 else ""
        return (
            f"n = {describe_subset(self.images, self.images_total)}, {self.tokens:,} tokens{scope}"
            f" · bars: 95 % bootstrap intervals · seed {self.seed}"
        )


def code_prediction(
    codes: np.ndarray,
    codebook: np.ndarray | int,
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodePrediction:
    """Predict the codes of held-out images from their position and from their left neighbor.

    Parameters
    ----------
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected; -1 marks padding, which is left out. Of
        more than half a million tokens, random images are used.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim), or int
        The codewords, or only their number if the vectors are not at hand.
    grid : (int, int), optional
        Rows and columns of the token grid. The left neighbor belongs to the same codebook and the
        same row. Without a grid, it is the previous token.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are left out.
    seed : int, default 0
        Seed of the folds, the shuffles and the subset of images.

    Returns
    -------
    CodePrediction
        Cost per codebook and context, in bits per token, and its value for shuffled tokens.

    Raises
    ------
    NotApplicable
        If there are under 10 images, or one token per codebook.
    UserError
        If the grid does not hold the tokens, or the codes do not match the codebook.

    References
    ----------
    MacKay and Peto, "A hierarchical Dirichlet language model", 1995.
    Krichevsky and Trofimov, "The performance of universal encoding", 1981.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.tile([0, 1, 2, 3], (200, 1))  # a code is determined by its position
    >>> result = code_prediction(codes, np.eye(4)[None])
    >>> round(result.mean("nothing", "bits")), round(result.mean("position", "bits"))
    (2, 0)
    """
    parsed = parse_codes(codes, codebook, active, "Code prediction")
    n, num_tokens = codes.shape
    check_grid(grid, num_tokens)
    if n < MIN_IMAGES:
        raise NotApplicable(
            f"Code prediction needs at least {MIN_IMAGES} images; this evidence has {n}."
        )
    if num_tokens == parsed.num_codebooks:
        raise NotApplicable(
            "Code prediction needs at least two tokens per codebook; this evidence has one."
        )
    random = np.random.default_rng(seed)
    images = subsample(n, max(MIN_IMAGES, MAX_TOKENS // num_tokens), random)
    folds = random.permutation(len(images)) % NUM_FOLDS
    ids = parsed.ids(images)
    contexts = (NO_CONTEXT, POSITION, PREVIOUS_CODE if grid is None else LEFT_CODE)
    costs = []
    for index, block in enumerate(np.split(ids, parsed.num_codebooks, axis=1)):
        shuffled = block.copy()
        is_active = block >= 0
        shuffled[is_active] = within_groups(block[is_active], np.nonzero(is_active)[0], random)
        row = _grid_rows(grid, index, block.shape[1])
        bits = _bits_per_image(block, folds, parsed.codebook_size, row)
        shuffled_bits = _bits_per_image(shuffled, folds, parsed.codebook_size, row)
        for context, values, shuffled_values in zip(contexts, bits, shuffled_bits, strict=True):
            mean, low, high = mean_interval(values)
            costs.append(
                ContextCost(
                    codebook=index,
                    context=context,
                    bits=mean,
                    low=low,
                    high=high,
                    shuffled=float(np.nanmean(shuffled_values)),
                )
            )
    costs.sort(key=lambda cost: contexts.index(cost.context))
    return CodePrediction(
        costs=tuple(costs),
        max_bits=float(np.log2(parsed.codebook_size)),
        entropy=float(np.mean([entropy(counts) for counts in parsed.counts])),
        images=len(images),
        images_total=n,
        tokens=int((ids >= 0).sum()),
        seed=seed,
    )


def held_out_bits(
    codes: np.ndarray,
    contexts: np.ndarray,
    folds: np.ndarray,
    size: int,
    constants: np.ndarray = CONSTANTS,
) -> np.ndarray:
    """Compute the cost of each code in its context, predicted from the other folds.

    The probability of a code is (pairs + constant * share) / (tokens in context + constant), where
    its share is (tokens of the code + 1/2) / (tokens + size / 2).

    Parameters
    ----------
    codes, contexts, folds : ndarray of int, shape (t,)
        Code, context and fold of each token.
    size : int
        Number of codes.
    constants : ndarray of float, shape (c,)
        Numbers of pseudo-tokens per context to evaluate.

    Returns
    -------
    ndarray of float, shape (t, c)
        Negative log2 of the probability of each code, for each constant.
    """
    _, context = np.unique(contexts, return_inverse=True)
    _, pair = np.unique(context * size + codes, return_inverse=True)
    bits = np.empty((len(codes), len(constants)))
    for fold in np.unique(folds):
        is_held_out = folds == fold
        code_count = _training_counts(codes, is_held_out)
        context_count = _training_counts(context, is_held_out)
        pair_count = _training_counts(pair, is_held_out)
        num_training = (~is_held_out).sum()
        share = (code_count + PSEUDO_COUNT) / (num_training + PSEUDO_COUNT * size)
        probability = (pair_count + constants * share) / (context_count + constants)
        bits[is_held_out] = -np.log2(probability)
    return bits


def _training_counts(values: np.ndarray, is_held_out: np.ndarray) -> np.ndarray:
    """Count, for each held-out value, its occurrences outside of the fold, int (m, 1)."""
    counts = np.bincount(values[~is_held_out], minlength=values.max() + 1)
    return counts[values[is_held_out], None]


def _grid_rows(grid: tuple[int, int] | None, index: int, block: int) -> np.ndarray:
    """Return the grid row of each token of a block, int (block,); all 0 without a grid."""
    if grid is None:
        return np.zeros(block, int)
    return np.arange(index * block, (index + 1) * block) // grid[1]


def _bits_per_image(
    codes: np.ndarray, folds: np.ndarray, size: int, row: np.ndarray
) -> list[np.ndarray]:
    """Return bits per token of each image, (n,), for no context, the position and the left code.

    A code of -1 marks an inactive token.
    """
    left_codes = np.full_like(codes, -1)
    left_codes[:, 1:] = np.where(row[1:] == row[:-1], codes[:, :-1], -1)
    constant = np.zeros_like(codes)
    position = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)
    active = np.nonzero(codes >= 0)
    image = active[0]
    token_fold = folds[image]
    tokens_per_image = np.bincount(image, minlength=len(codes))
    bits_per_image = []
    for context in (constant, position, left_codes):
        bits = held_out_bits(codes[active], context[active], token_fold, size)
        cost = _with_best_constant(bits, token_fold)
        # An image without active tokens gives NaN, which the mean leaves out.
        with np.errstate(invalid="ignore"):
            bits_per_image.append(np.bincount(image, cost, len(codes)) / tokens_per_image)
    return bits_per_image


def _with_best_constant(bits: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Select from bits (t, c), for each fold, the constant with the lowest cost in the others."""
    selected = np.empty(len(bits))
    for fold in np.unique(folds):
        is_held_out = folds == fold
        best = bits[~is_held_out].mean(axis=0).argmin()
        selected[is_held_out] = bits[is_held_out, best]
    return selected
