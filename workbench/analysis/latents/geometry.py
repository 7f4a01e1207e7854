"""The shape of a latent space: how many directions it fills, how evenly, and how much noise its decoder bears.

Each number stands beside an isotropic Gaussian's with as many tokens and dimensions, which is a reference and no goal:
by t-SNE's measure of uniformity (VA-VAE, arXiv 2501.01423, table 6) that Gaussian is worse than real latents.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.images.reconstruction import psnr_db
from workbench.analysis.inputs import flatten_latents
from workbench.analysis.stats import dispersion
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.sampling import subsample
from workbench.core.errors import UserError

LEAST = 10  # images
MOST_NUMBERS = 4_000_000  # of latents with more, random images are measured
MOST_TSNE = (
    1000  # tokens on t-SNE's plane: with ten times as many it takes minutes and says the same
)
NAN = float("nan")


@dataclass(frozen=True)
class Measure:
    """One number of the latents, and what an isotropic Gaussian with as many tokens and dimensions would show."""

    name: str
    value: float
    low: float  # 95 % interval over images, too wide for isotropic latents; NaN where there is none
    high: float
    gaussian: float
    most: float = 1.0  # the largest value it can take, or 1


@dataclass(frozen=True)
class NoiseRobustness:
    """How well latents decode after Gaussian noise was added."""

    level: float  # standard deviations of the latents
    psnr: float  # dB, mean over images
    low: float  # 95 % bootstrap interval
    high: float


@dataclass(frozen=True, eq=False)
class LatentGeometry(Result):
    """Measures of the latents beside a Gaussian's, the spectrum of their covariance, and the noise they bear."""

    measures: tuple[Measure, ...]
    noise: tuple[NoiseRobustness, ...]  # empty where it was not collected
    shares: np.ndarray = field(
        repr=False
    )  # (d,) of the variance along each principal direction, largest first
    gaussian_shares: np.ndarray = field(repr=False)  # (d,) the same of one drawn Gaussian
    images: int
    of: int
    tokens: int  # all tokens of those images that a decoder looks at
    standardized: bool
    seed: int

    @property
    def dimensions(self) -> int:
        """How many numbers a token has."""
        return len(self.shares)

    def __getitem__(self, name: str) -> Measure:
        return next(m for m in self.measures if m.name == name)

    def table(self) -> pd.DataFrame:
        """One row a measure, and one a noise level, whose value is PSNR in dB."""
        rows = [{name: x for name, x in asdict(m).items() if name != "most"} for m in self.measures]
        rows += [
            {"name": f"PSNR, dB, noise {x.level:g}", "value": x.psnr, "low": x.low, "high": x.high}
            for x in self.noise
        ]
        return pd.DataFrame(rows).rename(columns={"name": "measure"})

    def summary(self) -> str:
        """How many directions are filled, how uneven tokens are, and what noise costs, beside the Gaussian."""
        ratio, top, norm, near = (
            self[x] for x in ("participation ratio", "top share", "norm CV", "10-NN CV")
        )
        sentences = [
            f"The latents fill about {ratio.value:.3g} of {self.dimensions} directions (participation ratio; a Gaussian"
            f" {ratio.gaussian:.3g}), and the largest holds {100 * top.value:.1f} % of the variance"
            f" ({100 * top.gaussian:.1f} %).",
            f"Token norms vary by {norm.value:.3g} of their mean (a Gaussian's by {norm.gaussian:.3g}), distances to"
            f" the 10th neighbour by {near.value:.3g} ({near.gaussian:.3g}).",
        ]
        if len(self.noise) > 1:
            first, last = self.noise[0], self.noise[-1]
            sentences.append(
                f"PSNR goes from {first.psnr:.1f} dB at noise of {first.level:g} deviations to {last.psnr:.1f} dB at"
                f" {last.level:g}."
            )
        if self.tokens < 10 * self.dimensions:
            sentences.append(
                f"{self.tokens:,} tokens are fewer than 10 for each of {self.dimensions} dimensions: read the spectrum"
                " only beside the Gaussian's."
            )
        return " ".join(sentences)


def latent_geometry(
    latents: np.ndarray,
    noise_levels: np.ndarray | None = None,
    noise_mse: np.ndarray | None = None,
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    *,
    standardize: bool = True,
    tsne: bool = False,
    points: Annotated[int, Range(100, 5000, 100)] = 2000,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> LatentGeometry:
    """Measure latents (n, tokens, d), a token a point, after giving every channel mean 0 and, to `standardize`,
    deviation 1.

    `points` tokens, of as many images as can be, have their neighbours' distances measured; `tsne` adds its
    uniformity on at most 1,000 of them, in seconds. Of more than four million numbers random images are taken. Tokens
    that are not `active` are left out. Raises NotApplicable for under 10 images or constant latents, UserError for
    NaN, a grid that does not hold the tokens, or noise that was measured on other images.
    """
    n, tokens, d = latents.shape
    noise = _noise(noise_levels, noise_mse, n)
    random = np.random.default_rng(seed)
    most = max(LEAST, MOST_NUMBERS // max(tokens * d, 1))
    chosen = subsample(n, most, random)
    flatten_latents(latents if len(chosen) == n else latents[chosen], LEAST, "Latent geometry")
    seen = np.ones((len(chosen), tokens), bool) if active is None else _seen(active[chosen])
    scaled = _scaled(np.asarray(latents[chosen], np.float64), seen, standardize)
    image, count = np.nonzero(seen)[0], int(seen.sum())
    sampled = _one_an_image_first(image, points, random)
    gaussian = random.standard_normal((count, d))
    gaussian = _scaled(gaussian, np.ones(count, bool), standardize)
    shares, gaussian_shares = dispersion.spectrum(scaled[seen]), dispersion.spectrum(gaussian)
    measures = [
        *_of_points(
            scaled[seen],
            image,
            sampled,
            gaussian[: len(sampled)],
            gaussian_shares,
            standardize,
            seed,
        ),
        *_of_images(scaled, seen, grid),
    ]
    if tsne:
        measures += _on_a_plane(scaled[seen][sampled[:MOST_TSNE]], seed)
    return LatentGeometry(
        tuple(measures), noise, shares, gaussian_shares, len(chosen), n, count, standardize, seed
    )


def _seen(active: np.ndarray) -> np.ndarray:
    idle = int((~np.asarray(active, bool).any(axis=1)).sum())
    if idle:
        raise UserError(
            f"{idle} of {len(active)} images have no active token; every image needs one."
        )
    return np.asarray(active, bool)


def _scaled(latents: np.ndarray, seen: np.ndarray, standardize: bool) -> np.ndarray:
    rows = latents[seen]
    deviation = rows.std(axis=0) if standardize else np.ones(rows.shape[1])
    return (latents - rows.mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def _one_an_image_first(image: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Places of at most `most` points: a random one of every image, then a second one, and so on."""
    order = random.permutation(len(image))
    turn = pd.Series(image[order]).groupby(image[order]).cumcount()
    return order[np.argsort(turn.to_numpy(), kind="stable")][:most]


def _of_points(
    points: np.ndarray,
    image: np.ndarray,
    sampled: np.ndarray,
    gaussian: np.ndarray,
    shares: np.ndarray,
    standardize: bool,
    seed: int,
) -> list[Measure]:
    """The measures of the cloud of tokens; their scatter is that over halves of the images."""
    n, d = int(image.max()) + 1, points.shape[1]

    def measured(kept: np.ndarray) -> np.ndarray:
        inside = np.zeros(n, bool)
        inside[kept] = True
        cloud, near = points[inside[image]], points[sampled[inside[image[sampled]]]]
        own = dispersion.spectrum(cloud)
        norms, distances = np.linalg.norm(cloud, axis=1), dispersion.neighbor_distances(near)
        ratio, rank = dispersion.participation_ratio(own), dispersion.effective_rank(own)
        return np.array(
            [
                ratio,
                rank,
                own[0],
                dispersion.coefficient_of_variation(norms),
                dispersion.coefficient_of_variation(distances),
            ]
        )

    values, error = measured(np.arange(n)), half_samples(measured, n, seed=seed)[0]
    near = dispersion.coefficient_of_variation(dispersion.neighbor_distances(gaussian))
    ratio = dispersion.gaussian_participation_ratio(len(points), d, standardize)
    references = (
        ratio,
        dispersion.effective_rank(shares),
        shares[0],
        dispersion.gaussian_norm_variation(d),
        near,
    )
    names = ("participation ratio", "effective rank", "top share", "norm CV", "10-NN CV")
    low, high = values - 1.96 * error, values + 1.96 * error
    rows = zip(names, values, low.clip(min=0), high, references, (d, d, 1, 1, 1), strict=True)
    return [Measure(name, *map(float, numbers)) for name, *numbers in rows]


def _of_images(
    latents: np.ndarray, seen: np.ndarray, grid: tuple[int, int] | None
) -> list[Measure]:
    """How alike the tokens of an image are, and neighbours among them, as means over images."""
    tokens, d = latents.shape[1:]
    units = latents / np.maximum(
        np.linalg.norm(latents, axis=2, keepdims=True), np.finfo(float).tiny
    )
    found = []
    pairs = [u[mask] @ u[mask].T for u, mask in zip(units, seen, strict=True) if mask.sum() > 1]
    if pairs:
        alike = np.array([np.abs(p[~np.eye(len(p), dtype=bool)]).mean() for p in pairs])
        found.append(
            Measure("token |cosine|", *mean_interval(alike), dispersion.gaussian_cosine(d))
        )
    if grid is not None and grid[0] * grid[1] != tokens:
        raise UserError(
            f"A grid of {grid[0]} × {grid[1]} does not hold {tokens} tokens. Do both come from one run?"
        )
    if grid is not None and tokens > 1 and seen.all():
        on_grid = units.reshape(len(units), *grid, d)
        across = (on_grid[:, :, 1:] * on_grid[:, :, :-1]).sum(-1).reshape(len(units), -1)
        down = (on_grid[:, 1:] * on_grid[:, :-1]).sum(-1).reshape(len(units), -1)
        near = np.concatenate([across, down], axis=1).mean(axis=1)
        found.append(Measure("neighbour cosine", *mean_interval(near), 0.0))
    return found


def _on_a_plane(points: np.ndarray, seed: int) -> list[Measure]:
    drawn = np.random.default_rng(seed).standard_normal(points.shape)
    ours, theirs = (
        dispersion.density_uniformity(dispersion.tsne(x, seed)) for x in (points, drawn)
    )
    names = ("t-SNE density CV", "t-SNE density Gini")
    return [Measure(name, a, NAN, NAN, b) for name, a, b in zip(names, ours, theirs, strict=True)]


def _noise(
    levels: Sequence[float] | np.ndarray | None, mse: np.ndarray | None, n: int
) -> tuple[NoiseRobustness, ...]:
    if levels is None or mse is None:
        return ()
    if mse.shape != (n, len(levels)):
        raise UserError(
            f"The noise errors are {' × '.join(map(str, mse.shape))}; {n} × {len(levels)} would be right."
        )
    order = np.argsort(levels, kind="stable")
    psnr = psnr_db(np.asarray(mse, np.float64))
    return tuple(NoiseRobustness(float(levels[i]), *mean_interval(psnr[:, i])) for i in order)
