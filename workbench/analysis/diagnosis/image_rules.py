"""Checks of images and reconstructions: the images measured, their number, and the errors."""

import numpy as np

from workbench.analysis.diagnosis.findings import Finding, Severity
from workbench.analysis.generation.fidelity import fidelity
from workbench.analysis.result_cache import composed_result
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import Evidence

# With fewer images, a Fréchet distance is mostly bias.
MIN_DISTANCE_IMAGES = 1000
MIN_FID_IMAGES = 10_000
MIN_IMAGES = 50  # modes cannot be counted with fewer images, and other intervals are wide
MAX_FLOOR_RATIO = 3.0  # of the distance of reconstructions to that of two sets of real images
NUM_HALF_SAMPLES = 20
MAX_SATURATION_INCREASE = 0.05  # fraction of the pixels, compared with the images
MAX_LEAKED_SHARE = 0.01  # of the held-out images: a few duplicates may belong to the data
# Entries of the provenance that must agree for runs to be comparable, and their names.
COMPARED_ENTRIES = {
    "fingerprint": "data",
    "split": "split",
    "n": "number of images",
    "seed": "seed",
    "feature_extractor": "feature extractor",
}


def tk006_few_images_for_distances(evidence: Evidence) -> Finding | None:
    """Fréchet distances use under {MIN_DISTANCE_IMAGES:,} images, or under two per dimension.

    For Inception, the minimum is {MIN_FID_IMAGES:,} images.
    """
    evaluated = [
        array
        for array in (evidence.reconstruction_features, evidence.sample_features)
        if array is not None
    ]
    if evidence.features is None or not evaluated:
        raise NotApplicable(
            f"This needs features of a feature extractor; {evidence.run_name} has none."
        )
    # All sets of a comparison are cut to the smallest, also to the training images.
    training = [] if evidence.train_features is None else [evidence.train_features]
    n = min(map(len, [evidence.features, *training, *evaluated]))
    dimensions = evidence.features.shape[1]
    is_fid = evidence.feature_extractor == "inception"
    min_images = max(MIN_FID_IMAGES if is_fid else MIN_DISTANCE_IMAGES, 2 * dimensions)
    if n >= min_images:
        return None
    return Finding(
        severity="info",
        observation=f"Distances use {n:,} images with {dimensions:,} features each.",
        advice=(
            f"Compare runs at equal n only, and collect at least {min_images:,} images before"
            " reporting a distance."
        ),
        numbers={"images": n, "min_images": min_images},
    )


def tk007_not_comparable(evidence: Evidence, primary: Evidence) -> Finding | None:
    """A tokenizer was measured on other images or features than the primary run."""
    if evidence is primary or evidence.images is None or primary.images is None:
        raise NotApplicable("This needs a second tokenizer.")
    differences = [
        name
        for key, name in COMPARED_ENTRIES.items()
        if evidence.provenance.get(key) != primary.provenance.get(key)
    ]
    if not differences:
        return None
    return Finding(
        severity="warning",
        observation=(
            f"{evidence.run_name} and {primary.run_name} differ in {', '.join(differences)}."
        ),
        advice="Do not compare their numbers; collect the evidence of both in the same way.",
        numbers={"differences": len(differences)},
    )


def tk020_reconstruction_floor(evidence: Evidence) -> Finding | None:
    """Reconstructions are over {MAX_FLOOR_RATIO:g} times as far from images as real images are."""
    features = evidence.features
    training = evidence.train_features
    decoded = evidence.reconstruction_features
    if features is None or training is None or decoded is None:
        raise NotApplicable(
            "This needs features of images, training images and reconstructions of"
            f" {evidence.run_name}."
        )
    inputs = {
        "features": features,
        "train_features": training,
        "reconstruction_features": decoded,
    }
    distances = composed_result(fidelity, inputs, splits=NUM_HALF_SAMPLES).distances
    by_evaluated = {distance.evaluated: distance for distance in distances}
    floor = by_evaluated["training"]
    reconstruction = by_evaluated["reconstructions"]
    if reconstruction.low <= MAX_FLOOR_RATIO * floor.value:
        return None
    floor_text = "No generator of these latents can be nearer than the decoder"
    return Finding(
        severity="warning",
        observation=(
            f"The distance of reconstructions to images is {reconstruction.value:.3g}; that between"
            f" two sets of real images is {floor.value:.3g}."
        ),
        advice=f"{floor_text}: train the tokenizer longer or increase its capacity.",
        imported_advice=f"{floor_text}: choose a tokenizer that reconstructs better.",
        numbers={"rfd": reconstruction.value, "floor": floor.value},
    )


def tk021_saturated_pixels(evidence: Evidence) -> Finding | None:
    """Over {MAX_SATURATION_INCREASE:.0%} more pixels are black or white than in the images."""
    images, reconstructions = _images_and_reconstructions(evidence)
    decoded_share = _saturated_share(reconstructions)
    image_share = _saturated_share(images)
    if decoded_share - image_share <= MAX_SATURATION_INCREASE:
        return None
    return Finding(
        severity="warning",
        observation=(
            f"{100 * decoded_share:.0f} % of the decoded pixels are fully black or white, versus"
            f" {100 * image_share:.0f} % in the images."
        ),
        advice=(
            "The decoder exceeds the value range and is clamped, which hides part of its error:"
            " inspect the brightest images."
        ),
        numbers={"reconstructions": decoded_share, "images": image_share},
    )


def tk030_few_images(evidence: Evidence) -> Finding | None:
    """Under {MIN_IMAGES} images: modes cannot be counted, and every interval is wide."""
    n = evidence.num_images
    if not n:
        raise NotApplicable(f"This needs images; {evidence.run_name} has none.")
    if n >= MIN_IMAGES:
        return None
    return Finding(
        severity="info",
        observation=f"There are {n} images.",
        advice=f"Collect at least {MIN_IMAGES} images.",
        numbers={"images": n},
    )


def tk031_leak(evidence: Evidence) -> Finding | None:
    """Held-out images are byte-identical to stored training images (constant images excluded)."""
    if evidence.images is None or evidence.train_images is None:
        raise NotApplicable(
            f"This needs training and held-out images; {evidence.run_name} lacks one of them."
        )
    training = set(_image_bytes(evidence.train_images))
    num_leaked = sum(image in training for image in _image_bytes(evidence.images))
    if not num_leaked:
        return None
    n = len(evidence.images)
    share = num_leaked / n
    severity: Severity = "error" if share > MAX_LEAKED_SHARE else "warning"
    return Finding(
        severity=severity,
        observation=(
            f"At least {num_leaked:,} of {n:,} held-out images ({100 * share:.1f} %) are in the"
            " training data."
        ),
        advice=(
            "Remove duplicates from the data before splitting it; until then, held-out results are"
            " too optimistic."
        ),
        numbers={"images": num_leaked, "share": share},
    )


def _images_and_reconstructions(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    if evidence.images is None or evidence.reconstructions is None or not len(evidence.images):
        raise NotApplicable(
            f"This needs images and reconstructions; {evidence.run_name} does not have both."
        )
    return evidence.images, evidence.reconstructions


def _saturated_share(images: np.ndarray) -> float:
    return float(np.mean([((image == 0) | (image == 255)).mean() for image in images]))


def _image_bytes(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images if np.ptp(image)]
