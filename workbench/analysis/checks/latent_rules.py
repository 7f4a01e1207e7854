"""Checks of latents: their scale, their channels, and how they decode in part."""

from functools import lru_cache

import numpy as np

from workbench.analysis.checks.findings import Finding
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import Evidence

SMALL, LARGE = 0.2, 5.0  # deviation of all numbers of the latents
IDLE = 0.05  # of the second largest channel's deviation over images
DOMINANT, CHANNELS = 0.5, 4  # share of the variance in one channel, of at least so many
SLACK = 0.01  # of the pixels' range: how much more than the requested error is forgiven
MISSED = 0.15  # share of the images
LEAST = 10  # images, for the scatter over them to mean anything


def tk004_scale(evidence: Evidence) -> Finding | None:
    """The latents' deviation lies outside {SMALL:g} to {LARGE:g}, where a diffusion model expects about 1."""
    latents = _latents(evidence)
    deviation = float(latents.std(dtype=np.float64))
    if not np.isfinite(deviation) or deviation == 0 or SMALL <= deviation <= LARGE:
        return None
    found = f"The latents' deviation is {deviation:.3g}."
    advice = (
        f"Generators here standardise latents; anywhere else, scale them by {1 / deviation:.4g}."
    )
    return Finding("info", found, advice, {"deviation": deviation})


def tk005_idle_channels(evidence: Evidence) -> Finding | None:
    """A channel says nothing of the image: over images it varies under {IDLE:.0%} of the second largest channel."""
    deviation = _by_channel(evidence)
    if len(deviation) < 2 or not np.isfinite(deviation).all():
        return None
    reference = np.sort(deviation)[-2 if len(deviation) > 2 else -1]
    idle = int((deviation < IDLE * reference).sum())
    if not idle:
        return None
    found = (
        f"{idle} of {len(deviation)} channels hardly vary from image to image: they have collapsed."
    )
    advice = "Lower the weight of the KL term, or train with fewer channels."
    return Finding("warning", found, advice, {"idle": idle, "channels": len(deviation)})


def tk012_worse_with_more_tokens(evidence: Evidence) -> Finding | None:
    """Images decode worse from more of their first tokens, by more than their scatter."""
    if evidence.prefixes is None or evidence.prefix_mse is None or len(evidence.prefix_mse) < LEAST:
        raise NotApplicable(
            f"This needs at least {LEAST} images that were decoded from their first tokens."
        )
    order = np.argsort(evidence.prefixes, kind="stable")
    tokens, mse = (
        np.asarray(evidence.prefixes)[order],
        np.asarray(evidence.prefix_mse, np.float64)[:, order],
    )
    for i in range(len(tokens) - 1):
        more, low, _ = mean_interval(mse[:, i + 1] - mse[:, i])
        if low > 0:
            found = f"{tokens[i + 1]} tokens decode worse than the first {tokens[i]} of them (mse +{more:.2g})."
            advice = "Do not read a budget off its first tokens, or train it with dropped tails."
            return Finding("info", found, advice, {"tokens": int(tokens[i + 1]), "mse": more})
    return None


def tk016_broken_latents(evidence: Evidence) -> Finding | None:
    """Latents hold NaN or infinity, or are the same for every image."""
    latents = _latents(evidence)
    broken = int((~np.isfinite(latents).reshape(len(latents), -1).all(axis=1)).sum())
    if broken:
        found = f"The latents of {broken:,} of {len(latents):,} images hold NaN or infinity."
        return Finding(
            "error",
            found,
            "Collect from an earlier step, and train with a lower rate.",
            {"images": broken},
        )
    if len(latents) > 1 and not _by_channel(evidence).any():
        found = f"The latents are the same for all {len(latents):,} images."
        return Finding(
            "error",
            found,
            "The decoder ignores them: weaken its prior, or the bottleneck's penalty.",
        )
    return None


def tk017_dominant_channel(evidence: Evidence) -> Finding | None:
    """One of at least {CHANNELS} channels holds over {DOMINANT:.0%} of the variance; generators scale all alike."""
    variance = np.square(_latents(evidence).std(axis=(0, 1), dtype=np.float64))
    if len(variance) < CHANNELS or not np.isfinite(variance).all() or not variance.sum():
        return None
    share = float(variance.max() / variance.sum())
    if share <= DOMINANT:
        return None
    found = f"Channel {int(variance.argmax())} holds {100 * share:.0f} % of the variance of {len(variance)} channels."
    advice = (
        "A generator's loss will be mostly about that channel: standardise each channel by itself."
    )
    return Finding("warning", found, advice, {"share": share})


def tk050_missed_targets(evidence: Evidence) -> Finding | None:
    """Asked for an error, over {MISSED:.0%} of the images miss it by over {SLACK:g} with tokens left to spend."""
    if evidence.requested is None or evidence.reached is None or evidence.spent is None:
        raise NotApplicable("This needs a tokenizer that can be asked for an error.")
    asked, reached, spent = (
        np.asarray(x) for x in (evidence.requested, evidence.reached, evidence.spent)
    )
    could = (
        spent < _latents(evidence).shape[1]
    )  # where all tokens are spent, nothing more can be asked
    missed = ((reached > asked[:, None] + SLACK) & could).mean(axis=1)
    worst = int(missed.argmax())
    if missed[worst] <= MISSED:
        return None
    share = f"{100 * missed[worst]:.0f} % of the images"
    found = f"Asked for an error of {asked[worst]:g}, {share} miss it by over {SLACK:g} with tokens left."
    advice = "Raise the halting threshold, or train longer at that error."
    return Finding(
        "warning", found, advice, {"requested": float(asked[worst]), "missed": float(missed[worst])}
    )


def _latents(evidence: Evidence) -> np.ndarray:
    if evidence.latents is None or not evidence.latents.size:
        raise NotApplicable(f"This needs latents; {evidence.run_name} has none.")
    return evidence.latents


@lru_cache(maxsize=1)
def _by_channel(evidence: Evidence) -> np.ndarray:
    """Each channel's deviation (d,) from image to image, whatever a token's place adds."""
    return np.sqrt(np.square(_latents(evidence).std(axis=0, dtype=np.float64)).mean(axis=0))
