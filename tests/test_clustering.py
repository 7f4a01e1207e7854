"""Clustering: Lloyd's algorithm against scikit-learn and closed forms, and codebooks without empty or equal codes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from workbench.core.errors import UserError
from workbench.quantizers.clustering import Step, budgets, cluster, distinct, lloyd_step, split
from workbench.quantizers.nearest import nearest_code
from workbench.quantizers.normalizer import Normalizer

BUILDERS = ["sample", "flat", "two-level"]


def mixture(count: int = 4000, *, centres: int = 30, dim: int = 8, seed: int = 0) -> torch.Tensor:
    """Tokens around as many centres, some of them far more often than others."""
    generator = torch.Generator().manual_seed(seed)
    places = 2 * torch.randn(centres, dim, generator=generator)
    own = torch.multinomial(
        1 / (1 + torch.arange(float(centres))), count, replacement=True, generator=generator
    )
    return places[own] + torch.randn(count, dim, generator=generator)


def error(tokens: torch.Tensor, codebook: torch.Tensor) -> float:
    return lloyd_step(tokens, codebook).error


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("rounds", [1, 5])
def test_lloyds_rounds_are_those_of_scikit_learn_from_the_same_start(rounds):
    tokens = mixture()
    codebook = start = tokens[:20]
    for _ in range(rounds):
        step = lloyd_step(tokens, codebook)
        assert step.counts.min() > 0  # else the two would differ in whom they split
        codebook = step.codebook
    fitted = KMeans(
        20, init=start.numpy(), n_init=1, max_iter=rounds, tol=0, algorithm="lloyd"
    ).fit(tokens.numpy())
    torch.testing.assert_close(
        codebook, torch.from_numpy(fitted.cluster_centers_), atol=1e-4, rtol=0
    )
    assert error(tokens, codebook) * len(tokens) == pytest.approx(fitted.inertia_, rel=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_faiss_and_ours_go_the_same_way_from_the_same_start(unit):
    tokens = F.normalize(mixture(), dim=-1) if unit else mixture()
    theirs, ours = (
        cluster(tokens, 20, builder=builder, rounds=8, unit=unit) for builder in ("faiss", "flat")
    )
    assert error(tokens, theirs) == pytest.approx(error(tokens, ours), rel=1e-3)
    assert torch.cdist(theirs, ours).min(dim=1).values.median() < 1e-3


@pytest.mark.parametrize(
    ("builder", "within"), [("flat", 0.01), ("faiss", 0.01), ("two-level", 0.02)]
)
def test_a_builder_ends_as_well_as_scikit_learn_does_from_random_tokens(builder, within):
    tokens, seeds = mixture(), range(5)
    theirs = [
        KMeans(40, init="random", n_init=1, random_state=seed).fit(tokens.numpy()).inertia_
        for seed in seeds
    ]
    ours = [
        error(tokens, cluster(tokens, 40, builder=builder, rounds=30, seed=seed)) for seed in seeds
    ]
    assert np.mean(ours) == pytest.approx(np.mean(theirs) / len(tokens), rel=within)


def test_two_levels_are_about_as_good_as_flat_and_passes_over_all_mend_the_rest():
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
def test_the_error_never_rises_from_round_to_round_even_where_cells_are_split(unit):
    tokens = F.normalize(mixture(2000), dim=-1) if unit else mixture(2000)
    codebook, errors, empty = tokens[:60].clone(), [], 0
    codebook[40:] = 50 + torch.arange(20.0)[:, None]  # so far away that nobody chooses them
    for _ in range(25):
        step = lloyd_step(tokens, codebook, unit=unit)
        errors.append(step.error)
        empty += (step.counts == 0).sum().item()
        codebook = split(step, generator(), unit=unit)
        if unit:
            torch.testing.assert_close(codebook.norm(dim=-1), torch.ones(60))
    assert empty >= 20
    assert all(
        after <= before * (1 + 1e-6) for before, after in zip(errors, errors[1:], strict=False)
    )


def test_a_code_that_nobody_chose_goes_to_the_cell_that_errs_most_and_shares_it():
    tokens = torch.cat(
        [torch.zeros(500, 2), torch.randn(100, 2) + 10]
    )  # the most populous cell is one point
    step = lloyd_step(tokens, torch.tensor([[0.0, 0.0], [10.0, 10.0], [99.0, 99.0]]))
    assert step.counts.tolist() == [500, 100, 0]
    moved = split(step, generator())
    assert torch.equal(moved[0], torch.zeros(2))
    torch.testing.assert_close((moved[1] + moved[2]) / 2, tokens[500:].mean(dim=0))
    assert min(lloyd_step(tokens, moved).counts[1:]) > 20


def test_where_no_cell_errs_there_is_nothing_to_split():
    tokens = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(5, 1)
    codebook = torch.cat([tokens[:2], torch.full((1, 2), 99.0)])
    step = lloyd_step(tokens, codebook)
    assert step.error == 0 and torch.equal(split(step, generator()), codebook)


def test_a_shrunken_code_is_the_mean_of_its_tokens_and_lambda_times_the_mean_code():
    tokens, codebook = mixture(600), mixture(10, seed=1)
    step, own = lloyd_step(tokens, codebook, shrinkage=0.5), nearest_code(tokens, codebook)
    weight = 0.5 * 600 / 10
    for k in range(10):
        mine = tokens[own == k]
        shrunken = (mine.sum(dim=0) + weight * codebook.mean(dim=0)) / (len(mine) + weight)
        torch.testing.assert_close(step.codebook[k], shrunken if len(mine) else codebook[k])


def test_without_shrinkage_codes_are_means_and_with_very_much_they_are_all_the_mean_code():
    tokens = mixture(600)
    codebook, own = tokens[:10], nearest_code(tokens, tokens[:10])
    means = torch.stack([tokens[own == k].mean(dim=0) for k in range(10)])
    torch.testing.assert_close(lloyd_step(tokens, codebook).codebook, means)
    collapsed = lloyd_step(tokens, codebook, shrinkage=1e6).codebook
    torch.testing.assert_close(collapsed, codebook.mean(dim=0).expand(10, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("builder", ["flat", "two-level"])
def test_a_little_shrinkage_is_harmless_and_as_much_as_a_code_has_tokens_kills_codes(builder):
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


def test_shrinking_draws_codes_to_the_middle_of_all_tokens_not_of_their_cell():
    far = torch.cat([mixture(500) + 100, mixture(500) - 100])
    for builder in ("flat", "two-level"):
        plain, shrunken = (
            cluster(far, 16, builder=builder, shrinkage=s, passes=0, rounds=1) for s in (0.0, 1.0)
        )
        assert plain.mean(dim=1).abs().min() > 90 and shrunken.mean(dim=1).abs().max() < 90


@pytest.mark.parametrize("builder", BUILDERS)
def test_there_are_exactly_as_many_codes_as_asked_for_and_no_two_are_equal(builder):
    tokens = mixture(2000)
    tokens[:1200] = 0  # an empty patch, again and again
    tokens[1200:1400] = tokens[1999]
    for codes in (1, 2, 37, 601):
        codebook = cluster(tokens, codes, builder=builder)
        assert codebook.shape == (codes, 8) and len(codebook.unique(dim=0)) == codes
        if builder != "sample":
            assert (lloyd_step(tokens, codebook).counts > 0).all()


def test_one_code_is_the_mean_and_as_many_codes_as_different_tokens_are_the_tokens():
    tokens = mixture(50).repeat(3, 1)
    torch.testing.assert_close(cluster(tokens, 1), tokens.mean(dim=0)[None])
    for builder in BUILDERS:
        assert error(tokens, cluster(tokens, 50, builder=builder)) < 1e-10


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_seed_alone_decides_a_codebook(builder):
    tokens = mixture(1000)
    first = cluster(tokens, 30, builder=builder, seed=1)
    torch.rand(3)
    assert torch.equal(first, cluster(tokens, 30, builder=builder, seed=1))
    assert not torch.equal(first, cluster(tokens, 30, builder=builder, seed=2))


def test_the_size_of_a_chunk_changes_no_assignment_and_no_sum(monkeypatch):
    tokens = mixture(1000)
    codebook = cluster(tokens, 30)
    assert torch.equal(nearest_code(tokens, codebook, chunk=7), nearest_code(tokens, codebook))
    whole = lloyd_step(tokens, codebook)
    monkeypatch.setattr("workbench.quantizers.clustering.ROWS", 77)
    pieces = lloyd_step(tokens, codebook)
    assert torch.equal(whole.codebook, pieces.codebook) and torch.equal(whole.errors, pieces.errors)


def test_each_class_gets_its_share_of_codes_from_its_own_tokens():
    """VQGAN-LC's codebook: classes with many tokens get no more codes than others."""
    tokens, labels = mixture(1000), torch.arange(1000) % 10 // 9  # nine in ten are of class 0
    tokens[labels == 1] += 100
    codebook = cluster(tokens, 20, labels=labels)
    assert (codebook[:10].mean(dim=1) < 50).all() and (codebook[10:].mean(dim=1) > 50).all()


def test_classes_that_share_tokens_do_not_share_codes():
    tokens, labels = torch.arange(12.0)[:, None].repeat(2, 1), torch.arange(24) // 12
    for builder in BUILDERS:
        assert len(cluster(tokens, 12, builder=builder, labels=labels).unique()) == 12


def test_codebooks_that_cannot_be_are_refused_in_one_sentence():
    tokens, labels = (
        mixture(12).repeat(7, 1),
        torch.arange(12).repeat(7) // 9,
    )  # their means differ from them in rounding
    with pytest.raises(UserError, match="10 codes do not divide into 4 classes"):
        cluster(mixture(100), 10, labels=torch.arange(100) % 4)
    with pytest.raises(
        UserError,
        match="Class 1 has 3 different tokens for its 4 codes; take fewer codes or more im",
    ):
        cluster(tokens, 8, labels=labels)
    for builder in BUILDERS:
        with pytest.raises(
            UserError,
            match="13 codes need as many different tokens, and there are 12; take more im",
        ):
            cluster(tokens, 13, builder=builder)
    with pytest.raises(
        UserError, match=r"faiss does not shrink \(shrinkage=0.5\); take flat or two-level"
    ):
        cluster(tokens, 4, builder="faiss", shrinkage=0.5)
    with pytest.raises(UserError, match="Some features are not finite"):
        cluster(torch.full((9, 2), math.nan), 3)


def test_progress_is_told_and_ends_at_the_total():
    heard: list[tuple[int, int]] = []
    for settings in (
        {"builder": "flat", "rounds": 4},
        {"passes": 2},
        {"labels": torch.arange(1000) % 2},
    ):
        heard.clear()
        cluster(mixture(1000), 64, tick=lambda done, total: heard.append((done, total)), **settings)
        assert [done for done, _ in heard] == sorted({done for done, _ in heard}) and heard[-1][
            0
        ] == heard[-1][1]


@pytest.mark.parametrize("codes", [4, 5, 40, 99, 100])
def test_budgets_add_up_and_nobody_gets_less_than_one_or_more_than_it_holds(codes):
    sizes = torch.tensor([1, 1, 3, 95])
    given = budgets(sizes, codes)
    assert given.sum() == codes and (given >= 1).all() and (given <= sizes).all()
    if codes == 40:
        assert given.tolist() == [1, 1, 1, 37]


def test_distinct_rows_are_where_they_stand_first():
    rows = torch.tensor([[2.0, 1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 5.0], [1.0, 1.0]])
    assert distinct(rows).tolist() == [0, 1, 3]


def test_the_error_of_a_step_is_a_mean_over_tokens():
    assert Step(torch.zeros(2, 1), torch.tensor([3, 1]), torch.tensor([6.0, 2.0])).error == 2.0


def normalised(kind: str, tokens: torch.Tensor, dim: int = 8) -> torch.Tensor:
    normaliser = Normalizer(kind, channels=8, dim=dim)
    normaliser.fit(tokens)
    return normaliser(tokens)


def test_normalisers_leave_what_their_names_say():
    tokens = mixture() * torch.arange(1.0, 9) + 5
    assert torch.equal(normalised("none", tokens), tokens)
    torch.testing.assert_close(normalised("unit", tokens), F.normalize(tokens, dim=-1))
    channel, white = normalised("channel", tokens), normalised("whiten", tokens)
    torch.testing.assert_close(
        channel, (tokens - tokens.mean(0)) / tokens.std(0, correction=0), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(torch.cov(white.T, correction=0), torch.eye(8), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["none", "channel", "whiten"])
def test_with_fewer_channels_the_principal_axes_stay(kind):
    tokens = mixture() * torch.arange(1.0, 9)
    kept, all_of_them = normalised(kind, tokens, dim=3), normalised("none", tokens, dim=7)
    assert kept.shape == (4000, 3)
    if kind == "none":
        variances = torch.linalg.eigvalsh(torch.cov(tokens.T, correction=0)).flip(0)
        torch.testing.assert_close(
            torch.cov(all_of_them.T, correction=0).diagonal(), variances[:7], rtol=1e-3, atol=0
        )
        torch.testing.assert_close(kept, all_of_them[:, :3])


@pytest.mark.parametrize("kind", ["channel", "whiten"])
def test_a_channel_that_is_always_the_same_is_not_blown_up(kind):
    tokens = mixture()
    tokens[:, 3] = 7
    normaliser = Normalizer(kind, channels=8, dim=8)
    normaliser.fit(tokens)
    assert normaliser(tokens).abs().max() < 20
    tokens[:, 3] += 0.01  # what is encoded later may differ a little
    assert normaliser(tokens).abs().max() < 20


def test_means_of_unit_vectors_are_unit_vectors_and_the_nearest_is_that_of_the_largest_product():
    tokens = F.normalize(mixture(), dim=-1)
    codebook = cluster(tokens, 30, unit=True)
    torch.testing.assert_close(codebook.norm(dim=-1), torch.ones(30))
    agree = (nearest_code(tokens, codebook) == (tokens @ codebook.T).argmax(dim=-1)).float().mean()
    assert agree > 0.999
