"""Number of modes of a latent space: Gaussian mixtures, evaluated on held-out images.

The analysis follows MAETok (section 2), which compares tokenizers by the likelihood of mixtures on
flattened, reduced and standardized latents. Differences from the paper and its script: the
likelihood is held out, the mixtures are fitted by EM (the weights of the script need not sum to
one), the result is a range instead of a number, and the same sweep of Gaussians and of an untrained
encoder is reported next to it. A likelihood measures how clusterable latents are, which is a proxy
for the number of modes.

References
----------
Chen et al. (2025), MAETok, arXiv 2502.03444, section 2.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names, flatten_latents
from workbench.analysis.latents.cross_validation import (
    CrossValidatedSweep,
    cross_validate_mixtures,
    mode_grid,
)
from workbench.analysis.latents.mode_assignment import (
    ClassAgreement,
    ModeGallery,
    class_agreement,
    mode_gallery,
    order_by_size,
)
from workbench.analysis.latents.mode_nulls import MIN_IMAGES, ReferenceClouds, reference_clouds
from workbench.analysis.stats.mixtures import Covariance, Mixture
from workbench.analysis.stats.reductions import Preset, reduce_dimensions
from workbench.analysis.stats.sampling import (
    Subset,
    affordable_images,
    describe_subset,
    rows_at,
    subsample,
)
from workbench.core.counted import counted
from workbench.core.errors import UserError

MAX_IMAGES = 5000  # a sample is drawn from more
# Share of the modes that half of the images, or planted modes, show if n is large enough.
MIN_RECOVERED_SHARE = 0.9
MIN_STABILITY = 0.5  # adjusted Rand index below which the fits find different modes
MIN_EXPLAINED_VARIANCE = 0.9  # below which a warning is shown


@dataclass(frozen=True, eq=False, kw_only=True)
class MixtureModes(Result):
    """Number of modes: an estimate, its range, the curves behind it, and its nulls.

    Attributes
    ----------
    best : int
        Fewest modes within one paired standard error of the highest held-out likelihood.
    low, high : int
        5th and 95th percentile of `best` over bootstrap samples of the images.
    bic_best : int
        Number of modes with the lowest BIC, fitted to all images.
    null_best : int
        Largest `best` of Gaussians with the same n, mean and covariance. It should be 1.
    untrained_best : int or None
        `best` of the same encoder before training.
    half_best : int or None
        `best` of half of the images; None if those are too few.
    planted_best : int or None
        `best` of n points of well-separated modes, as many as were tried; None for UMAP.
    n : int
        Number of images that were measured.
    of : int
        Number of images in the evidence.
    is_stratified : bool
        Whether a sample of the images was stratified by class.
    preset : {"ours", "paper text", "released script"}
        Preset of covariance, dimensions and criterion.
    components : int
        Number of dimensions after the reduction.
    explained : float
        Share of the variance in these dimensions; NaN for UMAP.
    covariance : {"diag", "full", "tied"}
        Shape of the covariances: diagonal, full, or one full covariance that all modes share
        (tied).
    seed : int
        Seed of the random draws.
    modes : ndarray of int, shape (m,)
        Numbers of modes that were tried.
    loglikelihood : ndarray of float, shape (n, m)
        Held-out log-density, in nats per image.
    gain : ndarray of float, shape (m,)
        Mean gain in log-density over one mode, in nats per image.
    gain_error : ndarray of float, shape (m,)
        Paired standard error of the gain.
    null_gain : ndarray of float, shape (draws, m)
        Gain of the Gaussians.
    untrained_gain : ndarray of float, shape (m,), or None
        Gain of the untrained encoder.
    stability : ndarray of float, shape (m,)
        Mean adjusted Rand index between fits to different images.
    bic : ndarray of float, shape (m,)
        BIC of the fit to all images; lower is better.
    classes : ClassAgreement or None
        Agreement of the assignments with the labels.
    assignment : ndarray of int, shape (n,)
        Mode of each image; mode 0 is the largest.
    image_indices : ndarray of int, shape (n,)
        Indices of the images that were measured.
    gallery : ModeGallery or None
        Example images per mode.
    warnings : tuple of str
        Sentences on the limits of the estimate.
    """

    best: int
    low: int
    high: int
    bic_best: int
    null_best: int
    untrained_best: int | None
    half_best: int | None
    planted_best: int | None
    n: int
    of: int
    is_stratified: bool
    preset: Preset
    components: int
    explained: float
    covariance: Covariance
    seed: int
    modes: np.ndarray = field(repr=False)
    loglikelihood: np.ndarray = field(repr=False)
    gain: np.ndarray = field(repr=False)
    gain_error: np.ndarray = field(repr=False)
    null_gain: np.ndarray = field(repr=False)
    untrained_gain: np.ndarray | None = field(repr=False)
    stability: np.ndarray = field(repr=False)
    bic: np.ndarray = field(repr=False)
    classes: ClassAgreement | None = field(repr=False)
    assignment: np.ndarray = field(repr=False)
    image_indices: np.ndarray = field(repr=False)
    gallery: ModeGallery | None = field(repr=False)
    warnings: tuple[str, ...]

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return Subset.if_partial(self.n, self.of, stratified=self.is_stratified)

    def table(self) -> pd.DataFrame:
        """Return one row per number of modes: likelihood, gains, BIC, agreement, range."""
        columns = {
            "modes": self.modes,
            "loglikelihood": self.loglikelihood.mean(axis=0),
            "gain": self.gain,
            "gain_error": self.gain_error,
            "null_gain": self.null_gain.mean(axis=0),
        }
        if self.untrained_gain is not None:
            columns["untrained_gain"] = self.untrained_gain
        columns["bic"] = self.bic
        columns["stability"] = self.stability
        if self.classes is not None:
            columns["nmi"] = self.classes.nmi
            columns["shuffled_nmi"] = self.classes.shuffled_nmi
            columns["rand"] = self.classes.rand
        columns["in_range"] = (self.low <= self.modes) & (self.modes <= self.high)
        columns["best"] = self.modes == self.best
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Return the range, its basis, the nulls, the agreement with classes, and warnings."""
        sample = describe_subset(self.n, self.of, stratified=self.is_stratified)
        references = f"BIC selects {self.bic_best}; a Gaussian of the same covariance has"
        references += f" {self.null_best} by the same rule"
        if self.untrained_best is not None:
            references += f", the untrained encoder {self.untrained_best}"
        sentences = [
            f"{self.range_text} (90 % range, best {self.best}) by held-out likelihood, in"
            f" {self.basis} of {sample}. Other presets may give other counts.",
            f"{references}.",
        ]
        is_best = self.modes == self.best
        if self.best > 1:
            sentences.append(
                f"Fits to different images agree on the modes to {self.stability[is_best][0]:.2f}"
                " (adjusted Rand index)."
            )
        if self.best > 1 and self.classes is not None:
            nmi, shuffled = self.classes.nmi[is_best][0], self.classes.shuffled_nmi[is_best][0]
            sentences.append(
                f"Modes and classes have a normalized mutual information of {nmi:.2f}"
                f" ({shuffled:.2f} with shuffled labels)."
            )
        return " ".join([*sentences, *self.warnings])

    @property
    def range_text(self) -> str:
        """The range in words, for example `3-5 modes`."""
        if self.high == self.modes[-1]:
            return f"{self.low} or more modes"
        if self.low == self.high:
            return counted(self.low, "mode")
        return f"{self.low}-{self.high} modes"

    @property
    def basis(self) -> str:
        """The space in which modes were counted, in words."""
        if math.isnan(self.explained):
            return f"UMAP with {self.components} dimensions"
        noun = "principal component" if self.components == 1 else "principal components"
        return f"{self.components} {noun} ({100 * self.explained:.0f} % of the variance)"


def mixture_modes(
    latents: np.ndarray,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    untrained_latents: np.ndarray | None = None,
    *,
    preset: Preset = "ours",
    components: Annotated[int, Range(2, 64)] = 16,
    max_modes: Annotated[int, Range(2, 64)] = 24,
    covariance: Covariance = "diag",
    seed: Annotated[int, Range(0, 999)] = 0,
) -> MixtureModes:
    """Count the modes of latents by Gaussian mixtures and five-fold cross-validation.

    The latents of an image are concatenated to one point. The points are reduced to a few
    dimensions of variance 1, and mixtures of every number of modes are fitted by EM. At most 5,000
    images with 2^24 numbers are used.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    images : ndarray of uint8, shape (n, h, w, c), optional
        Adds example images of each mode.
    labels : ndarray of int, shape (n,), optional
        Adds the agreement of modes and classes. Samples are stratified by it.
    untrained_latents : ndarray of float, shape (n, tokens, d), optional
        Latents of the same encoder before training, as a reference.
    preset : {"ours", "paper text", "released script"}
        Reduction of the latents: a fixed number of principal components, as many as explain 90 %
        of the variance, or UMAP.
    components : int
        Number of principal components of the preset `ours`. It is reduced, with a warning, to
        what n and the rank of the latents allow.
    max_modes : int
        Largest number of modes to try. It is reduced, with a warning, to a tenth of n.
    covariance : {"diag", "full", "tied"}
        Form of the covariances of the preset `ours`; the other presets use `diag`.
    seed : int
        Seed of all random draws.

    Returns
    -------
    MixtureModes
        The number of modes with its range, the nulls and the assignment of images.

    Raises
    ------
    NotApplicable
        If there are fewer than 50 images, or the latents are constant.
    UserError
        If a latent is NaN or infinite, or the number of labels or untrained latents is not n.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> latents = random.normal(size=(200, 1, 2)) + 10 * random.integers(0, 2, (200, 1, 1))
    >>> mixture_modes(latents, components=2, max_modes=3).best
    2
    """
    if preset != "ours":
        covariance = "diag"
    class_names(labels, (), len(latents))
    max_images = affordable_images(int(np.prod(latents.shape[1:])), MAX_IMAGES)
    indices = subsample(len(latents), max_images, np.random.default_rng(seed), labels)
    rows = flatten_latents(rows_at(latents, indices), MIN_IMAGES, "Counting modes")
    points, explained = reduce_dimensions(rows, preset, components, seed)
    modes = mode_grid(min(max_modes, len(indices) // 10))
    untrained = _untrained_sample(untrained_latents, len(latents), indices)
    clouds = reference_clouds(rows, points, untrained, preset, int(modes[-1]), seed)
    sweeps, fits = _cross_validate(points, clouds, modes, covariance, seed)

    main = sweeps.main
    low, high = main.range(seed)
    bic = np.array([fit.bic(points) for fit in fits])
    best_fit = next(fit for fit in fits if len(fit.means) == main.best)
    assignment, density = order_by_size(best_fit, points)
    classes = None
    if labels is not None:
        assignments = [fit.assign(points) for fit in fits]
        classes = class_agreement(assignments, np.asarray(labels)[indices], seed)
    result = MixtureModes(
        best=main.best,
        low=low,
        high=high,
        bic_best=int(modes[bic.argmin()]),
        null_best=max(sweep.best for sweep in sweeps.null),
        untrained_best=sweeps.untrained.best if sweeps.untrained else None,
        half_best=sweeps.half.best if sweeps.half else None,
        planted_best=sweeps.planted.best if sweeps.planted else None,
        n=len(indices),
        of=len(latents),
        is_stratified=labels is not None,
        preset=preset,
        components=points.shape[1],
        explained=explained,
        covariance=covariance,
        seed=seed,
        modes=main.modes,
        loglikelihood=main.likelihood,
        gain=main.gain,
        gain_error=main.gain_error,
        null_gain=np.array([sweep.gain for sweep in sweeps.null]),
        untrained_gain=sweeps.untrained.gain if sweeps.untrained else None,
        stability=main.stability,
        bic=bic,
        classes=classes,
        assignment=assignment,
        image_indices=indices,
        gallery=None
        if images is None
        else mode_gallery(images, indices, assignment, density, seed),
        warnings=(),
    )
    return replace(result, warnings=_warnings(result, components, max_modes))


@dataclass(frozen=True, eq=False)
class _Sweeps:
    """The sweeps of the latents and of the reference clouds."""

    main: CrossValidatedSweep
    null: tuple[CrossValidatedSweep, ...]
    untrained: CrossValidatedSweep | None
    half: CrossValidatedSweep | None
    planted: CrossValidatedSweep | None


def _cross_validate(
    points: np.ndarray,
    clouds: ReferenceClouds,
    modes: np.ndarray,
    covariance: Covariance,
    seed: int,
) -> tuple[_Sweeps, list[Mixture]]:
    """Cross-validate all clouds at once; return the sweeps and the fits to all points."""
    optional = {"untrained": clouds.untrained, "half": clouds.half, "planted": clouds.planted}
    present = {name: cloud for name, cloud in optional.items() if cloud is not None}
    sweeps, fits = cross_validate_mixtures(
        [points, *clouds.null, *present.values()], modes, covariance, seed
    )
    num_null = len(clouds.null)
    by_name = dict(zip(present, sweeps[1 + num_null :], strict=True))
    result = _Sweeps(
        main=sweeps[0],
        null=tuple(sweeps[1 : 1 + num_null]),
        untrained=by_name.get("untrained"),
        half=by_name.get("half"),
        planted=by_name.get("planted"),
    )
    return result, fits


def _untrained_sample(
    untrained: np.ndarray | None, n: int, indices: np.ndarray
) -> np.ndarray | None:
    if untrained is None:
        return None
    if len(untrained) != n:
        raise UserError(
            f"There are {len(untrained)} untrained latents for {n} images. Collect the run again."
        )
    return untrained[indices]


def _warnings(result: MixtureModes, components: int, max_modes: int) -> tuple[str, ...]:
    return (*_setup_warnings(result, components, max_modes), *_reference_warnings(result))


def _setup_warnings(result: MixtureModes, components: int, max_modes: int) -> list[str]:
    """Return warnings about the number of components, modes and images."""
    num_tried = int(result.modes[-1])
    sentences = []
    if result.preset == "ours" and result.components < components:
        sentences.append(
            f"Only {result.components} of {components} components were used: n and the rank of the"
            " latents allow no more."
        )
    if result.explained < MIN_EXPLAINED_VARIANCE:
        sentences.append(
            f"The components explain only {100 * result.explained:.0f} % of the variance."
        )
    if num_tried < max_modes:
        sentences.append(
            f"At most {num_tried} modes were tried, because there are {result.n} images."
        )
    if max(result.best, result.high) >= num_tried:
        sentences.append(
            f"The range reaches {num_tried}, the largest number tried: there may be more modes."
        )
    return sentences


def _reference_warnings(result: MixtureModes) -> list[str]:
    """Return warnings from the comparison with the reference clouds."""
    num_tried = int(result.modes[-1])
    sentences = []
    if result.half_best is not None and result.half_best < MIN_RECOVERED_SHARE * result.low:
        sentences.append(
            f"Half of the images give {result.half_best}: more images may show more modes."
        )
    if result.planted_best is not None and result.planted_best < MIN_RECOVERED_SHARE * num_tried:
        sentences.append(
            f"Of {num_tried} well-separated modes in as many images, {result.planted_best} are"
            " detected: there may be more modes than were counted."
        )
    if result.best > 1 and result.stability[result.modes == result.best][0] < MIN_STABILITY:
        sentences.append("The fits disagree: trust the number of modes more than the assignments.")
    if result.null_best > 1:
        sentences.append(
            "A Gaussian, which has one mode, is counted as more: do not interpret the number."
        )
    if result.untrained_best is not None and result.low <= result.untrained_best <= result.high:
        sentences.append(
            "An untrained encoder gives a count in the same range, so the count says little about"
            " what was learned."
        )
    if result.preset == "released script":
        sentences.append(
            "UMAP was fitted to the held-out images too, and it forms clusters in any data."
        )
    return sentences
