"""Checks of the samples of a generator, and of the arrays of any evidence."""

import numpy as np

from workbench.analysis.diagnosis.findings import Finding
from workbench.analysis.generation.feature_distances import precision_recall
from workbench.analysis.generation.fidelity import feature_distance
from workbench.analysis.generation.gaussian_reference import reference_distances
from workbench.analysis.generation.memorization import TAIL_SHARE, memorization
from workbench.core.counted import counted
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import PADDING, Evidence

MAX_COPY_RATIO = 2.0  # of the share of near copies of samples to that of held-out images
MIN_RECALL_RATIO = 0.5  # of the recall of samples to that of other real images
MAX_DUPLICATE_SHARE = 0.01  # of the samples
MIN_IMAGES = 50  # of each set: fractions of fewer images are too uncertain
CHECKED_ARRAYS = (
    "features",
    "reconstruction_features",
    "train_features",
    "sample_features",
    "midpoint_features",
    "interpolation_features",
    "gaussian_features",
    "teacher_features",
    "noise_mse",
    "prefix_mse",
    "prefix_features",
    "loss_by_time",
    "codebook",
)


def tk040_copies(evidence: Evidence) -> Finding | None:
    """Over {MAX_COPY_RATIO:g} times as many samples as held-out images are near training images.

    The difference exceeds the 95 % interval. It is not applied to samples that TK041 reports: their
    distances to training images are not evidence of copies.
    """
    samples, held_out, training = _feature_sets(evidence)
    if not evidence.has_training_images:
        return None
    result = memorization(samples, held_out, training)
    if result.low <= MAX_COPY_RATIO * TAIL_SHARE:
        return None
    return Finding(
        severity="warning",
        observation=(
            f"{100 * result.share:.1f} % of the samples are as near to a training image as the"
            f" nearest {100 * TAIL_SHARE:g} % of held-out images."
        ),
        advice=(
            "Inspect the nearest pairs in Fidelity. Stop training earlier, or train on more images."
        ),
        imported_advice="Inspect the nearest pairs in Fidelity before using these samples.",
        numbers={"share": result.share, "low": result.low},
    )


def tk041_lost_diversity(evidence: Evidence) -> Finding | None:
    """Samples have under {MIN_RECALL_RATIO:.0%} of the recall of other real images, or duplicates.

    Duplicates are reported if they are over {MAX_DUPLICATE_SHARE:.0%} of the samples.
    """
    sets = _feature_sets(evidence)
    n = min(map(len, sets))
    random = np.random.default_rng(0)
    samples, held_out, training = (x[random.permutation(len(x))[:n]] for x in sets)
    recall = precision_recall(training, samples)[1]
    held_out_recall = precision_recall(training, held_out)[1]
    duplicate_share = 1 - len(np.unique(samples, axis=0)) / n
    has_duplicates = duplicate_share > MAX_DUPLICATE_SHARE
    if recall >= MIN_RECALL_RATIO * held_out_recall and not has_duplicates:
        return None
    observation = (
        f"Samples cover {100 * recall:.0f} % of the training images; held-out images cover"
        f" {100 * held_out_recall:.0f} %."
    )
    if has_duplicates:
        observation += f" {100 * duplicate_share:.1f} % of the samples are duplicates of another."
    return Finding(
        severity="warning",
        observation=observation,
        advice=(
            "Inspect the samples. If they resemble real images, lower the guidance scale;"
            " otherwise train longer."
        ),
        imported_advice=(
            "Inspect the samples. If they resemble real images, lower the guidance scale; otherwise"
            " compare the settings of sampling with the published ones."
        ),
        numbers={
            "recall": recall,
            "held_out_recall": held_out_recall,
            "duplicates": duplicate_share,
        },
    )


def tk042_no_better_than_gaussians(evidence: Evidence) -> Finding | None:
    """Samples are as far from training images as draws from one Gaussian per class, or farther.

    The draws need no training. Both distances are Fréchet distances at equal n.
    """
    samples, _, training = _feature_sets(evidence)
    if evidence.gaussian_features is None:
        raise NotApplicable(
            f"This needs decoded Gaussians; {evidence.run_name} has none. Collect them with:"
            f" workbench collect {evidence.run_name}"
        )
    gaussian = np.asarray(evidence.gaussian_features, np.float64)
    n = min(len(samples), len(training), len(gaussian))
    random = np.random.default_rng(0)
    training = training[random.permutation(len(training))[:n]]
    distance = feature_distance(training=training, samples=samples)
    reference = reference_distances(training, gaussian, None)[0].value
    if distance < reference:
        return None
    observation = (
        f"Samples have a distance of {distance:.4g}, and draws from one Gaussian per class"
        f" {reference:.4g}"
    )
    guidance = evidence.guidance
    if guidance is not None and guidance != 1:
        conclusion = f". The samples have guidance {guidance:g}, which may be the reason."
        advice = "Collect samples with --guidance 1. If they are no nearer, train longer."
    else:
        conclusion = ": the generator has not learned more than means and covariances."
        advice = (
            "Train the generator longer. Until then, differences between tokenizers are differences"
            " in speed of training."
        )
    return Finding(
        severity="warning",
        observation=observation + conclusion,
        advice=advice,
        imported_advice=(
            "Compare the solver, the steps, the guidance and the scale of the latents with those"
            " that the authors sampled with."
        ),
        numbers={"distance": distance, "gaussian_distance": reference},
    )


def tk060_broken_numbers(evidence: Evidence) -> Finding | None:
    """An array contains NaN or infinity (except latents), or a code is outside its codebook."""
    arrays = {name: getattr(evidence, name) for name in CHECKED_ARRAYS}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if not arrays:
        raise NotApplicable(f"This needs measured arrays; {evidence.run_name} has none.")
    invalid = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    num_outside = _codes_outside_codebook(evidence)
    sentences = []
    if invalid:
        names = ", ".join(name.replace("_", " ") for name in invalid)
        sentences.append(f"These arrays contain NaN or infinity: {names}.")
    if num_outside:
        sentences.append(f"{counted(num_outside, 'code is', 'codes are')} outside the codebook.")
    if not sentences:
        return None
    return Finding(
        severity="error",
        observation=" ".join(sentences),
        advice="Collect the evidence again, if necessary from an earlier step.",
        imported_advice="Evaluate the model or write its arrays again, in float32 if possible.",
        numbers={"arrays": len(invalid), "codes": num_outside},
    )


def _codes_outside_codebook(evidence: Evidence) -> int:
    codes, codebook = evidence.codes, evidence.codebook
    if codes is None or codebook is None:
        return 0
    return int(((codes < PADDING) | (codes >= codebook.shape[-2])).sum())


def _feature_sets(evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the features of samples, held-out and training images."""
    sets = []
    for array in (evidence.sample_features, evidence.features, evidence.train_features):
        if array is None or len(array) < MIN_IMAGES:
            raise NotApplicable(
                f"This needs features of at least {MIN_IMAGES} samples, held-out and training"
                " images each."
            )
        sets.append(np.asarray(array, np.float64))
    if not all(np.isfinite(array).all() for array in sets):
        raise NotApplicable("This needs features without NaN.")
    samples, held_out, training = sets
    return samples, held_out, training
