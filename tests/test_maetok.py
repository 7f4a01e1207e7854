"""Tests of MAETok: masks, feature targets, teachers, and stage two."""

import copy
import math
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

import workbench as wb
from workbench.core.errors import UserError
from workbench.data import load
from workbench.features import get_feature_extractor
from workbench.tokenizers.maetok import MAETok, feature_loss, random_mask, truncated_normal
from workbench.training import TrainConfig

SMALL = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 4,
    "dim": 6,
    "width": 16,
    "depth": 1,
    "heads": 2,
}
SMALL |= {"aux_width": 8, "aux_depth": 1}
PLAN = TrainConfig(steps=20, batch_size=16, warmup_steps=2, save_every=10, log_every=5)


def make(**settings) -> MAETok:
    torch.manual_seed(0)
    return MAETok(MAETok.Config(**(SMALL | settings))).train()


@pytest.fixture
def unchecked(monkeypatch):
    """Switch off the type checker of the tests, which would raise before the code does."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


# The mask


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.4, 0.5, 0.6, 0.75, 0.99])
@pytest.mark.parametrize("patches", [16, 25, 64, 256])
def test_number_of_masked_patches_is_rounded_up(ratio, patches):
    mask = random_mask(torch.full((50,), ratio), patches)
    assert (
        mask.shape == (50, patches)
        and (mask.sum(dim=1) == math.ceil(round(ratio * patches, 9))).all()
    )


def test_ratios_may_differ_between_images():
    assert random_mask(torch.tensor([0.0, 0.3, 0.5]), 10).sum(dim=1).tolist() == [0, 3, 5]


def test_masks_are_uniform_and_differ():
    torch.manual_seed(0)
    mask = random_mask(torch.full((4000,), 0.5), 16)
    assert (mask.float().mean(dim=0) - 0.5).abs().max() < 0.04  # five deviations of the mean
    assert len(mask.unique(dim=0)) > 3000


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.6), (0.0, 0.6), (0.5, 0.5)])
def test_truncated_normal_agrees_with_scipy(low, high):
    quantiles = torch.linspace(0, 0.999, 50)
    expected = (
        truncnorm((low - high) / 0.25, 0, loc=high, scale=0.25).ppf(quantiles.numpy())
        if low < high
        else high
    )
    ratios = truncated_normal(quantiles, low, high).numpy()
    np.testing.assert_allclose(ratios, np.broadcast_to(expected, 50), atol=1e-5)


def test_ratios_have_the_moments_of_their_distribution():
    torch.manual_seed(0)
    ratios = make(mask="sample").ratios(100_000)
    mean, variance = truncnorm(-0.8, 0, loc=0.6, scale=0.25).stats("mv")
    assert ratios.min() >= 0.4 and ratios.max() <= 0.6
    assert ratios.mean().item() == pytest.approx(mean, abs=1e-3) == pytest.approx(0.505, abs=2e-3)
    assert ratios.var().item() == pytest.approx(variance, rel=0.02)


def test_ratio_per_batch_or_per_image():
    for mask, distinct in (("truncnorm", 1), ("uniform", 1), ("fixed", 1), ("sample", 64)):
        model = make(mask=mask)
        first, second = model.ratios(64), model.ratios(64)
        assert len(first.unique()) == distinct
        assert torch.equal(first, second) == (mask == "fixed")
    assert (make(mask="fixed").ratios(3) == 0.6).all()
    assert (
        torch.stack([make(mask="uniform").train().ratios(1) for _ in range(3)]).unique().numel()
        == 1
    )  # by seed


def test_tokens_ignore_masked_patches():
    model, x = make(targets=()), images()
    torch.manual_seed(7)
    mask = random_mask(model.ratios(5), 16)
    hidden = mask.unflatten(1, (4, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    torch.manual_seed(7)
    reconstruction = model.objective(x).reconstruction
    torch.manual_seed(7)
    torch.testing.assert_close(
        model.objective(torch.where(hidden, -x, x)).reconstruction, reconstruction
    )
    torch.manual_seed(7)
    assert not torch.allclose(
        model.objective(torch.where(hidden, x, -x)).reconstruction, reconstruction
    )


def test_masked_patches_keep_their_positions():
    """If the learned patch equals the embedding of an empty patch, masking equals emptying."""
    model, x = make(targets=()), images()
    with torch.no_grad():
        model.mask_patch.copy_(model.encoder.embed.bias.normal_())
    torch.manual_seed(7)
    mask = random_mask(model.ratios(5), 16)
    hidden = mask.unflatten(1, (4, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    torch.manual_seed(7)
    expected = model.decode(model.encode(torch.where(hidden, 0, x)))
    torch.testing.assert_close(model.objective(x).reconstruction, expected)


def test_evaluation_uses_the_whole_image():
    model, x = make(), images()
    assert torch.equal(model.encode(x).latents, model.encode(x).latents)  # even while training
    objective = model.eval().objective(x)
    torch.testing.assert_close(objective.reconstruction, model.decode(model.encode(x)))
    assert objective.terms["hog"] == 0  # no masked patch to score


# The targets


@pytest.mark.parametrize("directional", [True, False])
def test_empty_mask_gives_zero_loss_and_gradient(directional):
    predicted = torch.randn(3, 4, 5, requires_grad=True)
    loss = feature_loss(
        predicted,
        torch.randn(3, 4, 5),
        torch.zeros(3, 4, dtype=torch.bool),
        directional=directional,
    )
    loss.backward()
    assert loss == 0 and (predicted.grad == 0).all()


@pytest.mark.parametrize("directional", [True, False])
def test_feature_loss_agrees_with_a_loop(directional):
    torch.manual_seed(0)
    predicted, features, mask = torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.rand(3, 4) < 0.5
    each = []
    for b in range(3):
        for p in range(4):
            if mask[b, p]:
                u, v = predicted[b, p], features[b, p]
                each.append(
                    1 - u @ v / (u.norm() * v.norm()) if directional else ((u - v) ** 2).mean()
                )
    loss = feature_loss(predicted, features, mask, directional=directional)
    torch.testing.assert_close(loss, torch.stack(each).mean())


def test_each_teacher_has_a_weighted_term():
    names = ("hog", "random", "shuffled:random")
    single, double = (make(targets=names, aux_weight=w) for w in (1.0, 2.0))
    terms = []
    for model in (single, double):
        torch.manual_seed(3)
        terms.append(model.objective(images()).terms)
    assert tuple(terms[0]) == ("pixel", *names)
    for name in names:
        torch.testing.assert_close(terms[1][name], 2 * terms[0][name])
    assert terms[1]["pixel"] == terms[0]["pixel"]


def test_control_without_masks_trains_all_other_weights():
    model = make(mask_low=0, mask_high=0, score="all")
    objective = model.objective(images(16))
    objective.total.backward()
    assert objective.terms["hog"] > 0
    without = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert without == ["mask_patch"]


def test_precomputed_features_give_equal_terms():
    model, x = make(targets=("hog", "random")), images()
    precomputed = [
        get_feature_extractor(name, channels=1).features(x, (4, 4)) for name in ("hog", "random")
    ]
    torch.manual_seed(3)
    expected = model.objective(x).terms
    torch.manual_seed(3)
    assert model.objective(x, *precomputed).terms == expected
    with pytest.raises(UserError) as error:
        model.objective(x, precomputed[0])
    assert "2 targets" in str(error.value) and "got 1" in str(error.value)


@pytest.mark.slow
def test_cached_features_give_equal_training(tmp_path, unchecked):
    small = {
        "num_tokens": 4,
        "width": 16,
        "depth": 1,
        "aux_width": 16,
        "batch_size": 16,
        "steps": 10,
        "limit": 50,
    }
    computed = wb.train("maetok-digits", tmp_path / "a", collect=False, **small)
    cached = wb.train(
        "maetok-digits", tmp_path / "b", collect=False, cache=tmp_path / "features", **small
    )
    assert len(list((tmp_path / "features").glob("hog-4x4-*.npy"))) == 1
    assert cached.history()["hog"].to_numpy() == pytest.approx(
        computed.history()["hog"].to_numpy(), abs=1e-3
    )  # float16
    with pytest.raises(UserError):
        wb.train("ae-digits", tmp_path / "c", cache=tmp_path / "features")


def test_teachers_are_shared_and_never_saved():
    model = make(targets=("random",))
    assert not any("teacher" in name for name in model.state_dict())
    assert copy.deepcopy(model).teachers[0] is model.teachers[0]
    before = model.teachers[0].fingerprint
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.objective(images()).total.backward()
    optimizer.step()
    assert model.teachers[0].fingerprint == before


# Stage two


def tuning(model: MAETok, **settings) -> MAETok:
    """Return a model of stage two with the same weights."""
    tuned = MAETok(replace(model.config, tuning=True, **settings))
    tuned.load_state_dict({k: v for k, v in model.state_dict().items() if k in tuned.state_dict()})
    return tuned.train()


@pytest.mark.slow
def test_stage_two_leaves_the_latents_unchanged(tmp_path, unchecked):
    """The second run starts from the first."""
    small = {
        "num_tokens": 4,
        "width": 16,
        "depth": 1,
        "batch_size": 16,
        "steps": 20,
        "save_every": 10,
        "collect": False,
    }
    small |= {"aux_width": 16}
    learned = wb.train("maetok-digits", tmp_path / "one", **small).load()
    run = wb.train("maetok-digits", tmp_path / "two", start=tmp_path / "one", tuning=True, **small)
    assert "hog" not in run.history().columns and run.steps == [0, 10, 20]
    for averaged in (True, False):
        tuned = run.load(averaged=averaged)
        assert torch.equal(tuned.encode(images()).latents, learned.encode(images()).latents)
        tokens = learned.encode(images())
        assert not torch.allclose(tuned.decode(tokens), learned.decode(tokens))


@pytest.mark.slow
def test_stage_two_improves_reconstruction():
    model, x = make(), load("digits").images(slice(32))
    learn(model, x, 100)
    tuned = tuning(model)
    before = model.eval().objective(x).terms["pixel"].item()
    learn(tuned, x, 80)
    assert tuned.eval().objective(x).terms["pixel"].item() < 0.9 * before


def learn(model: MAETok, x: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for step in range(steps):
        model.progress.fill_(step / steps)
        optimizer.zero_grad()
        model.objective(x).total.backward()
        optimizer.step()


def test_ratio_decreases_linearly_in_stage_two():
    model, ratios = tuning(make()), []
    for step in range(5):
        model.progress.fill_(step / 4)
        ratios.append(model.ratios(2)[0].item())
    assert ratios == pytest.approx([0.6, 0.45, 0.3, 0.15, 0])


def test_stage_two_without_masks():
    model = tuning(make(), mask_low=0, mask_high=0)
    torch.testing.assert_close(
        model.objective(images()).reconstruction, model.decode(model.encode(images()))
    )


def test_stage_two_trains_only_the_decoder():
    tuned = tuning(make())
    assert {n.split(".")[0] for n, p in tuned.named_parameters() if p.requires_grad} == {"decoder"}
    assert tuned.teachers == () and len(tuned.aux_decoders) == 0
    config = replace(make().config, targets=("dinov2:/nowhere",), tuning=True)
    assert MAETok(config).encode(images()).latents.shape == (5, 4, 6)


# Settings


def test_targets_become_a_tuple(unchecked):
    assert (
        MAETok.Config(targets=["hog"]).targets == MAETok.Config(targets="hog").targets == ("hog",)
    )
    assert MAETok.Config(targets=("",)).targets == ()  # from `targets=` on the command line


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ({"mask": "half"}, ("mask", "`half`", "truncnorm")),
        ({"score": "mask"}, ("score", "`mask`", "`masked`")),
        ({"mask_low": 0.7}, ("mask_low", "0.7", "0.6")),
        ({"mask_high": 1.0}, ("mask_high", "0.4", "1.0")),
        ({"mask_low": 0, "mask_high": 0}, ("score", "mask_high 0")),
        ({"targets": ("hog", "hog")}, ("targets", "hog, hog")),
        ({"aux_width": 9}, ("aux_width", "9", "2 heads")),
        ({"aux_depth": 0}, ("aux_depth", "0")),
    ],
)
def test_invalid_settings_raise(settings, fragments, unchecked):
    with pytest.raises(UserError) as error:
        MAETok.Config(**(SMALL | settings))
    assert all(fragment in str(error.value) for fragment in fragments)


def test_latents_of_patches_without_learned_tokens(unchecked):
    model = make(learned_tokens=False, num_tokens=16)
    assert "encoder.tokens" not in dict(model.named_parameters())
    for block in model.encoder.blocks:  # no exchange between rows
        block.attention.project_out.weight.data.zero_()
    x, changed_x = images(1), images(1)
    changed_x[..., 2:4, 4:6] += 1.0  # the third patch of the second row
    changed = (model.encode(x).latents != model.encode(changed_x).latents).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [1 * 4 + 2]
    loss = model.objective(x)
    sum(loss.terms.values()).backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    with pytest.raises(UserError) as error:
        make(learned_tokens=False)
    assert "16" in str(error.value) and "got 4" in str(error.value)


def test_unknown_target_raises():
    with pytest.raises(UserError) as error:
        make(targets=("hgo",))
    assert "`hgo`" in str(error.value) and "`hog`" in str(error.value)
