"""Changes in the codes of the same images since the previous checkpoint."""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import Codes, parse_codes
from workbench.analysis.codebook.mutual_information import entropy, mutual_information
from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.sampling import Subset, describe_subset, subsample
from workbench.core.counted import counted
from workbench.core.errors import UserError

NUM_SHUFFLES = 5
MAX_TOKENS = 2_000_000  # the agreement of larger evidence is computed on random images
MAX_POINTS = 3000


@dataclass(frozen=True)
class CodebookChurn:
    """Changes of one codebook between two checkpoints."""

    churn: float  # fraction of the tokens whose code changed
    born: int  # codes selected now but not before
    died: int  # codes selected before but not now
    retained: int  # codes selected by both checkpoints
    # 1 - adjusted mutual information: 0 if codes were only renumbered, 1 if unrelated.
    regrouped: float


@dataclass(frozen=True, eq=False, kw_only=True)
class CodeChurn(Result):
    """Changes of every codebook, and of every token position."""

    codebooks: tuple[CodebookChurn, ...]
    churn: float  # fraction of all tokens whose code changed, mean over images
    low: float  # 95 % bootstrap interval over images
    high: float
    # (n_tokens,): fraction of the images in which the code of that token changed.
    by_token: np.ndarray = field(repr=False)
    before: np.ndarray = field(repr=False)  # int (m,): counts of some codes before
    after: np.ndarray = field(repr=False)  # int (m,): counts of the same codes now
    codes: int  # number of codes selected before or now
    compared: int  # number of images behind `regrouped`
    images: int
    seed: int

    def figure(self) -> go.Figure:
        """Draw the counts of codes before and now, and the churn of each token."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.14)
        self._add_counts(figure)
        figure.add_bar(
            x=np.arange(len(self.by_token)),
            y=100 * self.by_token,
            marker={"color": COLORS[1], "line": {"width": 0}},
            showlegend=False,
            row=1,
            col=2,
        )
        figure.update_xaxes(title="token", row=1, col=2)
        figure.update_yaxes(title="images with a changed code, %", rangemode="tozero", row=1, col=2)
        figure.update_layout(
            title={
                "text": "Code changes since the previous checkpoint",
                "subtitle": {"text": self._subtitle()},
            },
            height=440,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per codebook."""
        rows = [
            {
                "codebook": str(i),
                "churn": codebook.churn,
                "retained": codebook.retained,
                "born": codebook.born,
                "died": codebook.died,
                "regrouped": codebook.regrouped,
            }
            for i, codebook in enumerate(self.codebooks)
        ]
        return pd.DataFrame(rows)

    @property
    def subset(self) -> Subset | None:
        """The images whose grouping was compared, if they are not all."""
        return Subset.if_partial(self.compared, self.images)

    def summary(self) -> str:
        """State the churn with its interval, births and deaths, and the loss of agreement."""
        if not self.churn:
            return f"No code changed since the previous checkpoint ({self.images:,} images)."
        born = sum(codebook.born for codebook in self.codebooks)
        died = sum(codebook.died for codebook in self.codebooks)
        # The adjusted information of unrelated codes is negative as often as not.
        regrouped = min(1.0, float(np.mean([codebook.regrouped for codebook in self.codebooks])))
        return (
            f"{100 * self.churn:.2f} % of the tokens changed their code since the previous"
            f" checkpoint (95 % interval {100 * self.low:.2f} to {100 * self.high:.2f} %,"
            f" {self.images:,} images); {counted(born, 'code was', 'codes were')} born"
            f" and {died:,} died."
            f" Apart from renumbering, {100 * regrouped:.2f} % of the grouping was lost"
            f" (1 - adjusted mutual information{self._compared_text()})."
        )

    def _compared_text(self) -> str:
        return "" if self.subset is None else f" of {self.subset}"

    def _add_counts(self, figure: go.Figure) -> None:
        in_both = (self.before > 0) & (self.after > 0)
        for name, mask, color, symbol in (
            ("in both", in_both, COLORS[0], "circle"),
            ("born", self.before == 0, COLORS[2], "triangle-up"),
            ("× died", self.after == 0, DEAD_COLOR, "x"),
        ):
            figure.add_scatter(
                x=self.before[mask] + 1,
                y=self.after[mask] + 1,
                mode="markers",
                marker={"color": color, "symbol": symbol, "size": 6, "opacity": 0.7},
                name=name,
                hoverinfo="skip",
                row=1,
                col=1,
            )
        top = float(max(self.before.max(), self.after.max(), 1)) + 1
        figure.add_scatter(
            x=[1, top],
            y=[1, top],
            mode="lines",
            line={"color": COLORS[6], "dash": "dash"},
            name="unchanged count",
            hoverinfo="skip",
            row=1,
            col=1,
        )
        axis = {"type": "log", "dtick": 1}
        figure.update_xaxes(title="tokens per code before, plus 1", row=1, col=1, **axis)
        figure.update_yaxes(title="tokens per code now, plus 1", row=1, col=1, **axis)

    def _subtitle(self) -> str:
        lines = [f"n = {self.images:,} images · {100 * self.churn:.2f} % of the tokens changed"]
        if len(self.before) < self.codes:
            subset = describe_subset(len(self.before), self.codes, "codes")
            lines.append(f"points: {subset}, seed {self.seed}")
        if self.compared < self.images:
            subset = describe_subset(self.compared, self.images)
            lines.append(f"regrouped: {subset}, seed {self.seed}")
        return "<br>".join(lines)


def code_churn(
    previous_codes: np.ndarray,
    codes: np.ndarray,
    codebook: np.ndarray | int,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeChurn:
    """Compare the codes of images with those at the previous checkpoint.

    Adjusted mutual information is invariant to renumbering of the codes. Its bound is the mean of
    both entropies, and its chance value is the mean over five shuffles.

    Parameters
    ----------
    previous_codes : ndarray of int, shape (n_images, n_tokens)
        Codes of the same images at the previous checkpoint.
    codes : ndarray of int, shape (n_images, n_tokens)
        Codes now. -1 marks padding, which is left out.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim), or int
        The codewords, or only their number if the vectors are not at hand.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use now; the others are left out.
    seed : int, default 0
        Seed of the shuffles and of the subsets of images and codes.

    Returns
    -------
    CodeChurn
        Churn by codebook and by token, and counts of codes before and now.

    Raises
    ------
    UserError
        If the two arrays of codes differ in shape, or do not match the codebook.
    NotApplicable
        If there are no tokens.

    References
    ----------
    Vinh, Epps and Bailey, "Information theoretic measures for clusterings comparison", JMLR 2010.

    Examples
    --------
    >>> import numpy as np
    >>> churn = code_churn(np.array([[0, 1], [2, 3]]), np.array([[0, 1], [2, 2]]), np.eye(4)[None])
    >>> churn.churn, churn.codebooks[0].died
    (0.25, 1)
    """
    if previous_codes.shape != codes.shape:
        before, after = (" × ".join(map(str, x.shape)) for x in (previous_codes, codes))
        raise UserError(
            f"The previous codes have shape {before} and the codes have shape {after}."
            " Do both belong to the same images?"
        )
    now = parse_codes(codes, codebook, active, "Code churn")
    then = parse_codes(previous_codes, codebook, active, "Code churn")
    changed, total, image_churn = _changes(then, now)
    random = np.random.default_rng(seed)
    images = subsample(len(codes), max(1, MAX_TOKENS // codes.shape[1]), random)
    codebooks = tuple(
        _codebook_churn(index, then, now, changed, total, images, random)
        for index in range(now.num_codebooks)
    )
    in_either = np.flatnonzero((then.counts + now.counts).ravel())
    points = in_either[subsample(len(in_either), MAX_POINTS, random)]
    mean, low, high = mean_interval(image_churn)
    return CodeChurn(
        codebooks=codebooks,
        churn=mean,
        low=low,
        high=high,
        by_token=changed / np.maximum(total, 1),
        before=then.counts.ravel()[points],
        after=now.counts.ravel()[points],
        codes=len(in_either),
        compared=len(images),
        images=len(codes),
        seed=seed,
    )


def adjusted_information(a: np.ndarray, b: np.ndarray, random: np.random.Generator) -> float:
    """Compute the adjusted mutual information of two labels of the same items.

    Parameters
    ----------
    a, b : ndarray of int, shape (n,)
        Two labels, counted from 0.
    random : numpy.random.Generator
        Source of the five shuffles that estimate the chance value.

    Returns
    -------
    float
        1 if one renames the other, about 0 if they are unrelated.
    """
    if np.array_equal(a, b):
        return 1.0
    shuffled = [mutual_information(a, random.permutation(b)) for _ in range(NUM_SHUFFLES)]
    chance = float(np.mean(shuffled))
    bound = (entropy(np.bincount(a)) + entropy(np.bincount(b))) / 2
    if bound <= chance + 1e-12:
        return 1.0
    return (mutual_information(a, b) - chance) / (bound - chance)


def _changes(then: Codes, now: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count changed and active tokens by position, float (n_tokens,), and the churn by image."""
    changed = np.zeros(now.codes.shape[1])
    total = np.zeros(now.codes.shape[1])
    image_churn = []
    for ids_before, ids_now in zip(then.iter_ids(), now.iter_ids(), strict=True):
        is_changed = ids_before != ids_now
        is_active = ids_now >= 0
        changed = changed + is_changed.sum(axis=0)
        total = total + is_active.sum(axis=0)
        # An image without active tokens gives NaN, which the mean leaves out.
        with np.errstate(invalid="ignore"):
            image_churn.append(is_changed.sum(axis=1) / is_active.sum(axis=1))
    return changed, total, np.concatenate(image_churn)


def _codebook_churn(
    index: int,
    then: Codes,
    now: Codes,
    changed: np.ndarray,
    total: np.ndarray,
    images: np.ndarray,
    random: np.random.Generator,
) -> CodebookChurn:
    codes_before = then.of_codebook(index, images)[0]
    codes_now = now.of_codebook(index, images)[0]
    was_used = then.counts[index] > 0
    is_used = now.counts[index] > 0
    block = now.tokens_per_codebook
    tokens = slice(index * block, (index + 1) * block)
    return CodebookChurn(
        churn=float(changed[tokens].sum() / total[tokens].sum()),
        born=int((is_used & ~was_used).sum()),
        died=int((was_used & ~is_used).sum()),
        retained=int((was_used & is_used).sum()),
        regrouped=1 - adjusted_information(codes_before, codes_now, random),
    )
