"""Velocity irreducible variance: the part of a flow's target that no model can predict.

It is a loss, computed from the covariance of the latents, before any generator is trained. Bad
latents can have low values, too: constant latents have 0. For latents that are not Gaussian, it
is an upper bound of the irreducible variance, because a linear prediction reaches it.

Estimators are never compared with each other:

- *by class*: a covariance of tokens times one of channels, fitted to each class;
- *pooled*: one full covariance within all classes;
- *label-free*: one separable covariance of all images, and a full one if there are ten images
  per dimension.

References
----------
arXiv 2606.03578 (2026).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range
from workbench.analysis.inputs import class_names
from workbench.analysis.learnability.flow_loss import FlowLoss, flow_loss
from workbench.analysis.learnability.latents_result import LatentsResult
from workbench.analysis.learnability.scaled_latents import ScaledLatents, Scaling
from workbench.analysis.learnability.variance_shares import (
    VarianceShares,
    class_means,
    variance_shares,
)
from workbench.analysis.learnability.velocity_spectra import (
    MAX_FULL_DIMENSIONS,
    MAX_IMAGES_PER_CLASS,
    MAX_SEPARABLE_IMAGES,
    MIN_IMAGES_PER_DIMENSION,
    WHITE_NOISE,
    Spectrum,
    average_spectra,
    full_spectrum,
    has_full_covariance,
    irreducible_variance,
    separable_spectrum,
)
from workbench.analysis.perspectives import NAN, Conditions, Perspective
from workbench.storage.evidence import Evidence

MIN_IMAGES = 20
NUM_TIMES = 51
BAND = (10, 90)  # percentiles over classes
# Vectors of a class per dimension of each factor of its covariance. The roots of the eigenvalues
# are then about 3 % too small: each factor's by an eighth of the inverse (Marchenko and Pastur).
MIN_VECTORS_PER_DIMENSION = 12
BY_CLASS, POOLED = "by class", "pooled"
LABEL_FREE, LABEL_FREE_FULL = "label-free", "label-free, full"
PUBLISHED = (
    "arXiv 2606.03578: |r| .79 to .90 with gFID within families of one shape and reconstruction."
)
NOT_TESTED = "Not tested in any paper."


@dataclass(frozen=True, eq=False, kw_only=True)
class VarianceEstimate:
    """Irreducible variance of the velocity by one estimator.

    Attributes
    ----------
    name : str
        `by class`, `pooled`, `label-free` or `label-free, full`.
    covariance : str
        `full` or `separable`.
    spectrum : Spectrum
        Eigenvalues of the covariance.
    """

    name: str
    covariance: str
    spectrum: Spectrum

    @property
    def value(self) -> float:
        """Irreducible variance per number."""
        return self.spectrum.variance_per_dimension

    @property
    def total(self) -> float:
        """Irreducible variance of a whole image: the value times the number of dimensions."""
        return self.value * len(self.spectrum.eigenvalues)


@dataclass(frozen=True, eq=False, kw_only=True)
class VelocityVariance(LatentsResult):
    """Irreducible variance of the velocity, its curve over time, and the shares of the variance.

    Attributes
    ----------
    estimates : tuple of VarianceEstimate
        By class, pooled, label-free, and label-free with a full covariance; those that the
        evidence allows.
    shares : VarianceShares
        Shares of the variance.
    times : ndarray of float64, shape (m,)
        From 0, data, to 1, noise.
    class_curve : ndarray of float64, shape (m,)
        Mean over classes of the variance at these times; empty without labels.
    class_low, class_high : ndarray of float64, shape (m,)
        10th and 90th percentile over classes.
    flow : FlowLoss or None
        Loss of a flow that was trained on these latents, and the curve at its own scale.
    missing_by_class : str
        Reason why there is no estimate by class, as a sentence; empty if there is one.
    notes : tuple of str
        Reasons for missing estimates, one sentence each.
    classes : int
        Number of classes; 0 without labels.
    center_positions : bool
        Whether the mean of each token position was subtracted.
    """

    estimates: tuple[VarianceEstimate, ...]
    shares: VarianceShares
    times: np.ndarray = field(repr=False)
    class_curve: np.ndarray = field(repr=False)
    class_low: np.ndarray = field(repr=False)
    class_high: np.ndarray = field(repr=False)
    flow: FlowLoss | None
    missing_by_class: str
    notes: tuple[str, ...]
    classes: int
    center_positions: bool

    @property
    def dimensions(self) -> int:
        """Dimensions per image."""
        return self.tokens * self.channels

    def get(self, name: str) -> VarianceEstimate | None:
        """Return an estimate by its name; None if the evidence does not allow it."""
        return next((e for e in self.estimates if e.name == name), None)

    @property
    def label_free(self) -> VarianceEstimate:
        """The separable estimate without classes, which always exists."""
        return next(estimate for estimate in self.estimates if estimate.name == LABEL_FREE)

    @property
    def entanglement(self) -> float:
        """By class over pooled: 1 if tokens and channels vary separately; NaN without both."""
        by_class, pooled = self.get(BY_CLASS), self.get(POOLED)
        if by_class is None or pooled is None or not pooled.value:
            return float("nan")
        return by_class.value / pooled.value

    def perspectives(self) -> tuple[Perspective, ...]:
        """Return the variance per number and in total, the entanglement, and the shares."""
        return (
            self._variance(self.get(BY_CLASS), "VIV", per_dimension=True),
            self._variance(self.label_free, "VIV total", per_dimension=False),
            *self._entanglement(),
            *self._shares(),
        )

    def table(self) -> pd.DataFrame:
        """Return one row per quantity: variances with intervals, entanglement, shares, the flow."""
        rows = []
        for estimate in self.estimates:
            low, high = estimate.spectrum.interval
            rows += [
                {
                    "measure": f"VIV, {estimate.name}",
                    "value": estimate.value,
                    "low": low,
                    "high": high,
                    "null": WHITE_NOISE,
                    "covariance": estimate.covariance,
                    "images": estimate.spectrum.images,
                },
                {
                    "measure": f"VIV total, {estimate.name}",
                    "value": estimate.total,
                    "low": low * self.dimensions,
                    "high": high * self.dimensions,
                    "null": WHITE_NOISE * self.dimensions,
                    "covariance": estimate.covariance,
                    "images": estimate.spectrum.images,
                },
            ]
        rows += [
            {"measure": "entanglement", "value": self.entanglement, "null": 1.0},
            {"measure": "share of position means", "value": self.shares.position, "null": 0.0},
            {
                "measure": "share of classes",
                "value": self.shares.class_,
                "null": self.shares.class_null,
            },
            {"measure": "share within", "value": self.shares.within},
        ]
        if self.flow is not None:
            rows.append({"measure": f"loss of {self.flow.run}", "value": self.flow.mean_loss})
            rows.append(
                {"measure": f"loss of the {self.flow.bound_name}", "value": self.flow.bound}
            )
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State the variance, the shares, and what a flow has left to learn."""
        estimate = self.estimates[0]
        sentences = [
            f"The irreducible variance of the velocity is {estimate.value:.3g} per dimension"
            f" ({estimate.name}; white noise: {WHITE_NOISE:.3g}) and"
            f" {self.label_free.total:,.4g} per image of {self.dimensions:,} dimensions"
            f" ({LABEL_FREE}).",
            self._shares_sentence(),
        ]
        if np.isfinite(self.entanglement):
            sentences.append(f"The entanglement of tokens and channels is {self.entanglement:.2f}.")
        if self.flow is not None:
            sentences.append(self.flow.sentence())
        return " ".join([*sentences, *self.notes]) + self.remarks()

    def _shares_sentence(self) -> str:
        share = self.shares
        if np.isnan(share.class_):
            return f"Position means account for {100 * share.position:.1f} % of the variance."
        return (
            f"Position means account for {100 * share.position:.1f} % of the variance, class means"
            f" for {100 * share.class_:.1f} % (shuffled labels: {100 * share.class_null:.1f} %),"
            f" and differences within classes for {100 * share.within:.1f} %."
        )

    def _variance(
        self, estimate: VarianceEstimate | None, name: str, *, per_dimension: bool
    ) -> Perspective:
        if estimate is None:
            return Perspective(
                name=name,
                meaning="variance of a flow's velocity that is left by a separable model",
                value=NAN,
                reason=self.missing_by_class,
                conditions=self._scale_conditions(),
            )
        factor = 1 if per_dimension else self.dimensions
        unit = "per dimension" if per_dimension else "per image"
        low, high = estimate.spectrum.interval
        conditions: Conditions = (
            ("estimator", f"{estimate.name}, {estimate.covariance}"),
            *self._scale_conditions(),
        )
        # The bias of a separable covariance depends on its shape, not only on its size.
        size: Conditions = (
            ("dimensions per image", f"{self.dimensions:,}"),
            ("tokens × channels", f"{self.tokens} × {self.channels}"),
        )
        return Perspective(
            name=name,
            meaning="variance of a flow's velocity that is left by a model of"
            f" {estimate.covariance} covariance, {unit}",
            value=factor * estimate.value,
            low=factor * low,
            high=factor * high,
            null=factor * WHITE_NOISE,
            null_case="white noise",
            better="lower" if per_dimension else None,
            reason=PUBLISHED if per_dimension else NOT_TESTED,
            conditions=(*size, *conditions) if per_dimension else conditions,
        )

    def _entanglement(self) -> list[Perspective]:
        if not np.isfinite(self.entanglement):
            return []
        return [
            Perspective(
                name="entanglement",
                meaning="VIV of a separable covariance over that of a full one",
                value=self.entanglement,
                null=1.0,
                null_case="white noise",
                reason=NOT_TESTED,
                conditions=(("tokens", str(self.tokens)), *self._scale_conditions()),
            )
        ]

    def _shares(self) -> list[Perspective]:
        position = Perspective(
            name="position share",
            meaning="share of the variance of a mean vector per token position",
            value=self.shares.position,
            null=0.0,
            null_case="equal means",
            reason="Position means raise other measures without being structure of the images.",
            conditions=self._scale_conditions(),
        )
        if np.isnan(self.shares.class_):
            return [position]
        class_ = Perspective(
            name="class share",
            meaning="share of the variance of class means, less that of shuffled labels",
            value=self.shares.class_ - self.shares.class_null,
            null=0.0,
            null_case="shuffled labels",
            reason=NOT_TESTED,
            conditions=(("classes", str(self.classes)), *self._scale_conditions()),
        )
        return [class_, position]

    def _scale_conditions(self) -> Conditions:
        position_means = "removed" if self.center_positions else "kept"
        return (("scaling", self.scaling), ("position means", position_means))


def velocity_variance(
    latents: np.ndarray,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    active: np.ndarray | None = None,
    evidences: Sequence[Evidence] = (),
    *,
    center_positions: bool = False,
    scaling: Scaling = "by channel",
    max_images: Annotated[int, Range(500, 50_000, 500)] = 20_000,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> VelocityVariance:
    """Compute the irreducible variance of a flow's velocity from the covariance of the latents.

    For Gaussian latents with eigenvalues l_i of the covariance, it is (pi / 2) sum_i sqrt(l_i): the
    loss of the best possible flow, integrated over time. For other latents, it is an upper bound
    of the irreducible variance. White noise has pi / 2 per dimension.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    labels : ndarray of int, shape (n,), optional
        Classes, which a generator is conditioned on.
    names : tuple of str
        Names of the classes.
    active : ndarray of bool, shape (n, tokens), optional
        Tokens that the decoder reads. The prefix that 95 % of the images have is measured.
    evidences : sequence of Evidence
        The tokenizer's evidence first. The loss of the first flow that was trained on it is drawn
        next to the curve.
    center_positions : bool
        Subtract the mean of each token position first, and scale again.
    scaling : {"by channel", "all alike"}
        Scale each channel, or all channels together, to variance 1.
    max_images : int
        Number of images to draw, stratified by class, if there are more.
    seed : int
        Seed of the images that are drawn.

    Returns
    -------
    VelocityVariance
        Estimates by class, pooled and without labels, and the shares of the variance.

    Raises
    ------
    NotApplicable
        If there are fewer than 20 images, or the latents are constant.
    UserError
        If a latent is NaN or infinite, or the number of labels is not n.

    References
    ----------
    arXiv 2606.03578 (2026).

    Examples
    --------
    >>> latents = np.random.default_rng(0).normal(size=(1000, 4, 4))
    >>> round(velocity_variance(latents).label_free.value, 2)  # pi / 2 for white noise
    1.57
    """
    class_names(labels, names, len(latents))
    scaled = ScaledLatents.create(
        latents,
        active,
        purpose="Velocity variance",
        min_images=MIN_IMAGES,
        max_images=max_images,
        labels=labels,
        scaling=scaling,
        seed=seed,
    )
    if center_positions:
        scaled = scaled.centered_by_position()
    target, sizes = _classes(scaled, labels)
    # Without labels there is one class, whose means are those of the positions.
    means = class_means(scaled, target, len(sizes))
    times = np.linspace(0, 1, NUM_TIMES)
    spectra: list[Spectrum] = []
    notes = ["There is no estimate by class: the images have no labels."]
    if labels is not None:
        spectra, notes = _class_spectra(scaled, target, sizes)
    estimates, reasons = _estimates(scaled, means, target, spectra, seed)
    flow = flow_loss(evidences, scaled, means, target)
    curves = np.array([spectrum.at(times) for spectrum in spectra])
    low, high = np.percentile(curves, BAND, axis=0) if spectra else (np.zeros(0), np.zeros(0))
    weights = [spectrum.images for spectrum in spectra]
    return VelocityVariance(
        estimates=tuple(estimates),
        shares=variance_shares(
            scaled, None if labels is None else means, None if labels is None else sizes
        ),
        times=times,
        class_curve=np.average(curves, axis=0, weights=weights) if spectra else np.zeros(0),
        class_low=low,
        class_high=high,
        flow=flow,
        missing_by_class="" if spectra else notes[0],
        notes=(*notes, *reasons),
        images=len(scaled),
        of=len(latents),
        selection=scaled.selection,
        tokens=scaled.tokens,
        channels=scaled.channels,
        constant_channels=scaled.constant_channels,
        classes=len(sizes) if labels is not None else 0,
        scaling=scaling,
        center_positions=center_positions,
    )


def white_noise_curve(times: np.ndarray) -> np.ndarray:
    """Return the irreducible variance of white noise at these times, per dimension."""
    return irreducible_variance(np.ones(1), times)


def _classes(latents: ScaledLatents, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each image, and the number of images of each class."""
    if labels is None:
        return np.zeros(len(latents), np.int64), np.array([len(latents)])
    measured = np.asarray(labels)[latents.images]
    _, target, sizes = np.unique(measured, return_inverse=True, return_counts=True)
    return target, sizes


def _class_spectra(
    latents: ScaledLatents, target: np.ndarray, sizes: np.ndarray
) -> tuple[list[Spectrum], list[str]]:
    """Return the separable spectrum of each class with enough images, and notes about them."""
    vectors = min(latents.tokens / latents.channels, latents.channels / latents.tokens)
    min_images = math.ceil(MIN_VECTORS_PER_DIMENSION / vectors)
    order = np.argsort(target, kind="stable")
    ends = np.cumsum(sizes)
    spectra = []
    for start, end in zip(ends - sizes, ends, strict=True):
        positions = np.sort(order[start:end])[:MAX_IMAGES_PER_CLASS]
        if len(positions) < min_images:
            continue
        residuals = latents.subset(positions).array()
        spectra.append(separable_spectrum(residuals - residuals.mean(axis=0)))
    notes = []
    shape = f"{latents.tokens} tokens of {latents.channels} channels"
    if not spectra:
        available = f"the largest has {sizes.max()}"
        if min_images > MAX_IMAGES_PER_CLASS:
            available = f"at most {MAX_IMAGES_PER_CLASS} are used"
        notes.append(
            f"There is no estimate by class: {shape} need {min_images} images of a class, and"
            f" {available}."
        )
    elif len(spectra) < len(sizes):
        skipped = len(sizes) - len(spectra)
        notes.append(f"{skipped} classes under {min_images} images are skipped.")
    return spectra, notes


def _estimates(
    latents: ScaledLatents,
    means: np.ndarray,
    target: np.ndarray,
    spectra: list[Spectrum],
    seed: int,
) -> tuple[list[VarianceEstimate], list[str]]:
    """Return the estimates that the number of images allows, and the reasons for missing ones."""
    estimates, notes = [], []
    if spectra:
        spectrum = average_spectra(spectra)
        estimates.append(VarianceEstimate(name=BY_CLASS, covariance="separable", spectrum=spectrum))
    if len(means) > 1 and has_full_covariance(len(latents) - len(means), latents.dimensions):
        spectrum = full_spectrum(latents, means, target)
        estimates.append(VarianceEstimate(name=POOLED, covariance="full", spectrum=spectrum))
    elif len(means) > 1:
        notes.append(
            f"Entanglement needs {MIN_IMAGES_PER_DIMENSION} images per dimension and at most"
            f" {MAX_FULL_DIMENSIONS:,} dimensions; there are {len(latents):,} images for"
            f" {latents.dimensions:,}."
        )
    estimates += _label_free(latents, seed)
    return estimates, notes


def _label_free(latents: ScaledLatents, seed: int) -> list[VarianceEstimate]:
    order = np.random.default_rng(seed).permutation(len(latents))[: _max_separable(latents)]
    residuals = latents.subset(np.sort(order)).array()
    spectrum = separable_spectrum(residuals - residuals.mean(axis=0))
    estimates = [VarianceEstimate(name=LABEL_FREE, covariance="separable", spectrum=spectrum)]
    if has_full_covariance(len(latents) - 1, latents.dimensions):
        position_means = (latents.position_mean - latents.shift) * latents.factor
        target = np.zeros(len(latents), np.int64)
        spectrum = full_spectrum(latents, position_means[None], target)
        estimates.append(
            VarianceEstimate(name=LABEL_FREE_FULL, covariance="full", spectrum=spectrum)
        )
    return estimates


def _max_separable(latents: ScaledLatents) -> int:
    """Return the number of images of a separable fit, whose arrays stay below 128 MiB."""
    return max(MIN_IMAGES, min(MAX_SEPARABLE_IMAGES, (1 << 24) // latents.dimensions))
