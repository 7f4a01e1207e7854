"""Expected order of generation of tokenizers without generators, from measured generation.

A sentence such as "expected to generate better than X" needs a calibration: tokenizers whose
generation and whose metric were measured in the same way. Two are used, in this order:

- the selected runs of the family of the tokenizer, if enough of them have generators
  (`generation_predictors`);
- the published table of pretrained tokenizers, if the metric was measured as its authors did.

A metric is used only if it predicts tokenizers that were left out, and an order is stated only with
a high probability. Otherwise the reason is stated. The tokenizers of the stored claims show if
metrics predict at all, and if a short training of a generator does.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np

from workbench.analysis.runs.commands import generator_command
from workbench.analysis.runs.diagnostics import BY_NAME, diagnostics_of
from workbench.analysis.runs.generation_predictors import (
    MIN_TOKENIZERS,
    SIGNIFICANCE_LEVEL,
    GenerationPredictors,
    generation_predictors,
)
from workbench.analysis.runs.generators import pair_generators, tokenizer_family
from workbench.analysis.stats.prediction import (
    LinearFit,
    best_left_out_q2,
    left_out_q2,
    ranks_within,
)
from workbench.core.errors import NotApplicable, UserError
from workbench.core.progress import Cancelled
from workbench.storage.calibration import (
    REGIME,
    CalibrationTokenizer,
    MeasuredTokenizer,
    calibration_tokenizers,
    measured_tokenizers,
)
from workbench.storage.evidence import Evidence

MIN_PROBABILITY = 0.8  # of an order that is stated
MAX_EXTRAPOLATION = 1.2  # ratio of an iFID to the nearest published one
MIN_AGREEMENT = 0.8  # of the orders after a short and after a long training
NAN = float("nan")
# Metrics of the stored claims that are no properties of the latents, or that use the features of
# the generation distance.
NOT_LATENT = (
    *("PSNR", "L1", "SSIM", "reconstruction distance", "interpolation distance"),
    *("numbers per image", "teacher CKA", "teacher cosine"),
)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """An expected order of two tokenizers, or the reason why there is none.

    Attributes
    ----------
    run : str
        The tokenizer.
    reference : str
        The tokenizer that it is expected to generate better than; empty if no order is expected.
    probability : float
        Of that order; NaN if none was computed.
    metric : str
        The metric that predicts; empty if none does.
    n : int
        Number of tokenizers of the calibration.
    regime : str
        Data and generators for which the calibration holds.
    reason : str
        Reason why no order is expected.
    background : str
        Sentence on the metrics in the stored claims, if there is no calibration.
    measurement : str
        The measurement that decides, and its cost, from the stored claims.
    is_measured : bool
        Whether generators of all `n` tokenizers were measured, so that nothing is predicted.
    """

    run: str
    reference: str = ""
    probability: float = NAN
    metric: str = ""
    n: int = 0
    regime: str = ""
    reason: str = ""
    background: str = ""
    measurement: str = ""
    is_measured: bool = False

    @property
    def is_expected(self) -> bool:
        """True if an order is expected."""
        return bool(self.reference)

    def sentence(self) -> str:
        """Return the order with its probability, or the reason and the measurement that decides."""
        if self.is_expected:
            return (
                f"{self.run} is expected to generate better than {self.reference} (probability"
                f" {self.probability:.2f} by {self.metric}, n = {self.n} tokenizers; {self.regime})"
                "."
            )
        parts = (self.short_sentence(), self.background, self.measurement)
        return " ".join(filter(None, parts))

    def short_sentence(self) -> str:
        """Return the sentence without the background and the measurement that decides."""
        if self.is_expected:
            return self.sentence()
        if self.is_measured:
            every = {1: "the tokenizer", 2: "both tokenizers"}.get(
                self.n, f"all {self.n} tokenizers"
            )
            return f"Generation was measured for {every}, so nothing is predicted."
        return (
            f"The generation of {self.run} cannot be predicted from these metrics: {self.reason}."
        )


@dataclass(frozen=True, kw_only=True)
class StoredPrediction:
    """Prediction of families of the stored claims that were left out, by properties of latents.

    Attributes
    ----------
    tokenizers, families : int
        Of the scale with the most tokenizers. Families of under 4 tokenizers do not count.
    images : str
        Data and size of the images.
    metric : str
        The property of the latents with the best prediction of families that were left out.
    num_metrics : int
        Number of properties of which it is the best.
    q2 : float
        Its Q² of gFD, both as ranks within families.
    p : float
        Share of permutations of gFD within families in which any property is as good.
    """

    tokenizers: int
    families: int
    images: str
    metric: str
    num_metrics: int
    q2: float
    p: float

    @property
    def predicts(self) -> bool:
        """True if the best property predicts families that were left out beyond chance."""
        return self.q2 > 0 and self.p <= SIGNIFICANCE_LEVEL

    def sentence(self) -> str:
        """Return the best metric, or that none of them predicts, with the evidence."""
        where = (
            f"In the stored claims ({self.tokenizers} tokenizers of {self.families} families on"
            f" {self.images})"
        )
        evidence = f"p = {self.p:.3g} of the best of {self.num_metrics}, permuted within families"
        if not self.predicts:
            return f"{where} no metric predicts a family that was left out ({evidence})."
        return (
            f"{where} the best metric, {self.metric}, saves {100 * self.q2:.0f} % of the squared"
            f" error of a family that was left out ({evidence})."
        )


@dataclass(frozen=True, kw_only=True)
class ShortTraining:
    """Agreement of the orders of generation after a short and after a long training.

    Attributes
    ----------
    short, long : int
        Steps of the generator.
    agreeing, pairs : int
        Pairs of tokenizers of one family whose order after the long training is the same in every
        seed, and those of them that the short training orders likewise.
    trained_short, trained_long, tokenizers : int
        Tokenizers whose generators are nearer to training images than draws from one Gaussian per
        class, after both lengths, and of all.
    short_seconds, long_seconds : float
        CPU-seconds of one generator with its measurement.
    scale : str
        Scale of the claims.
    """

    short: int
    long: int
    agreeing: int
    pairs: int
    trained_short: int
    trained_long: int
    tokenizers: int
    short_seconds: float
    long_seconds: float
    scale: str

    def sentence(self) -> str:
        """Return the training that decides, and its cost."""
        count = (
            f"in {self.agreeing} of {self.pairs} pairs of the stored claims ({self.scale}) the"
            f" order after {self.short:,} steps was that after {self.long:,}"
        )
        if self.agreeing >= MIN_AGREEMENT * self.pairs:
            return f"A short training of a generator decides: {count}{_cost(self.short_seconds)}."
        return (
            f"Only a longer training of a generator decides: {count} ({self.trained_short} and"
            f" {self.trained_long} of {self.tokenizers} beat draws from one Gaussian per class)"
            f"{_cost(self.long_seconds)}."
        )


def expectation(
    evidences: Sequence[Evidence],
    partners: Sequence[Evidence] = (),
    *,
    ifid: float = 0.0,
    seed: int = 0,
) -> Expectation:
    """Return the expected order of the first tokenizer without a generator.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of tokenizers and generators. The subject is the first tokenizer without a
        generator, or the first tokenizer if all have one.
    partners : sequence of Evidence
        Further generators.
    ifid : float, default 0
        Interpolation FID of the first tokenizer by the published protocol; 0 if it was not
        measured.
    seed : int, default 0
        Seed of the diagnostics and distances.

    Returns
    -------
    Expectation

    Raises
    ------
    NotApplicable
        If no run has latents.
    """
    tokenizers = tokenizers_of(evidences)
    everything = [*evidences, *partners]
    pairs, _ = pair_generators(everything)
    measured = dict.fromkeys(pair.tokenizer.run_name for pair in pairs)
    subjects = [e for e in tokenizers if e.run_name not in measured]
    subject = subjects[0] if subjects else tokenizers[0]
    if ifid:
        return _undecided(published_order(subject.run_name, ifid), subject)
    if not subjects:
        return Expectation(run=subject.run_name, n=len(tokenizers), is_measured=True)
    if len(measured) < MIN_TOKENIZERS:
        count = len(measured) or "none"
        verb = "has" if len(measured) < 2 else "have"
        reason = (
            f"{count} of the selected tokenizers {verb} a generator, and a calibration needs at"
            f" least {MIN_TOKENIZERS}"
        )
        expected = Expectation(
            run=subject.run_name, reason=reason, background=stored_prediction().sentence()
        )
        return _undecided(expected, subject)
    try:
        predictors = generation_predictors(everything, seed=seed)
    except Cancelled:
        raise
    except UserError as error:
        reason = str(error).rstrip(".")
        return _undecided(Expectation(run=subject.run_name, reason=reason), subject)
    return _undecided(own_order(predictors, subject, seed), subject)


def tokenizers_of(evidences: Sequence[Evidence]) -> list[Evidence]:
    """Return the runs with latents.

    Raises
    ------
    NotApplicable
        If there are none.
    """
    tokenizers = [e for e in evidences if e.latents is not None and len(e.latents)]
    if not tokenizers:
        raise NotApplicable("A prediction needs the latents of a tokenizer; no run has any.")
    return tokenizers


def published_order(run: str, ifid: float) -> Expectation:
    """Return the best published tokenizer that a tokenizer is expected to generate better than.

    No order is expected outside the range of the published values (`published_range`).

    Parameters
    ----------
    run : str
        Name of the tokenizer.
    ifid : float
        Its interpolation FID by the protocol of the published table.

    Returns
    -------
    Expectation
    """
    tokenizers = calibration_tokenizers()
    low, high = published_range()
    common = Expectation(run=run, metric="iFID", n=len(tokenizers), regime=REGIME)
    if not low <= ifid <= high:
        return replace(
            common,
            reason=f"its iFID of {ifid:.4g} is outside the range of the {len(tokenizers)} published"
            f" tokenizers, {low:.3g} to {high:.3g}",
        )
    fit = published_fit()
    probabilities = {
        tokenizer.name: fit.probability_below(math.log(ifid), math.log(tokenizer.gfid_xl))
        for tokenizer in tokenizers
    }
    beaten = [t for t in tokenizers if probabilities[t.name] >= MIN_PROBABILITY]
    if not beaten:
        worst = max(tokenizers, key=lambda tokenizer: tokenizer.gfid_xl)
        return replace(
            common,
            probability=probabilities[worst.name],
            reason=f"its iFID of {ifid:.4g} does not put it ahead of any of the {len(tokenizers)}"
            f" published tokenizers with a probability of {MIN_PROBABILITY}",
        )
    best = min(beaten, key=lambda tokenizer: tokenizer.gfid_xl)
    return replace(common, reference=best.name, probability=probabilities[best.name])


@cache
def published_fit() -> LinearFit:
    """Return the line of log gFID of SiT-XL on log iFID over the published tokenizers."""
    tokenizers = calibration_tokenizers()
    return LinearFit(
        np.log([tokenizer.ifid for tokenizer in tokenizers]),
        np.log([tokenizer.gfid_xl for tokenizer in tokenizers]),
    )


def published_range() -> tuple[float, float]:
    """Return the lowest and highest iFID at which the line of the published tokenizers is used."""
    values = [tokenizer.ifid for tokenizer in calibration_tokenizers()]
    return min(values) / MAX_EXTRAPOLATION, max(values) * MAX_EXTRAPOLATION


def own_order(predictors: GenerationPredictors, subject: Evidence, seed: int) -> Expectation:
    """Return the order of a tokenizer among those of its family with generators.

    The metric must predict a tokenizer of the family that is left out, and, if there are several
    families, the order within a family that is left out.

    Parameters
    ----------
    predictors : GenerationPredictors
        Diagnostics of the tokenizers with generators, and their generation distances.
    subject : Evidence
        The tokenizer.
    seed : int
        Seed of its diagnostics.

    Returns
    -------
    Expectation
        The best tokenizer that it is expected to generate better than.
    """
    family = tokenizer_family(subject)
    members = np.flatnonzero([name == family for name in predictors.families])
    num_families = len(set(predictors.families))
    scope = "all of one family" if num_families == 1 else "within its family"
    common = Expectation(
        run=subject.run_name,
        n=len(members),
        regime=f"{predictors.metric} of these runs' generators, {scope}",
    )
    if not predictors.significant:
        return replace(common, reason=predictors.reason_against_prediction())
    if not len(members):
        return replace(
            common,
            reason=f"it is a {family}, and no such family of at least {MIN_TOKENIZERS} tokenizers"
            " has generators",
        )
    name = predictors.significant[0].diagnostic
    column = [c.diagnostic for c in predictors.correlations].index(name)
    values = predictors.values[:, column]
    distances = np.log([max(distance.value, 1e-12) for distance in predictors.distances])
    if num_families > 1 and _families_q2(values, distances, predictors.families) <= 0:
        return replace(
            common,
            reason=f"{name} orders the {predictors.n} tokenizers with a generator, but does not"
            " predict the order within a family that is left out",
        )
    x, y = values[members], distances[members]
    if np.ptp(x) == 0 or left_out_q2(x[:, None], y) <= 0:
        return replace(
            common,
            reason=f"{name} orders the {predictors.n} tokenizers with a generator, but does"
            f" not predict the distance of a tokenizer that is left out among the {len(members)} of"
            " its family",
        )
    value = diagnostics_of(subject, seed=seed).get(name)
    if value is None:
        return replace(common, reason=f"{name}, which predicts, was not measured for it")
    fit = LinearFit(x, y)
    others = [predictors.distances[i] for i in members]
    others = [distance for distance in others if distance.run != subject.run_name]
    chances = {
        distance.run: fit.probability_below(value, math.log(max(distance.value, 1e-12)))
        for distance in others
    }
    ranked = sorted(others, key=lambda distance: distance.value)
    beaten = [d.run for d in ranked if chances[d.run] >= MIN_PROBABILITY]
    if not beaten:
        return replace(
            common,
            metric=name,
            probability=max(chances.values()),
            reason=f"{name} does not put it ahead of any of the {len(others)} tokenizers of its"
            f" family with a generator with a probability of {MIN_PROBABILITY}",
        )
    return replace(common, metric=name, reference=beaten[0], probability=chances[beaten[0]])


def _families_q2(values: np.ndarray, target: np.ndarray, families: Sequence[str]) -> float:
    """Return Q² of ranks within families that were left out, one family at a time."""
    ranks = ranks_within(np.column_stack([values, target]), families)
    return left_out_q2(ranks[:, :1], ranks[:, 1], families)


def known_tokenizer(evidence: Evidence) -> CalibrationTokenizer | None:
    """Return the published tokenizer that an imported run is; None if it is none of them."""
    imported = evidence.provenance.get("imported") or {}
    address = imported.get("address") or ""
    return next((t for t in calibration_tokenizers() if t.address and t.address == address), None)


@cache
def stored_prediction() -> StoredPrediction:
    """Compare the best prediction of left-out families of the stored claims with chance.

    Returns
    -------
    StoredPrediction
        Of the scale with the most tokenizers.
    """
    tokenizers = _largest_scale()
    families = [tokenizer.family for tokenizer in tokenizers]
    target = np.array([np.mean(tokenizer.gfd) for tokenizer in tokenizers])
    names = [
        name
        for name in BY_NAME
        if name not in NOT_LATENT and all(name in t.metrics for t in tokenizers)
    ]
    values = np.array([[t.metrics[name] for name in names] for t in tokenizers])
    best, q2, p = best_left_out_q2(values, target, families)
    return StoredPrediction(
        tokenizers=len(tokenizers),
        families=len(set(families)),
        images=tokenizers[0].images,
        metric=names[best],
        num_metrics=len(names),
        q2=q2,
        p=p,
    )


def short_training() -> ShortTraining | None:
    """Compare the orders after short and long trainings of generators in the stored claims.

    Returns
    -------
    ShortTraining or None
        Of the scale with the most pairs; None if no scale has trainings of two lengths.
    """
    scales = {tokenizer.scale for tokenizer in measured_tokenizers()}
    comparisons = [_compare_lengths(scale) for scale in sorted(scales)]
    available = [comparison for comparison in comparisons if comparison is not None]
    return max(available, key=lambda comparison: comparison.pairs, default=None)


def _compare_lengths(scale: str) -> ShortTraining | None:
    """Compare the two lengths of training of one scale, if it has two."""
    by_name: dict[tuple[str, str], list[MeasuredTokenizer]] = {}
    for tokenizer in measured_tokenizers():
        if tokenizer.scale == scale:
            by_name.setdefault((tokenizer.family, tokenizer.tokenizer), []).append(tokenizer)
    both = {
        name: sorted(rows, key=lambda row: row.steps)
        for name, rows in by_name.items()
        if len({row.steps for row in rows}) > 1
    }
    if len(both) < 2:
        return None
    pairs = agreeing = 0
    for a, b in combinations(both, 2):
        if a[0] != b[0]:
            continue
        long = np.subtract(both[a][-1].gfd, both[b][-1].gfd)
        if abs(np.sign(long).sum()) < len(long):
            continue
        pairs += 1
        agreeing += (np.mean(both[a][0].gfd) < np.mean(both[b][0].gfd)) == (long[0] < 0)
    first = next(iter(both.values()))
    return ShortTraining(
        short=first[0].steps,
        long=first[-1].steps,
        agreeing=int(agreeing),
        pairs=pairs,
        trained_short=sum(_beats_gaussians(rows[0]) for rows in both.values()),
        trained_long=sum(_beats_gaussians(rows[-1]) for rows in both.values()),
        tokenizers=len(both),
        short_seconds=float(np.mean([rows[0].seconds for rows in both.values()])),
        long_seconds=float(np.mean([rows[-1].seconds for rows in both.values()])),
        scale=scale,
    )


def _beats_gaussians(tokenizer: MeasuredTokenizer) -> bool:
    return bool(np.mean(tokenizer.gfd) < tokenizer.metrics.get("class Gaussians", 0))


def _largest_scale() -> list[MeasuredTokenizer]:
    """Return the tokenizers of the scale with the most, without families of under 4."""
    by_scale: dict[str, list[MeasuredTokenizer]] = {}
    for tokenizer in measured_tokenizers():
        if tokenizer.group != "linear maps":
            by_scale.setdefault(tokenizer.scale, []).append(tokenizer)
    largest = max(by_scale.values(), key=len)
    sizes = Counter(tokenizer.family for tokenizer in largest)
    return [t for t in largest if sizes[t.family] >= MIN_TOKENIZERS]


def _undecided(expected: Expectation, subject: Evidence) -> Expectation:
    """Add the measurement that decides, if no order is expected."""
    if expected.is_expected:
        return expected
    command = generator_command(subject)
    if not command:
        return expected
    training = short_training()
    if training is None:
        text = f"A generator decides: `{command}`."
    else:
        text = f"{training.sentence()} Train one with `{command}`."
    return replace(expected, measurement=text)


def _cost(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    return f", at {seconds:.0f} CPU-seconds per tokenizer"
