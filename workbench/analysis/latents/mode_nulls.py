"""What a count of modes is held against: Gaussians, the encoder before training, half the images, and known modes."""

import numpy as np

from workbench.analysis.inputs import flatten_latents
from workbench.analysis.stats.reductions import Preset, gaussian_surrogate, reduce_dimensions

MIN_IMAGES = 50  # images for a count
PLANTED_SEPARATION = 8  # standard deviations between planted modes
NUM_NULL_DRAWS = 3  # Gaussians drawn; one where each has to go through UMAP


def reference_clouds(
    rows: np.ndarray,
    points: np.ndarray,
    untrained: np.ndarray | None,
    preset: Preset,
    most: int,
    seed: int,
) -> dict[str, list[np.ndarray]]:
    """Clouds of points (n, d) by name, from rows (n, e) of latents and the points (n, d) they were reduced to.

    `null`: Gaussians with the rows' covariance. `untrained`: the given latents. `half`: half the points, where they are
    enough. `planted`: n points of `most` modes far apart, which show how many could be seen (not for UMAP).
    """
    (n, d), draws = points.shape, 1 if preset == "released script" else NUM_NULL_DRAWS
    alike = (
        "ours" if preset == "paper text" else preset
    )  # in as many dimensions as the latents were given
    found = {
        "null": [
            reduce_dimensions(gaussian_surrogate(rows, seed + i), alike, d, seed)[0]
            for i in range(draws)
        ]
    }
    found["untrained"] = []
    if untrained is not None:
        before = flatten_latents(untrained, MIN_IMAGES, "The untrained encoder")
        found["untrained"] = [reduce_dimensions(before, alike, d, seed)[0]]
    half = np.random.default_rng(seed).permutation(n)[: n // 2]
    found["half"] = [points[half]] if len(half) >= MIN_IMAGES else []
    planted = [reduce_dimensions(_planted(n, d, most, seed), "ours", d, seed)[0]]
    found["planted"] = (
        planted if preset != "released script" else []
    )  # in UMAP's space, Gaussians say nothing of it
    return found


def _planted(n: int, d: int, modes: int, seed: int) -> np.ndarray:
    """Points (n, d) of equal spherical modes whose means are eight standard deviations apart, or more."""
    random = np.random.default_rng(seed)
    drawn = random.standard_normal((16 * modes, d))
    far, chosen = np.linalg.norm(drawn - drawn[0], axis=1), [0]
    nearest = PLANTED_SEPARATION
    for _ in range(
        modes - 1
    ):  # always the one farthest from those before: random ones lie close by chance
        chosen.append(int(far.argmax()))
        nearest = far.max()
        far = np.minimum(far, np.linalg.norm(drawn - drawn[chosen[-1]], axis=1))
    means = drawn[chosen] * PLANTED_SEPARATION / nearest
    return means[random.integers(0, modes, n)] + random.standard_normal((n, d))
