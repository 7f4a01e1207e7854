"""Checks of latents: their scale, their channels, and decoding from parts of them."""

from functools import lru_cache

import numpy as np

from workbench.analysis.diagnosis.findings import Finding
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable
from workbench.core.moments import ElementMoments, row_blocks
from workbench.storage.evidence import Evidence

# Range of the standard deviation of all numbers of the latents.
MIN_DEVIATION = 0.2
MAX_DEVIATION = 5.0
MIN_RELATIVE_DEVIATION = 0.05  # of a channel, relative to the second largest
MAX_VARIANCE_SHARE = 0.5  # of one channel
MIN_CHANNELS = 4  # for a channel to count as dominant
ERROR_TOLERANCE = 0.01  # above the requested error, in units of the pixel range
MAX_MISSED_SHARE = 0.15  # of the images
MIN_IMAGES = 10  # for an interval over images


def tk004_scale(evidence: Evidence) -> Finding | None:
    """The standard deviation of the latents is outside {MIN_DEVIATION:g} to {MAX_DEVIATION:g}.

    A diffusion model expects about 1.
    """
    moments = _moments(evidence)
    deviation = float(np.sqrt(moments.variance.mean() + moments.mean.var()))
    is_in_range = MIN_DEVIATION <= deviation <= MAX_DEVIATION
    if moments.num_invalid or deviation == 0 or is_in_range:
        return None
    return Finding(
        severity="info",
        observation=f"The standard deviation of the latents is {deviation:.3g}.",
        advice=(
            "The generators of this package standardize latents; for other generators, multiply"
            f" them by {1 / deviation:.4g}."
        ),
        numbers={"deviation": deviation},
    )


def tk005_idle_channels(evidence: Evidence) -> Finding | None:
    """A channel hardly varies between images: under {MIN_RELATIVE_DEVIATION:.0%} of a reference.

    The reference is the second largest standard deviation among the channels.
    """
    moments = _moments(evidence)
    deviation = _deviation_by_channel(moments)
    if len(deviation) < 2 or moments.num_invalid:
        return None
    reference = np.sort(deviation)[-2 if len(deviation) > 2 else -1]
    num_idle = int((deviation < MIN_RELATIVE_DEVIATION * reference).sum())
    if not num_idle:
        return None
    return Finding(
        severity="warning",
        observation=(
            f"{num_idle} of {len(deviation)} channels hardly vary between images: they have"
            " collapsed."
        ),
        advice="Lower the weight of the KL term, or train with fewer channels.",
        imported_advice=(
            "A generator spends capacity on channels without content: choose a tokenizer with fewer"
            " channels."
        ),
        numbers={"idle": num_idle, "channels": len(deviation)},
    )


def tk012_worse_with_more_tokens(evidence: Evidence) -> Finding | None:
    """Images decode worse from more of their first tokens, beyond the 95 % interval."""
    prefixes, mse = evidence.prefixes, evidence.prefix_mse
    if prefixes is None or mse is None or len(mse) < MIN_IMAGES:
        raise NotApplicable(
            f"This needs at least {MIN_IMAGES} images that were decoded from their first tokens."
        )
    order = np.argsort(prefixes, kind="stable")
    tokens = np.asarray(prefixes)[order]
    mse = np.asarray(mse, np.float64)[:, order]
    for i in range(len(tokens) - 1):
        increase, low, _ = mean_interval(mse[:, i + 1] - mse[:, i])
        if low > 0:
            return Finding(
                severity="info",
                observation=(
                    f"{tokens[i + 1]} tokens decode worse than the first {tokens[i]} of them"
                    f" (mean squared error +{increase:.2g})."
                ),
                advice=(
                    "Do not choose a token budget by its first tokens, or train it with dropped"
                    " tails."
                ),
                imported_advice="Do not choose a token budget by its first tokens.",
                numbers={"tokens": int(tokens[i + 1]), "mse": increase},
            )
    return None


def tk016_broken_latents(evidence: Evidence) -> Finding | None:
    """Latents contain NaN or infinity, or are the same for every image."""
    moments = _moments(evidence)
    n = len(_latents(evidence))
    num_invalid = moments.num_invalid
    if num_invalid:
        return Finding(
            severity="error",
            observation=f"The latents of {num_invalid:,} of {n:,} images contain NaN or infinity.",
            advice=(
                "Collect the evidence from an earlier step, and train with a lower learning rate."
            ),
            imported_advice=(
                "Check the precision of the weights and the value range of the images; float16 may"
                " overflow where float32 does not."
            ),
            numbers={"images": num_invalid},
        )
    if n > 1 and not _deviation_by_channel(moments).any():
        return Finding(
            severity="error",
            observation=f"The latents are the same for all {n:,} images.",
            advice=(
                "The decoder ignores the latents: weaken its prior, or lower the penalty of the"
                " bottleneck."
            ),
            imported_advice=(
                "Check that all weights were loaded, and that the images have the value range of"
                " the model."
            ),
        )
    return None


def tk017_dominant_channel(evidence: Evidence) -> Finding | None:
    """One of at least {MIN_CHANNELS} channels has over {MAX_VARIANCE_SHARE:.0%} of the variance.

    Generators scale all channels alike.
    """
    moments = _moments(evidence)
    variance = moments.variance.mean(axis=0) + moments.mean.var(axis=0)
    if len(variance) < MIN_CHANNELS or moments.num_invalid or not variance.sum():
        return None
    share = float(variance.max() / variance.sum())
    if share <= MAX_VARIANCE_SHARE:
        return None
    return Finding(
        severity="warning",
        observation=(
            f"Channel {int(variance.argmax())} has {100 * share:.0f} % of the variance of"
            f" {len(variance)} channels."
        ),
        advice=(
            "The loss of a generator will mostly depend on this channel: standardize each channel"
            " separately."
        ),
        numbers={"share": share},
    )


def tk050_missed_targets(evidence: Evidence) -> Finding | None:
    """Over {MAX_MISSED_SHARE:.0%} of the images miss a requested error with tokens left.

    An image misses the request if its error is over {ERROR_TOLERANCE:g} too large.
    """
    if evidence.requested is None or evidence.reached is None or evidence.spent is None:
        raise NotApplicable("This needs a tokenizer that accepts a requested error.")
    requested = np.asarray(evidence.requested)
    reached = np.asarray(evidence.reached)
    spent = np.asarray(evidence.spent)
    # An image that spent all tokens could not do better.
    has_tokens_left = spent < _latents(evidence).shape[1]
    is_missed = (reached > requested[:, None] + ERROR_TOLERANCE) & has_tokens_left
    missed_share = is_missed.mean(axis=1)
    worst = int(missed_share.argmax())
    if missed_share[worst] <= MAX_MISSED_SHARE:
        return None
    return Finding(
        severity="warning",
        observation=(
            f"{100 * missed_share[worst]:.0f} % of the images miss a requested error of"
            f" {requested[worst]:g} by over {ERROR_TOLERANCE:g} with tokens left."
        ),
        advice="Raise the halting threshold, or train longer at that error.",
        imported_advice="Raise the halting threshold, or request a smaller error.",
        numbers={"requested": float(requested[worst]), "missed": float(missed_share[worst])},
    )


def _latents(evidence: Evidence) -> np.ndarray:
    if evidence.latents is None or not evidence.latents.size:
        raise NotApplicable(f"This needs latents; {evidence.run_name} has none.")
    return evidence.latents


@lru_cache(maxsize=1)  # several rules of one run
def _moments(evidence: Evidence) -> ElementMoments:
    """Return the moments of each number of the latents over the images, (tokens, d)."""
    return ElementMoments.from_blocks(row_blocks(_latents(evidence)))


def _deviation_by_channel(moments: ElementMoments) -> np.ndarray:
    """Return the standard deviation of each channel between images, (d,), not between tokens."""
    return np.sqrt(moments.variance.mean(axis=0))
