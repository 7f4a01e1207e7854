"""Reference clouds for a count of modes: nulls, an untrained encoder, half, planted modes."""

from dataclasses import dataclass

import numpy as np

from workbench.analysis.inputs import flatten_latents
from workbench.analysis.stats.reductions import Preset, gaussian_surrogate, reduce_dimensions

MIN_IMAGES = 50  # for a count
PLANTED_SEPARATION = 8  # standard deviations between planted modes
NUM_NULL_DRAWS = 3  # a single one for UMAP, which is slow


@dataclass(frozen=True, eq=False)
class ReferenceClouds:
    """Clouds of points that are counted in the same way as the latents.

    Attributes
    ----------
    null : tuple of ndarray, each of shape (n, d)
        Gaussians with the covariance of the latents.
    untrained : ndarray, shape (n, d), or None
        Latents of the untrained encoder, if they were collected.
    half : ndarray, shape (n // 2, d), or None
        A random half of the points; None if it is too small for a count.
    planted : ndarray, shape (n, d), or None
        As many well-separated modes as are tried, which measures how many can be detected. None
        for UMAP, because a Gaussian in the space of UMAP is not a null.
    """

    null: tuple[np.ndarray, ...]
    untrained: np.ndarray | None
    half: np.ndarray | None
    planted: np.ndarray | None


def reference_clouds(
    rows: np.ndarray,
    points: np.ndarray,
    untrained: np.ndarray | None,
    preset: Preset,
    max_modes: int,
    seed: int,
) -> ReferenceClouds:
    """Compute the reference clouds of a count of modes.

    Parameters
    ----------
    rows : ndarray of float, shape (n, e)
        Flattened latents.
    points : ndarray of float, shape (n, d)
        The same latents after the reduction.
    untrained : ndarray of float, shape (n, tokens, channels), or None
        Latents of the untrained encoder.
    preset : {"ours", "paper text", "released script"}
        Reduction of the latents.
    max_modes : int
        Number of planted modes.
    seed : int
        Seed of all random draws.

    Returns
    -------
    ReferenceClouds

    Raises
    ------
    NotApplicable, UserError
        If the untrained latents are constant, NaN or infinite.
    """
    n, d = points.shape
    is_umap = preset == "released script"
    # The references get as many dimensions as the latents.
    reduction: Preset = "released script" if is_umap else "ours"
    null = tuple(
        reduce_dimensions(gaussian_surrogate(rows, seed + i), reduction, d, seed)[0]
        for i in range(1 if is_umap else NUM_NULL_DRAWS)
    )
    untrained_points = None
    if untrained is not None:
        untrained_rows = flatten_latents(untrained, MIN_IMAGES, "The untrained encoder")
        untrained_points, _ = reduce_dimensions(untrained_rows, reduction, d, seed)
    half = np.random.default_rng(seed).permutation(n)[: n // 2]
    planted = None
    if not is_umap:
        planted, _ = reduce_dimensions(_planted_modes(n, d, max_modes, seed), "ours", d, seed)
    return ReferenceClouds(
        null=null,
        untrained=untrained_points,
        half=points[half] if len(half) >= MIN_IMAGES else None,
        planted=planted,
    )


def _planted_modes(n: int, d: int, modes: int, seed: int) -> np.ndarray:
    """Draw points (n, d) from equal spherical modes at least eight standard deviations apart."""
    random = np.random.default_rng(seed)
    candidates = random.standard_normal((16 * modes, d))
    distance = np.linalg.norm(candidates - candidates[0], axis=1)
    selected = [0]
    separation = float(PLANTED_SEPARATION)
    # Farthest-point selection, because random means can be close to each other by chance.
    for _ in range(modes - 1):
        selected.append(int(distance.argmax()))
        separation = distance.max()
        distance = np.minimum(
            distance, np.linalg.norm(candidates - candidates[selected[-1]], axis=1)
        )
    means = candidates[selected] * PLANTED_SEPARATION / separation
    return means[random.integers(0, modes, n)] + random.standard_normal((n, d))
