"""Distances between real, reconstructed and generated images in the features of a network.

A Frechet distance is named after its feature extractor, for example fd_resnet56; only Inception's is called FID. It is
biased upward in the number of images, so all sets are cut to one n, and 2 FD(n) - FD(n/2), which takes out the part
of the bias that falls as 1/n (after arXiv 1911.07023), stands beside it. Copies of training images are looked for
too. The interpolation distance, held-out images against decoded midpoints of latents and their nearest neighbours,
is after arXiv 2603.05630, whose abstract alone was read.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.generation.feature_distances import (
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.generation.memorization import TAIL, Memorization, gallery, memorization
from workbench.core.errors import NotApplicable, UserError

LEAST = 10  # images of a set
ENOUGH = 1000  # images: with fewer, most of a small distance is bias
# Name, the real set, the evaluated set. The first is the floor: how far two sets of real images are apart.
PAIRS = (
    ("floor", "held-out", "training"),
    ("r", "held-out", "reconstructions"),
    ("i", "held-out", "midpoints"),
    ("g", "training", "samples"),
    ("gap", "reconstructions", "samples"),
)
Sets = dict[str, np.ndarray]


@dataclass(frozen=True)
class Distance:
    """How far a set of images is from another, both cut to the same n."""

    name: str  # rFD, gFD, iFD (interpolation), gap, floor
    real: str
    evaluated: str
    value: float  # Frechet distance
    low: float  # 95 % interval of its scatter at this n, by half samples; too wide, if anything, near the floor
    high: float
    extrapolated: float  # to unlimited n; its scatter is about the same
    kid: float  # unbiased, so it may be negative
    kid_error: float  # standard error over blocks
    precision: float  # share of the evaluated on the real ones' manifold; the floor's row says what real images reach
    recall: float  # share of the real on the evaluated ones' manifold


@dataclass(frozen=True, eq=False)
class Fidelity(Result):
    """Distances between real, decoded and generated images, with the floor that real images set."""

    distances: tuple[Distance, ...]
    copying: Memorization | None  # None without samples, training and held-out images
    gallery: np.ndarray | None = field(
        repr=False
    )  # uint8 (height, width, 4): samples above their nearest images
    feature_extractor: str
    n: int  # images of each set
    dimensions: int
    splits: int
    neighbors: int
    seed: int
    warnings: tuple[str, ...]

    @property
    def metric(self) -> str:
        """The distance's name, which contains the feature extractor's: fd_resnet56, or fid."""
        if self.feature_extractor == "inception":
            return "fid"
        return f"fd_{self.feature_extractor}" if self.feature_extractor else "fd"

    @property
    def label(self) -> str:
        """The distance's name as people write it: FID in capitals."""
        return self.metric.upper() if self.metric == "fid" else self.metric

    def table(self) -> pd.DataFrame:
        """One row a pair of sets: Frechet distance, kernel distance, precision and recall."""
        rows = pd.DataFrame([asdict(d) for d in self.distances])
        return rows.rename(columns={"name": "distance", "value": self.metric}).assign(n=self.n)

    def summary(self) -> str:
        """Every distance with its interval, the floor, the share of near copies, and what to beware of."""
        told = [
            f"{d.name} {d.value:.4g} ({d.low:.4g} to {d.high:.4g})"
            for d in self.distances
            if d.name != "floor"
        ]
        sentences = (
            [f"{', '.join(told)}: {self.label} with 95 % intervals, n = {self.n:,} images."]
            if told
            else []
        )
        sentences += [
            f"Two sets of real images are {d.value:.4g} apart ({d.low:.4g} to {d.high:.4g}), {self.label} at"
            f" n = {self.n:,}."
            for d in self.distances
            if d.name == "floor"
        ]
        if self.copying:
            c = self.copying
            sentences.append(
                f"{100 * c.share:.1f} % of the samples ({100 * c.low:.1f} to {100 * c.high:.1f} %) lie as near to a"
                f" training image as {100 * TAIL:g} % of held-out images do."
            )
        return " ".join([*sentences, *self.warnings])


def fidelity(
    features: np.ndarray | None = None,
    train_features: np.ndarray | None = None,
    reconstruction_features: np.ndarray | None = None,
    sample_features: np.ndarray | None = None,
    midpoint_features: np.ndarray | None = None,
    feature_extractor: str = "",
    samples: np.ndarray | None = None,
    train_images: np.ndarray | None = None,
    *,
    splits: Annotated[int, Range(10, 200)] = 40,
    neighbors: Annotated[int, Range(1, 10)] = 3,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> Fidelity:
    """Compare features of held-out, training, reconstructed and generated images, each (n, e), pair by pair.

    What is missing is left out. `splits` half samples give the intervals; `neighbors` is the k of precision and
    recall. Raises NotApplicable without two sets to compare or with under 10 images in one, UserError where sets
    differ in dimensions, reconstructions are not as many as the images, or features hold NaN.
    """
    given = {
        "held-out": features,
        "training": train_features,
        "reconstructions": reconstruction_features,
    }
    given |= {"midpoints": midpoint_features, "samples": sample_features}
    whole = _checked({name: x for name, x in given.items() if x is not None})
    pairs = [pair for pair in PAIRS if pair[1] in whole and pair[2] in whole]
    if not pairs:
        raise NotApplicable(
            "Fidelity needs the features of two sets of images, such as held-out images and"
            " reconstructions; collect them."
        )
    used = {name: whole[name] for name in whole if any(name in pair for pair in pairs)}
    cut, n = _equal(used, seed), min(map(len, used.values()))
    names = _names(feature_extractor)
    distances = tuple(
        _distance(names.get(p[0], p[0]), *p[1:], cut, splits, neighbors, seed) for p in pairs
    )
    copying, pairs_shown = None, None
    if {"held-out", "training", "samples"} <= whole.keys():
        copying = memorization(whole["samples"], whole["held-out"], whole["training"], seed)
        if samples is not None and train_images is not None:
            pairs_shown = gallery(copying, samples, train_images)
    dimensions = next(iter(used.values())).shape[1]
    warnings = _warnings(used, n, dimensions, copying)
    return Fidelity(
        distances,
        copying,
        pairs_shown,
        feature_extractor,
        n,
        dimensions,
        splits,
        neighbors,
        seed,
        warnings,
    )


def feature_distance(seed: int = 0, **sets: np.ndarray) -> float:
    """The Frechet distance of two sets as `fidelity` finds it, and nothing else of it; raises what it raises.

    They are named as a Distance names them, such as `reconstructions`; held-out ones are `held_out`.
    """
    cut = _equal(_checked({name.replace("_", "-"): rows for name, rows in sets.items()}), seed)
    return frechet_distance(*cut.values())


def _names(feature_extractor: str) -> dict[str, str]:
    metric = "FID" if feature_extractor == "inception" else "FD"
    return {letter: f"{letter}{metric}" for letter in "rig"}


def _checked(sets: Sets) -> Sets:
    checked = {}
    for name, rows in sets.items():
        rows = np.asarray(rows, np.float64)
        if len(rows) < LEAST:
            raise NotApplicable(
                f"Fidelity needs at least {LEAST} images a set; of {name} there are {len(rows)}."
            )
        broken = int((~np.isfinite(rows)).any(axis=1).sum())
        if broken:
            raise UserError(
                f"The features of {broken} of {len(rows)} images hold NaN or infinity ({name})."
            )
        checked[name] = rows
    widths = {name: rows.shape[1] for name, rows in checked.items()}
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UserError(
            f"The features differ in dimensions ({said}). Did one feature extractor compute them all?"
        )
    n, decoded = (len(checked.get(name, ())) for name in ("held-out", "reconstructions"))
    if n and decoded and n != decoded:
        raise UserError(
            f"There are features of {n} images and {decoded} reconstructions. Do both come from one run?"
        )
    return checked


def _equal(sets: Sets, seed: int) -> Sets:
    """The sets cut to the smallest's size; what comes from the same images keeps the same of them, in one order."""
    random, n = np.random.default_rng(seed), min(map(len, sets.values()))
    held_out = max(
        (len(sets[name]) for name in ("held-out", "reconstructions") if name in sets), default=0
    )
    together = random.permutation(held_out)
    same = {
        name
        for name in ("held-out", "reconstructions", "midpoints")
        if len(sets.get(name, ())) == held_out
    }
    return {
        name: rows[(together if name in same else random.permutation(len(rows)))[:n]]
        for name, rows in sets.items()
    }


def _distance(
    name: str, real: str, evaluated: str, sets: Sets, splits: int, neighbors: int, seed: int
) -> Distance:
    a, b = sets[real], sets[evaluated]
    value = frechet_distance(a, b)
    error, half = half_samples(
        lambda i: frechet_distance(a[i], b[i]), len(a), splits=splits, seed=seed
    )
    low, high = max(value - 1.96 * float(error), 0.0), value + 1.96 * float(error)
    extrapolated = 2 * value - float(half)
    kid, manifold = kernel_distance(a, b), precision_recall(a, b, neighbors)
    return Distance(name, real, evaluated, value, low, high, extrapolated, *kid, *manifold)


def _warnings(sets: Sets, n: int, dimensions: int, copying: Memorization | None) -> tuple[str, ...]:
    fewest = min(sets, key=lambda name: len(sets[name]))
    cut, thin = len({len(rows) for rows in sets.values()}) > 1, n < 2 * dimensions
    said = {
        f"All sets are cut to the {n:,} of {fewest}, the smallest.": cut,
        f"{n:,} images are fewer than two for each of {dimensions:,} dimensions: covariances are hardly known.": thin,
        f"With under {ENOUGH:,} images a small distance is mostly bias: compare at equal n.": n
        < ENOUGH,
        "The nearest 1 % of so few held-out images are a handful.": copying is not None
        and len(copying.held_out) < 500,
    }
    return tuple(sentence for sentence, true in said.items() if true)
