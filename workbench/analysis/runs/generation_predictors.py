"""Which numbers of a tokenizer tell how well a generator trained on it will do, and how sure that is.

Tokenizers are few and diagnostics many, so that some diagnostic always looks good: every correlation stands beside
what the best of as many unrelated ones would reach by chance.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.runs.diagnostics import BY_NAME, diagnostics_of
from workbench.analysis.runs.generators import Generation, differing, generations, pairs_of
from workbench.analysis.stats import rank_correlation
from workbench.core.errors import NotApplicable
from workbench.core.progress import report_progress
from workbench.storage.evidence import Evidence

LEAST = 4  # tokenizers: of three, one order in three agrees with gFD, or opposes it, by chance
LEVEL = 0.05  # of chance, after allowing for how many were tried: above it, nothing is called sure


@dataclass(frozen=True)
class Correlation:
    """How one diagnostic's order of tokenizers agrees with that of their generation distance."""

    diagnostic: str
    spearman: float  # with gFD, where lower is better: below 0, tokenizers with more of it generate better
    low: float  # 95 % interval
    high: float
    kendall: float  # tau b
    p: float  # two-sided, of this diagnostic alone
    adjusted: float  # allowing for the choice among all that were tried
    expected: str  # which way papers say a better generator lies: higher, lower, unknown

    @property
    def sure(self) -> bool:
        """Whether it can be told from chance."""
        return self.adjusted <= LEVEL

    @property
    def better(self) -> str:
        """Which way the better generators lie here: higher or lower."""
        return "higher" if self.spearman < 0 else "lower"


@dataclass(frozen=True, eq=False)
class GenerationPredictors(Result):
    """Diagnostics by how their order of tokenizers agrees with the generators', the best first."""

    correlations: tuple[Correlation, ...]
    generations: tuple[Generation, ...]  # a tokenizer each
    values: np.ndarray = field(
        repr=False
    )  # (tokenizers, diagnostics), as in `generations` and `correlations`
    chance: float  # |Spearman| that the best of as many unrelated diagnostics exceeds in one of twenty cases
    attainable: float  # the adjusted p of a perfect order
    needed: int  # tokenizers for which a perfect order could be told from chance
    images: int  # of each gFD
    metric: str  # the distance's name
    left_out: tuple[str, ...]  # runs, a reason each
    lacking: tuple[str, ...]  # diagnostics that some tokenizer lacks, or that are the same for all
    warnings: tuple[str, ...]
    seed: int

    @property
    def n(self) -> int:
        """How many tokenizers there are."""
        return len(self.generations)

    @property
    def tried(self) -> int:
        """How many diagnostics were correlated."""
        return len(self.correlations)

    @property
    def sure(self) -> tuple[Correlation, ...]:
        """Those that can be told from chance."""
        return tuple(c for c in self.correlations if c.sure)

    def table(self) -> pd.DataFrame:
        """One row a diagnostic, the best first; the values of every tokenizer at the right."""
        rows = pd.DataFrame(
            [
                {**asdict(c), "sure": c.sure, "n": self.n, "tried": self.tried}
                for c in self.correlations
            ]
        )
        values = {g.run: self.values[:, :].T[:, i] for i, g in enumerate(self.generations)}
        return pd.concat([rows, pd.DataFrame(values)], axis=1)

    def summary(self) -> str:
        """What to choose tokenizers by, if anything, and how sure that is."""
        left = f" Left out: {'; '.join(self.left_out)}." if self.left_out else ""
        return f"{self._advice()} {' '.join([*self.warnings, CAUTION])}{left}"

    def _advice(self) -> str:
        best, tried = self.correlations[0], _count(self.tried, "diagnostic")
        of = f"With n = {self.n} tokenizers and {tried} tried"
        said = f"Spearman {best.spearman:+.2f} with {self.metric} ({best.low:+.2f} to {best.high:+.2f})"
        if not self.sure:
            why = f"the best of {self.tried} unrelated ones would reach {self.chance:.2f} in one of twenty cases"
            if self.attainable > LEVEL:
                why = f"not even a perfect order would do: that takes at least {self.needed} tokenizers"
            return f"{of}, no diagnostic can be told from chance; nearest comes {best.diagnostic}, {said}, but {why}."
        against = (
            " (papers expect the opposite)" if best.expected not in ("unknown", best.better) else ""
        )
        others = ", ".join(c.diagnostic for c in self.sure[1:])
        also = f" Also beyond chance: {others}." if others else ""
        return (
            f"{of}, choose by {best.diagnostic}: {best.better} goes with better generation{against}, {said},"
            f" p = {best.adjusted:.2g} after allowing for the choice.{also}"
        )


CAUTION = "This is an order seen among these runs and no cause; train one more pair to test it."


def generation_predictors(
    evidences: Sequence[Evidence],
    *,
    modes: bool = False,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> GenerationPredictors:
    """Rank diagnostics of tokenizers by how they agree with the Frechet distance of generators trained on them.

    A generator is paired with the tokenizer whose folder's name its provenance tells. A tokenizer is one point: the
    mean of its generators. Only diagnostics that every tokenizer has, and that differ, are tried; `modes` adds the
    slow ones. A diagnostic is *sure* where the best of as many unrelated ones does as well in at most 5 % of all
    orders of the tokenizers. Raises NotApplicable for under 4 tokenizers, or nothing to correlate.
    """
    pairs, left_out = pairs_of(evidences)
    tokenizers = {pair.tokenizer.run_name: pair.tokenizer for pair in pairs}
    if len(tokenizers) < LEAST:
        raise NotApplicable(
            f"Generation predicted needs at least {LEAST} tokenizers with a generator each, measured on the same"
            f" images; of the {len(evidences)} selected runs, {_count(len(tokenizers), 'such pair')} can be formed."
        )
    found, images = generations(pairs, seed)
    names, values, lacking = _common(_measured(tuple(tokenizers.values()), modes, seed))
    target = np.array([g.value for g in found])
    correlations, null = _correlated(names, values, target, seed)
    order = np.argsort([-abs(c.spearman) for c in correlations], kind="stable")
    best = np.abs(null).max(axis=1)
    return GenerationPredictors(
        correlations=tuple(correlations[i] for i in order),
        generations=found,
        values=values[:, order],
        chance=float(np.quantile(best, 1 - LEVEL)),
        attainable=float((best >= 1 - rank_correlation.ROUNDING).mean()),
        needed=rank_correlation.min_sample_size(len(names), LEVEL),
        images=images,
        metric="gFID" if pairs[0].generator.feature_extractor == "inception" else "gFD",
        left_out=left_out,
        lacking=lacking,
        warnings=_warnings(found, differing(pairs)),
        seed=seed,
    )


def _measured(tokenizers: Sequence[Evidence], modes: bool, seed: int) -> list[dict[str, float]]:
    measured = []
    for done, evidence in enumerate(tokenizers, 1):
        measured.append(diagnostics_of(evidence, modes=modes, seed=seed))
        report_progress(done, len(tokenizers))
    return measured


def _common(measured: Sequence[dict[str, float]]) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """The diagnostics that all tokenizers have and that differ, their values (n, m), and the names of the others."""
    told = [name for name in BY_NAME if any(name in each for each in measured)]
    names = [name for name in told if all(name in each for each in measured)]
    names = [name for name in names if len({each[name] for each in measured}) > 1]
    if not names:
        raise NotApplicable(
            "Generation predicted needs a diagnostic that every tokenizer has and that differs."
        )
    values = np.array([[each[name] for name in names] for each in measured])
    return names, values, tuple(name for name in told if name not in names)


def _correlated(
    names: Sequence[str], values: np.ndarray, target: np.ndarray, seed: int
) -> tuple[list[Correlation], np.ndarray]:
    """Every diagnostic's correlation with the target, and those (p, m) with the target in other orders."""
    rho, null = (
        rank_correlation.spearman(values, target),
        rank_correlation.permutation_null(values, target, seed),
    )
    alone, adjusted = rank_correlation.p_values(rho, null)
    from scipy.stats import kendalltau

    tau = [float(kendalltau(column, target).statistic) for column in values.T]
    rows = zip(names, rho.tolist(), tau, alone.tolist(), adjusted.tolist(), strict=True)
    return [
        Correlation(
            name,
            r,
            *rank_correlation.confidence_interval(r, len(target)),
            t,
            p,
            q,
            BY_NAME[name].better,
        )
        for name, r, t, p, q in rows
    ], null


def _warnings(found: Sequence[Generation], differ: Sequence[str]) -> tuple[str, ...]:
    ranked = sorted(found, key=lambda g: g.value)
    close = sum(
        a.high > b.value or b.low < a.value for a, b in zip(ranked, ranked[1:], strict=False)
    )
    said = {
        f"The generators differ in {', '.join(differ)} too, not by their tokenizers alone.": bool(
            differ
        ),
        f"Of {len(found) - 1} neighbours in the order of gFD, {close} lie within its scatter over images.": close
        > 0,
    }
    return tuple(sentence for sentence, true in said.items() if true)


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"
