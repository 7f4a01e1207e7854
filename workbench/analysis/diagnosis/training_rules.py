"""Checks of training, from the logged numbers: divergence, plateau, collapse, over-fitting.

The docstring of a rule states when it reports; the values of constants are filled in.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.analysis.diagnosis.findings import Finding
from workbench.analysis.runs.training_curves import held_out_loss, sum_of_terms, term_values
from workbench.core.errors import NotApplicable
from workbench.core.image_size import ImageSize
from workbench.storage.evidence import Evidence
from workbench.storage.training_log import TrainingLog

MIN_RECORDS = 10  # a shorter log has no trend
WINDOW_SHARE = 0.1  # of the records: the median of such a window is one point of the trend
MAX_LOST_SHARE = 0.5  # of the improvement
MIN_LATE_SHARE = 0.02  # of the improvement, in the last half of training
MIN_LATE_FALL = 0.01  # of the loss, in the last half of training
MIN_POSTERIOR_NATS = 1.0  # per image; one nat distinguishes e images
MIN_ERROR_FALL = 0.10  # of the first reconstruction error
MAX_HELD_OUT_RISE = 0.05  # of the improvement on held-out items
MIN_IMPROVEMENT = 0.01  # of the first loss: less is noise
MAX_FIRST_SHARE = 0.2  # of the steps: a log that starts later has no beginning
RECONSTRUCTION = "pixel"
# The two sides of a game do not fall together.
ADVERSARIAL_TERMS = ("adversarial", "discriminator")


def tk070_diverged(evidence: Evidence) -> Finding | None:
    """The loss lost over {MAX_LOST_SHARE:.0%} of its improvement before the end of training.

    It is an error if the loss ended as high as it began. Adversarial terms are not counted.
    """
    steps, loss = _trend(_minimized(evidence))
    best = int(loss.argmin())
    improvement = loss[0] - loss[best]
    rise = loss[-1] - loss[best]
    is_noise = max(improvement, rise) < MIN_IMPROVEMENT * abs(loss[0])
    if is_noise or rise <= MAX_LOST_SHARE * improvement:
        return None
    course = f"fell from {loss[0]:.3g} to {loss[best]:.3g} at step {steps[best]:,.0f}, and rose"
    if not best:
        course = f"rose from {loss[0]:.3g} at step {steps[0]:,.0f}"
    return Finding(
        severity="error" if rise >= improvement else "warning",
        observation=(f"The loss {course} to {loss[-1]:.3g}: training diverged."),
        advice=(
            "Train with a lower learning rate, or use the checkpoint nearest to step"
            f" {steps[best]:,.0f}."
        ),
        numbers={"best": float(loss[best]), "last": float(loss[-1]), "step": float(steps[best])},
    )


def tk071_plateau(evidence: Evidence) -> Finding | None:
    """The last half of training lowered the loss by under {MIN_LATE_FALL:.0%}.

    That is also under {MIN_LATE_SHARE:.0%} of the whole improvement. Adversarial terms are not
    counted.
    """
    steps, loss = _trend(_minimized(evidence))
    half = int(np.searchsorted(steps, steps[-1] / 2))
    improvement = loss[0] - loss.min()
    late = loss[half] - loss[half:].min()
    is_noise = improvement < MIN_IMPROVEMENT * abs(loss[0])
    has_improved = late >= MIN_LATE_SHARE * improvement or late >= MIN_LATE_FALL * abs(loss[half])
    if is_noise or has_improved:
        return None
    return Finding(
        severity="info",
        observation=(
            f"The loss fell by {improvement:.3g}, and by {max(0.0, late):.2g} after step"
            f" {steps[half]:,.0f}."
        ),
        advice=(
            "About half of the steps give the same loss; a lower one needs another learning rate,"
            " other settings or a larger model."
        ),
        numbers={"improvement": float(improvement), "late": float(late)},
    )


def tk072_posterior_collapse(evidence: Evidence) -> Finding | None:
    """The divergence of the posterior ended below {MIN_POSTERIOR_NATS:g} nat per image.

    The latents then hardly depend on the image.
    """
    log = _log(evidence)
    beta = _weight_per_nat(evidence.provenance.get("settings", {}))
    if "kl" not in log.terms or beta <= 0:
        raise NotApplicable("This needs a tokenizer with a KL term.")
    steps, divergence = _trend(term_values(log, "kl", "without multipliers"))
    nats = divergence / beta
    if nats[-1] >= MIN_POSTERIOR_NATS:
        return None
    return Finding(
        severity="error",
        observation=(
            f"The posterior differs from the prior by {nats[-1]:.2g} nat per image after"
            f" {steps[-1]:,.0f} steps: it has collapsed, and tokens carry no information."
        ),
        advice=f"Lower the weight of the KL term ({beta:g} per nat), for example tenfold.",
        numbers={"nats": float(nats[-1])},
    )


def tk073_dead_decoder(evidence: Evidence) -> Finding | None:
    """The reconstruction error fell by under {MIN_ERROR_FALL:.0%} during training."""
    log = _log(evidence)
    if RECONSTRUCTION not in log.terms:
        raise NotApplicable("This needs a tokenizer with a reconstruction error.")
    steps, error = term_values(log, RECONSTRUCTION, "without multipliers")
    _require_beginning(log, steps)
    _, trend = _trend((steps, error))
    first = float(trend[0])
    last = float(trend[-1])
    if last <= (1 - MIN_ERROR_FALL) * first:
        return None
    return Finding(
        severity="error",
        observation=(
            f"The reconstruction error was {first:.3g} at step {steps[0]:,.0f} and {last:.3g} at"
            f" step {steps[-1]:,.0f}: the decoder has learned almost nothing."
        ),
        advice=(
            "Try another learning rate, and train without the other terms of the loss until"
            " reconstructions appear."
        ),
        numbers={"first": first, "last": last},
    )


def tk074_over_fitting(evidence: Evidence) -> Finding | None:
    """The loss of held-out items rose again, while that of training items fell.

    The rise is over {MAX_HELD_OUT_RISE:.0%} of the improvement before.
    """
    log = _log(evidence)
    steps, held_out = held_out_loss(log, without=ADVERSARIAL_TERMS)
    if len(steps) < MIN_RECORDS:
        raise NotApplicable("This needs a log of the loss of held-out items.")
    steps, held_out = _trend((steps, held_out))
    best = int(held_out.argmin())
    improvement = held_out[0] - held_out[best]
    rise = held_out[-1] - held_out[best]
    train_steps, loss = _trend(_minimized(evidence))
    at_best = float(np.interp(steps[best], train_steps, loss))
    if rise <= MAX_HELD_OUT_RISE * improvement or loss[-1] >= at_best or improvement <= 0:
        return None
    return Finding(
        severity="warning",
        observation=(
            f"The loss of held-out items was lowest at step {steps[best]:,.0f}"
            f" ({held_out[best]:.3g}) and rose to {held_out[-1]:.3g}, while that of training items"
            f" fell from {at_best:.3g} to {loss[-1]:.3g}."
        ),
        advice=(
            f"Use the checkpoint nearest to step {steps[best]:,.0f}, train on more images, or raise"
            " the weight decay."
        ),
        numbers={"step": float(steps[best]), "best": float(held_out[best]), "rise": float(rise)},
    )


def _weight_per_nat(settings: Mapping[str, Any]) -> float:
    """Return the weight of the KL term per nat and image; 0 if it is not known."""
    if "kl_weight" in settings:  # against a sum over pixels
        pixels = ImageSize.of(settings["side"]).pixels
        return float(settings["kl_weight"]) / (settings["channels"] * pixels)
    return float(settings.get("beta", 0))


def _log(evidence: Evidence) -> TrainingLog:
    log = evidence.training_log
    if log is None or len(log.records) < MIN_RECORDS:
        raise NotApplicable(
            f"This needs a log of at least {MIN_RECORDS} records; {evidence.run_name} has none."
        )
    return log


def _minimized(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of the loss without adversarial terms, from its beginning.

    The beginning is the first step from which on all terms have their whole weight: a term that
    is added or whose weight rises would look like a loss that rises.
    """
    log = _log(evidence)
    series = {
        name: term_values(log, name, "without multipliers")
        for name in log.terms
        if name not in ADVERSARIAL_TERMS
    }
    # A term that was switched off until the end was not minimized.
    series = {name: values for name, values in series.items() if np.isfinite(values[1][-1])}
    if not series:
        raise NotApplicable("This needs a loss that falls.")
    steps, loss = sum_of_terms(series.__getitem__, list(series))
    rise = evidence.provenance.get("settings", {}).get("perceptual_rise", 0.0)
    first = rise * float(log.training.get("steps", steps[-1]))
    for term_steps, values in series.values():
        is_off = ~np.isfinite(values)
        first = max(first, term_steps[0], float(term_steps[is_off].max(initial=0)) + 1)
    is_whole = steps >= first
    _require_beginning(log, steps[is_whole])
    return steps[is_whole], loss[is_whole]


def _require_beginning(log: TrainingLog, steps: np.ndarray) -> None:
    """Raise NotApplicable if the log lacks the beginning, or training started from another run."""
    started_elsewhere = any(event["event"] == "started from" for event in log.events)
    if started_elsewhere or not len(steps) or steps[0] > MAX_FIRST_SHARE * steps[-1]:
        raise NotApplicable("This needs the log of a training from its beginning.")


def _trend(series: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return medians over windows of steps and values, without values that are not finite."""
    is_known = np.isfinite(series[1])
    steps, values = series[0][is_known], series[1][is_known]
    if len(values) < MIN_RECORDS:
        raise NotApplicable(f"This needs at least {MIN_RECORDS} records.")
    width = max(1, round(WINDOW_SHARE * len(values)))
    starts = range(0, len(values) - width + 1, width)
    middles = [float(np.median(steps[i : i + width])) for i in starts]
    medians = [float(np.median(values[i : i + width])) for i in starts]
    # The beginning is the first record: a loss falls fastest in its first steps.
    middles[0] = float(steps[0])
    medians[0] = float(values[0])
    return np.array(middles), np.array(medians)
