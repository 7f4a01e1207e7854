"""Diagnostics of tokenizers that predict the quality of generators trained on them.

There are few tokenizers and many diagnostics, so that some diagnostic always correlates. Therefore
every correlation is compared with the best that as many unrelated diagnostics reach by chance.
Architectures and sizes of latents differ in diagnostics and in generation without one being the
cause of the other. Therefore tokenizers are ranked and permuted within families.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.generation.distance_names import distance_name
from workbench.analysis.runs.diagnostics import BY_NAME, diagnostics_of
from workbench.analysis.runs.generators import (
    GenerationDistance,
    GeneratorPair,
    generation_distances,
    generator_differences,
    pair_generators,
    tokenizer_family,
)
from workbench.analysis.stats import rank_correlation
from workbench.analysis.stats.prediction import ranks_within
from workbench.core.counted import counted
from workbench.core.errors import NotApplicable
from workbench.core.progress import report_progress
from workbench.storage.evidence import Evidence

# Of three tokenizers, one order in three agrees or disagrees perfectly by chance.
MIN_TOKENIZERS = 4  # of a family
# Significance level of the p-value that is adjusted for the number of diagnostics.
SIGNIFICANCE_LEVEL = 0.05
CAUTION = "This is a correlation among these runs, not a cause; train another pair to test it."


@dataclass(frozen=True)
class DiagnosticCorrelation:
    """Rank correlation of one diagnostic with the generation distance, within families."""

    diagnostic: str
    # With gFD, for which lower is better: negative if a higher value goes with better generation.
    spearman: float
    low: float  # 95 % interval
    high: float
    kendall: float  # tau b
    p: float  # two-sided, of this diagnostic alone
    adjusted: float  # p-value adjusted for the choice among all diagnostics
    expected: str  # direction of better generation according to papers: higher, lower, unknown

    @property
    def significant(self) -> bool:
        """True if the adjusted p-value is at most the significance level."""
        return self.adjusted <= SIGNIFICANCE_LEVEL

    @property
    def better(self) -> str:
        """Direction of better generation in these runs: higher or lower."""
        return "higher" if self.spearman < 0 else "lower"


@dataclass(frozen=True, eq=False, kw_only=True)
class GenerationPredictors(Result):
    """Diagnostics ranked by their correlation with the generation distance."""

    correlations: tuple[DiagnosticCorrelation, ...]  # the strongest first
    distances: tuple[GenerationDistance, ...]  # one per tokenizer
    families: tuple[str, ...]  # class and shape of the latents of each tokenizer
    # (tokenizers, diagnostics), in the order of `distances` and `correlations`.
    values: np.ndarray = field(repr=False)
    # |Spearman| that the best of as many unrelated diagnostics exceeds with probability 5 %.
    chance: float
    attainable: float  # adjusted p-value of a perfect order
    # Number of tokenizers of one family at which a perfect order is significant.
    min_tokenizers: int
    images: int  # behind each distance
    metric: str  # name of the distance
    excluded: tuple[str, ...]  # name and reason of each excluded run
    # Missing for some tokenizer, or equal for all of a family in every family.
    omitted_diagnostics: tuple[str, ...]
    warnings: tuple[str, ...]
    seed: int

    @property
    def n(self) -> int:
        """Number of tokenizers with generators."""
        return len(self.distances)

    @property
    def num_diagnostics(self) -> int:
        """Number of diagnostics that were correlated."""
        return len(self.correlations)

    @property
    def significant(self) -> tuple[DiagnosticCorrelation, ...]:
        """The correlations that are significant after adjustment."""
        return tuple(c for c in self.correlations if c.significant)

    def table(self) -> pd.DataFrame:
        """Return one row per diagnostic, with the value of every tokenizer in the last columns."""
        rows = []
        for i, correlation in enumerate(self.correlations):
            row = asdict(correlation) | {
                "significant": correlation.significant,
                "n": self.n,
                "num_diagnostics": self.num_diagnostics,
            }
            values = {d.run: self.values[j, i] for j, d in enumerate(self.distances)}
            rows.append(row | values)
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State the diagnostic to choose tokenizers by, if any, and the evidence for it."""
        sentences = [self._conclusion(), self._families_sentence(), *self.warnings, CAUTION]
        if self.excluded:
            sentences.append(f"Excluded: {'; '.join(self.excluded)}.")
        return " ".join(sentences)

    def _conclusion(self) -> str:
        best = self.correlations[0]
        scope = f"n = {self.n} tokenizers, {counted(self.num_diagnostics, 'diagnostic')}"
        correlation = (
            f"Spearman {best.spearman:+.2f} with {self.metric},"
            f" interval {best.low:+.2f} to {best.high:+.2f}"
        )
        if not self.significant:
            return (
                f"No diagnostic predicts generation beyond chance ({scope}). The strongest is"
                f" {best.diagnostic} ({correlation}), but {self._reason()}."
            )
        note = ""
        if best.expected not in ("unknown", best.better):
            note = "; papers expect the opposite"
        further = ", ".join(c.diagnostic for c in self.significant[1:])
        also = f" Also beyond chance: {further}." if further else ""
        return (
            f"Choose tokenizers by {best.diagnostic}: {best.better} values go with better"
            f" generation ({correlation}, adjusted p = {best.adjusted:.2g}, {scope}{note}).{also}"
        )

    def _families_sentence(self) -> str:
        names = tuple(dict.fromkeys(self.families))
        if len(names) == 1:
            return f"All tokenizers are of one family ({names[0]})."
        return (
            f"Tokenizers are compared only within the {len(names)} families ({'; '.join(names)})."
        )

    def reason_against_prediction(self) -> str:
        """Return the reason why no diagnostic predicts; for results without a significant one."""
        return (
            f"no diagnostic predicts beyond chance among the {self.n} tokenizers with generators,"
            f" because {self._reason()}"
        )

    def _reason(self) -> str:
        if self.attainable > SIGNIFICANCE_LEVEL:
            return (
                "even a perfect order would not be significant: that needs at least"
                f" {self.min_tokenizers} tokenizers of one family"
            )
        return (
            f"the best of {self.num_diagnostics} unrelated diagnostics exceeds {self.chance:.2f}"
            f" with a probability of {100 * SIGNIFICANCE_LEVEL:.0f} %"
        )


def generation_predictors(
    evidences: Sequence[Evidence],
    partners: Sequence[Evidence] = (),
    *,
    modes: bool = False,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> GenerationPredictors:
    """Rank diagnostics of tokenizers by their correlation with the quality of generators.

    Tokenizers of one class with latents of one shape are a family. Ranks are those within families,
    so that differences between architectures and sizes do not contribute. A diagnostic is
    significant if the best of as many unrelated diagnostics correlates as well in at most 5 % of
    all orders of the tokenizers within their families.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of tokenizers and of generators. A generator is paired with the tokenizer whose
        folder its provenance names. A tokenizer is one point: the mean of its generators.
    partners : sequence of Evidence, optional
        Generators of the tokenizers, or tokenizers of the generators, that are not selected.
    modes : bool, default False
        Include the diagnostics that count modes, which is slow.
    seed : int, default 0
        Seed of the diagnostics, distances and permutations.

    Returns
    -------
    GenerationPredictors
        The correlation of every diagnostic that all tokenizers have and that differs within a
        family. Tokenizers of families with under 4 tokenizers are excluded.

    Raises
    ------
    NotApplicable
        If no family has 4 tokenizers with a generator, or there is no diagnostic to correlate.

    References
    ----------
    Westfall and Young, "Resampling-based multiple testing", 1993.
    """
    pairs, excluded = pair_generators([*evidences, *partners])
    tokenizers = {id(pair.tokenizer): pair.tokenizer for pair in pairs}
    if len(tokenizers) < MIN_TOKENIZERS:
        raise NotApplicable(
            f"Prediction of generation needs at least {MIN_TOKENIZERS} tokenizers with a generator"
            f" each, measured on the same images; the {len(evidences)} selected runs form"
            f" {counted(len(tokenizers), 'such pair')}."
        )
    pairs, small = _large_families(pairs)
    tokenizers = {id(pair.tokenizer): pair.tokenizer for pair in pairs}
    families = tuple(tokenizer_family(tokenizer) for tokenizer in tokenizers.values())
    distances, images = generation_distances(pairs, seed)
    diagnostics = _diagnostics(tuple(tokenizers.values()), modes, seed)
    names, omitted = _shared_names(diagnostics, families)
    values = np.array([[numbers[name] for name in names] for numbers in diagnostics])
    target = np.array([distance.value for distance in distances])
    correlations, null = _correlate(names, values, target, families, seed)
    order = np.argsort([-abs(c.spearman) for c in correlations], kind="stable")
    best_by_chance = np.abs(null).max(axis=1)
    is_perfect = best_by_chance >= 1 - rank_correlation.ROUNDING
    return GenerationPredictors(
        correlations=tuple(correlations[i] for i in order),
        distances=distances,
        families=families,
        values=values[:, order],
        chance=float(np.quantile(best_by_chance, 1 - SIGNIFICANCE_LEVEL)),
        attainable=float(is_perfect.mean()),
        min_tokenizers=rank_correlation.min_sample_size(len(names), SIGNIFICANCE_LEVEL),
        images=images,
        metric=distance_name("g", pairs[0].generator.feature_extractor or ""),
        excluded=(*excluded, *small),
        omitted_diagnostics=omitted,
        warnings=_warnings(distances, generator_differences(pairs)),
        seed=seed,
    )


def _large_families(
    pairs: Sequence[GeneratorPair],
) -> tuple[list[GeneratorPair], tuple[str, ...]]:
    """Return the pairs of families of at least 4 tokenizers, and the reason of each other one."""
    families = {id(pair.tokenizer): tokenizer_family(pair.tokenizer) for pair in pairs}
    sizes = Counter(families.values())
    if max(sizes.values()) < MIN_TOKENIZERS:
        raise NotApplicable(
            f"Prediction of generation needs at least {MIN_TOKENIZERS} tokenizers of one family"
            " (one class, and one shape of latents) with a generator each; the"
            f" {len(families)} selected ones are of {counted(len(sizes), 'family', 'families')},"
            f" the largest with {counted(max(sizes.values()), 'tokenizer')}."
        )
    tokenizers = {id(pair.tokenizer): pair.tokenizer for pair in pairs}
    small = tuple(
        f"{tokenizers[key].run_name}: its family ({family}) has under {MIN_TOKENIZERS} tokenizers"
        " with a generator"
        for key, family in families.items()
        if sizes[family] < MIN_TOKENIZERS
    )
    large = [p for p in pairs if sizes[families[id(p.tokenizer)]] >= MIN_TOKENIZERS]
    return large, small


def _diagnostics(tokenizers: Sequence[Evidence], modes: bool, seed: int) -> list[dict[str, float]]:
    diagnostics = []
    for done, evidence in enumerate(tokenizers, 1):
        diagnostics.append(diagnostics_of(evidence, modes=modes, seed=seed))
        report_progress(done, len(tokenizers))
    return diagnostics


def _shared_names(
    diagnostics: Sequence[dict[str, float]], families: Sequence[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Return the diagnostics of all tokenizers that differ in a family, and the omitted ones."""
    names: list[str] = []
    omitted: list[str] = []
    for name in BY_NAME:
        values = [numbers[name] for numbers in diagnostics if name in numbers]
        if not values:
            continue
        is_shared = len(values) == len(diagnostics)
        differs = is_shared and len(set(zip(families, values, strict=True))) > len(set(families))
        (names if differs else omitted).append(name)
    if not names:
        raise NotApplicable(
            "Prediction of generation needs a diagnostic that every tokenizer has and that differs"
            " within a family."
        )
    return names, tuple(omitted)


def _correlate(
    names: Sequence[str],
    values: np.ndarray,
    target: np.ndarray,
    families: Sequence[str],
    seed: int,
) -> tuple[list[DiagnosticCorrelation], np.ndarray]:
    """Return the correlation of each diagnostic, and those (p, m) with the permuted target."""
    from scipy.stats import kendalltau

    values = ranks_within(values, families)
    target = ranks_within(target[:, None], families)[:, 0]
    num_families = len(set(families))
    spearman = rank_correlation.spearman(values, target)
    # All orders of a single family can be enumerated if it is small.
    null = rank_correlation.permutation_null(
        values, target, seed, families=families if num_families > 1 else None
    )
    p_values, adjusted_p_values = rank_correlation.p_values(spearman, null)
    # Every further family costs a degree of freedom, as its mean rank is fixed.
    effective_n = len(target) - (num_families - 1)
    correlations = []
    for i, name in enumerate(names):
        low, high = rank_correlation.confidence_interval(float(spearman[i]), effective_n)
        correlations.append(
            DiagnosticCorrelation(
                diagnostic=name,
                spearman=float(spearman[i]),
                low=low,
                high=high,
                kendall=float(kendalltau(values[:, i], target).statistic),
                p=float(p_values[i]),
                adjusted=float(adjusted_p_values[i]),
                expected=BY_NAME[name].better,
            )
        )
    return correlations, null


def _warnings(
    distances: Sequence[GenerationDistance], differences: Sequence[str]
) -> tuple[str, ...]:
    warnings = []
    if differences:
        warnings.append(
            f"The generators differ in {', '.join(differences)} as well, not only by their"
            " tokenizers."
        )
    ranked = sorted(distances, key=lambda distance: distance.value)
    num_overlaps = sum(
        a.high > b.value or b.low < a.value for a, b in zip(ranked, ranked[1:], strict=False)
    )
    if num_overlaps:
        warnings.append(
            f"{num_overlaps} of {len(ranked) - 1} pairs of adjacent runs in the order of gFD"
            " differ by less than its interval."
        )
    num_untrained = sum(d.value >= d.class_gaussians for d in distances)
    if num_untrained:
        warnings.append(
            f"The generators of {num_untrained} of {len(distances)} tokenizers are no nearer to"
            " training images than draws from one Gaussian per class: the order reflects the speed"
            " of training."
        )
    return tuple(warnings)
