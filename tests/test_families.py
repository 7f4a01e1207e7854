"""The protocol of families: its arms, and its scores on tables with a known answer."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.claims import families
from benchmarks.claims.claim import judge_effect
from benchmarks.claims.family_scores import BASELINES, NUMBERS, Family, score
from benchmarks.claims.scales import LAPTOP

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draw the same numbers in a test whichever tests ran before."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def family(name: str, weights=(1.0, 1.0), offset: float = 0.0, n: int = 16) -> Family:
    """Return a family whose log distances are a weighted sum of both factors, and noise."""
    numbers = {number: RANDOM.normal(size=n) for number in (*NUMBERS, *BASELINES)}
    numbers["VIV total"] = offset + 1e-9 * numbers["VIV total"]  # separates families only
    log_distance = (
        offset
        - weights[0] * numbers["LNC"]
        - weights[1] * numbers["spatial structure"]
        + 0.2 * RANDOM.normal(size=n)
    )
    distances = np.exp(log_distance[:, None, None] + 0.02 * RANDOM.normal(size=(n, 2, 2)))
    return Family(
        name=name,
        arms=tuple(f"arm {i}" for i in range(n)),
        clusters=tuple(f"cluster {i % 10}" for i in range(n)),
        numbers=numbers,
        distances=distances,
        gaussians=np.full((n, 2), 0.3),
    )


def test_two_factors_predict_a_left_out_family_and_size_does_not():
    tables = [family("A", offset=0), family("B", offset=3), family("C", offset=6)]
    scores = score(tables)
    assert scores.scored == ("A", "B", "C") and not scores.refused
    assert scores.two_factor_q2 > 0.7
    assert min(scores.cluster_q2.values()) > 0.4
    by_name = {item.name: item for item in (*scores.numbers, *scores.baselines)}
    assert scores.best.name in ("LNC", "spatial structure") and scores.best.adjusted < 0.001
    assert scores.best.low < scores.best.spearman < scores.best.high < 0
    assert by_name["PSNR"].q2 < 0.1 and np.isnan(by_name["PSNR"].adjusted)
    # It orders the families perfectly, and nothing within them.
    assert abs(by_name["VIV total"].spearman) < 0.5 and by_name["VIV total"].q2 < 0.2
    assert abs(by_name["LNC"].partial - by_name["LNC"].spearman) < 0.15


@pytest.mark.slow
def test_unrelated_numbers_are_not_significant():
    adjusted = [
        min(s.adjusted for s in score([family("A", (0, 0)), family("B", (0, 0))]).numbers)
        for _ in range(3)
    ]
    assert np.median(adjusted) > 0.05
    reversed_sign = score([family("A"), family("B", (-1, -1))])
    assert reversed_sign.two_factor_q2 < 0


@pytest.mark.slow
def test_what_clusters_have_in_common_is_not_significant():
    """One by one, 48 tokenizers of ten kinds would count as 48 observations."""
    num_significant = 0
    for _ in range(6):
        tables = [family(name, (0, 0)) for name in "ABC"]
        effects = RANDOM.normal(size=(10, len(NUMBERS) + 1))
        for table in tables:
            kinds = np.array([int(cluster.split()[1]) for cluster in table.clusters])
            table.distances[:] *= np.exp(2 * effects[kinds, -1])[:, None, None]
            for number, effect in zip(NUMBERS, effects.T, strict=False):
                table.numbers[number][:] += 2 * effect[kinds]
        num_significant += min(s.adjusted for s in score(tables).numbers) < 0.05
    assert num_significant <= 1


def test_families_are_refused_with_a_reason():
    disagreeing = family("A")
    shuffled = RANDOM.permutation(disagreeing.distances)
    by_extractor = np.stack([disagreeing.distances[..., 0], shuffled[..., 0]], axis=2)
    disagreeing = replace(disagreeing, distances=by_extractor)
    unreliable = family("B")
    by_flow = np.stack([unreliable.distances[:, 0], shuffled[:, 0]], axis=1)
    unreliable = replace(unreliable, distances=by_flow)
    untrained = replace(family("C"), gaussians=np.full((16, 2), (0.8, 0.3)))
    collapsed = family("D")
    collapsed.distances[3, 0, 1] = np.nan
    refused = [disagreeing, unreliable, untrained, collapsed, family("E", n=4)]
    assert all(table.refusal for table in refused)
    assert disagreeing.reliability > 0.7 > unreliable.reliability
    assert unreliable.agreement > 0.6 > disagreeing.agreement
    scores = score([*refused, family("F")])
    assert len(scores.refused) == 5 and not scores.numbers
    assert np.isnan(scores.two_factor_q2)


def test_family_at_the_smallest_agreement_is_scored():
    # Squared differences of the ranks sum to 14: Spearman is 1 - 6 * 14 / 210 = 0.6.
    distances = np.column_stack([[1, 2, 3, 4, 5, 6], [1, 2, 5, 4, 6, 3]]).astype(float)
    table = replace(family("A", n=6), distances=np.stack([distances, distances], axis=1))
    assert table.agreement == 0.6 and not table.refusal


def test_number_that_a_family_does_not_have_is_left_out_there():
    tables = [family("A"), family("B")]
    tables[0].numbers["LNC"][:] = np.nan
    best = {item.name: item for item in score(tables).numbers}["LNC"]
    assert set(best.by_family) == {"B"} and np.isfinite(best.spearman)
    # One sign in a single family says nothing about all of them.
    assert np.isnan(families._common_sign(best))


def test_tokenizer_without_a_number_keeps_the_others():
    tables = [family("A"), family("B")]
    complete = {item.name: item for item in score(tables).numbers}["LNC"]
    tables[0].numbers["LNC"][3] = np.nan
    partly = {item.name: item for item in score(tables).numbers}["LNC"]
    assert set(partly.by_family) == {"A", "B"}
    assert partly.spearman == pytest.approx(complete.spearman, abs=0.1) != 0


def test_arms_are_spread_over_clusters():
    tokenizers = families.families(LAPTOP)
    assert {name: len(arms) for name, arms in tokenizers.items()} == {
        "A": 16,
        "B": 16,
        "D": 16,
    }
    assert set(families.families(replace(LAPTOP, full=True))) == {"A", "B", "C", "D"}
    for arms in tokenizers.values():
        clusters = [cluster for cluster, _ in arms.values()]
        assert max(map(clusters.count, clusters)) <= len(clusters) / 3
        assert [families._cluster(label) for label in arms] == clusters
    names = [arm.name for arm in families.arms(LAPTOP).values()]
    assert len(set(names)) == len(names) == 3 * 48
    few = families.arms(replace(LAPTOP, max_arms=2))
    assert len(few) == 3 * 2 * 3 and set(few) <= set(families.arms(LAPTOP))


def test_effects_come_from_the_numbers_of_generators():
    """Numbers of generators give back the tables; refused families give no verdict."""
    table = family("A")
    rows = {}
    for i in range(16):
        common = {name: table.numbers[name][i] for name in (*NUMBERS, *BASELINES[:3])}
        common |= {"floor": 2.0, "floor free": 0.5}
        common |= {"class Gaussians": 40.0, "class Gaussians free": 10.0, "rFD free": 1.0}
        by_flow = {"flow 0": table.distances[i, 0], "flow 1": table.distances[i, 1]}
        by_flow["short"] = 3 * table.distances[i].mean(axis=0)
        for flow, (a, b) in by_flow.items():
            label = f"A: plain {i}, {flow}"
            rows[label] = common | {"gFD": 2.0 * a, "gFD free": 0.5 * b}
    (result,) = families.tables(rows)
    assert result.distances == pytest.approx(table.distances)
    assert result.numbers["gFD of a short training"] == pytest.approx(3 * table.target)
    assert result.numbers["rFD"] == pytest.approx((table.numbers["rFD"] / 2 + 2) / 2)
    assert result.gaussians[:, 0] == pytest.approx(table.distances[..., 0].mean(axis=1) / 20)
    assert np.isnan(result.numbers["never measured"]).all()
    assert families.details(rows)["rho of short trainings, A"] == pytest.approx(1)
    effects = families.effects(rows)
    assert judge_effect(3 * [next(iter(effects.values()))]) == "not shown"
    assert families.details(rows)["agreement of the feature extractors, A"] > 0.9
