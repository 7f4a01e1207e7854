"""How large a codebook is really needed: the error of the latents when some codes are dropped.

A token whose code is dropped takes the nearest code that is left. Keeping the commonest M is dropping the rarest.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.codebook.distances import searchable
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.core.errors import NotApplicable, UserError

KEPT = ("commonest", "random", "rarest")
BEARABLE = 0.05  # relative error a smaller book may add
AT_ONCE = 1 << 23  # distances in memory at a time
DASHES = dict(zip(KEPT, (None, "dash", "dot"), strict=True))


@dataclass(frozen=True, eq=False)
class CodeDropping(Result):
    """The error that smaller codebooks add, of the books on average."""

    size: int
    books: int
    kept: np.ndarray = field(repr=False)  # int (m,) codes kept, rising; the last is the whole book
    errors: dict[str, np.ndarray] = field(
        repr=False
    )  # by which codes are kept, (m,): 0 none, 1 as much as one code
    needed: int  # the fewest of the commonest codes, among `kept`, that add under 5 %
    tokens: int
    drawn: int  # tokens of each book that were followed; 0: all
    seed: int

    def figure(self) -> go.Figure:
        """Error against codes kept."""
        figure = go.Figure()
        for i, (name, error) in enumerate(self.errors.items()):
            line = {"color": COLORS[i], "dash": DASHES[name]}
            hover = f"{name} %{{x:,}} kept: %{{y:.3g}}<extra></extra>"
            figure.add_scatter(
                x=self.kept, y=error, mode="lines+markers", line=line, marker={"size": 4},
                name=f"the {name} kept" if name != "random" else "random ones kept", hovertemplate=hover,
            )  # fmt: skip
        bound = {
            "mode": "lines",
            "line": {"color": COLORS[6], "width": 1},
            "name": f"{100 * BEARABLE:.0f} %",
        }
        figure.add_scatter(x=self.kept[[0, -1]], y=[BEARABLE] * 2, hoverinfo="skip", **bound)
        figure.update_xaxes(title="codes kept", type="log", dtick=1 if self.size > 20 else "D1")
        figure.update_yaxes(title="error added, of the codes' variance", rangemode="tozero")
        followed = (
            f"{self.drawn:,} tokens of each book followed (seed {self.seed})"
            if self.drawn
            else "all followed"
        )
        each = f"{self.books} books of " if self.books > 1 else ""
        subtitle = f"{each}{self.size:,} codes · n = {self.tokens:,} tokens, {followed}"
        title = {"text": "What dropping codes costs", "subtitle": {"text": subtitle}}
        figure.update_layout(
            title=title, height=440, legend={"orientation": "h", "y": -0.2, "yanchor": "top"}
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row for each number of codes kept."""
        errors = {f"error, {name} kept": error for name, error in self.errors.items()}
        return pd.DataFrame({"kept": self.kept, "dropped": 1 - self.kept / self.size, **errors})

    def summary(self) -> str:
        """How few codes would do."""
        return (
            f"The {self.needed:,} commonest of {self.size:,} codes would do: with each dropped code replaced by the"
            f" nearest one kept, the latents' relative error grows by under {100 * BEARABLE:.0f} %."
        )


def code_dropping(
    codes: np.ndarray,
    codebook: np.ndarray,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeDropping:
    """Keep only some entries of a codebook (g, k, d), and measure how far tokens are from what they chose.

    The error is the mean squared distance over the variance of the chosen codes: 0 with the whole book, at least 1 with
    one code. Of large books random tokens are followed. Raises NotApplicable where every token chose the same code,
    UserError for NaN in the codebook and what `read` refuses.
    """
    found = parse_codes(codes, codebook, active, "Code dropping")
    if not np.isfinite(codebook).all():
        raise UserError("The codebook holds NaN or infinity. Collect from an earlier step.")
    kept = np.unique(np.geomspace(1, found.size, 60).round().astype(np.int64))
    random = np.random.default_rng(seed)
    curves = [
        _curves(np.asarray(w, np.float32), c, kept, random)
        for w, c in zip(codebook, found.counts, strict=True)
    ]
    curves = [curve for curve in curves if curve is not None]
    if not curves:
        raise NotApplicable(
            "Code dropping needs tokens that differ; every one of these chose the same code."
        )
    errors = {name: np.mean([curve[name] for curve in curves], axis=0) for name in KEPT}
    needed = int(kept[errors["commonest"] <= BEARABLE][0])
    most = _followed(found.size, codebook.shape[2])
    drawn = most if most < (found.counts > 0).sum(axis=1).max() else 0
    return CodeDropping(
        found.size, found.books, kept, errors, needed, int(found.counts.sum()), drawn, seed
    )


def _curves(
    words: np.ndarray, counts: np.ndarray, kept: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray] | None:
    """The error for each number of codes kept, by which are kept; None where the chosen codes do not vary."""
    share, used = counts / counts.sum(), np.flatnonzero(counts)
    words = words - share.astype(np.float32) @ words
    variance = share @ np.square(words, dtype=np.float64).sum(axis=1)
    if not variance:
        return None
    most = _followed(*words.shape)
    if len(used) > most:
        rows, weights = random.choice(len(words), most, p=share), np.full(most, 1 / most)
    else:
        rows, weights = used, share[used]
    order = np.argsort(-counts, kind="stable")
    orders = {"commonest": order, "random": random.permutation(len(words)), "rarest": order[::-1]}
    starts = np.concatenate([[0], kept[:-1]])
    norms, errors = np.square(words).sum(axis=1), {name: np.zeros(len(kept)) for name in KEPT}
    step = max(1, AT_ONCE // len(words))
    for i in range(0, len(rows), step):
        part = rows[i : i + step]
        squares = np.maximum(norms[part, None] + norms - 2 * words[part] @ words.T, 0)
        squares[np.arange(len(part)), part] = 0  # exactly: a code that is kept costs nothing
        for name, order in orders.items():
            nearest = np.minimum.accumulate(
                np.minimum.reduceat(squares[:, order], starts, axis=1), axis=1
            )
            errors[name] += weights[i : i + step] @ nearest
    return {name: error / variance for name, error in errors.items()}


def _followed(size: int, dim: int) -> int:
    return searchable(2 * size, dim)  # its distances are sorted thrice besides
