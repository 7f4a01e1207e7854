"""Checks of what a generator drew, and of the arrays of any evidence."""

import numpy as np

from workbench.analysis.checks.findings import Finding
from workbench.analysis.generation.feature_distances import precision_recall
from workbench.analysis.generation.memorization import TAIL, memorization
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import Evidence

COPIED = 2.0  # times the share that held-out images reach
RECALL = 0.5  # of the recall that other real images reach
TWINS = 0.01  # share of the samples
FEATURES = (
    "features",
    "reconstruction_features",
    "train_features",
    "sample_features",
    "midpoint_features",
)
CHECKED = (
    *FEATURES,
    "teacher_features",
    "noise_mse",
    "prefix_mse",
    "prefix_features",
    "loss_by_time",
    "codebook",
)
LEAST = 50  # images of each set: of fewer, shares of them mean little


def tk040_copies(evidence: Evidence) -> Finding | None:
    """Over {COPIED:g} times as many samples as held-out images lie next to a training image, beyond their scatter."""
    samples, held_out, training = _sets(evidence)
    copying = memorization(samples, held_out, training)
    if copying.low <= COPIED * TAIL:
        return None
    near = f"as near to a training image as {100 * TAIL:g} % of held-out images do"
    found = f"{100 * copying.share:.1f} % of the samples lie {near}."
    advice = "Look at the nearest pairs in Fidelity; stop earlier, or train on more images."
    return Finding("warning", found, advice, {"share": copying.share, "low": copying.low})


def tk041_lost_diversity(evidence: Evidence) -> Finding | None:
    """Samples cover under {RECALL:.0%} of what other real images cover, or over {TWINS:.0%} of them are twins."""
    samples, held_out, training = _sets(evidence)
    n = min(map(len, (samples, held_out, training)))
    drawn = np.random.default_rng(0)
    samples, held_out, training = (
        x[drawn.permutation(len(x))[:n]] for x in (samples, held_out, training)
    )
    reached, usual = precision_recall(training, samples)[1], precision_recall(training, held_out)[1]
    twins = 1 - len(np.unique(samples, axis=0)) / n
    if reached >= RECALL * usual and twins <= TWINS:
        return None
    found = f"Samples cover {100 * reached:.0f} % of the training images, held-out images {100 * usual:.0f} %"
    found += f"; {100 * twins:.1f} % of the samples are twins of another." if twins > TWINS else "."
    advice = "Look at the samples: if they are like real images, lower the guidance scale, else train longer."
    return Finding(
        "warning", found, advice, {"recall": reached, "held_out_recall": usual, "twins": twins}
    )


def tk060_broken_numbers(evidence: Evidence) -> Finding | None:
    """An array other than the latents holds NaN or infinity, or a code lies outside its book."""
    present = [name for name in CHECKED if getattr(evidence, name) is not None]
    if not present:
        raise NotApplicable(f"This needs measured arrays; {evidence.run_name} has none.")
    broken = [name for name in present if not np.isfinite(getattr(evidence, name)).all()]
    outside = 0 if evidence.codes is None or evidence.codebook is None else _outside(evidence)
    if not broken and not outside:
        return None
    found = (
        f"NaN or infinity is in: {', '.join(name.replace('_', ' ') for name in broken)}."
        if broken
        else ""
    )
    found += f" {outside:,} codes lie outside their book." if outside else ""
    advice = "Collect the evidence again, from an earlier step if need be."
    return Finding("error", found.strip(), advice, {"arrays": len(broken), "codes": outside})


def _outside(evidence: Evidence) -> int:
    return int(((evidence.codes < 0) | (evidence.codes >= evidence.codebook.shape[-2])).sum())


def _sets(evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of samples, held-out and training images."""
    sets = (evidence.sample_features, evidence.features, evidence.train_features)
    if any(x is None or len(x) < LEAST for x in sets):
        raise NotApplicable(
            f"This needs features of at least {LEAST} samples, held-out and training images each."
        )
    samples, held_out, training = (np.asarray(x, np.float64) for x in sets)
    if not all(np.isfinite(x).all() for x in (samples, held_out, training)):
        raise NotApplicable("This needs features without NaN.")
    return samples, held_out, training
