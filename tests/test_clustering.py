"""Tests of clustering: agreement with scikit-learn, faiss and closed forms; distinct codes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from workbench.core.errors import UserError
from workbench.core.progress import progress_listener
from workbench.quantizers.clustering import (
    LloydStep,
    allocate_codes,
    cluster,
    first_occurrences,
    lloyd_step,
    refill_empty_codes,
)
from workbench.quantizers.nearest import nearest_code
from workbench.quantizers.normalizer import Normalizer

BUILDERS = ["sample", "flat", "two-level"]


def mixture(count: int = 4000, *, centers: int = 30, dim: int = 8, seed: int = 0) -> torch.Tensor:
    """Return tokens around centers of very different frequencies."""
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(centers, dim, generator=generator)
    labels = torch.multinomial(
        1 / (1 + torch.arange(float(centers))), count, replacement=True, generator=generator
    )
    return means[labels] + torch.randn(count, dim, generator=generator)


def error(tokens: torch.Tensor, codebook: torch.Tensor) -> float:
    return lloyd_step(tokens, codebook).error


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("rounds", [1, 5])
def test_lloyd_steps_agree_with_scikit_learn(rounds):
    tokens = mixture()
    codebook = start = tokens[:20]
    for _ in range(rounds):
        step = lloyd_step(tokens, codebook)
        assert step.counts.min() > 0  # empty codes would be handled differently
        codebook = step.codebook
    fitted = KMeans(
        20, init=start.numpy(), n_init=1, max_iter=rounds, tol=0, algorithm="lloyd"
    ).fit(tokens.numpy())
    torch.testing.assert_close(
        codebook, torch.from_numpy(fitted.cluster_centers_), atol=1e-4, rtol=0
    )
    assert error(tokens, codebook) * len(tokens) == pytest.approx(fitted.inertia_, rel=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_flat_agrees_with_faiss(unit):
    tokens = F.normalize(mixture(), dim=-1) if unit else mixture()
    faiss_codebook, codebook = (
        cluster(tokens, 20, builder=builder, rounds=8, unit=unit) for builder in ("faiss", "flat")
    )
    assert error(tokens, faiss_codebook) == pytest.approx(error(tokens, codebook), rel=1e-3)
    assert torch.cdist(faiss_codebook, codebook).min(dim=1).values.median() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "within"), [("flat", 0.01), ("faiss", 0.01), ("two-level", 0.02)]
)
def test_final_error_equals_that_of_scikit_learn(builder, within):
    tokens, seeds = mixture(), range(5)
    reference = [
        KMeans(40, init="random", n_init=1, random_state=seed).fit(tokens.numpy()).inertia_
        for seed in seeds
    ]
    errors = [
        error(tokens, cluster(tokens, 40, builder=builder, rounds=30, seed=seed)) for seed in seeds
    ]
    assert np.mean(errors) == pytest.approx(np.mean(reference) / len(tokens), rel=within)


def test_two_levels_are_nearly_as_good_as_flat():
    tokens, held_out = mixture(6000).split(4000)
    two, more = (cluster(tokens, 256, passes=passes) for passes in (0, 3))
    usual = cluster(tokens, 256)
    flat = cluster(tokens, 256, builder="flat")
    assert error(held_out, usual) == pytest.approx(error(held_out, flat), rel=0.02)
    assert (
        error(tokens, more) < error(tokens, usual) < error(tokens, two) < 1.04 * error(tokens, flat)
    )
    assert error(tokens, flat) < 0.8 * error(tokens, cluster(tokens, 256, builder="sample"))


@pytest.mark.parametrize("unit", [False, True])
def test_error_never_increases(unit):
    tokens = F.normalize(mixture(2000), dim=-1) if unit else mixture(2000)
    codebook, errors, empty = tokens[:60].clone(), [], 0
    codebook[40:] = 50 + torch.arange(20.0)[:, None]  # too far away to be selected
    for _ in range(25):
        step = lloyd_step(tokens, codebook, unit=unit)
        errors.append(step.error)
        empty += (step.counts == 0).sum().item()
        codebook = refill_empty_codes(step, generator(), unit=unit)
        if unit:
            torch.testing.assert_close(codebook.norm(dim=-1), torch.ones(60))
    assert empty >= 20
    assert all(
        after <= before * (1 + 1e-6) for before, after in zip(errors, errors[1:], strict=False)
    )


def test_empty_code_splits_the_cell_of_largest_error():
    tokens = torch.cat(
        [torch.zeros(500, 2), torch.randn(100, 2) + 10]
    )  # the most populous cell is one point
    step = lloyd_step(tokens, torch.tensor([[0.0, 0.0], [10.0, 10.0], [99.0, 99.0]]))
    assert step.counts.tolist() == [500, 100, 0]
    moved = refill_empty_codes(step, generator())
    assert torch.equal(moved[0], torch.zeros(2))
    torch.testing.assert_close((moved[1] + moved[2]) / 2, tokens[500:].mean(dim=0))
    assert min(lloyd_step(tokens, moved).counts[1:]) > 20


def test_cells_without_error_are_not_split():
    tokens = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(5, 1)
    codebook = torch.cat([tokens[:2], torch.full((1, 2), 99.0)])
    step = lloyd_step(tokens, codebook)
    assert step.error == 0 and torch.equal(refill_empty_codes(step, generator()), codebook)


def test_shrinkage_agrees_with_its_formula():
    tokens, codebook = mixture(600), mixture(10, seed=1)
    step, codes = lloyd_step(tokens, codebook, shrinkage=0.5), nearest_code(tokens, codebook)
    weight = 0.5 * 600 / 10
    for k in range(10):
        members = tokens[codes == k]
        total = members.sum(dim=0) + weight * codebook.mean(dim=0)
        shrunken = total / (len(members) + weight)
        torch.testing.assert_close(step.codebook[k], shrunken if len(members) else codebook[k])


def test_limits_of_shrinkage():
    tokens = mixture(600)
    codebook, codes = tokens[:10], nearest_code(tokens, tokens[:10])
    means = torch.stack([tokens[codes == k].mean(dim=0) for k in range(10)])
    torch.testing.assert_close(lloyd_step(tokens, codebook).codebook, means)
    collapsed = lloyd_step(tokens, codebook, shrinkage=1e6).codebook
    torch.testing.assert_close(collapsed, codebook.mean(dim=0).expand(10, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("builder", ["flat", "two-level"])
def test_much_shrinkage_leaves_codes_unused(builder):
    tokens, held_out = mixture(8000).split(6000)
    alive = [
        (
            lloyd_step(held_out, cluster(tokens, 200, builder=builder, shrinkage=shrinkage)).counts
            > 0
        )
        .float()
        .mean()
        for shrinkage in (0.0, 0.02, 5.0)
    ]
    assert alive[1] > alive[0] - 0.03 and alive[2] < 0.6


def test_shrinkage_pulls_to_the_center_of_all_tokens():
    far = torch.cat([mixture(500) + 100, mixture(500) - 100])
    for builder in ("flat", "two-level"):
        plain, shrunken = (
            cluster(far, 16, builder=builder, shrinkage=s, passes=0, rounds=1) for s in (0.0, 1.0)
        )
        assert plain.mean(dim=1).abs().min() > 90 and shrunken.mean(dim=1).abs().max() < 90


@pytest.mark.parametrize("builder", BUILDERS)
def test_codes_are_distinct_and_as_many_as_requested(builder):
    tokens = mixture(2000)
    tokens[:1200] = 0  # an empty patch, repeated
    tokens[1200:1400] = tokens[1999]
    for codes in (1, 2, 37, 601):
        codebook = cluster(tokens, codes, builder=builder)
        assert codebook.shape == (codes, 8) and len(codebook.unique(dim=0)) == codes
        if builder != "sample":
            assert (lloyd_step(tokens, codebook).counts > 0).all()


def test_limits_of_the_codebook_size():
    tokens = mixture(50).repeat(3, 1)
    torch.testing.assert_close(cluster(tokens, 1), tokens.mean(dim=0)[None])
    for builder in BUILDERS:
        assert error(tokens, cluster(tokens, 50, builder=builder)) < 1e-10


@pytest.mark.parametrize("builder", BUILDERS)
def test_seed_determines_the_codebook(builder):
    tokens = mixture(1000)
    first = cluster(tokens, 30, builder=builder, seed=1)
    torch.rand(3)
    assert torch.equal(first, cluster(tokens, 30, builder=builder, seed=1))
    assert not torch.equal(first, cluster(tokens, 30, builder=builder, seed=2))


def test_chunk_size_changes_nothing(monkeypatch):
    tokens = mixture(1000)
    codebook = cluster(tokens, 30)
    assert torch.equal(nearest_code(tokens, codebook, chunk=7), nearest_code(tokens, codebook))
    whole = lloyd_step(tokens, codebook)
    monkeypatch.setattr("workbench.quantizers.clustering.ROWS_PER_CHUNK", 77)
    pieces = lloyd_step(tokens, codebook)
    assert torch.equal(whole.codebook, pieces.codebook) and torch.equal(whole.errors, pieces.errors)


def test_each_class_gets_equally_many_codes():
    """As in VQGAN-LC, classes with many tokens get no more codes than others."""
    tokens, labels = mixture(1000), torch.arange(1000) % 10 // 9  # 90 % are of class 0
    tokens[labels == 1] += 100
    codebook = cluster(tokens, 20, labels=labels)
    assert (codebook[:10].mean(dim=1) < 50).all() and (codebook[10:].mean(dim=1) > 50).all()


def test_classes_never_share_codes():
    tokens, labels = torch.arange(12.0)[:, None].repeat(2, 1), torch.arange(24) // 12
    for builder in BUILDERS:
        assert len(cluster(tokens, 12, builder=builder, labels=labels).unique()) == 12


@pytest.mark.parametrize("builder", BUILDERS)
def test_too_few_distinct_tokens_raise(builder):
    tokens = mixture(12).repeat(7, 1)  # their means differ from them by rounding
    with pytest.raises(UserError) as error:
        cluster(tokens, 13, builder=builder)
    assert "13" in str(error.value) and "12" in str(error.value)


def test_classes_without_enough_tokens_raise():
    with pytest.raises(UserError) as error:
        cluster(mixture(100), 10, labels=torch.arange(100) % 4)
    assert "4 classes" in str(error.value) and "10" in str(error.value)
    tokens, labels = mixture(12).repeat(7, 1), torch.arange(12).repeat(7) // 9
    with pytest.raises(UserError) as error:
        cluster(tokens, 8, labels=labels)
    assert "Class 1 has 3" in str(error.value) and "4 codes" in str(error.value)


def test_faiss_with_shrinkage_raises():
    with pytest.raises(UserError) as error:
        cluster(mixture(84), 4, builder="faiss", shrinkage=0.5)
    assert "faiss" in str(error.value) and "0.5" in str(error.value)


def test_features_that_are_not_finite_raise():
    with pytest.raises(UserError):
        cluster(torch.full((9, 2), math.nan), 3)


@pytest.mark.parametrize(
    "settings",
    [{"builder": "flat", "rounds": 4}, {"passes": 2}, {"labels": torch.arange(1000) % 2}],
    ids=["flat", "two-level", "labels"],
)
def test_progress_increases_to_the_total(settings):
    reports: list[tuple[int, int]] = []
    with progress_listener(lambda done, total: reports.append((done, total))):
        cluster(mixture(1000), 64, **settings)
    finished = [done for done, _ in reports]
    assert finished == sorted(set(finished)) and reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize("codes", [4, 5, 40, 99, 100])
def test_allocated_codes_are_within_bounds(codes):
    sizes = torch.tensor([1, 1, 3, 95])
    allocation = allocate_codes(sizes, codes)
    assert allocation.sum() == codes
    assert (allocation >= 1).all() and (allocation <= sizes).all()
    if codes == 40:
        assert allocation.tolist() == [1, 1, 1, 37]


def test_first_occurrences_of_rows():
    rows = torch.tensor([[2.0, 1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 5.0], [1.0, 1.0]])
    assert first_occurrences(rows).tolist() == [0, 1, 3]


def test_error_of_a_step_is_a_mean_over_tokens():
    assert (
        LloydStep(
            codebook=torch.zeros(2, 1), counts=torch.tensor([3, 1]), errors=torch.tensor([6.0, 2.0])
        ).error
        == 2.0
    )


def normalized(kind: str, tokens: torch.Tensor, dim: int = 8) -> torch.Tensor:
    normalizer = Normalizer(kind, channels=8, dim=dim)
    normalizer.fit(tokens)
    return normalizer(tokens)


def test_normalizations_have_their_statistics():
    tokens = mixture() * torch.arange(1.0, 9) + 5
    assert torch.equal(normalized("none", tokens), tokens)
    torch.testing.assert_close(normalized("unit", tokens), F.normalize(tokens, dim=-1))
    channel, white = normalized("channel", tokens), normalized("whiten", tokens)
    torch.testing.assert_close(
        channel, (tokens - tokens.mean(0)) / tokens.std(0, correction=0), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(torch.cov(white.T, correction=0), torch.eye(8), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["none", "channel", "whiten"])
def test_fewer_channels_are_principal_axes(kind):
    tokens = mixture() * torch.arange(1.0, 9)
    axes, all_axes = normalized(kind, tokens, dim=3), normalized("none", tokens, dim=7)
    assert axes.shape == (4000, 3)
    if kind == "none":
        variances = torch.linalg.eigvalsh(torch.cov(tokens.T, correction=0)).flip(0)
        torch.testing.assert_close(
            torch.cov(all_axes.T, correction=0).diagonal(), variances[:7], rtol=1e-3, atol=0
        )
        torch.testing.assert_close(axes, all_axes[:, :3])


@pytest.mark.parametrize("kind", ["channel", "whiten"])
def test_constant_channel_is_not_amplified(kind):
    tokens = mixture()
    tokens[:, 3] = 7
    normalizer = Normalizer(kind, channels=8, dim=8)
    normalizer.fit(tokens)
    assert normalizer(tokens).abs().max() < 20
    tokens[:, 3] += 0.01  # later features may differ slightly
    assert normalizer(tokens).abs().max() < 20


def test_spherical_clustering():
    tokens = F.normalize(mixture(), dim=-1)
    codebook = cluster(tokens, 30, unit=True)
    torch.testing.assert_close(codebook.norm(dim=-1), torch.ones(30))
    agree = (nearest_code(tokens, codebook) == (tokens @ codebook.T).argmax(dim=-1)).float().mean()
    assert agree > 0.999
