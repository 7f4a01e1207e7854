"""Whether an adaptive tokenizer spends more tokens on more complex images, as KARL (arXiv 2507.07995) claims.

Gradient energy is the sanity check: where it tells the number of tokens as well as anything, the learned halting adds
nothing beyond a statistic made by hand.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.plotting.style import COLORS, HIGHLIGHT_COLOR, apply_theme
from workbench.analysis.stats.rank_correlation import spearman
from workbench.analysis.stats.sampling import describe_subset, subsample
from workbench.core.errors import NotApplicable, UserError

LEAST = 10  # images
ROUNDS = 1000
MOST_POINTS = 3000
UNITS = {
    "PNG size": "bytes of its PNG",
    "gradient energy": "gradient energy, pixels in [0, 1]",
    "known complexity": "known complexity, bits",
}


@dataclass(frozen=True)
class Correlation:
    """How the tokens an image was given follow one measure of its complexity."""

    measure: str
    spearman: float
    low: float  # 95 % bootstrap interval over images
    high: float


@dataclass(frozen=True, eq=False)
class TokenComplexity(Result):
    """Tokens spent beside what images are."""

    correlations: tuple[Correlation, ...]
    places: np.ndarray = field(repr=False)  # int (m,): some images
    tokens: np.ndarray = field(repr=False)  # (m,) given to them
    measures: dict[str, np.ndarray] = field(repr=False)  # of them, (m,) each
    requested: float | None  # the error they were asked for; None: the run's own
    n: int
    mean: float  # tokens over images
    most: int  # tokens
    full: float  # share of the images that were given the most
    seed: int

    def figure(self) -> go.Figure:
        """Tokens against each measure, an image a point."""
        figure = make_subplots(rows=1, cols=len(self.correlations), horizontal_spacing=0.09)
        jitter = np.random.default_rng(self.seed).uniform(-0.3, 0.3, len(self.tokens))
        marker = {"size": 4, "opacity": 0.6}
        for i, one in enumerate(self.correlations):
            x, colour = self.measures[one.measure], COLORS[i]
            name = f"{one.measure}: rank correlation {one.spearman:.2f} ({one.low:.2f} to {one.high:.2f})"
            figure.add_scatter(
                x=x, y=self.tokens + jitter, mode="markers", marker={**marker, "color": colour}, name=name,
                customdata=np.stack([self.places, self.tokens], axis=1), meta="image", selected=HIGHLIGHT_COLOR,
                row=1, col=i + 1,
                hovertemplate="#%{customdata[0]}, %{x:.4g}: %{customdata[1]} tokens<extra></extra>",
            )  # fmt: skip
            log = (
                {"type": "log", "dtick": 1}
                if x.min() > 0 and x.max() > 30 * x.min()
                else {"type": "linear"}
            )
            figure.update_xaxes(title=UNITS[one.measure], **log, row=1, col=i + 1)
            figure.update_yaxes(title="tokens an image was given", row=1, col=i + 1)
        asked = (
            "the run's own error"
            if self.requested is None
            else f"asked for an error of {self.requested:.3g}"
        )
        said = f"n = {self.n:,} images, {asked} · brackets: 95 % bootstrap interval"
        if len(self.places) < self.n:
            said += f"<br>points: {describe_subset(len(self.places), self.n)}, seed {self.seed}"
        figure.update_layout(
            title={"text": "Tokens against complexity", "subtitle": {"text": said}}, height=460
        )
        legend = {"orientation": "h", "y": -0.2, "yanchor": "top", "itemsizing": "constant"}
        return apply_theme(figure.update_layout(legend=legend))

    def table(self) -> pd.DataFrame:
        """One row a measure."""
        return pd.DataFrame([asdict(c) | {"n": self.n} for c in self.correlations])

    def summary(self) -> str:
        """The rank correlations, and whether so many images had all tokens that they mean little."""
        told = ", ".join(
            f"{c.spearman:.2f} ({c.low:.2f} to {c.high:.2f}) with {c.measure}"
            for c in self.correlations
        )
        full = f" {100 * self.full:.0f} % of them were given all {self.most}, which hides what they need."
        return (
            f"Images are given {self.mean:.1f} of {self.most} tokens on average; their rank correlation is {told}"
            f" ({self.n:,} images).{full if self.full > 0.5 else ''}"
        )


def token_complexity(
    images: np.ndarray,
    active: np.ndarray | None = None,
    requested: np.ndarray | None = None,
    spent: np.ndarray | None = None,
    complexity: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> TokenComplexity:
    """Correlate the tokens each of the uint8 images (n, h, w, c) was given with what is known of their complexity.

    The tokens are those spent (m, n) on the request that used nearest to half of the most, for where nearly all images
    get all or none there is nothing to rank; else the `active` ones. Beside PNG size and gradient energy, `complexity`
    (n,) where images are procedural. Raises NotApplicable for under 10 images or tokens that never differ, UserError
    for arrays that are not n long.
    """
    n = len(images)
    if n < LEAST:
        raise NotApplicable(
            f"Token complexity needs at least {LEAST} images; this evidence has {n}."
        )
    tokens, asked, most = _given(active, requested, spent)
    for name, array in (("tokens", tokens), ("complexities", complexity)):
        if array is not None and len(array) != n:
            raise UserError(
                f"There are {name} of {len(array)} images for {n}. Do both come from the same run?"
            )
    if not np.ptp(tokens):
        raise NotApplicable(
            f"Token complexity needs images of different length; all {n} have {tokens[0]} tokens."
        )
    measures = {"PNG size": png_bytes(images), "gradient energy": gradient_energy(images)}
    if complexity is not None and np.isfinite(complexity).all():
        measures["known complexity"] = np.asarray(complexity, np.float64)
    values, random = np.stack(list(measures.values()), axis=1), np.random.default_rng(seed)
    drawn = [spearman(values[rows], tokens[rows]) for rows in random.integers(0, n, (ROUNDS, n))]
    ends = np.percentile(drawn, [2.5, 97.5], axis=0)
    rows = zip(measures, spearman(values, tokens), *ends, strict=True)
    correlations = tuple(Correlation(name, *map(float, numbers)) for name, *numbers in rows)
    kept = subsample(n, MOST_POINTS, random)
    shown = {name: value[kept] for name, value in measures.items()}
    full = float((tokens == most).mean())
    return TokenComplexity(
        correlations, kept, tokens[kept], shown, asked, n, float(tokens.mean()), most, full, seed
    )


def png_bytes(images: np.ndarray) -> np.ndarray:
    """The size in bytes of each uint8 image (n, h, w, c) as a PNG file, (n,): what a general compressor makes of it."""
    import io

    from PIL import Image

    sizes = np.empty(len(images))
    for i, image in enumerate(images):
        buffer, image = io.BytesIO(), np.asarray(image)
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
        sizes[i] = buffer.tell()
    return sizes


def gradient_energy(images: np.ndarray) -> np.ndarray:
    """The mean squared difference of neighbouring pixels in [0, 1], across plus down, (n,)."""
    energy = np.empty(len(images))
    for i, image in enumerate(images):
        pixels = np.asarray(image, np.float64) / 255
        energy[i] = sum(np.square(np.diff(pixels, axis=axis)).mean() for axis in (0, 1))
    return energy


def _given(
    active: np.ndarray | None, requested: np.ndarray | None, spent: np.ndarray | None
) -> tuple[np.ndarray, float | None, int]:
    """The tokens each image was given, int (n,), the error asked for, and the most there are."""
    if requested is not None and spent is not None and len(requested):
        counts = np.asarray(spent, np.int64)
        most = counts.max() if active is None else active.shape[1]
        middle = int(np.abs(counts.mean(axis=1) - most / 2).argmin())
        return counts[middle], float(requested[middle]), int(most)
    if active is None:
        raise NotApplicable(
            "Token complexity needs a tokenizer that gives images different numbers of tokens."
        )
    return np.asarray(active, bool).sum(axis=1), None, active.shape[1]
