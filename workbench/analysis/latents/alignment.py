"""How much of a teacher's view of images is in the latents: three measures, each beside that of strangers' images.

Marginal cosine and pairwise agreement are what VA-VAE's loss asks of latents (arXiv 2501.01423), here without its
margins and, for pairs, with the latents themselves. Linear CKA: Kornblith et al. 2019 (arXiv 1905.00414).
"""

from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.inputs import flatten_latents
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.rank_correlation import spearman
from workbench.analysis.stats.sampling import describe_subset
from workbench.analysis.stats.similarity import (
    centered_alignment,
    gram_matrix,
    mapped_cosine,
    pair_cosines,
    pearson,
)
from workbench.core.errors import NotApplicable, UserError

LEAST = 20  # images
GROUP = 16  # images that take the tokens' part where the teacher is on another grid
MOST_IMAGES = 2000  # of more, a sample
MOST_NUMBERS = 20_000_000  # of teacher features compared token by token
MOST_TOKENS = 64  # of an image, whose pairs are compared


@dataclass(frozen=True)
class AlignmentMeasure:
    """One measure of likeness between latents and the teacher's features."""

    name: str
    value: float
    low: float  # 95 % interval
    high: float
    shuffled: float  # the same with the teacher's features of other images
    better: str  # "higher" or "lower"
    n: int  # images it was measured on


@dataclass(frozen=True)
class TeacherAlignment(Result):
    """How latents agree with a teacher's features of the same images, and with those of other images."""

    agreements: tuple[AlignmentMeasure, ...]
    teacher: str
    by_token: (
        bool  # else tokens and patches differ in number, and images were compared by their means
    )
    n: int
    of: int  # images in the evidence
    seed: int

    def __getitem__(self, name: str) -> AlignmentMeasure:
        return next(a for a in self.agreements if a.name == name)

    def figure(self) -> go.Figure:
        """Every measure, and hollow what strangers' features give."""
        shown = self.agreements[::-1]
        names = [f"{a.name}<br><sub>{a.better} is better</sub>" for a in shown]
        value, low, high = (
            np.array([getattr(a, x) for a in shown]) for x in ("value", "low", "high")
        )
        bars = {
            "type": "data",
            "symmetric": False,
            "array": high - value,
            "arrayminus": value - low,
            "thickness": 1.5,
        }
        look = {"y": names, "mode": "markers", "hovertemplate": "%{x:.3f}<extra></extra>"}
        hollow = {"size": 11, "symbol": "diamond-open", "color": COLORS[6], "line": {"width": 2}}
        figure = go.Figure()
        figure.add_scatter(
            x=[a.shuffled for a in shown], marker=hollow, name="features of other images", **look
        )
        dot = {"size": 10, "color": COLORS[0]}
        figure.add_scatter(
            x=value, error_x=bars, marker=dot, name="features of the same images, 95 %", **look
        )
        figure.update_xaxes(
            title="cosine, correlation or difference of cosines; no unit", zeroline=True
        )
        ticks = {"tickmode": "array", "tickvals": names, "ticktext": names, "ticklabelstandoff": 4}
        figure.update_yaxes(**ticks, range=[-0.6, len(names) - 0.4], automargin=True)
        whom = f"Alignment with {self.teacher}" if self.teacher else "Alignment with the teacher"
        figure.update_layout(title={"text": whom, "subtitle": {"text": self._basis()}}, height=440)
        return apply_theme(
            figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
        )

    def table(self) -> pd.DataFrame:
        """One row a measure: its value with interval, and that of other images' features."""
        return pd.DataFrame([asdict(a) for a in self.agreements]).rename(
            columns={"name": "measure"}
        )

    def summary(self) -> str:
        """Every measure with its interval and what other images' features give."""
        told = "; ".join(
            f"{a.name} {a.value:.3f} ({a.low:.3f} to {a.high:.3f}; other images {a.shuffled:.3f})"
            for a in self.agreements
        )
        whom = f" with {self.teacher}" if self.teacher else ""
        how = "token by token" if self.by_token else "image by image"
        return f"Alignment{whom}, {describe_subset(self.n, self.of)}, {how}: {told}."

    def _basis(self) -> str:
        how = (
            "token by token"
            if self.by_token
            else "tokens and patches differ in number: image by image"
        )
        return f"n = {describe_subset(self.n, self.of)} · {how} · seed {self.seed}"


def teacher_alignment(
    latents: np.ndarray,
    teacher_features: np.ndarray,
    teacher: str = "",
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> TeacherAlignment:
    """Compare latents (n, tokens, d) with a teacher's features (n, p, e) of the same images.

    Channels are centred first: features that are all positive would agree with anything. With p tokens a token is held
    against its patch; otherwise means over an image's are compared, 16 images taking the part of 16 tokens. *Marginal
    cosine*: after the best linear map by ridge, fitted to half of the images, on the other half. *Pairwise*: the
    cosines between an image's tokens against those between its patches, as mean difference and as correlations. *CKA*
    compares whole images with the patches' mean. Raises NotApplicable for under 20 images or constant latents,
    UserError for NaN or features that are not n.
    """
    if len(latents) != len(teacher_features):
        raise UserError(
            f"There are latents of {len(latents)} images and teacher features of {len(teacher_features)}."
            " Do both come from the same run?"
        )
    chosen = np.random.default_rng(seed).permutation(len(latents))[:MOST_IMAGES]
    whole = flatten_latents(np.asarray(latents[chosen]), LEAST, "Alignment")
    pooled = _pooled(teacher_features, chosen)
    (tokens, d), (patches, e) = latents.shape[1:], teacher_features.shape[1:]
    by_token = tokens == patches > 1
    if by_token:
        few = max(LEAST, min(len(chosen), MOST_NUMBERS // (tokens * max(d, e))))
        ours, theirs = (
            np.asarray(x[chosen[:few]], np.float64) for x in (latents, teacher_features)
        )
    else:
        ours, theirs = _groups(whole.reshape(len(whole), tokens, d).mean(axis=1)), _groups(pooled)
    ours, theirs = (x - x.mean(axis=(0, 1)) for x in (ours, theirs))
    strangers = _strangers(theirs, by_token)
    each = 1 if by_token else ours.shape[1]
    agreements = (
        _marginal(ours, theirs, strangers, each),
        *_pairwise(ours, theirs, strangers, each, seed),
        _cka(whole, pooled, seed),
    )
    return TeacherAlignment(agreements, teacher, by_token, len(chosen), len(latents), seed)


def _pooled(features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The mean (n, e) over an image's patches, one image at a time: all of them may be larger than memory."""
    pooled = np.stack([np.asarray(features[i], np.float64).mean(axis=0) for i in chosen])
    broken = int((~np.isfinite(pooled)).any(axis=1).sum())
    if broken:
        raise UserError(
            f"The teacher features of {broken} of {len(pooled)} images hold NaN or infinity."
        )
    if not np.ptp(pooled, axis=0).any():
        raise NotApplicable(
            f"Alignment needs teacher features that differ; these are alike for {len(pooled)} images."
        )
    return pooled


def _strangers(features: np.ndarray, by_token: bool) -> np.ndarray:
    """The features of the image before: images are in random order."""
    images = features if by_token else features.reshape(-1, features.shape[2])
    return np.roll(images, 1, axis=0).reshape(features.shape)


def _groups(rows: np.ndarray) -> np.ndarray:
    """Images (n, d) by sixteens (m, 16, d); of under 32, two groups. What is left over is dropped."""
    size = min(GROUP, len(rows) // 2)
    return rows[: len(rows) // size * size].reshape(-1, size, rows.shape[1])


def _marginal(
    ours: np.ndarray, theirs: np.ndarray, strangers: np.ndarray, each: int
) -> AlignmentMeasure:
    value, shuffled = (mapped_cosine(ours, y) for y in (theirs, strangers))
    told = (*mean_interval(value), float(shuffled.mean()))
    return AlignmentMeasure("marginal cosine", *told, "higher", len(value) * each)


def _pairwise(
    ours: np.ndarray, theirs: np.ndarray, strangers: np.ndarray, each: int, seed: int
) -> tuple[AlignmentMeasure, ...]:
    kept = np.random.default_rng(seed).permutation(ours.shape[1])[:MOST_TOKENS]
    a, b, null = (pair_cosines(x[:, kept]) for x in (ours, theirs, strangers))
    measures = {"pairwise difference": (_difference, "lower")}
    if len(kept) > 2:  # two tokens make one pair, and one pair no correlation
        measures |= {
            "pairwise Pearson": (pearson, "higher"),
            "pairwise Spearman": (_row_spearman, "higher"),
        }
    return tuple(
        AlignmentMeasure(
            name,
            *mean_interval(measure(a, b)),
            float(measure(a, null).mean()),
            better,
            len(a) * each,
        )
        for name, (measure, better) in measures.items()
    )


def _row_spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return spearman(a.T, b.T)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b).mean(axis=1)


def _cka(x: np.ndarray, y: np.ndarray, seed: int) -> AlignmentMeasure:
    a, b = gram_matrix(x), gram_matrix(y)
    value, moved = centered_alignment(a, b), np.roll(b, 1, axis=(0, 1))
    error, _ = half_samples(
        lambda i: centered_alignment(a[np.ix_(i, i)], b[np.ix_(i, i)]), len(a), seed=seed
    )
    low, high = max(value - 1.96 * float(error), 0.0), min(value + 1.96 * float(error), 1.0)
    return AlignmentMeasure("CKA", value, low, high, centered_alignment(a, moved), "higher", len(a))
