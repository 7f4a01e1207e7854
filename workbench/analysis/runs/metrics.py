"""Runs held against each other by what they make of the same held-out images.

Differences are paired: images that are easy or hard for every run do not widen the interval.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd

from workbench.analysis.base import Result
from workbench.analysis.images.reconstruction import pixel_errors, psnr_db
from workbench.analysis.images.structure import ssim
from workbench.analysis.runs.settings import run_names
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence

LEAST = 10  # images: of fewer, a bootstrap's interval is far too narrow
EQUAL = 1e-9  # differences below it are rounding
Metric = Literal["psnr", "ssim", "l1", "mse", "features"]
# What a metric is called, its unit, and whether more of it is better.
METRICS: dict[str, tuple[str, str, bool]] = {
    "psnr": ("PSNR", "dB", True),
    "ssim": ("SSIM", "", True),
    "l1": ("mean absolute error", "pixels in [0, 1]", False),
    "mse": ("squared error", "pixels in [0, 1]", False),
    "features": ("distance in features", "", False),
}


@dataclass(frozen=True)
class Difference:
    """One run less the first, image by image."""

    run: str
    value: float  # mean of the run
    difference: float  # mean over images
    low: float  # 95 % bootstrap interval over images
    high: float
    better: int  # images
    tied: int
    worse: int
    verdict: Literal["better", "worse", "undecided"]  # by the interval

    @property
    def share(self) -> float:
        """The share of images on which the run is better."""
        return self.better / (self.better + self.tied + self.worse)


@dataclass(frozen=True)
class MetricComparison(Result):
    """How runs differ from the first on the same images."""

    reference: str
    value: float  # mean of the reference
    differences: tuple[Difference, ...]
    metric: Metric
    n: int  # images
    left_out: tuple[str, ...]  # a reason each

    @property
    def label(self) -> str:
        """The metric with its unit."""
        name, unit, _ = METRICS[self.metric]
        return f"{name}, {unit}" if unit else name

    def table(self) -> pd.DataFrame:
        """One row a run: its mean, the difference to the first with interval, and images better, tied and worse."""
        rows = [{**asdict(d), "share_better": d.share, "n": self.n} for d in self.differences]
        return (
            pd.DataFrame(rows)
            .rename(columns={"value": self.metric})
            .assign(reference=self.reference)
        )

    def summary(self) -> str:
        """Every difference with its interval, the share of images it is better on, and what was left out."""
        _, unit, _ = METRICS[self.metric]
        unit = f" {unit}" if unit == "dB" else ""
        told = [
            f"{d.run} is {_judged(d)} {self.reference} by {d.difference:+.4g}{unit} ({d.low:+.4g} to {d.high:+.4g}),"
            f" and better on {100 * d.share:.0f} % of the images"
            for d in self.differences
        ]
        lead = f"{METRICS[self.metric][0]} on {self.n:,} paired images, 95 % intervals: {'; '.join(told)}."
        left = f" Left out: {'; '.join(self.left_out)}." if self.left_out else ""
        return lead[0].upper() + lead[1:] + left


def metric_comparison(
    evidences: Sequence[Evidence], *, metric: Metric = "psnr"
) -> MetricComparison:
    """Compare every run with the first, image by image, on the held-out images that they share.

    `features` is the distance between the features of an image and of its reconstruction. Runs without what
    is needed or on other images are left out and named. Raises NotApplicable where no two runs are left, or under 10
    images.
    """
    measured = [e for e in evidences if _measurable(e, metric)]
    first = measured[0] if measured else None
    same = [e for e in measured[1:] if _same_images(first, e, metric)]
    if not same:
        raise NotApplicable(
            "Metrics compared needs two runs with reconstructions of the same held-out images; of the"
            f" {len(evidences)} selected, {len(measured)} {'has' if len(measured) == 1 else 'have'} reconstructions."
        )
    reasons = [(e, "has nothing to measure") for e in evidences if e not in measured]
    otherwise = (
        "on other images"
        if metric != "features"
        else "on other images or with another feature extractor"
    )
    reasons += [(e, f"was measured {otherwise}") for e in measured[1:] if e not in same]
    n = len(first.images)
    if n < LEAST:
        raise NotApplicable(f"Metrics compared needs at least {LEAST} images; these runs have {n}.")
    left_out = tuple(f"{e.run_name} {reason}" for e, reason in reasons)
    base, names = _each(first, metric), run_names([first, *same])
    differences = tuple(
        _difference(name, _each(e, metric), base, metric)
        for name, e in zip(names[1:], same, strict=True)
    )
    return MetricComparison(names[0], float(base.mean()), differences, metric, n, left_out)


def _measurable(evidence: Evidence, metric: Metric) -> bool:
    needed = [evidence.images, evidence.reconstructions]
    needed += [evidence.features, evidence.reconstruction_features] if metric == "features" else []
    return all(array is not None and len(array) for array in needed)


def _same_images(a: Evidence, b: Evidence, metric: Metric) -> bool:
    """Whether two runs were measured on the same images in the same order: the pixels say so, whatever is told."""
    same_features = metric != "features" or a.feature_extractor == b.feature_extractor
    return same_features and a.images.shape == b.images.shape and np.array_equal(a.images, b.images)


def _each(evidence: Evidence, metric: Metric) -> np.ndarray:
    """The metric (n,) of every image. Raises UserError where features hold NaN."""
    if metric == "ssim":
        return ssim(evidence.images, evidence.reconstructions)
    if metric == "features":
        apart = np.asarray(evidence.features, np.float64) - np.asarray(
            evidence.reconstruction_features, np.float64
        )
        if not np.isfinite(apart).all():
            raise UserError(
                f"The features of {evidence.run_name} hold NaN or infinity; collect them again."
            )
        return np.linalg.norm(apart, axis=1)
    mse, l1 = pixel_errors(evidence.images, evidence.reconstructions)
    return {"psnr": psnr_db(mse), "mse": mse, "l1": l1}[metric]


def _difference(run: str, values: np.ndarray, base: np.ndarray, metric: Metric) -> Difference:
    apart = values - base
    mean, low, high = mean_interval(apart)
    gain = apart if METRICS[metric][2] else -apart
    counts = (
        int((gain > EQUAL).sum()),
        int((np.abs(gain) <= EQUAL).sum()),
        int((gain < -EQUAL).sum()),
    )
    verdict = (
        "undecided" if low <= EQUAL and high >= -EQUAL else "better" if gain.mean() > 0 else "worse"
    )
    return Difference(run, float(values.mean()), mean, low, high, *counts, verdict)


def _judged(difference: Difference) -> str:
    return "not told from" if difference.verdict == "undecided" else f"{difference.verdict} than"
