"""The loss of a trained flow next to the irreducible variance of the latents that it models.

Only a full covariance has the loss of the best linear model, which a flow can be compared with. A
separable one is not what a linear model can learn, and its loss may be far above.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workbench.analysis.learnability.scaled_latents import ScaledLatents
from workbench.analysis.learnability.velocity_spectra import (
    MIN_IMAGES_PER_DIMENSION,
    full_spectrum,
    has_full_covariance,
    separable_spectrum,
)
from workbench.storage.evidence import Evidence

MAX_SEPARABLE_VALUES = 1 << 24
MIN_IMAGES_PER_CLASS = 2  # with fewer, most of the variance is in the means


@dataclass(frozen=True, eq=False, kw_only=True)
class FlowLoss:
    """Loss of a flow by time, and the irreducible variance at the flow's own scale of latents.

    Attributes
    ----------
    run : str
        Name of the flow.
    times : ndarray of float64, shape (m,)
        From 0, data, to 1, noise; ascending.
    loss : ndarray of float64, shape (m,)
        Mean squared error of the velocity per dimension, on held-out images.
    irreducible : ndarray of float64, shape (m,)
        Irreducible variance of the latents at these times, if they were Gaussian in each class.
    covariance : str
        `full` or `separable`.
    """

    run: str
    times: np.ndarray = field(repr=False)
    loss: np.ndarray = field(repr=False)
    irreducible: np.ndarray = field(repr=False)
    covariance: str

    @property
    def mean_loss(self) -> float:
        """Mean of the loss over the times."""
        return float(self.loss.mean())

    @property
    def bound(self) -> float:
        """Mean of the irreducible variance over the times."""
        return float(self.irreducible.mean())

    @property
    def is_bound(self) -> bool:
        """True if `irreducible` is the loss of the best linear model."""
        return self.covariance == "full"

    @property
    def bound_name(self) -> str:
        """The name of what has the loss `bound`."""
        return "best linear model" if self.is_bound else "separable model, no bound"

    def sentence(self) -> str:
        """State whether the flow has learned more than the covariance, if that can be told."""
        if not self.is_bound:
            return (
                f"The loss of {self.run} is {self.mean_loss:.3g}. Whether it uses more than the"
                f" covariance of the latents cannot be told: that takes {MIN_IMAGES_PER_DIMENSION}"
                " images per dimension."
            )
        comparison = (
            f"the loss of {self.run} is {self.mean_loss:.3g}, that of the best linear model"
            f" {self.bound:.3g}"
        )
        if self.mean_loss > self.bound:
            return (
                f"The flow has not learned the covariance of the latents: {comparison}; it has"
                f" {self.mean_loss - self.bound:.3g} left to learn."
            )
        return f"The flow uses more than the covariance of the latents: {comparison}."


def flow_loss(
    evidences: Sequence[Evidence], latents: ScaledLatents, means: np.ndarray, target: np.ndarray
) -> FlowLoss | None:
    """Return the loss of the first flow that was trained on a tokenizer, if there is one.

    Parameters
    ----------
    evidences : sequence of Evidence
        The tokenizer's evidence, followed by those of other runs.
    latents : ScaledLatents
        Latents of the tokenizer.
    means : ndarray of float, shape (classes, tokens, channels)
        Means of the classes, at the scale of `latents`.
    target : ndarray of int, shape (n,)
        Class of each image.

    Returns
    -------
    FlowLoss or None
        None if no flow of this checkpoint is among the runs, its scale is not recorded, or there
        are fewer than two images per class.
    """
    if len(latents) < MIN_IMAGES_PER_CLASS * len(means):
        return None
    for evidence in evidences[1:]:
        if not _is_flow_of(evidence, evidences[0]):
            continue
        settings = evidence.provenance.get("settings", {})
        scale = [np.asarray(settings.get(name), np.float64) for name in ("mean", "std")]
        if not all(_is_scale(values, latents.channels) for values in scale):
            continue
        return _flow_loss(evidence, latents, means, target, *scale)
    return None


def _flow_loss(
    evidence: Evidence,
    latents: ScaledLatents,
    means: np.ndarray,
    target: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
) -> FlowLoss:
    rescaled = latents.with_scale(mean, std)
    positive = np.where(latents.factor > 0, latents.factor, 1)
    raw_means = means / positive + latents.shift
    rescaled_means = (raw_means - rescaled.shift) * rescaled.factor
    if has_full_covariance(len(latents) - len(means), latents.dimensions):
        spectrum = full_spectrum(rescaled, rescaled_means, target)
        covariance = "full"
    else:
        count = max(2, MAX_SEPARABLE_VALUES // latents.dimensions)
        # Drawn, because images may be in the order of their classes.
        order = np.random.default_rng(0).permutation(len(latents))[:count]
        positions = np.sort(order)
        residuals = rescaled.subset(positions).array() - rescaled_means[target[positions]]
        # The means are those of all images, which take one degree of freedom each.
        share = 1 - len(means) / len(latents)
        spectrum = separable_spectrum(residuals, degrees=round(share * len(positions)))
        covariance = "separable"
    times = np.asarray(evidence.loss_times, np.float64)
    order = np.argsort(times, kind="stable")
    times = times[order]
    return FlowLoss(
        run=evidence.run_name,
        times=times,
        loss=np.asarray(evidence.loss_by_time, np.float64)[order],
        irreducible=spectrum.at(times),
        covariance=covariance,
    )


def _is_flow_of(evidence: Evidence, tokenizer: Evidence) -> bool:
    """Return whether a run is a flow that was trained on this checkpoint of a tokenizer."""
    if evidence.loss_by_time is None or evidence.loss_times is None:
        return False
    if not np.isfinite(evidence.loss_by_time).all() or not len(evidence.loss_by_time):
        return False
    source = evidence.provenance.get("tokenizer") or {"run": ""}
    is_same_step = source.get("step") in (None, tokenizer.step)
    return Path(source["run"]).name == tokenizer.run_name and is_same_step


def _is_scale(values: np.ndarray, channels: int) -> bool:
    return values.shape in ((), (channels,)) and bool(np.isfinite(values).all())
