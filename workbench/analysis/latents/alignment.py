"""Alignment of latents with the features of a teacher, compared with the features of other images.

The marginal cosine and the pairwise measures follow the loss of VA-VAE, here without its margins
and, for pairs, with the latents themselves.

References
----------
Yao et al. (2025), VA-VAE, arXiv 2501.01423.
Kornblith et al. (2019), linear CKA, arXiv 1905.00414.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.generation.distance_names import network_title
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.inputs import flatten_latents
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.rank_correlation import spearman
from workbench.analysis.stats.sampling import Subset, describe_subset
from workbench.analysis.stats.similarity import (
    centered_alignment,
    gram_matrix,
    mapped_cosine,
    pair_cosines,
    pearson,
)
from workbench.core.errors import NotApplicable, UserError

MIN_IMAGES = 20
MAX_IMAGES = 2000  # a sample is drawn from more
GROUP_SIZE = 16  # images that replace the tokens if the teacher has another grid
MAX_FEATURE_VALUES = 20_000_000  # of the teacher, compared token by token
MAX_PAIRED_TOKENS = 64  # tokens per image whose pairs are compared


@dataclass(frozen=True)
class AlignmentMeasure:
    """A measure of similarity between latents and the features of the teacher.

    Attributes
    ----------
    name : str
        Name of the measure.
    value : float
        Value for the features of the same images.
    low, high : float
        95 % interval.
    shuffled : float
        Value for the features of other images.
    better : str
        `higher` or `lower`.
    n : int
        Number of images that were measured.
    """

    name: str
    value: float
    low: float
    high: float
    shuffled: float
    better: str
    n: int


@dataclass(frozen=True, kw_only=True)
class TeacherAlignment(Result):
    """Agreement of latents with a teacher's features of the same images, and of other images.

    Attributes
    ----------
    measures : tuple of AlignmentMeasure
        One entry per measure, for the features of the same images and of others.
    teacher : str
        Name of the teacher; empty if unknown.
    by_token : bool
        Whether tokens were compared with patches. Otherwise they have no position or differ in
        number, and images were compared by their means.
    n, of : int
        Number of images that were drawn, and in the evidence. Some measures are of fewer; see
        their `n`.
    seed : int
        Seed of the random draws.
    """

    measures: tuple[AlignmentMeasure, ...]
    teacher: str
    by_token: bool
    n: int
    of: int
    seed: int

    def __getitem__(self, name: str) -> AlignmentMeasure:
        return next(measure for measure in self.measures if measure.name == name)

    def figure(self) -> go.Figure:
        """Draw every measure, and its value for the features of other images."""
        measures = self.measures[::-1]
        names = [f"{m.name}<br><sub>{m.better} is better, n = {m.n:,}</sub>" for m in measures]
        value = np.array([m.value for m in measures])
        bars = {
            "type": "data",
            "symmetric": False,
            "array": np.array([m.high for m in measures]) - value,
            "arrayminus": value - np.array([m.low for m in measures]),
            "thickness": 1.5,
        }
        style: dict[str, Any] = {
            "y": names,
            "mode": "markers",
            "hovertemplate": "%{x:.3f}<extra></extra>",
        }
        hollow = {"size": 11, "symbol": "diamond-open", "color": COLORS[6], "line": {"width": 2}}
        figure = go.Figure()
        figure.add_scatter(
            x=[m.shuffled for m in measures],
            marker=hollow,
            name="features of other images",
            **style,
        )
        figure.add_scatter(
            x=value,
            error_x=bars,
            marker={"size": 10, "color": COLORS[0]},
            name="features of the same images, 95 %",
            **style,
        )
        figure.update_xaxes(
            title="cosine, correlation or difference of cosines (no unit)", zeroline=True
        )
        figure.update_yaxes(
            tickmode="array",
            tickvals=names,
            ticktext=names,
            ticklabelstandoff=4,
            range=[-0.6, len(names) - 0.4],
            automargin=True,
        )
        method = "token by token"
        if not self.by_token:
            method = "image by image (no token has a patch of its own)"
        subtitle = f"n = {describe_subset(self.n, self.of)} · {method} · seed {self.seed}"
        figure.update_layout(
            title={
                "text": f"Alignment with {self._teacher_title}",
                "subtitle": {"text": subtitle},
            },
            height=440,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        )
        return apply_theme(figure)

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return Subset.if_partial(self.n, self.of)

    @property
    def _teacher_title(self) -> str:
        return network_title(self.teacher) if self.teacher else "the teacher"

    def table(self) -> pd.DataFrame:
        """Return one row per measure: its value, its interval, its value for other images."""
        rows = pd.DataFrame([asdict(measure) for measure in self.measures])
        return rows.rename(columns={"name": "measure"})

    def summary(self) -> str:
        """Return every measure with its interval, value for other images and number of images."""
        values = "; ".join(
            f"{m.name} {m.value:.3f} ({m.low:.3f} to {m.high:.3f}; other images {m.shuffled:.3f}"
            + (")" if m.n == self.n else f"; n = {m.n:,})")
            for m in self.measures
        )
        method = "token by token" if self.by_token else "image by image"
        return (
            f"Alignment with {self._teacher_title}, {describe_subset(self.n, self.of)},"
            f" {method}: {values}."
        )


def teacher_alignment(
    latents: np.ndarray,
    teacher_features: np.ndarray,
    teacher: str = "",
    num_images: int | None = None,
    grid: tuple[int, int] | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> TeacherAlignment:
    """Compare latents with the features of a teacher for the same images.

    Channels are centered first, because features that are all positive would agree with anything.
    If the tokens form a grid with as many patches, each is compared with its patch. Otherwise the
    means over an image are compared, and 16 images take the place of 16 tokens.

    - Marginal cosine: cosine after the best linear map, a ridge regression that is fitted to half
      of the images and evaluated on the others.
    - Pairwise measures: mean difference and correlations between the cosines of an image's tokens
      and those of its patches.
    - CKA: whole images against the mean over patches.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    teacher_features : ndarray of float, shape (n, patches, e)
        Features of the teacher, one per patch.
    teacher : str
        Name of the teacher.
    num_images : int, optional
        Number of images in the evidence, if only these n have features of patches.
    grid : tuple of int, optional
        Rows and columns of the tokens; None if they have no position in the image.
    seed : int
        Seed of all random draws.

    Returns
    -------
    TeacherAlignment
        Agreement of latents and teacher features, by measure.

    Raises
    ------
    NotApplicable
        If there are fewer than 20 images, or latents or features are constant.
    UserError
        If a value is NaN or infinite, or the number of features is not n.

    Examples
    --------
    >>> latents = np.random.default_rng(0).normal(size=(40, 4, 3))
    >>> result = teacher_alignment(latents, 2 * latents)
    >>> round(result["pairwise Pearson"].value, 3)
    1.0
    """
    if len(latents) != len(teacher_features):
        raise UserError(
            f"There are latents of {len(latents)} images and teacher features of"
            f" {len(teacher_features)}. Check that both come from one run."
        )
    indices = np.random.default_rng(seed).permutation(len(latents))[:MAX_IMAGES]
    rows = flatten_latents(np.asarray(latents[indices]), MIN_IMAGES, "Alignment")
    pooled = _mean_features(teacher_features, indices)
    (tokens, d), (patches, e) = latents.shape[1:], teacher_features.shape[1:]
    by_token = grid is not None and tokens == patches > 1
    if by_token:
        max_images = max(MIN_IMAGES, min(len(indices), MAX_FEATURE_VALUES // (tokens * max(d, e))))
        compared = indices[:max_images]
        vectors = np.asarray(latents[compared], np.float64)
        features = np.asarray(teacher_features[compared], np.float64)
    else:
        vectors = _group_images(rows.reshape(len(rows), tokens, d).mean(axis=1))
        features = _group_images(pooled)
    vectors = vectors - vectors.mean(axis=(0, 1))
    features = features - features.mean(axis=(0, 1))
    other_features = _features_of_other_images(features, by_token)
    images_per_group = 1 if by_token else vectors.shape[1]
    return TeacherAlignment(
        measures=(
            _marginal_cosine(vectors, features, other_features, images_per_group),
            *_pairwise_measures(vectors, features, other_features, images_per_group, seed),
            _cka(rows, pooled, seed),
        ),
        teacher=teacher,
        by_token=by_token,
        n=len(indices),
        of=max(len(latents), num_images or 0),
        seed=seed,
    )


def _mean_features(features: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Average over patches, (n, e). Images are read one by one; all may exceed memory."""
    pooled = np.stack([np.asarray(features[i], np.float64).mean(axis=0) for i in indices])
    num_invalid = int((~np.isfinite(pooled)).any(axis=1).sum())
    if num_invalid:
        raise UserError(
            f"The teacher features of {num_invalid} of {len(pooled)} images contain NaN or"
            " infinity."
        )
    if not np.ptp(pooled, axis=0).any():
        raise NotApplicable(
            f"Alignment needs teacher features that differ between images; all {len(pooled)} images"
            " have the same."
        )
    return pooled


def _features_of_other_images(features: np.ndarray, by_token: bool) -> np.ndarray:
    """Return the features of the previous image. The images are in random order."""
    images = features if by_token else features.reshape(-1, features.shape[2])
    return np.roll(images, 1, axis=0).reshape(features.shape)


def _group_images(rows: np.ndarray) -> np.ndarray:
    """Group images (n, d) by 16, or into two groups if there are fewer than 32: (m, 16, d)."""
    size = min(GROUP_SIZE, len(rows) // 2)
    return rows[: len(rows) // size * size].reshape(-1, size, rows.shape[1])


def _marginal_cosine(
    vectors: np.ndarray, features: np.ndarray, other_features: np.ndarray, images_per_group: int
) -> AlignmentMeasure:
    values = mapped_cosine(vectors, features)
    shuffled = mapped_cosine(vectors, other_features)
    return _mean_measure("marginal cosine", values, shuffled, "higher", images_per_group)


def _pairwise_measures(
    vectors: np.ndarray,
    features: np.ndarray,
    other_features: np.ndarray,
    images_per_group: int,
    seed: int,
) -> list[AlignmentMeasure]:
    sample = np.random.default_rng(seed).permutation(vectors.shape[1])[:MAX_PAIRED_TOKENS]
    cosines = pair_cosines(vectors[:, sample])
    feature_cosines = pair_cosines(features[:, sample])
    other_cosines = pair_cosines(other_features[:, sample])

    def compare(
        name: str, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], better: str
    ) -> AlignmentMeasure:
        values = statistic(cosines, feature_cosines)
        shuffled = statistic(cosines, other_cosines)
        return _mean_measure(name, values, shuffled, better, images_per_group)

    measures = [compare("pairwise difference", _mean_difference, "lower")]
    # Two tokens make one pair, and one pair has no correlation.
    if len(sample) > 2:
        measures.append(compare("pairwise Pearson", pearson, "higher"))
        measures.append(compare("pairwise Spearman", _row_spearman, "higher"))
    return measures


def _mean_measure(
    name: str, values: np.ndarray, shuffled: np.ndarray, better: str, images_per_group: int
) -> AlignmentMeasure:
    mean, low, high = mean_interval(values)
    return AlignmentMeasure(
        name=name,
        value=mean,
        low=low,
        high=high,
        shuffled=float(shuffled.mean()),
        better=better,
        n=len(values) * images_per_group,
    )


def _mean_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b).mean(axis=1)


def _row_spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return spearman(a.T, b.T)


def _cka(rows: np.ndarray, pooled: np.ndarray, seed: int) -> AlignmentMeasure:
    a, b = gram_matrix(rows), gram_matrix(pooled)
    value = centered_alignment(a, b)

    def cka_of_subset(indices: np.ndarray) -> float:
        subset = np.ix_(indices, indices)
        return centered_alignment(a[subset], b[subset])

    error = float(half_samples(cka_of_subset, len(a), seed=seed)[0])
    return AlignmentMeasure(
        name="CKA",
        value=value,
        low=max(value - 1.96 * error, 0.0),
        high=min(value + 1.96 * error, 1.0),
        shuffled=centered_alignment(a, np.roll(b, 1, axis=(0, 1))),
        better="higher",
        n=len(a),
    )
