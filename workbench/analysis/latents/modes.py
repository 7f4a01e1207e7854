"""How many clusters a latent space holds: mixtures of Gaussians judged by images they were not fitted to.

After MAETok (arXiv 2502.03444, section 2), which compares tokenizers by the likelihood of mixtures on flattened,
reduced, standardised latents. Here: held-out likelihood, EM in place of the script's weights that need not sum to one,
a range instead of a number, and the same sweep of Gaussians and of an untrained encoder beside it. A likelihood says
how clusterable latents are, which is a proxy for how many modes they have.
"""

import math
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, Any

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names, flatten_latents
from workbench.analysis.latents.cross_validation import cross_validate_mixtures, mode_grid
from workbench.analysis.latents.mode_assignment import (
    ClassAgreement,
    ModeGallery,
    class_agreement,
    mode_gallery,
    order_by_size,
)
from workbench.analysis.latents.mode_nulls import MIN_IMAGES, reference_clouds
from workbench.analysis.stats.mixtures import Covariance, Mixture
from workbench.analysis.stats.reductions import Preset, reduce_dimensions
from workbench.analysis.stats.sampling import describe_subset, subsample
from workbench.core.errors import UserError

MAX_IMAGES = 5000  # of more, a sample
MIN_RECOVERED_SHARE = (
    0.9  # share of the modes that half the images, or planted ones, show where n is enough
)
MIN_STABILITY = 0.5  # adjusted Rand index under which the fits do not find the same modes


@dataclass(frozen=True, eq=False)
class MixtureModes(Result):
    """How many modes: a best number, a range, the curves they are read off, and the nulls that must answer 1."""

    best: (
        int  # the fewest modes within one paired standard error of the highest held-out likelihood
    )
    low: int  # 5th and 95th percentile of that rule over images drawn again with replacement
    high: int
    bic_best: int  # the lowest BIC of fits to all images
    null_best: int  # the rule's largest answer for Gaussians with the same n, mean and covariance
    untrained_best: int | None  # the rule's answer for the same encoder before training
    half_best: int | None  # the rule's answer for half the images; None where those are too few
    planted_best: (
        int | None
    )  # the rule's answer for n points of the most modes tried, far apart; None for UMAP
    n: int
    of: int  # images in the evidence
    is_stratified: bool  # whether those n were drawn by class
    preset: Preset
    components: int  # dimensions of the points: principal components, or UMAP's
    explained: float  # share of the variance they hold; NaN for UMAP
    covariance: Covariance
    seed: int
    modes: np.ndarray = field(repr=False)  # (m,) numbers of modes that were tried
    loglikelihood: np.ndarray = field(repr=False)  # (n, m) held-out, nats an image
    gain: np.ndarray = field(repr=False)  # (m,) nats an image over one mode, held out
    gain_error: np.ndarray = field(repr=False)  # (m,) its paired standard error
    null_gain: np.ndarray = field(repr=False)  # (draws, m) the same for Gaussians
    untrained_gain: np.ndarray | None = field(repr=False)  # (m,) the same for the untrained encoder
    stability: np.ndarray = field(
        repr=False
    )  # (m,) adjusted Rand index between fits to other images
    bic: np.ndarray = field(repr=False)  # (m,) of a fit to all images; lower is better
    classes: ClassAgreement | None = field(repr=False)  # of assignments with labels
    assignment: np.ndarray = field(
        repr=False
    )  # int (n,): each image's mode, the largest mode first
    image_indices: np.ndarray = field(repr=False)  # int (n,): which images those are
    gallery: ModeGallery | None = field(repr=False)
    warnings: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """One row for each number of modes: likelihood, gains, BIC, agreement, and whether the range holds it."""
        columns = {
            "modes": self.modes,
            "loglikelihood": self.loglikelihood.mean(axis=0),
            "gain": self.gain,
        }
        columns |= {"gain_error": self.gain_error, "null_gain": self.null_gain.mean(axis=0)}
        if self.untrained_gain is not None:
            columns["untrained_gain"] = self.untrained_gain
        columns |= {"bic": self.bic, "stability": self.stability}
        if self.classes is not None:
            columns |= {
                "nmi": self.classes.nmi,
                "shuffled_nmi": self.classes.shuffled_nmi,
                "rand": self.classes.rand,
            }
        inside = (self.low <= self.modes) & (self.modes <= self.high)
        return pd.DataFrame({**columns, "in_range": inside, "best": self.modes == self.best})

    def summary(self) -> str:
        """The range, what it was read off, what the nulls and the classes say, and what to beware of."""
        some = describe_subset(self.n, self.of, stratified=self.is_stratified)
        said = [
            f"{self.range} (90 % range, best {self.best}) by held-out likelihood on {self.basis} of {some},"
            f" preset `{self.preset}`; other presets may answer otherwise.",
            f"BIC takes {self.bic_best}, a Gaussian with the same covariance gives {self.null_best}"
            + (
                f", the encoder before training {self.untrained_best}."
                if self.untrained_best
                else "."
            ),
        ]
        at = self.modes == self.best
        if self.best > 1:
            said.append(
                f"Fits to other images agree on the modes to {self.stability[at][0]:.2f} (adjusted Rand)."
            )
        if self.best > 1 and self.classes is not None:
            nmi, shuffled = self.classes.nmi[at][0], self.classes.shuffled_nmi[at][0]
            said.append(
                f"The modes say {nmi:.2f} of the classes (NMI; {shuffled:.2f} with labels shuffled)."
            )
        return " ".join([*said, *self.warnings])

    @property
    def range(self) -> str:
        """The range in words."""
        if self.high == self.modes[-1]:
            return f"{self.low} or more modes"
        numbers = f"{self.low}" if self.low == self.high else f"{self.low}-{self.high}"
        return f"{numbers} mode{'' if numbers == '1' else 's'}"

    @property
    def basis(self) -> str:
        """The space the modes were counted in, in words."""
        if math.isnan(self.explained):
            return f"UMAP to {self.components} dimensions"
        components = f"{self.components} principal component{'' if self.components == 1 else 's'}"
        return f"{components} ({100 * self.explained:.0f} % of the variance)"


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
    """Count the modes of latents (n, tokens, d), an image a point: reduce, standardise, EM, 5-fold cross-validation.

    `preset` says how latents are reduced; `components` and `covariance` are those of `ours`, the others are diagonal.
    `components` and `most` (the most modes tried) are lowered to what n and the latents' rank allow, with a warning.
    Raises NotApplicable for under 50 images or constant latents, UserError for NaN or labels that are not n.
    """
    of, covariance = len(latents), covariance if preset == "ours" else "diag"
    class_names(labels, (), of)
    places = subsample(of, MAX_IMAGES, np.random.default_rng(seed), labels)
    rows = flatten_latents(latents[places], MIN_IMAGES, "Counting modes")
    points, explained = reduce_dimensions(rows, preset, components, seed)
    modes, before = (
        mode_grid(min(max_modes, len(places) // 10)),
        _of_the_same(untrained_latents, of, places),
    )
    clouds = reference_clouds(rows, points, before, preset, int(modes[-1]), seed)
    numbers, fits = _counted(points, clouds, modes, covariance, seed)
    result = MixtureModes(
        **numbers,
        **_members(fits, numbers["best"], points, places, images, labels, seed),
        n=len(places),
        of=of,
        is_stratified=labels is not None,
        preset=preset,
        components=points.shape[1],
        explained=explained,
        covariance=covariance,
        seed=seed,
        image_indices=places,
        warnings=(),
    )
    return replace(result, warnings=_warnings(result, components, max_modes))


def _counted(
    points: np.ndarray,
    clouds: dict[str, list[np.ndarray]],
    modes: np.ndarray,
    covariance: Covariance,
    seed: int,
) -> tuple[dict[str, Any], list[Mixture]]:
    """The fields of a result that are read off likelihoods, and the fits to all points."""
    (whole, *rest), fits = cross_validate_mixtures(
        [points, *chain(*clouds.values())], modes, covariance, seed
    )
    (low, high), others = whole.range(seed), iter(rest)
    beside = {name: [next(others) for _ in kind] for name, kind in clouds.items()}
    untrained = [one.gain for one in beside["untrained"]]
    bic = np.array([fit.bic(points) for fit in fits])
    best = {
        f"{name}_best": max((one.best for one in kind), default=None)
        for name, kind in beside.items()
    }
    numbers = best | {
        "best": whole.best,
        "low": low,
        "high": high,
        "modes": whole.modes,
        "loglikelihood": whole.likelihood,
        "gain": whole.gain,
        "gain_error": whole.gain_error,
        "null_gain": np.array([one.gain for one in beside["null"]]),
        "untrained_gain": untrained[0] if untrained else None,
        "stability": whole.stability,
        "bic_best": int(modes[bic.argmin()]),
        "bic": bic,
    }
    return numbers, fits


def _members(
    fits: list[Mixture],
    best: int,
    points: np.ndarray,
    image_indices: np.ndarray,
    images: np.ndarray | None,
    labels: np.ndarray | None,
    seed: int,
) -> dict[str, Any]:
    """The fields of a result that say which image is in which mode."""
    assignment, density = order_by_size(next(fit for fit in fits if len(fit.means) == best), points)
    assigned = [fit.assign(points) for fit in fits]
    return {
        "assignment": assignment,
        "classes": None
        if labels is None
        else class_agreement(assigned, np.asarray(labels)[places], seed),
        "gallery": None
        if images is None
        else mode_gallery(images[places], assignment, density, seed),
    }


def _of_the_same(untrained: np.ndarray | None, of: int, places: np.ndarray) -> np.ndarray | None:
    if untrained is not None and len(untrained) != of:
        raise UserError(
            f"There are {len(untrained)} untrained latents for {of} images. Collect the run again."
        )
    return None if untrained is None else untrained[places]


def _warnings(found: MixtureModes, components: int, max_modes: int) -> tuple[str, ...]:
    tried, at = int(found.modes[-1]), found.modes == found.best
    unsteady = found.best > 1 and found.stability[at][0] < MIN_STABILITY
    alike = found.untrained_best is not None and found.low <= found.untrained_best <= found.high
    said = {
        f"Only {found.components} of {components} components: n and the latents' rank allow no more.": (
            found.preset == "ours" and found.components < components
        ),
        f"The components hold only {100 * found.explained:.0f} % of the variance.": found.explained
        < 0.9,
        f"No more than {tried} modes were tried, with {found.n} images.": tried < max_modes,
        f"The range touches {tried}, the most that was tried: there may be more.": max(
            found.best, found.high
        )
        >= tried,
        f"With half the images the answer is {found.half_best}: more images may show more modes.": (
            found.half_best is not None and found.half_best < MIN_RECOVERED_SHARE * found.low
        ),
        f"{tried} modes planted far apart in as many images are counted as {found.planted_best}: more may go unseen.": (
            found.planted_best is not None and found.planted_best < MIN_RECOVERED_SHARE * tried
        ),
        "Those fits hardly agree: the number of modes is surer than which image is in which.": unsteady,
        "A Gaussian, which has one mode, is given more: do not read the number as modes.": found.null_best
        > 1,
        "The encoder before training answers alike: the number says little of what was learnt.": alike,
        "UMAP saw the images that judge, and makes clumps of any cloud.": found.preset
        == "released script",
    }
    return tuple(sentence for sentence, true in said.items() if true)
