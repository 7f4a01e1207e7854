"""Comparison of runs by the reconstructions of the same held-out images.

Differences are paired, so that images that are easy or hard for every run do not widen the
interval.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd

from workbench.analysis.base import Result
from workbench.analysis.generation.distance_names import network_title
from workbench.analysis.images.reconstruction import image_errors, psnr_db
from workbench.analysis.images.structure import ssim
from workbench.analysis.inputs import require_array
from workbench.analysis.runs.settings import run_names
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence

MIN_IMAGES = 10  # a bootstrap interval of fewer images is far too narrow
MAX_DECIMALS = 6  # of a difference
MAX_ROUNDING_ERROR = 1e-9
Metric = Literal["psnr", "ssim", "l1", "mse", "features"]
Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class MetricInfo:
    """Name, unit and direction of a metric."""

    label: str
    unit: str
    higher_is_better: bool


METRICS: dict[str, MetricInfo] = {
    "psnr": MetricInfo(label="PSNR", unit="dB", higher_is_better=True),
    "ssim": MetricInfo(label="SSIM (window of 7)", unit="", higher_is_better=True),
    "l1": MetricInfo(label="mean absolute error", unit="pixels in [0, 1]", higher_is_better=False),
    "mse": MetricInfo(label="squared error", unit="pixels in [0, 1]", higher_is_better=False),
    "features": MetricInfo(label="distance in features", unit="", higher_is_better=False),
}


@dataclass(frozen=True)
class MetricDifference:
    """Difference of one run to the first, image by image."""

    run: str
    value: float  # mean of the run
    difference: float  # mean over images
    low: float  # 95 % bootstrap interval over images
    high: float
    better: int  # number of images on which the run is better
    tied: int
    worse: int
    verdict: Verdict  # by the interval

    @property
    def better_share(self) -> float:
        """Fraction of images on which the run is better."""
        return self.better / (self.better + self.tied + self.worse)


@dataclass(frozen=True, kw_only=True)
class MetricComparison(Result):
    """Differences of runs to the first on the same images."""

    reference: str
    value: float  # mean of the reference
    differences: tuple[MetricDifference, ...]
    metric: Metric
    n: int  # images
    excluded: tuple[str, ...]  # name and reason of each excluded run
    feature_extractor: str = ""  # of the distance in features

    @property
    def name(self) -> str:
        """The metric, with its feature extractor if it has one."""
        label = METRICS[self.metric].label
        if self.metric != "features" or not self.feature_extractor:
            return label
        return f"{label} of {network_title(self.feature_extractor)}"

    @property
    def label(self) -> str:
        """The metric with its unit."""
        unit = METRICS[self.metric].unit
        return f"{self.name}, {unit}" if unit else self.name

    def table(self) -> pd.DataFrame:
        """Return one row per run: its mean, the difference, and numbers of images by outcome."""
        rows = [
            {**asdict(d), "better_share": d.better_share, "n": self.n} for d in self.differences
        ]
        table = pd.DataFrame(rows).rename(columns={"value": self.metric})
        return table.assign(reference=self.reference)

    def summary(self) -> str:
        """State every difference with its interval, and the excluded runs."""
        info = METRICS[self.metric]
        unit = " dB" if info.unit == "dB" else ""
        sentences = []
        for d in self.differences:
            sentences.append(
                f"{_verdict_text(d, self.reference)}: {self.name} differs by"
                f" {_interval_text(d, unit)}, and"
                f" {100 * d.better_share:.0f} % of the images are better."
            )
        sentences.append(f"95 % intervals over {self.n:,} paired images.")
        if self.excluded:
            sentences.append(f"Excluded: {'; '.join(self.excluded)}.")
        return " ".join(sentences)


def metric_comparison(
    evidences: Sequence[Evidence], *, metric: Metric = "psnr"
) -> MetricComparison:
    """Compare every run with the first, image by image, on their shared held-out images.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of tokenizers. Runs without the arrays of the metric, or on other images, are
        excluded and named.
    metric : {"psnr", "ssim", "l1", "mse", "features"}, default "psnr"
        The metric of an image. `features` is the distance between the features of an image and
        those of its reconstruction.

    Returns
    -------
    MetricComparison
        Paired difference of each run to the first, with a 95 % bootstrap interval.

    Raises
    ------
    NotApplicable
        If fewer than two runs can be compared, or there are under 10 images.
    UserError
        If features contain NaN.
    """
    measured = [evidence for evidence in evidences if has_values(evidence, metric)]
    same_images = [e for e in measured[1:] if _has_same_images(measured[0], e, metric)]
    if not same_images:
        verb = "has" if len(measured) == 1 else "have"
        raise NotApplicable(
            "A comparison of metrics needs two runs with reconstructions of the same held-out"
            f" images; of the {len(evidences)} selected, {len(measured)} {verb} reconstructions."
        )
    first = measured[0]
    reference = metric_values(first, metric)
    n = len(reference)
    if n < MIN_IMAGES:
        raise NotApplicable(
            f"A comparison of metrics needs at least {MIN_IMAGES} images; these runs have {n}."
        )
    names = run_names([first, *same_images])
    higher_is_better = METRICS[metric].higher_is_better
    differences = tuple(
        paired_difference(
            name, metric_values(evidence, metric), reference, higher_is_better=higher_is_better
        )
        for name, evidence in zip(names[1:], same_images, strict=True)
    )
    return MetricComparison(
        reference=names[0],
        value=float(reference.mean()),
        differences=differences,
        metric=metric,
        n=n,
        excluded=_exclusions(evidences, measured, same_images, metric),
        feature_extractor=first.feature_extractor or "",
    )


def _exclusions(
    evidences: Sequence[Evidence],
    measured: Sequence[Evidence],
    same_images: Sequence[Evidence],
    metric: Metric,
) -> tuple[str, ...]:
    reason = "was measured on other images"
    if metric == "features":
        reason += " or with another feature extractor"
    unmeasured = [f"{e.run_name} has no such measurement" for e in evidences if e not in measured]
    other_images = [f"{e.run_name} {reason}" for e in measured[1:] if e not in same_images]
    return (*unmeasured, *other_images)


def has_values(evidence: Evidence, metric: Metric) -> bool:
    """Return whether a run has the arrays of a metric."""
    needed = [evidence.images, evidence.reconstructions]
    if metric == "features":
        needed += [evidence.features, evidence.reconstruction_features]
    return all(array is not None and len(array) for array in needed)


def _has_same_images(a: Evidence, b: Evidence, metric: Metric) -> bool:
    """Return whether two runs were measured on the same images in the same order, by pixels."""
    if metric == "features" and a.feature_extractor != b.feature_extractor:
        return False
    if a.images is None or b.images is None:
        return False
    same_count = a.num_images == b.num_images and a.images.shape == b.images.shape
    return same_count and np.array_equal(a.images, b.images)


def metric_values(evidence: Evidence, metric: Metric) -> np.ndarray:
    """Return the metric of every image, (n,)."""
    name = evidence.run_name
    if metric == "features":
        return _feature_distances(evidence)
    if metric == "ssim":
        images = require_array(evidence.images, "images", name)
        reconstructions = require_array(evidence.reconstructions, "reconstructions", name)
        return ssim(images, reconstructions)
    mse, l1 = image_errors(evidence)
    if metric == "psnr":
        return psnr_db(mse)
    return mse if metric == "mse" else l1


def _feature_distances(evidence: Evidence) -> np.ndarray:
    name = evidence.run_name
    features = require_array(evidence.features, "features", name)
    decoded = require_array(evidence.reconstruction_features, "reconstruction features", name)
    difference = np.asarray(features, np.float64) - np.asarray(decoded, np.float64)
    if not np.isfinite(difference).all():
        raise UserError(f"The features of {name} contain NaN or infinity. Collect them again.")
    return np.linalg.norm(difference, axis=1)


def paired_difference(
    run: str, values: np.ndarray, reference: np.ndarray, *, higher_is_better: bool
) -> MetricDifference:
    """Compare a run with a reference image by image.

    Parameters
    ----------
    run : str
        Name of the run.
    values, reference : ndarray of float, shape (n,)
        The metric of every image, of the run and of the reference.
    higher_is_better : bool
        Direction of the metric.

    Returns
    -------
    MetricDifference
        The mean difference with its 95 % bootstrap interval over images.
    """
    difference = values - reference
    mean, low, high = mean_interval(difference)
    gain = difference if higher_is_better else -difference
    return MetricDifference(
        run=run,
        value=float(values.mean()),
        difference=mean,
        low=low,
        high=high,
        better=int((gain > MAX_ROUNDING_ERROR).sum()),
        tied=int((np.abs(gain) <= MAX_ROUNDING_ERROR).sum()),
        worse=int((gain < -MAX_ROUNDING_ERROR).sum()),
        verdict=_verdict(low, high, float(gain.mean())),
    )


def _verdict(low: float, high: float, mean_gain: float) -> Verdict:
    if low <= MAX_ROUNDING_ERROR and high >= -MAX_ROUNDING_ERROR:
        return "undecided"
    return "better" if mean_gain > 0 else "worse"


def _interval_text(difference: MetricDifference, unit: str) -> str:
    """Return a difference and its interval with two digits of the width of the interval."""
    width = difference.high - difference.low
    decimals = 2 if width <= 0 else min(max(1 - math.floor(math.log10(width)), 0), MAX_DECIMALS)
    numbers = (difference.difference, difference.low, difference.high)
    value, low, high = (f"{number:+.{decimals}f}" for number in numbers)
    return f"{value}{unit} ({low} to {high})"


def _verdict_text(difference: MetricDifference, reference: str) -> str:
    if difference.verdict == "undecided":
        return f"{difference.run} does not differ significantly from {reference}"
    return f"{difference.run} is {difference.verdict} than {reference}"
