"""Latent maps of several runs of the same images, aligned to the first.

Every map starts from the coordinates of the first map and is aligned to it by a Procrustes
transformation. The remaining differences come from the latents, not from the random start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names, distinct_names, image_set
from workbench.analysis.latents.embeddings import Method
from workbench.analysis.latents.point_colors import ColorBy, ImageArrays
from workbench.analysis.latents.projection import LatentMap, map_images
from workbench.analysis.stats.sampling import Subset, subsample
from workbench.core.errors import NotApplicable
from workbench.core.progress import report_progress
from workbench.storage.evidence import Evidence

MAX_MAPS = 9


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentMaps(Result):
    """The maps of several runs of the same images.

    Attributes
    ----------
    runs : tuple of str
        Name of each run, with the step if the name occurs twice.
    maps : tuple of LatentMap
        The map of each run.
    disparity : tuple of float
        Procrustes disparity from the map of the first run: 0 for the same map, near 1 for an
        unrelated one.
    excluded : tuple of str
        Runs with other images than the first, or beyond the ninth.
    """

    runs: tuple[str, ...]
    maps: tuple[LatentMap, ...] = field(repr=False)
    disparity: tuple[float, ...]
    excluded: tuple[str, ...]

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return self.maps[0].subset

    def control_limits(self) -> Mapping[str, int]:
        """Return the number of images."""
        return self.maps[0].control_limits()

    def table(self) -> pd.DataFrame:
        """Return one row per run and image on the map."""
        tables = [
            latent_map.table().assign(run=run)
            for run, latent_map in zip(self.runs, self.maps, strict=True)
        ]
        return pd.concat(tables, ignore_index=True)[["run", *tables[0].columns[:-1]]]

    def summary(self) -> str:
        """Return the quality of each map and its disparity from the first."""
        first = self.maps[0]
        sentences = [
            f"{'; '.join(self._describe_maps())}.",
            f"{first.method.upper()} of {first.sample_description}, {first.neighbors} neighbors,"
            f" seed {first.seed}.",
        ]
        if len(self.runs) > 1:
            sentences.append(
                f"Disparity is the share of a map that no rotation, reflection or scaling onto the"
                f" map of {self.runs[0]} explains; 1 means unrelated."
            )
        if self.excluded:
            sentences.append(f"Excluded: {', '.join(self.excluded)}.")
        return " ".join(sentences)

    def _describe_maps(self) -> list[str]:
        texts = []
        for i, latent_map in enumerate(self.maps):
            text = (
                f"{self.runs[i]}: trustworthiness {latent_map.trust:.2f},"
                f" continuity {latent_map.continuity:.2f}"
            )
            texts.append(f"{text}, disparity {self.disparity[i]:.2f}" if i else text)
        return texts


def latent_maps(
    evidences: Sequence[Evidence],
    *,
    method: Method = "umap",
    color_by: ColorBy = "class",
    points: Annotated[int, Range(500, 50_000, 500)] = 5_000,
    neighbors: Annotated[int, Range(2, 100)] = 15,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> LatentMaps:
    """Map up to nine runs or checkpoints of the same images, each aligned to the first.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of the selected runs. Runs without latents are ignored. Runs with other images
        than the first are excluded and named in the result.
    method : {"umap", "pca"}
        Projection into the plane: UMAP or principal components.
    color_by : {"class", "mode", "code", "error", "tokens"}
        Variable that colors the points.
    points : int
        Largest number of images on each map. All maps show the same images.
    neighbors : int
        Size of a neighborhood. It is reduced to less than half of the number of images.
    seed : int
        Seed of all random draws.

    Returns
    -------
    LatentMaps
        One map per run, aligned to that of the first.

    Raises
    ------
    NotApplicable
        If no run has latents, or as for `latent_map`.
    UserError
        As for `latent_map`.
    """
    with_latents = [(e, e.latents) for e in evidences if e.latents is not None]
    if not with_latents:
        raise NotApplicable("Latent maps need latents; no selected run has any.")
    images = image_set(*with_latents[0])
    compared = [e for e, latents in with_latents if image_set(e, latents) == images][:MAX_MAPS]
    first = ImageArrays.from_evidence(compared[0])
    class_names(first.labels, (), len(first.latents))
    random = np.random.default_rng(seed)
    indices = subsample(len(first.latents), points, random, first.labels)
    maps: list[LatentMap] = []
    disparities: list[float] = []
    for i, evidence in enumerate(compared):
        arrays = ImageArrays.from_evidence(evidence)
        reference = maps[0].coordinates if maps else None
        latent_map, disparity = map_images(
            arrays, indices, method, color_by, neighbors, seed, reference
        )
        maps.append(latent_map)
        disparities.append(disparity)
        report_progress(i + 1, len(compared))
    return LatentMaps(
        runs=distinct_names(compared),
        maps=tuple(maps),
        disparity=tuple(disparities),
        excluded=tuple(
            e.run_name for e, _ in with_latents if not any(e is other for other in compared)
        ),
    )
