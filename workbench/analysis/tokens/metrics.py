"""Reconstruction quality of a run, from all its tokens and from its first tokens alone."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from workbench.analysis.generation.distance_names import distance_name, network_title
from workbench.analysis.generation.feature_distances import (
    frechet_distance,
    frechet_error,
    has_influence_error,
)
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.images.reconstruction import image_errors, psnr_db
from workbench.analysis.images.structure import ssim
from workbench.analysis.inputs import require_array
from workbench.analysis.runs.metrics import METRICS, MetricInfo
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError
from workbench.core.moments import Moments
from workbench.storage.evidence import Evidence

Quality = Literal["psnr", "ssim", "l1", "mse", "features", "rfd"]
QUALITY_METRICS: dict[str, MetricInfo] = METRICS | {
    "rfd": MetricInfo(label="rFD", unit="", higher_is_better=False)
}
FEATURE_METRICS = ("features", "rfd")
MIN_IMAGES = 10  # for a Fréchet distance
NUM_HALF_SAMPLES = 16  # half samples behind the interval of a Fréchet distance

# A value and its 95 % interval.
Estimate = tuple[float, float, float]


def metric_label(quality: Quality, feature_extractor: str | None) -> str:
    """Return the name of a metric, with its feature extractor; only Inception makes it a FID.

    Examples
    --------
    >>> metric_label("rfd", "hog"), metric_label("rfd", "inception"), metric_label("psnr", None)
    ('rFD (HOG)', 'rFID (Inception-v3)', 'PSNR')
    """
    label = QUALITY_METRICS[quality].label
    if quality not in FEATURE_METRICS or not feature_extractor:
        return label
    if quality == "features":
        return f"distance in features of {network_title(feature_extractor)}"
    return f"{distance_name('r', feature_extractor)} ({network_title(feature_extractor)})"


def has_metric(evidence: Evidence, quality: Quality, reference: Evidence | None) -> bool:
    """Return whether a run has the arrays of a metric, comparable with a reference run.

    Metrics in features need the same feature extractor. A Fréchet distance also needs as many
    images as the reference.
    """
    if quality not in FEATURE_METRICS:
        return True
    if reference is None or evidence.features is None or evidence.reconstruction_features is None:
        return False
    if evidence.feature_extractor != reference.feature_extractor:
        return False
    if quality != "rfd" or reference.features is None:
        return True
    return len(evidence.features) == len(reference.features)


def reconstruction_quality(
    evidence: Evidence, quality: Quality, max_images: int | None = None
) -> Estimate:
    """Compute a metric of the reconstructions from all tokens, with its 95 % interval.

    Parameters
    ----------
    evidence : Evidence
        A tokenizer's evidence with the arrays of the metric.
    quality : {"psnr", "ssim", "l1", "mse", "features", "rfd"}
        A mean over images, or for `rfd` the Fréchet distance of the set.
    max_images : int, optional
        Number of the first images whose features are compared.

    Returns
    -------
    (float, float, float)
        The value and its 95 % interval.

    Raises
    ------
    NotApplicable
        If an array is missing, or for a Fréchet distance of under 10 images.
    UserError
        If features contain NaN.
    """
    name = evidence.run_name
    if quality in FEATURE_METRICS:
        features = require_array(evidence.reconstruction_features, "reconstruction features", name)
        return _in_features(evidence, features[:max_images], quality)
    if quality == "ssim":
        images = require_array(evidence.images, "images", name)
        reconstructions = require_array(evidence.reconstructions, "reconstructions", name)
        return mean_interval(ssim(images, reconstructions))
    mse, l1 = image_errors(evidence)
    values = {"psnr": psnr_db(mse), "mse": mse, "l1": l1}
    return mean_interval(values[quality])


def prefix_qualities(
    evidence: Evidence, quality: Quality, max_images: int | None = None
) -> Iterator[tuple[int, Estimate]]:
    """Yield the numbers of first tokens that were decoded alone, and the metric of each.

    Nothing is yielded if the metric of prefixes was not collected.
    """
    if evidence.prefixes is None:
        return
    if quality in FEATURE_METRICS:
        if evidence.prefix_features is None:
            return
        prefix_features = np.asarray(evidence.prefix_features, np.float64)
        # Features are collected for the first of the prefixes only.
        for length, features in zip(evidence.prefixes, prefix_features, strict=False):
            yield int(length), _in_features(evidence, features[:max_images], quality)
        return
    collected = {
        "l1": evidence.prefix_l1,
        "ssim": evidence.prefix_ssim,
        "psnr": evidence.prefix_mse,
        "mse": evidence.prefix_mse,
    }[quality]
    if collected is None:
        return
    by_prefix = np.asarray(collected, np.float64).T
    for length, values in zip(evidence.prefixes, by_prefix, strict=False):
        yield int(length), mean_interval(psnr_db(values) if quality == "psnr" else values)


def real_image_distance(
    evidences: Sequence[Evidence], max_images: int | None = None
) -> float | None:
    """Return the Fréchet distance between held-out images and as many training images.

    Only the first `max_images` held-out images are compared, if it is given.

    It is None if no run has features of enough training images.
    """
    for evidence in evidences:
        features, training = evidence.features, evidence.train_features
        if features is None or training is None:
            continue
        features = features[:max_images]
        if len(training) < len(features):
            continue
        subset = np.random.default_rng(0).permutation(len(training))[: len(features)]
        return frechet_distance(features, training[np.sort(subset)])
    return None


def _in_features(evidence: Evidence, features: np.ndarray, quality: Quality) -> Estimate:
    name = evidence.run_name
    # The features of prefixes are those of the first images only.
    real = np.asarray(
        require_array(evidence.features, "features", name)[: len(features)], np.float64
    )
    decoded = np.asarray(features, np.float64)
    if quality == "features":
        return mean_interval(np.linalg.norm(real - decoded, axis=1))
    if len(real) < MIN_IMAGES:
        raise NotApplicable(
            f"A Fréchet distance needs at least {MIN_IMAGES} images; {name} has {len(real)}."
        )
    if not (np.isfinite(real).all() and np.isfinite(decoded).all()):
        raise UserError(f"The features of {name} contain NaN or infinity. Collect them again.")
    value = frechet_distance(real, decoded)
    margin = 1.96 * _frechet_error(real, decoded)
    return value, max(value - margin, 0.0), value + margin


def _frechet_error(real: np.ndarray, decoded: np.ndarray) -> float:
    """Return the standard error of the Fréchet distance of images and their reconstructions."""
    if has_influence_error(*real.shape):
        moments = Moments.from_rows(real), Moments.from_rows(decoded)
        return frechet_error(decoded, *moments, real)
    error, _ = half_samples(
        lambda half: frechet_distance(real[half], decoded[half]),
        len(real),
        splits=NUM_HALF_SAMPLES,
    )
    return float(error)
