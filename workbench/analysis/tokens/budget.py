"""Reconstruction quality against cost (tokens, bits, or the work of a generator), for many runs.

A run contributes a point for the number of tokens it was trained with. If its decoder supports
prefixes, it also contributes a point per prefix. If it is adaptive, it contributes a point per
requested error, next to that of a perfect halting of the same decoder.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from workbench.analysis.base import LeftOutRun, Result
from workbench.analysis.inputs import require_array
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.tokens.cost import bits_per_token, generator_gmacs
from workbench.analysis.tokens.halting import perfect_halting
from workbench.analysis.tokens.metrics import (
    FEATURE_METRICS,
    QUALITY_METRICS,
    Estimate,
    Quality,
    has_metric,
    metric_label,
    prefix_qualities,
    real_image_distance,
    reconstruction_quality,
)
from workbench.core.errors import NotApplicable
from workbench.core.progress import report_progress
from workbench.storage.evidence import Evidence

Cost = Literal["tokens", "bits", "bits per pixel", "GMACs"]
Kind = Literal["all tokens", "prefix", "adaptive", "perfect"]
KINDS: tuple[Kind, ...] = ("all tokens", "prefix", "adaptive", "perfect")
MAX_NAMED_RUNS = 5


@dataclass(frozen=True)
class BudgetPoint:
    """One run at one number of tokens."""

    run: str
    tokenizer: str  # name of its class without the module; of the run if it was trained elsewhere
    # "all tokens": as trained; "prefix": with the first tokens only; "adaptive": with as many
    # tokens as an image needs; "perfect": with the fewest that meet a request, which is a bound.
    kind: Kind
    tokens: float  # mean over images
    value: float  # the metric: its mean over images, or of the set
    low: float  # 95 % interval: bootstrap of the mean, or half samples of the set
    high: float
    bits: float  # of the codes of an image: tokens * log2(codebook size); NaN if not discrete
    pixels: int  # of an image
    gmacs: float  # of one SiT-XL pass over the tokens, mean over images
    frontier: bool = False  # no other point is at least as cheap and better, or cheaper and as good

    @property
    def bits_per_pixel(self) -> float:
        """Bits of an image over its pixels."""
        return self.bits / self.pixels

    def cost(self, kind: Cost) -> float:
        """Return the cost per image, in the unit named by `kind`."""
        costs = {
            "tokens": self.tokens,
            "bits": self.bits,
            "bits per pixel": self.bits_per_pixel,
            "GMACs": self.gmacs,
        }
        return costs[kind]


@dataclass(frozen=True, kw_only=True)
class TokenBudget(Result):
    """Quality against cost, and the runs that could not be compared."""

    points: tuple[BudgetPoint, ...]
    metric: Quality
    feature_extractor: str | None  # network of the features; None if the metric uses pixels
    # Fréchet distance between held-out images and as many training images; None for other metrics.
    floor: float | None
    against: Cost
    n: int  # images
    other_images: tuple[str, ...]  # excluded runs: measured on other images
    unmeasured: tuple[str, ...]  # excluded runs: without the metric, or in other features
    without_cost: tuple[str, ...]  # excluded runs: continuous tokens have no bit cost
    without_prefixes: tuple[LeftOutRun, ...] = ()  # runs whose first tokens cannot be decoded alone
    image_kind: str = "held-out images"

    @property
    def label(self) -> str:
        """Name of the metric, with its feature extractor."""
        return metric_label(self.metric, self.feature_extractor)

    @property
    def excluded(self) -> tuple[str, ...]:
        """Names of all excluded runs."""
        return (*self.other_images, *self.unmeasured, *self.without_cost)

    @property
    def frontier(self) -> tuple[BudgetPoint, ...]:
        """The Pareto-optimal points, in ascending order of cost."""
        points = (point for point in self.points if point.frontier)
        return tuple(sorted(points, key=lambda point: point.cost(self.against)))

    def table(self) -> pd.DataFrame:
        """Return one row per run and number of tokens, with a column named after the metric."""
        rows = [asdict(point) | {"bits_per_pixel": point.bits_per_pixel} for point in self.points]
        table = pd.DataFrame(rows).rename(columns={"value": self.metric}).drop(columns="pixels")
        if self.feature_extractor is None:
            return table
        return table.assign(feature_extractor=self.feature_extractor)

    def summary(self) -> str:
        """State the best values at the lowest and highest cost, the frontier and the exclusions."""
        sentences = [f"{self._trend()} ({self.n:,} {self.image_kind})."]
        if self.floor is not None:
            sentences.append(
                "The distance between two equally large sets of real images is"
                f" {self._format_value(self.floor)}."
            )
        if len(self.frontier) > 1:
            sentences.append(self._frontier_sentence())
        if self.other_images:
            sentences.append(
                f"Excluded (measured on other images): {', '.join(self.other_images)}."
            )
        if self.unmeasured:
            sentences.append(
                f"Excluded (no comparable {self.label}): {', '.join(self.unmeasured)}."
            )
        if self.without_cost:
            sentences.append(
                f"Excluded (continuous tokens have no bit cost): {', '.join(self.without_cost)}."
            )
        for reason in dict.fromkeys(item.reason for item in self.without_prefixes):
            runs = [item.run for item in self.without_prefixes if item.reason == reason]
            sentences.append(f"Prefixes of {', '.join(runs)} are not applicable: {reason}")
        return " ".join(sentences)

    def _trend(self) -> str:
        name = self.label if self.metric == "rfd" else self.label[0].upper() + self.label[1:]
        points = [
            point
            for point in self.points
            if point.kind not in ("prefix", "perfect") and not math.isnan(point.value)
        ]
        if not points:
            return f"{name} is NaN in every run"
        cheapest = self._best_at(points, min(p.cost(self.against) for p in points))
        dearest = self._best_at(points, max(p.cost(self.against) for p in points))
        start = f"{self._format_value(cheapest.value)} at {self._format_costs([cheapest])}"
        if cheapest.cost(self.against) == dearest.cost(self.against):
            return f"{name} is {start}{self._of_best(points, cheapest)}"
        end = f"{self._format_value(dearest.value)} at {self._format_costs([dearest])}"
        if cheapest.run != dearest.run:  # the difference is not one of cost alone
            return f"{name} is {start} in {cheapest.run}, and {end} in {dearest.run}"
        verb = "rises" if dearest.value > cheapest.value else "falls"
        return f"{name} {verb} from {start} to {end}"

    def _of_best(self, points: Sequence[BudgetPoint], best: BudgetPoint) -> str:
        """Name the best of several points at one cost, and the worst value."""
        if len(points) == 1:
            return ""
        worst = min(points, key=lambda point: goodness(point.value, self.metric))
        return (
            f" in {best.run}, the best; {self._format_value(worst.value)} in {worst.run}, the worst"
        )

    def _frontier_sentence(self) -> str:
        runs = list(dict.fromkeys(point.run for point in self.frontier))
        parts = []
        for run in runs[:MAX_NAMED_RUNS]:
            points = [point for point in self.frontier if point.run == run]
            parts.append(f"{run} ({self._format_costs(points)})")
        more = ""
        if len(runs) > MAX_NAMED_RUNS:
            more = f" and {len(runs) - MAX_NAMED_RUNS} more"
        return f"Pareto-optimal: {', '.join(parts)}{more}."

    def _best_at(self, points: Sequence[BudgetPoint], cost: float) -> BudgetPoint:
        candidates = [point for point in points if point.cost(self.against) == cost]
        return max(candidates, key=lambda point: goodness(point.value, self.metric))

    def _format_value(self, value: float) -> str:
        return f"{value:.1f} dB" if self.metric == "psnr" else f"{value:.4f}"

    def _format_costs(self, points: Sequence[BudgetPoint]) -> str:
        # A prefix of all tokens repeats the cost of the trained point.
        costs = list(dict.fromkeys(f"{point.cost(self.against):,.4g}" for point in points))
        if self.against == "tokens" and costs == ["1"]:
            return "1 token"
        return f"{', '.join(costs)} {self.against}"


def token_budget(
    evidences: Sequence[Evidence],
    *,
    metric: Quality = "psnr",
    against: Cost = "tokens",
    prefixes: bool = True,
) -> TokenBudget:
    """Compare the reconstruction quality of runs at equal cost.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of tokenizers. Runs on other images than the first are excluded and named.
    metric : {"psnr", "ssim", "l1", "mse", "features", "rfd"}, default "psnr"
        A mean over images (PSNR in dB, SSIM, errors of pixels in [0, 1], or the distance between
        the features of an image and its reconstruction), or `rfd`, the Fréchet distance between
        the features of all images and all reconstructions.
    against : {"tokens", "bits", "bits per pixel", "GMACs"}, default "tokens"
        The cost: tokens per image, the bits of their codes (without the bits that encode the
        number of tokens), or the work of a SiT-XL that samples them. The tokens of an adaptive run
        are the mean over images.
    prefixes : bool, default True
        Add the first tokens of each run whose decoder supports prefixes.

    Returns
    -------
    TokenBudget
        One point per run and number of tokens. The requested errors of an adaptive run are points
        of the metric `l1`.

    Raises
    ------
    NotApplicable
        If no run has images, reconstructions and latents, if none has the metric and the cost, or
        for `rfd` of under 10 images.
    UserError
        If features contain NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.storage.evidence import Evidence
    >>> evidence = Evidence(
    ...     {"run": "a", "step": 1},
    ...     images=np.zeros((6, 4, 4, 1), np.uint8),
    ...     reconstructions=np.full((6, 4, 4, 1), 51, np.uint8),
    ...     latents=np.zeros((6, 8, 2), np.float32),
    ... )
    >>> token_budget([evidence]).summary()
    'PSNR is 14.0 dB at 8 tokens (6 held-out images).'
    """
    complete = [evidence for evidence in evidences if _has_reconstructions(evidence)]
    if not complete:
        raise NotApplicable(
            "A token budget needs images, reconstructions and latents;"
            " no selected run has all three."
        )
    fingerprint = complete[0].provenance.get("fingerprint")
    same_images, other_images = _partition(
        complete, lambda evidence: evidence.provenance.get("fingerprint") == fingerprint
    )
    reference = next((evidence for evidence in same_images if _has_features(evidence)), None)
    measured, unmeasured = _partition(
        same_images, lambda evidence: has_metric(evidence, metric, reference)
    )
    if not measured:
        raise NotApplicable(
            "A token budget in features needs features of images and reconstructions;"
            " no selected run has them."
        )
    comparable, without_cost = _partition(measured, lambda evidence: _has_cost(evidence, against))
    if not comparable:
        raise NotApplicable(
            f"A token budget against {against} needs discrete tokens; no selected run has them."
        )
    max_images: int | None = None
    if metric == "rfd" and prefixes:
        # A distance depends on the number of images. Prefixes have features of some only.
        counts = [e.prefix_features.shape[1] for e in comparable if e.prefix_features is not None]
        max_images = min(counts, default=None)
    points: list[BudgetPoint] = []
    for done, evidence in enumerate(comparable, start=1):
        points += _points(evidence, metric, prefixes, max_images)
        report_progress(done, len(comparable))
    points.sort(key=_sort_key)
    first = comparable[0]
    return TokenBudget(
        points=tuple(_mark_frontier(point, points, metric, against) for point in points),
        metric=metric,
        feature_extractor=first.feature_extractor if metric in FEATURE_METRICS else None,
        floor=real_image_distance(comparable, max_images) if metric == "rfd" else None,
        against=against,
        n=_num_measured(first, metric, max_images),
        other_images=tuple(evidence.run_name for evidence in other_images),
        unmeasured=tuple(evidence.run_name for evidence in unmeasured),
        without_cost=tuple(evidence.run_name for evidence in without_cost),
        without_prefixes=_without_prefixes(comparable) if prefixes else (),
        image_kind=first.image_kind,
    )


def _num_measured(evidence: Evidence, metric: Quality, max_images: int | None) -> int:
    """Return the number of images of a metric; only SSIM needs their pictures."""
    if metric == "ssim":
        return len(require_array(evidence.images, "images", evidence.run_name))
    return min(evidence.num_images, max_images or evidence.num_images)


def goodness(value: float, metric: Quality) -> float:
    """Return a metric with its sign changed if lower is better; negative infinity for NaN."""
    if math.isnan(value):
        return -math.inf
    return value if QUALITY_METRICS[metric].higher_is_better else -value


def _without_prefixes(evidences: Sequence[Evidence]) -> tuple[LeftOutRun, ...]:
    """Return the runs without prefixes for which the reason is known."""
    reasons = [
        (evidence.run_name, evidence.reason_for_missing("prefixes")) for evidence in evidences
    ]
    return tuple(LeftOutRun(run=run, reason=reason) for run, reason in reasons if reason)


def _has_reconstructions(evidence: Evidence) -> bool:
    arrays = (evidence.images, evidence.reconstructions, evidence.latents)
    return all(array is not None and len(array) for array in arrays)


def _has_features(evidence: Evidence) -> bool:
    return evidence.features is not None and evidence.reconstruction_features is not None


def _has_cost(evidence: Evidence, against: Cost) -> bool:
    needs_bits = against in ("bits", "bits per pixel")
    return not needs_bits or not math.isnan(bits_per_token(evidence))


def _partition(
    evidences: Sequence[Evidence], predicate: Callable[[Evidence], bool]
) -> tuple[list[Evidence], list[Evidence]]:
    """Split runs into those that satisfy a predicate and the others."""
    accepted: list[Evidence] = []
    rejected: list[Evidence] = []
    for evidence in evidences:
        (accepted if predicate(evidence) else rejected).append(evidence)
    return accepted, rejected


def _sort_key(point: BudgetPoint) -> tuple[str, int, str, float, str]:
    # Trained runs of a class form one line; prefixes and adaptive points form one per run.
    line = "" if point.kind == "all tokens" else point.run
    return point.tokenizer, KINDS.index(point.kind), line, point.tokens, point.run


def _points(
    evidence: Evidence, metric: Quality, prefixes: bool, max_images: int | None
) -> list[BudgetPoint]:
    """Return the points of a run, not yet marked as Pareto-optimal."""
    latents = require_array(evidence.latents, "latents", evidence.run_name)
    kind: Kind = "all tokens"
    used = np.full(latents.shape[0], latents.shape[1])
    if evidence.active is not None:
        kind = "adaptive"
        used = np.asarray(evidence.active, bool).sum(axis=1)
    points = [
        _point(evidence, kind, used, reconstruction_quality(evidence, metric, max_images)),
    ]
    if metric == "l1":
        points += _requested_points(evidence)
    if prefixes:
        points += [
            _point(evidence, "prefix", np.minimum(used, length), estimate)
            for length, estimate in prefix_qualities(evidence, metric, max_images)
        ]
    return points


def _requested_points(evidence: Evidence) -> list[BudgetPoint]:
    """Return one point per requested error of an adaptive run."""
    if evidence.requested is None or evidence.reached is None or evidence.spent is None:
        return []
    reached = np.asarray(evidence.reached, np.float64)
    points = [
        _point(evidence, "adaptive", spent, mean_interval(errors))
        for spent, errors in zip(np.asarray(evidence.spent), reached, strict=True)
    ]
    if evidence.budgets is not None and evidence.budget_l1 is not None:
        reference = perfect_halting(evidence.requested, evidence.budgets, evidence.budget_l1)
        points += [
            _point(evidence, "perfect", needed, mean_interval(errors))
            for needed, errors in zip(reference.needed, reference.errors, strict=True)
        ]
    return points


def _point(evidence: Evidence, kind: Kind, used: np.ndarray, estimate: Estimate) -> BudgetPoint:
    images = require_array(evidence.images, "images", evidence.run_name)
    tokens = float(used.mean())
    value, low, high = estimate
    return BudgetPoint(
        run=evidence.run_name,
        tokenizer=_family(evidence),
        kind=kind,
        tokens=tokens,
        value=value,
        low=low,
        high=high,
        bits=tokens * bits_per_token(evidence),
        pixels=int(np.prod(images.shape[1:3])),
        gmacs=float(np.mean(generator_gmacs(used.astype(np.float64)))),
    )


def _family(evidence: Evidence) -> str:
    """Return the class of a tokenizer, or the run's name if it was trained elsewhere.

    One class of adapters represents many unrelated networks.
    """
    if evidence.provenance.get("imported"):
        return evidence.run_name
    return str(evidence.provenance.get("class", evidence.run_name)).rpartition(":")[-1]


def _mark_frontier(
    point: BudgetPoint, points: Sequence[BudgetPoint], metric: Quality, against: Cost
) -> BudgetPoint:
    if point.kind == "perfect":
        return point
    rivals = (other for other in points if other.kind != "perfect")
    is_dominated = any(_dominates(other, point, metric, against) for other in rivals)
    return replace(point, frontier=not is_dominated and not math.isnan(point.value))


def _dominates(a: BudgetPoint, b: BudgetPoint, metric: Quality, against: Cost) -> bool:
    """Return whether a is at least as good and as cheap as b, and strictly better in one."""
    cost_a, cost_b = a.cost(against), b.cost(against)
    good_a, good_b = goodness(a.value, metric), goodness(b.value, metric)
    return cost_a <= cost_b and good_a >= good_b and (cost_a < cost_b or good_a > good_b)
