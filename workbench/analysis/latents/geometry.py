"""Geometry of a latent space: filled directions, uniformity, and robustness to noise.

Every measure is reported next to its value for an isotropic Gaussian with as many tokens and
dimensions. The Gaussian is a reference and not a goal: by the uniformity measure of VA-VAE (table
6), which uses t-SNE, it is worse than real latents.

References
----------
Yao et al. (2025), VA-VAE, arXiv 2501.01423.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.images.reconstruction import psnr_db
from workbench.analysis.inputs import flatten_latents
from workbench.analysis.perspectives import Perspective, PerspectiveResult
from workbench.analysis.stats import dispersion
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.sampling import Subset, subsample
from workbench.core.errors import UserError
from workbench.core.moments import mean_and_scale
from workbench.storage.latent_stats import LatentStats

MIN_IMAGES = 10
MAX_LATENT_VALUES = 4_000_000  # a sample of the images is measured if the latents have more
MAX_TSNE_TOKENS = 1000  # ten times as many take minutes and give the same values
MIN_TOKENS_PER_DIMENSION = 10  # with fewer, the spectrum is dominated by sampling noise
HALF_ORDER_RANK = "effective rank, order ½"
# Effective ranks of order 2, 1 and ½, whose scale is the number of dimensions.
RANKS = ("participation ratio", "effective rank", HALF_ORDER_RANK)
UNIFORMITY = "10-NN CV"
RANK_DOUBT = (
    "Flat spectra have a larger irreducible variance, and steep ones amplify errors; which of the"
    " two decides depends on the length of training."
)
UNIFORMITY_DOUBT = (
    "Published for another measure, on t-SNE, by which a Gaussian is worse than real latents; in"
    " arXiv 2606.03578 it predicts less than VIV."
)
# Measures in the comparison of latent spaces: name there, name here, meaning, doubt.
COMPARED = (
    (
        "rank of order ½", HALF_ORDER_RANK,
        "squared sum of the roots of the shares of variance, over the channels", RANK_DOUBT,
    ),
    (
        "rank of order 1", "effective rank",
        "exponential of the entropy of the shares of variance, over the channels", RANK_DOUBT,
    ),
    (
        "rank of order 2", "participation ratio",
        "one over the sum of the squared shares of variance, over the channels", RANK_DOUBT,
    ),
    (
        "uniformity", UNIFORMITY,
        "coefficient of variation of the distance to the 10th nearest token; 0: even",
        UNIFORMITY_DOUBT,
    ),
)  # fmt: skip
NAN = float("nan")


@dataclass(frozen=True)
class Measure:
    """A measure of the latents and its value for an isotropic Gaussian of the same size.

    Attributes
    ----------
    name : str
        Name of the measure.
    value : float
        Value for the latents.
    low, high : float
        95 % interval over images, conservative for isotropic latents; NaN if there is none.
    gaussian : float
        Value for the Gaussian.
    scale : float
        Value that the figure divides by, so that measures share an axis: the number of dimensions
        or 1.
    """

    name: str
    value: float
    low: float
    high: float
    gaussian: float
    scale: float = 1.0


@dataclass(frozen=True)
class NoiseRobustness:
    """Quality of reconstructions after Gaussian noise was added to the latents.

    Attributes
    ----------
    level : float
        Standard deviation of the noise, in standard deviations of the latents.
    psnr : float
        Mean over images, in dB.
    low, high : float
        95 % bootstrap interval, in dB.
    """

    level: float
    psnr: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentGeometry(PerspectiveResult):
    """Measures of the latents, the spectrum of their covariance, and robustness to noise.

    Attributes
    ----------
    measures : tuple of Measure
        One entry per quantity, with its interval and its value for an isotropic Gaussian.
    noise : tuple of NoiseRobustness
        Empty if it was not collected.
    shares : ndarray of float, shape (d,)
        Share of the variance along each principal direction, in descending order.
    gaussian_shares : ndarray of float, shape (d,)
        The same of one sample of the Gaussian.
    images, of : int
        Number of images that were measured, and in the evidence.
    is_stratified : bool
        Whether a sample of the images was stratified by class.
    tokens : int
        Number of active tokens of these images.
    points : int
        Number of tokens whose neighbors were searched.
    standardized : bool
        Whether every channel was divided by its standard deviation.
    center_positions : bool
        Whether the mean of each token position was subtracted.
    seed : int
        Seed of the random draws.
    channel_mean, channel_std : ndarray of float64, shape (d,)
        Mean and standard deviation of each channel over the active tokens of all images.
    """

    measures: tuple[Measure, ...]
    noise: tuple[NoiseRobustness, ...]
    shares: np.ndarray = field(repr=False)
    gaussian_shares: np.ndarray = field(repr=False)
    images: int
    of: int
    is_stratified: bool
    tokens: int
    points: int
    standardized: bool
    center_positions: bool
    seed: int
    channel_mean: np.ndarray = field(repr=False)
    channel_std: np.ndarray = field(repr=False)

    @property
    def stats(self) -> LatentStats:
        """The numbers that scale the latents for a generator, as `workbench export` writes them."""
        return LatentStats(channel_mean=self.channel_mean, channel_std=self.channel_std)

    @property
    def dimensions(self) -> int:
        """Number of channels of a token."""
        return len(self.shares)

    def __getitem__(self, name: str) -> Measure:
        return next(measure for measure in self.measures if measure.name == name)

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return Subset.if_partial(self.images, self.of, stratified=self.is_stratified)

    def perspectives(self) -> tuple[Perspective, ...]:
        """Return the effective ranks of the channels, and the uniformity of the tokens."""
        scaling = "by channel" if self.standardized else "none"
        conditions = (
            ("channels", str(self.dimensions)),
            ("tokens measured", f"{self.points:,}"),
            ("scaling", f"{scaling}, position-centered" if self.center_positions else scaling),
        )
        return tuple(
            Perspective(
                name=name,
                meaning=meaning,
                value=self[measure].value,
                low=self[measure].low,
                high=self[measure].high,
                null=self[measure].gaussian,
                null_case="isotropic Gaussian",
                reason=doubt,
                conditions=conditions,
            )
            for name, measure, meaning, doubt in COMPARED
        )

    def table(self) -> pd.DataFrame:
        """Return one row per measure, one per noise level with its PSNR in dB, and the scale.

        The scale has the names of `latent_stats.json`: mean, std and scaling_factor of all
        channels, and mean and std of each channel.
        """
        rows = [
            {
                "measure": m.name,
                "value": m.value,
                "low": m.low,
                "high": m.high,
                "gaussian": m.gaussian,
            }
            for m in self.measures
        ]
        rows += [
            {
                "measure": f"PSNR, dB, noise {x.level:g}",
                "value": x.psnr,
                "low": x.low,
                "high": x.high,
            }
            for x in self.noise
        ]
        scale = {
            "mean": self.stats.mean,
            "std": self.stats.std,
            "scaling_factor": self.stats.scaling_factor,
        }
        for name, values in (("mean", self.channel_mean), ("std", self.channel_std)):
            scale |= {f"channel_{name}, channel {i}": value for i, value in enumerate(values)}
        rows += [{"measure": name, "value": value} for name, value in scale.items()]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Return filled directions, uniformity, and the cost of noise, next to the Gaussian."""
        ratio, top = self["participation ratio"], self["top share"]
        norm, density = self["norm CV"], self[UNIFORMITY]
        sentences = [
            f"The latents fill about {ratio.value:.3g} of {self.dimensions} directions"
            f" (participation ratio; Gaussian: {ratio.gaussian:.3g}); the largest direction has"
            f" {100 * top.value:.1f} % of the variance (Gaussian: {100 * top.gaussian:.1f} %).",
            f"The coefficient of variation is {norm.value:.3g} for token norms (Gaussian:"
            f" {norm.gaussian:.3g}) and {density.value:.3g} for distances to the 10th neighbor"
            f" (Gaussian: {density.gaussian:.3g}).",
        ]
        if len(self.noise) > 1:
            first, last = self.noise[0], self.noise[-1]
            sentences.append(
                f"The PSNR is {first.psnr:.1f} dB with noise of {first.level:g} standard deviations"
                f" and {last.psnr:.1f} dB with noise of {last.level:g}."
            )
        if self.tokens < MIN_TOKENS_PER_DIMENSION * self.dimensions:
            sentences.append(
                f"There are only {self.tokens:,} tokens for {self.dimensions} dimensions (fewer"
                " than 10 each): compare the spectrum with that of the Gaussian."
            )
        return " ".join(sentences) + self.subset_note()


def latent_geometry(
    latents: np.ndarray,
    noise_levels: np.ndarray | None = None,
    noise_mse: np.ndarray | None = None,
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    standardize: bool = True,
    center_positions: bool = False,
    tsne: bool = False,
    points: Annotated[int, Range(100, 5000, 100)] = 2000,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> LatentGeometry:
    """Measure the geometry of latents, one point per token.

    Every channel is centered first. A sample of the images is measured if the latents have more
    than four million values.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    noise_levels : ndarray of float, shape (m,), optional
        Levels of noise, in standard deviations of the latents.
    noise_mse : ndarray of float, shape (n, m), optional
        Mean squared error of the reconstructions after noise, pixels in [0, 1].
    grid : tuple of int, optional
        Height and width of the token grid. Adds the cosine of neighboring tokens.
    active : ndarray of bool, shape (n, tokens), optional
        Tokens that the decoder reads. All other tokens are ignored.
    labels : ndarray of int, shape (n,), optional
        Class of each image. Samples are stratified by it.
    standardize : bool
        Divide every channel by its standard deviation.
    center_positions : bool
        Subtract the mean of each token position first. It is the same in all images, and raises
        the similarity of tokens.
    tsne : bool
        Add the uniformity of density in a t-SNE embedding of at most 1,000 tokens. This takes
        seconds.
    points : int
        Number of tokens whose neighbors are searched, from as many images as possible.
    seed : int
        Seed of all random draws.

    Returns
    -------
    LatentGeometry
        Norms, spectrum and similarity of the latent vectors, and their mean and standard
        deviation.

    Raises
    ------
    NotApplicable
        If there are fewer than 10 images, or the latents are constant.
    UserError
        If a measured latent is NaN or infinite, the grid does not have as many cells as tokens, an
        image has no active token, or the noise was measured on other images.

    Examples
    --------
    >>> latents = np.random.default_rng(0).normal(size=(50, 4, 3))
    >>> result = latent_geometry(latents)
    >>> result.dimensions, round(result["participation ratio"].value, 1)
    (3, 3.0)
    """
    n, tokens, d = latents.shape
    noise = _noise_robustness(noise_levels, noise_mse, n)
    random = np.random.default_rng(seed)
    max_images = max(MIN_IMAGES, MAX_LATENT_VALUES // max(tokens * d, 1))
    indices = subsample(n, max_images, random, labels)
    sampled = latents if len(indices) == n else latents[indices]
    flatten_latents(sampled, MIN_IMAGES, "Latent geometry")
    if active is None:
        is_active = np.ones((len(indices), tokens), bool)
    else:
        is_active = _check_active(active[indices])
    stats = LatentStats.of_latents(latents, active)
    values = np.asarray(latents[indices], np.float64)
    if center_positions:
        values = values - _position_means(values, is_active)
    scaled = _scale(values, is_active, standardize)
    image_of_token = np.nonzero(is_active)[0]
    num_tokens = int(is_active.sum())
    token_sample = _sample_tokens(image_of_token, points, random)
    gaussian = random.standard_normal((num_tokens, d))
    gaussian = _scale(gaussian, np.ones(num_tokens, bool), standardize)
    cloud = scaled[is_active]
    shares, gaussian_shares = dispersion.spectrum(cloud), dispersion.spectrum(gaussian)
    measures = [
        *_token_measures(
            cloud,
            image_of_token,
            token_sample,
            gaussian[: len(token_sample)],
            gaussian_shares,
            standardize,
            seed,
        ),
        *_image_measures(scaled, is_active, grid),
    ]
    if tsne:
        measures += _tsne_measures(cloud[token_sample[:MAX_TSNE_TOKENS]], seed)
    return LatentGeometry(
        measures=tuple(measures),
        noise=noise,
        shares=shares,
        gaussian_shares=gaussian_shares,
        images=len(indices),
        of=n,
        is_stratified=labels is not None,
        tokens=num_tokens,
        points=len(token_sample),
        standardized=standardize,
        center_positions=center_positions,
        seed=seed,
        channel_mean=stats.channel_mean,
        channel_std=stats.channel_std,
    )


def _check_active(active: np.ndarray) -> np.ndarray:
    num_empty = int((~np.asarray(active, bool).any(axis=1)).sum())
    if num_empty:
        raise UserError(
            f"{num_empty} of {len(active)} images have no active token; every image needs one."
        )
    return np.asarray(active, bool)


def _position_means(latents: np.ndarray, is_active: np.ndarray) -> np.ndarray:
    """Return the mean of each token position over the images in which it is active."""
    sums = np.where(is_active[..., None], latents, 0).sum(axis=0)
    return sums / np.maximum(is_active.sum(axis=0), 1)[:, None]


def _scale(latents: np.ndarray, is_active: np.ndarray, standardize: bool) -> np.ndarray:
    """Center, and optionally standardize, by the statistics of the active tokens."""
    mean, scale = mean_and_scale(latents[is_active])
    return (latents - mean) / (scale if standardize else 1)


def _sample_tokens(
    image_of_token: np.ndarray, max_tokens: int, random: np.random.Generator
) -> np.ndarray:
    """Return indices of a random token of every image, then a second token, and so on."""
    order = random.permutation(len(image_of_token))
    images = image_of_token[order]
    rank_in_image = pd.Series(images).groupby(images).cumcount()
    return order[np.argsort(rank_in_image.to_numpy(), kind="stable")][:max_tokens]


def _token_measures(
    points: np.ndarray,
    image_of_token: np.ndarray,
    token_sample: np.ndarray,
    gaussian: np.ndarray,
    gaussian_shares: np.ndarray,
    standardize: bool,
    seed: int,
) -> list[Measure]:
    """Measure the cloud of tokens. Standard errors come from halves of the images."""
    n = int(image_of_token.max()) + 1
    d = points.shape[1]
    neighbors = dispersion.NeighborTable(points[token_sample])

    def compute(images: np.ndarray) -> np.ndarray:
        is_selected = np.zeros(n, bool)
        is_selected[images] = True
        cloud = points[is_selected[image_of_token]]
        shares = dispersion.spectrum(cloud)
        norms = np.linalg.norm(cloud, axis=1)
        distances = neighbors.distances(is_selected[image_of_token[token_sample]])
        return np.array(
            [
                dispersion.participation_ratio(shares),
                dispersion.effective_rank(shares),
                dispersion.half_order_rank(shares),
                shares[0],
                dispersion.coefficient_of_variation(norms),
                dispersion.coefficient_of_variation(distances),
            ]
        )

    values = compute(np.arange(n))
    error = half_samples(compute, n, seed=seed)[0]
    low, high = (values - 1.96 * error).clip(min=0), values + 1.96 * error
    neighbor_variation = dispersion.coefficient_of_variation(
        dispersion.neighbor_distances(gaussian)
    )
    references = {
        "participation ratio": dispersion.gaussian_participation_ratio(len(points), d, standardize),
        "effective rank": dispersion.effective_rank(gaussian_shares),
        HALF_ORDER_RANK: dispersion.half_order_rank(gaussian_shares),
        "top share": gaussian_shares[0],
        "norm CV": dispersion.gaussian_norm_variation(d),
        UNIFORMITY: neighbor_variation,
    }
    return [
        Measure(
            name=name,
            value=float(values[i]),
            low=float(low[i]),
            high=float(high[i]),
            gaussian=float(reference),
            scale=float(d) if name in RANKS else 1.0,
        )
        for i, (name, reference) in enumerate(references.items())
    ]


def _image_measures(
    latents: np.ndarray, is_active: np.ndarray, grid: tuple[int, int] | None
) -> list[Measure]:
    """Measure the similarity of tokens within an image, as means over images."""
    tokens, d = latents.shape[1:]
    norms = np.linalg.norm(latents, axis=2, keepdims=True)
    units = latents / np.maximum(norms, np.finfo(float).tiny)
    measures = []
    cosines = [
        unit[mask] @ unit[mask].T
        for unit, mask in zip(units, is_active, strict=True)
        if mask.sum() > 1
    ]
    if cosines:
        means = [np.abs(c[~np.eye(len(c), dtype=bool)]).mean() for c in cosines]
        measures.append(
            _mean_measure("token |cosine|", np.array(means), dispersion.gaussian_cosine(d))
        )
    if grid is not None and grid[0] * grid[1] != tokens:
        raise UserError(
            f"A grid of {grid[0]} × {grid[1]} has {grid[0] * grid[1]} cells, but images have"
            f" {tokens} tokens. Check that both come from one run."
        )
    if grid is not None and tokens > 1 and is_active.all():
        on_grid = units.reshape(len(units), *grid, d)
        horizontal = (on_grid[:, :, 1:] * on_grid[:, :, :-1]).sum(-1).reshape(len(units), -1)
        vertical = (on_grid[:, 1:] * on_grid[:, :-1]).sum(-1).reshape(len(units), -1)
        means = np.concatenate([horizontal, vertical], axis=1).mean(axis=1)
        measures.append(_mean_measure("neighbor cosine", means, 0.0))
    return measures


def _mean_measure(name: str, values: np.ndarray, gaussian: float) -> Measure:
    mean, low, high = mean_interval(values)
    return Measure(name=name, value=mean, low=low, high=high, gaussian=gaussian)


def _tsne_measures(points: np.ndarray, seed: int) -> list[Measure]:
    gaussian = np.random.default_rng(seed).standard_normal(points.shape)
    values = dispersion.density_uniformity(dispersion.tsne(points, seed))
    references = dispersion.density_uniformity(dispersion.tsne(gaussian, seed))
    names = ("t-SNE density CV", "t-SNE density Gini")
    return [
        Measure(name=names[i], value=values[i], low=NAN, high=NAN, gaussian=references[i])
        for i in range(len(names))
    ]


def _noise_robustness(
    levels: np.ndarray | None, mse: np.ndarray | None, n: int
) -> tuple[NoiseRobustness, ...]:
    if levels is None or mse is None:
        return ()
    if mse.shape != (n, len(levels)):
        shape = " × ".join(map(str, mse.shape))
        raise UserError(
            f"noise_mse must have the shape {n} × {len(levels)} (images × noise levels), got"
            f" {shape}."
        )
    psnr = psnr_db(np.asarray(mse, np.float64))
    results = []
    for i in np.argsort(levels, kind="stable"):
        mean, low, high = mean_interval(psnr[:, i])
        results.append(NoiseRobustness(level=float(levels[i]), psnr=mean, low=low, high=high))
    return tuple(results)
