"""Error of the latents when codes are dropped, to estimate the codebook size that is needed.

A token whose code is dropped takes the nearest remaining code.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import parse_codes, require_vectors
from workbench.analysis.codebook.distances import max_searched_codes
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.sampling import Subset
from workbench.core.errors import NotApplicable, UserError

RETAINED = ("commonest", "random", "rarest")  # which codes remain
DASHES = {"commonest": None, "random": "dash", "rarest": "dot"}
MAX_RELATIVE_ERROR = 0.05  # error that a smaller codebook may add
NUM_SIZES = 60
MAX_DISTANCES_IN_MEMORY = 1 << 23


@dataclass(frozen=True, eq=False, kw_only=True)
class CodeDropping(Result):
    """Error that smaller codebooks add, averaged over the codebooks."""

    size: int
    num_codebooks: int
    # int (m,), ascending: numbers of remaining codes; the last is the full codebook.
    sizes: np.ndarray = field(repr=False)
    # By remaining codes, (m,): 0 for no error, 1 for that of a single code.
    errors: dict[str, np.ndarray] = field(repr=False)
    needed: int  # the smallest of `sizes` at which the commonest codes add under 5 %
    tokens: int
    tokens_drawn: int  # number of tokens drawn per codebook; 0 if all were used
    seed: int

    def figure(self) -> go.Figure:
        """Draw the error by the number of remaining codes."""
        figure = go.Figure()
        for i, (name, error) in enumerate(self.errors.items()):
            label = "random codes remain" if name == "random" else f"the {name} codes remain"
            figure.add_scatter(
                x=self.sizes,
                y=error,
                mode="lines+markers",
                line={"color": COLORS[i], "dash": DASHES[name]},
                marker={"size": 4},
                name=label,
                hovertemplate=f"{label}, %{{x:,}}: %{{y:.3~g}}<extra></extra>",
            )
        figure.add_scatter(
            x=self.sizes[[0, -1]],
            y=[MAX_RELATIVE_ERROR] * 2,
            mode="lines",
            line={"color": COLORS[6], "width": 1},
            name=f"{100 * MAX_RELATIVE_ERROR:.0f} % error",
            hoverinfo="skip",
        )
        figure.update_xaxes(
            title="remaining codes", type="log", dtick=1 if self.size > 20 else "D1"
        )
        figure.update_yaxes(title="squared error / variance of the codes", rangemode="tozero")
        figure.update_layout(
            title={
                "text": "Error added by a smaller codebook",
                "subtitle": {"text": self._subtitle()},
            },
            height=440,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per number of remaining codes."""
        errors = {f"error, {name} remain": error for name, error in self.errors.items()}
        fraction = 1 - self.sizes / self.size
        return pd.DataFrame({"remaining": self.sizes, "dropped": fraction, **errors})

    @property
    def subset(self) -> Subset | None:
        """The tokens of each codebook whose error was measured, if they are not all."""
        if not self.tokens_drawn:
            return None
        return Subset(self.tokens_drawn, self.tokens // self.num_codebooks, "tokens")

    def summary(self) -> str:
        """State how few codes are enough."""
        return (
            f"The {self.needed:,} commonest of {self.size:,} codes are enough: with each dropped"
            " code replaced by the nearest remaining one, the relative squared error of the"
            f" latents is at most {100 * MAX_RELATIVE_ERROR:.0f} %.{self.subset_note()}"
        )

    def _subtitle(self) -> str:
        codes = f"{self.size:,} codes"
        if self.num_codebooks > 1:
            codes = f"mean of {self.num_codebooks} codebooks of {codes}"
        subset = ""
        if self.tokens_drawn:
            subset = f", {self.tokens_drawn:,} per codebook drawn (seed {self.seed})"
        return f"{codes} · n = {self.tokens:,} tokens{subset}"


def code_dropping(
    codes: np.ndarray,
    codebook: np.ndarray,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeDropping:
    """Drop entries of a codebook, and measure how far tokens move from the codes they selected.

    The error is the mean squared distance over the variance of the selected codes: 0 for the full
    codebook, at least 1 for a single code.

    Parameters
    ----------
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected. -1 marks padding, which is left out.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim)
        The codewords. For large codebooks, random tokens are used.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are left out.
    seed : int, default 0
        Seed of the random order of codes and of the tokens drawn.

    Returns
    -------
    CodeDropping
        Error for each number of remaining codes, and the number of codes that is needed.

    Raises
    ------
    NotApplicable
        If there are no tokens, if every token selected the same code, or if the vectors of the
        codebook are not known.
    UserError
        If the codebook contains NaN, or the codes do not match it.

    Examples
    --------
    >>> import numpy as np
    >>> codebook = np.repeat(np.eye(2), 4, axis=0)[None]  # two vectors, four copies of each
    >>> code_dropping(np.array([[0, 4]] * 3), codebook).needed
    2
    """
    codebook = require_vectors(codebook, "Code dropping")
    parsed = parse_codes(codes, codebook, active, "Code dropping")
    if not np.isfinite(codebook).all():
        raise UserError(
            "The codebook contains NaN or infinity. Collect the evidence from an earlier step."
        )
    sizes = np.unique(np.geomspace(1, parsed.codebook_size, NUM_SIZES).round().astype(np.int64))
    random = np.random.default_rng(seed)
    curves = []
    for codewords, counts in zip(codebook, parsed.counts, strict=True):
        errors_by_order = _errors(np.asarray(codewords, np.float32), counts, sizes, random)
        if errors_by_order is not None:
            curves.append(errors_by_order)
    if not curves:
        raise NotApplicable(
            "Code dropping needs tokens that differ; every token selected the same code."
        )
    errors = {name: np.mean([curve[name] for curve in curves], axis=0) for name in RETAINED}
    max_tokens = _max_tokens(parsed.codebook_size, codebook.shape[2])
    max_used = (parsed.counts > 0).sum(axis=1).max()
    return CodeDropping(
        size=parsed.codebook_size,
        num_codebooks=parsed.num_codebooks,
        sizes=sizes,
        errors=errors,
        needed=int(sizes[errors["commonest"] <= MAX_RELATIVE_ERROR][0]),
        tokens=int(parsed.counts.sum()),
        tokens_drawn=max_tokens if max_tokens < max_used else 0,
        seed=seed,
    )


def _errors(
    codewords: np.ndarray, counts: np.ndarray, sizes: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray] | None:
    """Return the error for each size, by remaining codes; None if the used codes do not vary."""
    share = counts / counts.sum()
    codewords = codewords - share.astype(np.float32) @ codewords
    variance = share @ np.square(codewords, dtype=np.float64).sum(axis=1)
    if not variance:
        return None
    rows, weights = _weighted_rows(codewords, counts, random)
    order = np.argsort(-counts, kind="stable")
    orders = {
        "commonest": order,
        "random": random.permutation(len(codewords)),
        "rarest": order[::-1],
    }
    starts = np.concatenate([[0], sizes[:-1]])
    norms = np.square(codewords).sum(axis=1)
    errors = {name: np.zeros(len(sizes)) for name in RETAINED}
    step = max(1, MAX_DISTANCES_IN_MEMORY // len(codewords))
    for i in range(0, len(rows), step):
        part = rows[i : i + step]
        products = 2 * codewords[part] @ codewords.T
        squares = np.maximum(norms[part, None] + norms - products, 0)
        squares[np.arange(len(part)), part] = 0  # exactly 0 for a code that remains
        for name, order in orders.items():
            group_minimum = np.minimum.reduceat(squares[:, order], starts, axis=1)
            nearest = np.minimum.accumulate(group_minimum, axis=1)
            errors[name] += weights[i : i + step] @ nearest
    return {name: error / variance for name, error in errors.items()}


def _weighted_rows(
    codewords: np.ndarray, counts: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the used codes with their shares, or as many random tokens as are affordable."""
    share = counts / counts.sum()
    used = np.flatnonzero(counts)
    max_tokens = _max_tokens(*codewords.shape)
    if len(used) <= max_tokens:
        return used, share[used]
    tokens = random.choice(len(codewords), max_tokens, p=share)
    return tokens, np.full(max_tokens, 1 / max_tokens)


def _max_tokens(size: int, dim: int) -> int:
    # The distances of each token are also sorted three times, hence half as many tokens.
    return max_searched_codes(2 * size, dim)
