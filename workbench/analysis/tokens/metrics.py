"""How good a run's pictures are, of all its tokens and of its first ones alone: what a token budget is read off."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from workbench.analysis.generation.feature_distances import frechet_distance
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.images.reconstruction import pixel_errors, psnr_db
from workbench.analysis.images.structure import ssim
from workbench.analysis.runs.metrics import METRICS
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence

Quality = Literal["psnr", "ssim", "l1", "mse", "features", "rfd"]
# What a quality is called, its unit, and whether more of it is better.
QUALITY_METRICS: dict[str, tuple[str, str, bool]] = METRICS | {"rfd": ("rFD", "", False)}
FEATURE_METRICS = ("features", "rfd")
LEAST, SPLITS = 10, 16  # images whose distance is taken, and half samples that give its interval
Estimate = tuple[float, float, float]  # a value and its 95 % interval


def called(quality: Quality, feature_extractor: str | None) -> str:
    """The name of a quality, with its feature extractor in parentheses; only Inception makes it a FID."""
    name = QUALITY_METRICS[quality][0]
    if quality == "rfd":
        if feature_extractor == "inception":
            return "rFID"
        return f"{name} ({feature_extractor})" if feature_extractor else name
    return (
        f"distance in {feature_extractor}'s features"
        if quality == "features" and feature_extractor
        else name
    )


def measurable(evidence: Evidence, quality: Quality, reference: Evidence | None) -> bool:
    """Whether a run has the arrays of a quality and shares the reference's feature extractor.

    A set quality also needs as many images as the reference has.
    """
    if quality not in FEATURE_METRICS:
        return True
    if reference is None or evidence.features is None or evidence.reconstruction_features is None:
        return False
    as_many = quality != "rfd" or len(evidence.features) == len(reference.features)
    return as_many and evidence.feature_extractor == reference.feature_extractor


def of_all_tokens(evidence: Evidence, quality: Quality) -> Estimate:
    """The quality of the reconstructions: a mean over images, or the distance of the set."""
    if quality in FEATURE_METRICS:
        return _in_features(evidence, evidence.reconstruction_features, quality)
    if quality == "ssim":
        return mean_interval(ssim(evidence.images, evidence.reconstructions))
    mse, l1 = pixel_errors(evidence.images, evidence.reconstructions)
    return mean_interval({"psnr": psnr_db(mse), "mse": mse, "l1": l1}[quality])


def of_first_tokens(evidence: Evidence, quality: Quality) -> Iterator[tuple[int, Estimate]]:
    """Numbers of first tokens that were decoded alone, and the quality of each; none where it was not collected."""
    if evidence.prefixes is None:
        return
    if quality in FEATURE_METRICS:
        for length, features in zip(
            evidence.prefixes, _rows(evidence.prefix_features), strict=False
        ):
            yield int(length), _in_features(evidence, features, quality)
        return
    held = {"l1": evidence.prefix_l1, "ssim": evidence.prefix_ssim}.get(
        quality, evidence.prefix_mse
    )
    for length, each in zip(
        evidence.prefixes, _rows(None if held is None else held.T), strict=False
    ):
        yield int(length), mean_interval(psnr_db(each) if quality == "psnr" else each)


def floor(evidences: list[Evidence]) -> float | None:
    """How far as many training images lie from the held-out ones; None where no run tells, or has too few of them."""
    for e in evidences:
        if e.train_features is not None and len(e.train_features) >= len(e.features):
            some = np.random.default_rng(0).permutation(len(e.train_features))[: len(e.features)]
            return frechet_distance(e.features, e.train_features[np.sort(some)])
    return None


def _rows(array: np.ndarray | None) -> np.ndarray:
    return np.zeros((0, 0)) if array is None else np.asarray(array, np.float64)


def _in_features(evidence: Evidence, features: np.ndarray, quality: Quality) -> Estimate:
    real, decoded = np.asarray(evidence.features, np.float64), np.asarray(features, np.float64)
    if quality == "features":
        return mean_interval(np.linalg.norm(real - decoded, axis=1))
    if len(real) < LEAST:
        raise NotApplicable(
            f"A Frechet distance needs at least {LEAST} images; {evidence.run_name} has {len(real)}."
        )
    if not (np.isfinite(real).all() and np.isfinite(decoded).all()):
        raise UserError(f"The features of {evidence.run_name} hold NaN or infinity; collect them again.")
    value = frechet_distance(real, decoded)
    error, _ = half_samples(
        lambda half: frechet_distance(real[half], decoded[half]), len(real), splits=SPLITS
    )
    return value, max(value - 1.96 * float(error), 0.0), value + 1.96 * float(error)
