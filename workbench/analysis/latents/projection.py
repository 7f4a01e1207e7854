"""Maps of latent spaces: every image a point, and how far the map may be trusted.

UMAP (arXiv 1802.03426) or principal components. Several runs or checkpoints are laid out from the first one's places
and turned onto it (Procrustes): what still differs is the latents, and not where a layout happened to begin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names, flatten_latents
from workbench.analysis.latents.embeddings import (
    MAX_SCORED_POINTS,
    Method,
    procrustes_align,
    embed,
    embedding_quality,
    standardize,
)
from workbench.analysis.latents.point_colors import ColorBy, PointColors, point_colors
from workbench.analysis.stats.sampling import describe_subset, subsample
from workbench.core.errors import NotApplicable
from workbench.core.progress import report_progress
from workbench.storage.evidence import Evidence

LEAST, MOST_MAPS = 5, 9
FIELDS = ("latents", "labels", "names", "codes", "images", "reconstructions", "active")


@dataclass(frozen=True, eq=False)
class LatentMap(Result):
    """Coordinates in the plane, and how well neighbours there are neighbours in the latent space, and back."""

    coordinates: np.ndarray = field(repr=False)  # float32 (m, 2), without unit
    places: np.ndarray = field(repr=False)  # int (m,): which images those are
    colours: PointColors = field(repr=False)
    trust: float  # 1: no neighbour on the map is a stranger in the latent space
    continuity: float  # 1: no neighbour in the latent space is far off on the map
    n: int
    by_class: bool  # whether those on it were drawn by class
    judged: int  # images the two numbers were measured on
    method: Method
    neighbors: int
    seed: int

    def table(self) -> pd.DataFrame:
        """One row an image on the map: its place in the evidence, coordinates and what it is coloured by."""
        x, y = self.coordinates.T
        return pd.DataFrame({"image": self.places, "x": x, "y": y, **_column(self.colours)})

    def summary(self) -> str:
        """The method, the sample, and how far the map may be trusted."""
        return (
            f"{self.method.upper()} of {self.part} with {self.neighbors} neighbours and seed {self.seed}: trust"
            f" {self.trust:.2f}, continuity {self.continuity:.2f} (1 is perfect; measured on"
            f" {describe_subset(self.judged, len(self.places))})."
        )

    @property
    def part(self) -> str:
        """How many of how many images, and how they were chosen."""
        return describe_subset(len(self.places), self.n, by_class=self.by_class)


@dataclass(frozen=True, eq=False)
class LatentMaps(Result):
    """The maps of several runs of the same images, laid onto the first."""

    runs: tuple[str, ...]
    maps: tuple[LatentMap, ...] = field(repr=False)
    disparity: tuple[float, ...]  # from the first run's map: 0 the same, near 1 unrelated
    left_out: tuple[str, ...]  # runs on other images, or beyond the ninth

    def figure(self) -> go.Figure:
        """A panel a run; every image has its own place and colour in all."""
        from workbench.analysis.latents.projection_figure import draw_all

        return draw_all(self)

    def table(self) -> pd.DataFrame:
        """One row for each run and image on the map."""
        tables = [
            one.table().assign(run=run) for run, one in zip(self.runs, self.maps, strict=True)
        ]
        return pd.concat(tables, ignore_index=True)[["run", *tables[0].columns[:-1]]]

    def summary(self) -> str:
        """How far each map may be trusted, and how far it is from the first."""
        first, names = self.maps[0], self.runs
        each = [
            f"{run} trust {one.trust:.2f}, continuity {one.continuity:.2f}"
            + (f", disparity {apart:.2f}" if i else "")
            for i, (run, one, apart) in enumerate(
                zip(names, self.maps, self.disparity, strict=True)
            )
        ]
        lead = f"{first.method.upper()} of {first.part}; {first.neighbors} neighbours"
        said = [f"{lead}, seed {first.seed}: {'; '.join(each)}."]
        if len(names) > 1:
            said.append(
                f"Disparity is what no turn or scaling of a map onto {names[0]}'s explains; 1 is unrelated."
            )
        if self.left_out:
            said.append(f"Left out: {', '.join(self.left_out)}.")
        return " ".join(said)


def latent_map(
    latents: np.ndarray,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    codes: np.ndarray | None = None,
    images: np.ndarray | None = None,
    reconstructions: np.ndarray | None = None,
    active: np.ndarray | None = None,
    *,
    method: Method = "umap",
    colour: ColorBy = "class",
    points: Annotated[int, Range(500, 50_000, 500)] = 10_000,
    neighbors: Annotated[int, Range(2, 100)] = 15,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> LatentMap:
    """Lay latents (n, tokens, d), an image a point, out in the plane after standardising every dimension.

    Of more than `points` images a sample is drawn; `neighbors` is lowered to under half the images. Raises
    NotApplicable for under 5 images, constant latents or a colour that the evidence lacks, UserError for NaN.
    """
    class_names(labels, (), len(latents))
    places = subsample(len(latents), points, np.random.default_rng(seed), labels)
    known = {"latents": latents, "labels": labels, "names": names, "codes": codes, "active": active}
    known |= {"images": images, "reconstructions": reconstructions}
    return _map(known, places, method, colour, neighbors, seed)[0]


def latent_maps(
    evidences: Sequence[Evidence],
    *,
    method: Method = "umap",
    colour: ColorBy = "class",
    points: Annotated[int, Range(500, 50_000, 500)] = 5_000,
    neighbors: Annotated[int, Range(2, 100)] = 15,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> LatentMaps:
    """Map several runs or checkpoints of the same images, each laid onto the first, nine at most.

    Runs on other images than the first are left out and named. Raises as `latent_map` does.
    """
    held = [e for e in evidences if e.latents is not None]
    if not held:
        raise NotApplicable("Latent maps need latents; no selected run has any.")
    shown = [e for e in held if _images(e) == _images(held[0])][:MOST_MAPS]
    class_names(held[0].labels, (), len(held[0].latents))
    places = subsample(len(held[0].latents), points, np.random.default_rng(seed), held[0].labels)
    maps, apart = [], []
    for i, evidence in enumerate(shown):
        known = {name: getattr(evidence, name) for name in FIELDS}
        found, disparity = _map(
            known, places, method, colour, neighbors, seed, maps[0].coordinates if maps else None
        )
        maps.append(found)
        apart.append(disparity)
        report_progress(i + 1, len(shown))
    runs = [e.run_name for e in shown]
    names = tuple(e.run_name if runs.count(e.run_name) == 1 else f"{e.run_name}, step {e.step:,}" for e in shown)
    left_out = tuple(e.run_name for e in held if not any(e is one for one in shown))
    return LatentMaps(names, tuple(maps), tuple(apart), left_out)


def _map(
    known: dict[str, object],
    places: np.ndarray,
    method: Method,
    colour: ColorBy,
    neighbors: int,
    seed: int,
    onto: np.ndarray | None = None,
) -> tuple[LatentMap, float]:
    latents = known["latents"]
    n = len(latents)
    rows = standardize(
        flatten_latents(latents if len(places) == n else latents[places], LEAST, "A latent map")
    )
    # Both measures compare with the images that are not neighbours, of which there must be as many.
    neighbors = min(neighbors, (len(rows) - 1) // 2)
    colours = point_colors(colour, places, known, seed)
    coordinates, disparity = embed(rows, method, neighbors, seed, onto), 0.0
    if onto is not None:
        coordinates, disparity = procrustes_align(coordinates, onto)
    trust, continuity = embedding_quality(rows, coordinates, neighbors, seed)
    judged = min(len(rows), MAX_SCORED_POINTS)
    by_class = known["labels"] is not None
    found = LatentMap(
        coordinates,
        places,
        colours,
        trust,
        continuity,
        n,
        by_class,
        judged,
        method,
        neighbors,
        seed,
    )
    return found, disparity


def _images(evidence: Evidence) -> tuple[object, int]:
    return evidence.provenance.get("fingerprint"), len(evidence.latents)


def _column(colours: PointColors) -> dict[str, object]:
    if colours.values is not None:
        return {colours.by: colours.values}
    return {colours.by: colours.names} if colours.names else {}
