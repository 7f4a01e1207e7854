"""Correlation of the number of tokens per image with the complexity of the image.

KARL (arXiv 2507.07995) claims that an adaptive tokenizer spends more tokens on more complex images.
Gradient energy is the baseline: if it predicts the number of tokens as well as any other measure,
learned halting adds nothing to a handcrafted statistic. The reference is a perfect halting of the
same decoder: the tokens that each image needs, and their correlation with each measure, which no
halting is expected to exceed.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import describe_pictures
from workbench.analysis.plotting.style import COLORS, HIGHLIGHT_COLOR, apply_theme
from workbench.analysis.stats.rank_correlation import spearman
from workbench.analysis.stats.sampling import describe_subset, subsample
from workbench.analysis.tokens.halting import perfect_halting
from workbench.core.errors import NotApplicable, UserError

MIN_IMAGES = 10
NUM_BOOTSTRAP = 1000
MAX_POINTS = 3000
MIN_LOG_AXIS_RATIO = 30  # a wider range of values is drawn on a logarithmic axis
MEASURE_LABELS = {
    "PNG size": "PNG size, bytes",
    "gradient energy": "gradient energy, pixels in [0, 1]",
    "known complexity": "known complexity, bits",
    "tokens needed": "tokens needed (same decoder)",
}


@dataclass(frozen=True)
class ComplexityCorrelation:
    """Rank correlation of the tokens per image with one measure of complexity."""

    measure: str
    spearman: float
    low: float  # 95 % bootstrap interval over images
    high: float
    perfect: float | None = None  # of a perfect halting; None if it is not known


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenComplexity(Result):
    """Tokens per image compared with measures of complexity."""

    correlations: tuple[ComplexityCorrelation, ...]
    image_indices: np.ndarray = field(repr=False)  # int (m,): the images that are drawn
    tokens: np.ndarray = field(repr=False)  # int (m,): their numbers of tokens
    measures: dict[str, np.ndarray] = field(repr=False)  # their complexities, (m,) each
    requested: float | None  # requested error; None for the run's own number of tokens
    n: int
    num_images: int | None  # images in the evidence, with those that have no picture
    mean: float  # tokens per image
    max_tokens: int
    full_share: float  # fraction of the images with the maximum number of tokens
    seed: int

    def figure(self) -> go.Figure:
        """Draw tokens per image against each measure, one point per image."""
        figure = make_subplots(rows=1, cols=len(self.correlations), horizontal_spacing=0.09)
        jitter = np.random.default_rng(self.seed).uniform(-0.3, 0.3, len(self.tokens))
        for column, correlation in enumerate(self.correlations, 1):
            values = self.measures[correlation.measure]
            figure.add_scatter(
                x=values,
                y=self.tokens + jitter,
                mode="markers",
                marker={"size": 4, "opacity": 0.6, "color": COLORS[column - 1]},
                name=(
                    f"{correlation.measure}: Spearman {correlation.spearman:.2f}"
                    f" ({correlation.low:.2f} to {correlation.high:.2f})"
                    f"{_perfect_text(correlation)}"
                ),
                customdata=np.stack([self.image_indices, self.tokens], axis=1),
                meta="image",
                selected=HIGHLIGHT_COLOR,
                hovertemplate=(
                    "#%{customdata[0]}, %{x:.4~g}: %{customdata[1]} tokens<extra></extra>"
                ),
                row=1,
                col=column,
            )
            figure.update_xaxes(
                title=MEASURE_LABELS[correlation.measure],
                row=1,
                col=column,
                **_axis_type(values),
            )
            figure.update_yaxes(title="tokens per image", row=1, col=column)
        figure.update_layout(
            title={
                "text": "Tokens per image by image complexity",
                "subtitle": {"text": self._subtitle()},
            },
            height=460,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top", "itemsizing": "constant"},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per measure."""
        rows = [asdict(correlation) | {"n": self.n} for correlation in self.correlations]
        table = pd.DataFrame(rows)
        if all(correlation.perfect is None for correlation in self.correlations):
            return table.drop(columns="perfect")
        return table

    def summary(self) -> str:
        """State the rank correlations, and a caution if most images have all tokens."""
        correlations = ", ".join(
            f"{c.spearman:.2f} ({c.low:.2f} to {c.high:.2f}{_perfect_text(c)}) with {c.measure}"
            for c in self.correlations
        )
        caution = describe_pictures(self.n, self.num_images)
        if self.full_share > 0.5:
            caution += (
                f" {100 * self.full_share:.0f} % of the images have all {self.max_tokens} tokens,"
                " so their need is not visible."
            )
        return (
            f"The rank correlation of tokens per image is {correlations} ({self.n:,} images, mean"
            f" {self.mean:.1f} of {self.max_tokens} tokens).{caution}"
        )

    def _subtitle(self) -> str:
        request = "without a requested error"
        if self.requested is not None:
            request = f"requested error {self.requested:.3g}"
        subtitle = f"n = {self.n:,} images, {request} · in brackets: 95 % bootstrap intervals"
        if len(self.image_indices) < self.n:
            subset = describe_subset(len(self.image_indices), self.n)
            subtitle += f"<br>points: {subset}, seed {self.seed}"
        return subtitle


def token_complexity(
    images: np.ndarray,
    active: np.ndarray | None = None,
    requested: np.ndarray | None = None,
    spent: np.ndarray | None = None,
    complexity: np.ndarray | None = None,
    budgets: np.ndarray | None = None,
    budget_l1: np.ndarray | None = None,
    num_images: int | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> TokenComplexity:
    """Correlate the number of tokens per image with measures of its complexity.

    The tokens are those spent on the request whose mean is nearest to half of the maximum, because
    a request that gives nearly all images all or no tokens has no order. Without requests, they
    are the active tokens.

    Parameters
    ----------
    images : ndarray of uint8, shape (n_images, height, width, channels)
        The images, whose PNG size and gradient energy are measured.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use.
    requested : ndarray of float, shape (n_requests,), optional
        Mean absolute errors that were requested.
    spent : ndarray of int, shape (n_requests, n_images), optional
        Tokens spent on each request.
    complexity : ndarray of float, shape (n_images,), optional
        Known complexity of procedural images, in bits.
    budgets : ndarray of int, shape (n_budgets,), optional
        Fixed numbers of tokens, for the comparison with a perfect halting.
    budget_l1 : ndarray of float, shape (n_budgets, n_images), optional
        Errors with these numbers of tokens.
    num_images : int, optional
        Number of images in the evidence, if only these have pictures.
    seed : int, default 0
        Seed of the bootstrap and of the points that are drawn.

    Returns
    -------
    TokenComplexity
        Spearman correlation with each measure.

    Raises
    ------
    NotApplicable
        If there are under 10 images, or if all images have the same number of tokens.
    UserError
        If the arrays differ in their number of images.
    """
    n = len(images)
    if n < MIN_IMAGES:
        raise NotApplicable(
            f"Token complexity needs at least {MIN_IMAGES} images; this evidence has {n}."
        )
    tokens, request, max_tokens = _select_tokens(active, requested, spent)
    needed = None
    if request is not None and budgets is not None and budget_l1 is not None:
        needed = perfect_halting(np.array([request]), budgets, budget_l1).needed[0]
    counts = (("tokens", tokens), ("complexities", complexity), ("tokens needed", needed))
    for name, array in counts:
        if array is not None and len(array) != n:
            raise UserError(
                f"There are {n} images, but {name} of {len(array)} images."
                " Do both come from the same run?"
            )
    if not np.ptp(tokens):
        raise NotApplicable(
            "Token complexity needs images with different numbers of tokens;"
            f" all {n} images have {tokens[0]}."
        )
    measures = {"PNG size": png_bytes(images), "gradient energy": gradient_energy(images)}
    if complexity is not None and np.isfinite(complexity).all():
        measures["known complexity"] = np.asarray(complexity, np.float64)
    perfect: dict[str, float] = {}
    if needed is not None and np.ptp(needed):
        against_need = spearman(np.stack(list(measures.values()), axis=1), needed)
        perfect = dict(zip(measures, against_need.tolist(), strict=True))
        measures["tokens needed"] = needed.astype(np.float64)
    values = np.stack(list(measures.values()), axis=1)
    random = np.random.default_rng(seed)
    resamples = [
        spearman(values[rows], tokens[rows]) for rows in random.integers(0, n, (NUM_BOOTSTRAP, n))
    ]
    low, high = np.percentile(resamples, [2.5, 97.5], axis=0)
    estimate = spearman(values, tokens)
    points = subsample(n, MAX_POINTS, random)
    return TokenComplexity(
        correlations=tuple(
            ComplexityCorrelation(
                measure=measure,
                spearman=float(estimate[i]),
                low=float(low[i]),
                high=float(high[i]),
                perfect=perfect.get(measure),
            )
            for i, measure in enumerate(measures)
        ),
        image_indices=points,
        tokens=tokens[points],
        measures={name: value[points] for name, value in measures.items()},
        requested=request,
        n=n,
        num_images=num_images,
        mean=float(tokens.mean()),
        max_tokens=max_tokens,
        full_share=float((tokens == max_tokens).mean()),
        seed=seed,
    )


def png_bytes(images: np.ndarray) -> np.ndarray:
    """Measure the size of each image as a PNG file, a general-purpose measure of complexity.

    Parameters
    ----------
    images : ndarray of uint8, shape (n_images, height, width, channels)
        The images, with 1 or 3 channels.

    Returns
    -------
    ndarray of float, shape (n_images,)
        Sizes in bytes.
    """
    import io

    from PIL import Image

    sizes = np.empty(len(images))
    for i, image in enumerate(images):
        pixels = np.asarray(image)
        if pixels.shape[2] == 1:
            pixels = pixels[..., 0]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        sizes[i] = buffer.tell()
    return sizes


def gradient_energy(images: np.ndarray) -> np.ndarray:
    """Compute the mean squared difference of neighboring pixels, vertical plus horizontal.

    Parameters
    ----------
    images : ndarray of uint8, shape (n_images, height, width, channels)
        The images, which are scaled to [0, 1].

    Returns
    -------
    ndarray of float, shape (n_images,)
        Gradient energies.

    Examples
    --------
    >>> import numpy as np
    >>> gradient_energy(np.array([[[[0], [255]]]], np.uint8).repeat(2, axis=1)).tolist()
    [1.0]
    """
    energy = np.empty(len(images))
    for i, image in enumerate(images):
        pixels = np.asarray(image, np.float64) / 255
        energy[i] = sum(np.square(np.diff(pixels, axis=axis)).mean() for axis in (0, 1))
    return energy


def _select_tokens(
    active: np.ndarray | None, requested: np.ndarray | None, spent: np.ndarray | None
) -> tuple[np.ndarray, float | None, int]:
    """Return tokens per image, int (n,), the requested error, and the maximum number of tokens."""
    if requested is not None and spent is not None and len(requested):
        counts = np.asarray(spent, np.int64)
        max_tokens = counts.max() if active is None else active.shape[1]
        middle = int(np.abs(counts.mean(axis=1) - max_tokens / 2).argmin())
        return counts[middle], float(requested[middle]), int(max_tokens)
    if active is None:
        raise NotApplicable(
            "Token complexity needs a tokenizer that gives images different numbers of tokens."
        )
    return np.asarray(active, bool).sum(axis=1), None, active.shape[1]


def _perfect_text(correlation: ComplexityCorrelation) -> str:
    if correlation.perfect is None:
        return ""
    return f"; perfect halting {correlation.perfect:.2f}"


def _axis_type(values: np.ndarray) -> dict[str, Any]:
    if values.min() > 0 and values.max() > MIN_LOG_AXIS_RATIO * values.min():
        return {"type": "log", "dtick": 1}
    return {"type": "linear"}
