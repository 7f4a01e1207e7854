"""Checks of images and reconstructions: what they are measured on, how many, and how near they come."""

import numpy as np

from workbench.analysis.checks.findings import Finding
from workbench.analysis.generation.fidelity import fidelity
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import Evidence

FEW, FEW_FOR_INCEPTION = 1000, 10_000  # images: with fewer, a Frechet distance is mostly bias
FEWEST = 50  # images: counting modes refuses fewer, and other intervals are wide
FAR = 3.0  # times the distance of two sets of real images
SPLITS = 20  # half samples behind an interval
SATURATED = 0.05  # share of the pixels, more than among the images
LEAKED = 0.01  # share of the held-out images: below it, a few twins may be the data's own


def tk006_few_images_for_distances(evidence: Evidence) -> Finding | None:
    """Frechet distances are taken of under {FEW:,} images ({FEW_FOR_INCEPTION:,} of Inception), or two a dimension."""
    generated = [
        x for x in (evidence.reconstruction_features, evidence.sample_features) if x is not None
    ]
    if evidence.features is None or not generated:
        raise NotApplicable(f"This needs features of a feature extractor; {evidence.run_name} has none.")
    n, dimensions = min(map(len, [evidence.features, *generated])), evidence.features.shape[1]
    enough = max(
        FEW_FOR_INCEPTION if evidence.feature_extractor == "inception" else FEW, 2 * dimensions
    )
    if n >= enough:
        return None
    found = f"Distances are taken of {n:,} images with {dimensions:,} features each."
    advice = f"Compare runs at equal n only, and collect at least {enough:,} images before quoting a distance."
    return Finding("info", found, advice, {"images": n, "enough": enough})


def tk007_not_comparable(evidence: Evidence, leading: Evidence) -> Finding | None:
    """A tokenizer was measured on other images than the leading one, or with another feature extractor."""
    if evidence is leading or evidence.images is None or leading.images is None:
        raise NotApplicable("This needs a second tokenizer.")
    told = {
        "fingerprint": "data",
        "split": "split",
        "n": "number of images",
        "seed": "seed",
        "feature_extractor": "feature extractor",
    }
    differ = [
        word
        for key, word in told.items()
        if evidence.provenance.get(key) != leading.provenance.get(key)
    ]
    if not differ:
        return None
    found = f"{evidence.run_name} and {leading.run_name} differ in {', '.join(differ)}."
    advice = "Do not set their numbers side by side; collect both alike."
    return Finding("warning", found, advice, {"differences": len(differ)})


def tk020_reconstruction_floor(evidence: Evidence) -> Finding | None:
    """Reconstructions lie over {FAR:g} times as far from images as two sets of real images do."""
    if (
        evidence.features is None
        or evidence.train_features is None
        or evidence.reconstruction_features is None
    ):
        raise NotApplicable(
            f"This needs features of images, training images and reconstructions of {evidence.run_name}."
        )
    sets = (evidence.features, evidence.train_features, evidence.reconstruction_features)
    by_pair = {d.evaluated: d for d in fidelity(*sets, splits=SPLITS).distances}
    floor, decoded = by_pair["training"], by_pair["reconstructions"]
    if decoded.low <= FAR * floor.value:
        return None
    found = f"Reconstructions are {decoded.value:.3g} from images, real images {floor.value:.3g} from each other."
    advice = "No generator of these latents comes nearer than its decoder: train the tokenizer longer or give it more."
    return Finding("warning", found, advice, {"rfd": decoded.value, "floor": floor.value})


def tk021_saturated_pixels(evidence: Evidence) -> Finding | None:
    """Over {SATURATED:.0%} more of the pixels are black or white to the last than among the images."""
    images, decoded = _both(evidence)
    ours, theirs = (
        float(np.mean([((x == 0) | (x == 255)).mean() for x in part])) for part in (decoded, images)
    )
    if ours - theirs <= SATURATED:
        return None
    found = f"{100 * ours:.0f} % of the decoded pixels are at an end of the range, {100 * theirs:.0f} % of the images'."
    advice = "The decoder overshoots and is clamped, which hides some of its error: look at the brightest images."
    return Finding("warning", found, advice, {"reconstructions": ours, "images": theirs})


def tk030_few_images(evidence: Evidence) -> Finding | None:
    """Under {FEWEST} images were collected: modes cannot be counted, and every interval is wide."""
    if evidence.images is None:
        raise NotApplicable(f"This needs images; {evidence.run_name} has none.")
    n = len(evidence.images)
    found = f"There are {n} images."
    advice = f"Collect at least {FEWEST}."
    return Finding("warning", found, advice, {"images": n}) if n < FEWEST else None


def tk031_leak(evidence: Evidence) -> Finding | None:
    """Held-out images are also among the training images that were kept, byte for byte (blank ones are not counted)."""
    if evidence.images is None or evidence.train_images is None:
        raise NotApplicable(
            f"This needs training and held-out images; {evidence.run_name} lacks one of them."
        )
    trained = set(_texts(evidence.train_images))
    held_out = _texts(evidence.images)
    leaked = sum(text in trained for text in held_out)
    if not leaked:
        return None
    share = leaked / len(evidence.images)
    found = f"{leaked:,} of {len(evidence.images):,} held-out images ({100 * share:.1f} %) were trained on, at least."
    advice = "Take twins out of the data before splitting it; until then, held-out numbers flatter."
    return Finding(
        "error" if share > LEAKED else "warning", found, advice, {"images": leaked, "share": share}
    )


def _both(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    if evidence.images is None or evidence.reconstructions is None or not len(evidence.images):
        raise NotApplicable(f"This needs images and reconstructions; {evidence.run_name} has none.")
    return evidence.images, evidence.reconstructions


def _texts(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images if np.ptp(image)]
