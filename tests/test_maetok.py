"""MAETok: masks, targets on masked patches alone, teachers that stay out of checkpoints, and a frozen stage two."""

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
    """As users run it: without the tests' type checker, which refuses before the code itself can."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


# The mask


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.4, 0.5, 0.6, 0.75, 0.99])
@pytest.mark.parametrize("patches", [16, 25, 64, 256])
def test_each_image_has_its_share_of_the_patches_masked_rounded_up(ratio, patches):
    mask = random_mask(torch.full((50,), ratio), patches)
    assert (
        mask.shape == (50, patches)
        and (mask.sum(dim=1) == math.ceil(round(ratio * patches, 9))).all()
    )


def test_each_image_may_have_its_own_share():
    assert random_mask(torch.tensor([0.0, 0.3, 0.5]), 10).sum(dim=1).tolist() == [0, 3, 5]


def test_every_patch_is_masked_as_often_as_any_other_and_images_differ():
    torch.manual_seed(0)
    mask = random_mask(torch.full((4000,), 0.5), 16)
    assert (mask.float().mean(dim=0) - 0.5).abs().max() < 0.04  # five deviations of the mean
    assert len(mask.unique(dim=0)) > 3000


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.6), (0.0, 0.6), (0.5, 0.5)])
def test_the_truncated_normal_is_scipys(low, high):
    quantiles = torch.linspace(0, 0.999, 50)
    expected = (
        truncnorm((low - high) / 0.25, 0, loc=high, scale=0.25).ppf(quantiles.numpy())
        if low < high
        else high
    )
    found = truncated_normal(quantiles, low, high).numpy()
    np.testing.assert_allclose(found, np.broadcast_to(expected, 50), atol=1e-5)


def test_drawn_ratios_have_the_moments_of_the_truncated_normal():
    torch.manual_seed(0)
    drawn = make(mask="sample").ratios(100_000)
    mean, variance = truncnorm(-0.8, 0, loc=0.6, scale=0.25).stats("mv")
    assert drawn.min() >= 0.4 and drawn.max() <= 0.6
    assert drawn.mean().item() == pytest.approx(mean, abs=1e-3) == pytest.approx(0.505, abs=2e-3)
    assert drawn.var().item() == pytest.approx(variance, rel=0.02)


def test_a_ratio_serves_a_batch_or_an_image_or_never_changes():
    for mask, distinct in (("truncnorm", 1), ("uniform", 1), ("fixed", 1), ("sample", 64)):
        model = make(mask=mask)
        one, next_one = model.ratios(64), model.ratios(64)
        assert len(one.unique()) == distinct
        assert torch.equal(one, next_one) == (mask == "fixed")
    assert (make(mask="fixed").ratios(3) == 0.6).all()
    assert (
        torch.stack([make(mask="uniform").train().ratios(1) for _ in range(3)]).unique().numel()
        == 1
    )  # by seed


def test_what_masked_patches_hold_never_reaches_the_tokens():
    model, x = make(targets=()), images()
    torch.manual_seed(7)
    mask = random_mask(model.ratios(5), 16)
    hidden = mask.unflatten(1, (4, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    torch.manual_seed(7)
    shown = model.objective(x).reconstruction
    torch.manual_seed(7)
    torch.testing.assert_close(model.objective(torch.where(hidden, -x, x)).reconstruction, shown)
    torch.manual_seed(7)
    assert not torch.allclose(model.objective(torch.where(hidden, x, -x)).reconstruction, shown)


def test_masked_patches_are_replaced_before_they_get_positions():
    """With the learned patch set to what an empty patch looks like, masking is the same as emptying."""
    model, x = make(targets=()), images()
    with torch.no_grad():
        model.mask_patch.copy_(model.encoder.embed.bias.normal_())
    torch.manual_seed(7)
    mask = random_mask(model.ratios(5), 16)
    hidden = mask.unflatten(1, (4, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    torch.manual_seed(7)
    expected = model.decode(model.encode(torch.where(hidden, 0, x)))
    torch.testing.assert_close(model.objective(x).reconstruction, expected)


def test_tokens_are_of_the_whole_image_and_nothing_is_masked_in_eval_mode():
    model, x = make(), images()
    assert torch.equal(model.encode(x).latents, model.encode(x).latents)  # even while training
    seen = model.eval().objective(x)
    torch.testing.assert_close(seen.reconstruction, model.decode(model.encode(x)))
    assert seen.terms["hog"] == 0  # no masked patch to score


# The targets


@pytest.mark.parametrize("directional", [True, False])
def test_an_empty_mask_costs_exactly_nothing_and_moves_nothing(directional):
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
def test_only_masked_patches_are_scored(directional):
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


def test_each_teacher_has_a_term_of_its_name_and_its_weight():
    names = ("hog", "random", "shuffled:random")
    once, twice = (make(targets=names, aux_weight=w) for w in (1.0, 2.0))
    terms = []
    for model in (once, twice):
        torch.manual_seed(3)
        terms.append(model.objective(images()).terms)
    assert tuple(terms[0]) == ("pixel", *names)
    for name in names:
        torch.testing.assert_close(terms[1][name], 2 * terms[0][name])
    assert terms[1]["pixel"] == terms[0]["pixel"]


def test_targets_without_masking_are_a_control_that_trains_every_weight_but_the_masks():
    model = make(mask_low=0, mask_high=0, score="all")
    objective = model.objective(images(16))
    objective.total.backward()
    assert objective.terms["hog"] > 0
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == ["mask_patch"]


def test_features_computed_before_give_the_same_terms():
    model, x = make(targets=("hog", "random")), images()
    ready = [
        get_feature_extractor(name, channels=1).features(x, (4, 4)) for name in ("hog", "random")
    ]
    torch.manual_seed(3)
    expected = model.objective(x).terms
    torch.manual_seed(3)
    assert model.objective(x, *ready).terms == expected
    with pytest.raises(
        UserError,
        match="features of 1 teacher came with the images, but targets name 2: hog, random.",
    ):
        model.objective(x, ready[0])


def test_features_kept_in_a_folder_train_as_features_computed_each_time(tmp_path, unchecked):
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
    kept = wb.train(
        "maetok-digits", tmp_path / "b", collect=False, cache=tmp_path / "features", **small
    )
    assert len(list((tmp_path / "features").glob("hog-4x4-*.npy"))) == 1
    assert kept.history()["hog"].to_numpy() == pytest.approx(
        computed.history()["hog"].to_numpy(), abs=1e-3
    )  # float16
    with pytest.raises(UserError, match="this AE has no teacher"):
        wb.train("ae-digits", tmp_path / "c", cache=tmp_path / "features")


def test_teachers_are_in_no_checkpoint_and_copies_share_them():
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
    """The same weights, in stage two."""
    tuned = MAETok(replace(model.config, tuning=True, **settings))
    tuned.load_state_dict({k: v for k, v in model.state_dict().items() if k in tuned.state_dict()})
    return tuned.train()


def test_stage_two_changes_the_decoder_and_not_one_bit_of_the_latents(tmp_path, unchecked):
    """As a user does it: a second run that starts from the first."""
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


def test_a_few_steps_of_stage_two_mend_the_reconstruction_of_whole_images():
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


def test_the_ratio_falls_in_a_straight_line_to_nothing():
    model, seen = tuning(make()), []
    for step in range(5):
        model.progress.fill_(step / 4)
        seen.append(model.ratios(2)[0].item())
    assert seen == pytest.approx([0.6, 0.45, 0.3, 0.15, 0])


def test_stage_two_can_show_the_decoder_whole_images_from_the_start():
    model = tuning(make(), mask_low=0, mask_high=0)
    torch.testing.assert_close(
        model.objective(images()).reconstruction, model.decode(model.encode(images()))
    )


def test_only_the_decoder_is_left_to_train_and_no_teacher_is_needed():
    tuned = tuning(make())
    assert {n.split(".")[0] for n, p in tuned.named_parameters() if p.requires_grad} == {"decoder"}
    assert tuned.teachers == () and len(tuned.aux_decoders) == 0
    there = replace(make().config, targets=("dinov2:/nowhere",), tuning=True)
    assert MAETok(there).encode(images()).latents.shape == (5, 4, 6)


# Settings


def test_targets_come_as_a_tuple_however_they_were_kept(unchecked):
    assert (
        MAETok.Config(targets=["hog"]).targets == MAETok.Config(targets="hog").targets == ("hog",)
    )
    assert MAETok.Config(targets=("",)).targets == ()  # what a command line's `targets=` gives


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mask": "half"}, "There is no mask `half`; there is fixed, sample, truncnorm, uniform."),
        (
            {"score": "mask"},
            "There is no score `mask`; there is all, masked. Did you mean `masked`?",
        ),
        ({"mask_low": 0.7}, "mask_low 0.7 and mask_high 0.6 are no range of shares"),
        (
            {"mask_high": 1.0},
            "mask_high 1.0 are no range of shares; 0 <= mask_low <= mask_high < 1 is.",
        ),
        (
            {"mask_low": 0, "mask_high": 0},
            'no patch is masked, so targets need score "all", not "masked".',
        ),
        ({"targets": ("hog", "hog")}, "targets hog, hog name a teacher twice; name each once."),
        ({"aux_width": 9}, "aux_width 9 does not divide into 2 heads."),
        ({"aux_depth": 0}, "aux_depth is 0; it must be at least 1."),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_sentence(settings, sentence, unchecked):
    with pytest.raises(UserError) as caught:
        MAETok.Config(**(SMALL | settings))
    assert sentence in str(caught.value)


def test_without_learned_tokens_the_patches_own_rows_are_the_latents(unchecked):
    model = make(learned_tokens=False, num_tokens=16)
    assert "encoder.tokens" not in dict(model.named_parameters())
    for block in model.encoder.blocks:  # nothing travels between rows
        block.attention.project_out.weight.data.zero_()
    one, other = images(1), images(1)
    other[..., 2:4, 4:6] += 1.0  # the second row of patches, the third in it
    changed = (model.encode(one).latents != model.encode(other).latents).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [1 * 4 + 2]
    loss = model.objective(one)
    sum(loss.terms.values()).backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    with pytest.raises(UserError, match="an image has 16 of those; num_tokens is 4"):
        make(learned_tokens=False)


def test_a_target_that_is_no_teacher_is_refused():
    with pytest.raises(UserError, match="There is no teacher `hgo`.* Did you mean `hog`"):
        make(targets=("hgo",))
