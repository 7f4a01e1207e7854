"""Scores of the protocol of families: which numbers of latents predict generation, out of sample.

The rules are in docs/concepts/prediction-protocol.md. Everything here is a function of tables, so
that the tests need no training. Values are compared as ranks within families: no statement mixes
latents of different sizes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.analysis.stats.prediction import (
    cluster_bootstrap,
    detectable_correlation,
    left_out_q2,
    partial_spearman,
    ranks_within,
)
from workbench.analysis.stats.rank_correlation import p_values, permutation_null, spearman

# Fixed before any run. Spatial structure is position-centered LDS on a grid, and RMSC otherwise.
NUMBERS = ("VIV total", "entanglement", "spatial structure", "LNC", "noise slope", "class share")
RECONSTRUCTION = ("PSNR", "rFD")
SHORT = "gFD of a short training"
BASELINES = (*RECONSTRUCTION, "class Gaussians", SHORT)
FACTORS = ("LNC", "spatial structure")  # semantic and spatial
RIDGE = 0.1
MIN_AGREEMENT = 0.6  # Spearman of the distances by the two feature extractors
MIN_RELIABILITY = 0.7  # of the mean of the trainings of a generator
MAX_RATIO_TO_GAUSSIANS = 0.5  # of the median distance
MIN_ARMS = 6
LEVEL = 0.05


@dataclass(frozen=True, eq=False, kw_only=True)
class Family:
    """Tokenizers of one architecture and one shape of latents.

    Attributes
    ----------
    name : str
    arms, clusters : tuple of str
        Tokenizers, and the setting that distinguishes each.
    numbers : dict of str to ndarray, shape (n,)
        Numbers of the latents and baselines; NaN if they do not exist.
    distances : ndarray, shape (n, 2, 2)
        Distance of samples over the floor, by training of the generator and feature extractor.
    gaussians : ndarray, shape (n, 2)
        Distance over that of draws from one Gaussian per class, by both feature extractors.
    """

    name: str
    arms: tuple[str, ...]
    clusters: tuple[str, ...]
    numbers: Mapping[str, np.ndarray]
    distances: np.ndarray
    gaussians: np.ndarray

    @property
    def target(self) -> np.ndarray:
        """Mean distance of both trainings and both feature extractors."""
        return self.distances.mean(axis=(1, 2))

    @property
    def agreement(self) -> float:
        """Rank correlation of the distances by the two feature extractors."""
        first, second = self.distances.mean(axis=1).T
        # Rounding errors of ranks must not decide: 0.6 is no less than 0.6.
        return round(float(spearman(first[:, None], second)[0]), 9)

    @property
    def reliability(self) -> float:
        """Share of the variance of the log distance that is not due to the training's seed.

        For the mean of both trainings, from their correlation (Spearman and Brown).
        """
        first, second = np.log(self.distances.mean(axis=2)).T
        correlation = float(np.corrcoef(first, second)[0, 1])
        return 2 * correlation / (1 + correlation)

    @property
    def refusal(self) -> str:
        """Reason why the family is not scored; empty if it is."""
        if len(self.arms) < MIN_ARMS:
            return f"{len(self.arms)} tokenizers, at least {MIN_ARMS} are needed"
        if not np.isfinite(self.distances).all():
            return "samples of some tokenizers have no finite distance"
        if self.agreement < MIN_AGREEMENT:
            return (
                f"the feature extractors disagree (Spearman {self.agreement:.2f}, at least"
                f" {MIN_AGREEMENT} is needed)"
            )
        if self.reliability < MIN_RELIABILITY:
            return (
                f"two trainings on one tokenizer differ too much (reliability"
                f" {self.reliability:.2f}, at least {MIN_RELIABILITY} is needed)"
            )
        # The first feature extractor decides: by the untrained one, the floor alone can be above
        # half of the distance of class Gaussians.
        ratio = np.median(self.gaussians[:, 0])
        if not ratio <= MAX_RATIO_TO_GAUSSIANS:  # or NaN
            return (
                f"the median distance is {ratio:.2f} of that of class"
                f" Gaussians, above {MAX_RATIO_TO_GAUSSIANS}: the order reflects the speed of"
                " training"
            )
        return ""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Correlation of one number with generation over all scored families.

    Attributes
    ----------
    name : str
    spearman, low, high : float
        Over ranks within families, with the 95 % interval over clusters.
    pearson : float
        Mean over families of the correlation with the logarithm of the distance.
    by_family : dict of str to float
        Spearman in each family; NaN if the number does not exist there.
    partial : float
        Spearman given PSNR and rFD.
    p, adjusted : float
        Permutation p-value, alone and among the six numbers, of the means of clusters; NaN for a
        baseline.
    q2 : float
        Saved squared error of left-out families, by this number alone.
    """

    name: str
    spearman: float
    low: float
    high: float
    pearson: float
    by_family: Mapping[str, float]
    partial: float
    p: float
    adjusted: float
    q2: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All scores of one seed.

    Attributes
    ----------
    scored, refused : tuple of str
        Families, the latter with the reason.
    numbers, baselines : tuple of Score
    two_factor_q2 : float
        Saved squared error of left-out families by the model of two factors; NaN for one family.
    reconstruction_q2 : float
        The same by PSNR and rFD together.
    cluster_q2 : dict of str to float
        The same for left-out clusters within each family.
    detectable : float
        Correlation that one of six numbers needs to be found with a probability of 80 %.
    """

    scored: tuple[str, ...]
    refused: tuple[str, ...]
    numbers: tuple[Score, ...]
    baselines: tuple[Score, ...]
    two_factor_q2: float
    reconstruction_q2: float
    cluster_q2: Mapping[str, float]
    detectable: float

    @property
    def best(self) -> Score:
        """The number with the largest absolute correlation."""
        return max(self.numbers, key=lambda score: abs(score.spearman))


def score(families: Sequence[Family]) -> Scores:
    """Score every number and baseline over the families that are not refused.

    Parameters
    ----------
    families : sequence of Family

    Returns
    -------
    Scores
        Without scores if fewer than two families are left, since nothing can then be predicted
        out of a family.
    """
    refused = tuple(f"{family.name}: {family.refusal}" for family in families if family.refusal)
    scored = [family for family in families if not family.refusal]
    names = tuple(family.name for family in scored)
    if len(scored) < 2:
        return Scores(
            scored=names,
            refused=refused,
            numbers=(),
            baselines=(),
            two_factor_q2=math.nan,
            reconstruction_q2=math.nan,
            cluster_q2={},
            detectable=math.nan,
        )
    labels = [family.name for family in scored for _ in family.arms]
    clusters = [f"{family.name}: {cluster}" for family in scored for cluster in family.clusters]
    target = np.concatenate(
        [ranks_within(f.target[:, None], [f.name] * len(f.arms)) for f in scored]
    )
    target = target[:, 0]
    ranks = {name: _ranks(scored, name) for name in (*NUMBERS, *BASELINES)}
    six = np.column_stack([ranks[name] for name in NUMBERS])
    alone, adjusted = _cluster_p_values(scored, six, target)
    given = np.column_stack([ranks[name] for name in RECONSTRUCTION])
    arguments = (scored, ranks, target, given, labels, clusters)
    factors = np.column_stack([ranks[name] for name in FACTORS])
    return Scores(
        scored=names,
        refused=refused,
        numbers=tuple(
            _score(name, *arguments, p=alone[i], adjusted=adjusted[i])
            for i, name in enumerate(NUMBERS)
        ),
        baselines=tuple(_score(name, *arguments) for name in BASELINES),
        two_factor_q2=left_out_q2(factors, target, labels, ridge=RIDGE),
        reconstruction_q2=left_out_q2(given, target, labels, ridge=RIDGE),
        cluster_q2={family.name: _cluster_q2(family) for family in scored},
        detectable=detectable_correlation(_num_kinds(scored), len(NUMBERS)),
    )


def _cluster_p_values(
    families: Sequence[Family], values: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return p-values, alone and adjusted, of the mean ranks of clusters.

    Tokenizers of one cluster, and the same cluster in several families, may be alike for a reason
    that has nothing to do with the numbers. Permuted one by one, unrelated numbers would be
    significant in up to half of all cases.
    """
    items = [(family.name, cluster) for family in families for cluster in family.clusters]
    clusters = list(dict.fromkeys(items))
    is_member = np.array([[item == cluster for item in items] for cluster in clusters], float)
    weights = is_member / is_member.sum(axis=1, keepdims=True)
    values, target = weights @ values, weights @ target
    names, kinds = zip(*clusters, strict=True)
    null = permutation_null(values, target, families=names, names=kinds)
    return p_values(spearman(values, target), null)


def _num_kinds(families: Sequence[Family]) -> int:
    """Return the number of clusters; one of several families with the same clusters is one."""
    return sum(len(clusters) for clusters in {frozenset(family.clusters) for family in families})


def _score(
    name: str,
    families: Sequence[Family],
    ranks: Mapping[str, np.ndarray],
    target: np.ndarray,
    given: np.ndarray,
    labels: Sequence[str],
    clusters: Sequence[str],
    *,
    p: float = math.nan,
    adjusted: float = math.nan,
) -> Score:
    values = ranks[name]
    low, high = cluster_bootstrap(
        lambda rows: float(spearman(values[rows][:, None], target[rows])[0]), clusters
    )
    partial = math.nan
    if name not in RECONSTRUCTION:
        partial = partial_spearman(values, target, given)
    by_family = {
        f.name: float(spearman(f.numbers[name][has, None], f.target[has])[0])
        for f in families
        if (has := np.isfinite(f.numbers[name])).sum() >= MIN_ARMS
    }
    return Score(
        name=name,
        spearman=float(spearman(values[:, None], target)[0]),
        low=low,
        high=high,
        pearson=_mean_pearson(families, name),
        by_family=by_family,
        partial=partial,
        p=float(p),
        adjusted=float(adjusted),
        q2=left_out_q2(values[:, None], target, labels, ridge=RIDGE),
    )


def _ranks(families: Sequence[Family], name: str) -> np.ndarray:
    """Return ranks within families; 0, the mean, for a tokenizer that does not have the number."""
    columns = []
    for family in families:
        values = family.numbers[name]
        has = np.isfinite(values)
        column = np.zeros(len(values))
        if has.any():
            column[has] = ranks_within(values[has, None], [family.name] * int(has.sum()))[:, 0]
        columns.append(column)
    return np.concatenate(columns)


def _mean_pearson(families: Sequence[Family], name: str) -> float:
    correlations = []
    for family in families:
        has = np.isfinite(family.numbers[name])
        values = family.numbers[name][has]
        if len(values) >= MIN_ARMS and np.ptp(values) > 0:
            correlations.append(np.corrcoef(values, np.log(family.target[has]))[0, 1])
    return float(np.mean(correlations)) if correlations else math.nan


def _cluster_q2(family: Family) -> float:
    factors = np.column_stack([_ranks([family], name) for name in FACTORS])
    target = ranks_within(family.target[:, None], [family.name] * len(family.arms))[:, 0]
    return left_out_q2(factors, target, family.clusters, ridge=RIDGE)
