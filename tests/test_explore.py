"""Explorations: images that a model decodes along an axis, next to a reference."""

import re

import numpy as np
import pytest
import torch

from workbench.collect import draw_samples, to_uint8
from workbench.core.errors import NotApplicable, UserError
from workbench.core.types import Tokens
from workbench.explore import modes, samples, tokens
from workbench.explore.image_grid import ImageGrid, captions, compare_reconstructions
from workbench.explore.loaded_run import LoadedRun
from workbench.generators.samplers import sample_latents
from workbench.storage.run import Run
from workbench.tokenizers.ae import AE
from workbench.tokenizers.alit import ALIT
from workbench.tokenizers.karl import KARL
from workbench.tokenizers.taildrop import TailDrop
from workbench.tokenizers.vavae import VAVAE
from workbench.tokenizers.vqvae import VQVAE

SIZES = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 4,
    "dim": 4,
    "width": 16,
    "depth": 1,
    "heads": 2,
}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)


def make(kind: type, **settings: object):
    torch.manual_seed(0)
    return kind(kind.Config(**SIZES, **settings)).eval()


def batch(images: np.ndarray = IMAGES) -> torch.Tensor:
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def decode_images(model, encoded: Tokens) -> np.ndarray:
    return to_uint8(model.decode(encoded))


# Image grids


def test_errors_by_hand():
    reference = np.zeros((1, 2, 2, 1), np.uint8)
    images = np.array([[[[0, 0], [0, 255]], [[51, 51], [51, 51]]]], np.uint8)[..., None]
    grid = ImageGrid("tokens", ("1", "2"), ("a",), reference, images)
    np.testing.assert_allclose(grid.error, [[0.25, 0.2]])
    np.testing.assert_allclose(grid.psnr, [[-10 * np.log10(0.25), -10 * np.log10(0.04)]])
    np.testing.assert_allclose(grid.error_map(0, 0), [[0, 0], [0, 1]])
    assert grid.table().columns.tolist() == ["row", "tokens", "l1", "psnr"]


def test_images_that_do_not_fit_their_names_raise():
    with pytest.raises(UserError):
        ImageGrid("tokens", ("1",), ("a",), np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 2, 1)))


def test_compared_needs_no_model(trained):
    evidences = [Run(trained / name).evidence() for name in ("soft-4", "soft-2", "flow")]
    grid = compare_reconstructions(evidences, [3, 1])
    assert grid.axis_values == (
        "soft-4 · step 60",
        "soft-2 · step 60",
    ) and grid.rows == captions(evidences[0], [3, 1])
    np.testing.assert_array_equal(grid.images[:, 1], evidences[1].reconstructions[[3, 1]])
    assert "flow" in grid.note
    with pytest.raises(NotApplicable):
        compare_reconstructions(evidences[::-1], [0])


# Tokens


@pytest.mark.parametrize("kind", [AE, VAVAE])
def test_budgets_decode_the_first_tokens(kind):
    model = (
        make(kind)
        if kind is AE
        else kind(kind.Config(side=8, channels=1, dim=4, width=8, multipliers=(1, 2))).eval()
    )
    grid, count = tokens.budgets(model, IMAGES), (4 if kind is AE else 16)
    encoded = model.encode(batch())
    active = torch.arange(count).expand(3, count) < 2
    np.testing.assert_array_equal(
        grid.images[:, 1],
        decode_images(model, Tokens(encoded.latents, active=active, grid=encoded.grid)),
    )
    np.testing.assert_array_equal(grid.images[:, -1], decode_images(model, encoded))
    assert grid.axis_values[:2] == ("1", "2") and grid.tokens[:, -1].tolist() == [count] * 3
    assert "not trained on fewer" in grid.note


def test_adaptive_tokenizers_encode_for_each_budget():
    model = make(KARL)
    grid = tokens.budgets(model, IMAGES, lengths=[1, 3])
    np.testing.assert_array_equal(
        grid.images[:, 0], decode_images(model, model.encode(batch(), budget=1))
    )
    assert grid.tokens.tolist() == [[1, 3]] * 3 and not grid.note
    with pytest.raises(UserError):
        tokens.budgets(model, IMAGES, lengths=[5])


def test_budgets_of_rounds_of_tokens():
    model = make(ALIT, rounds=2)
    assert tokens.budgets(model, IMAGES).axis_values == ("2", "4")
    with pytest.raises(UserError):
        tokens.budgets(model, IMAGES, lengths=[3])


@pytest.mark.parametrize("kind", [KARL, TailDrop])
def test_error_targets_choose_the_tokens(kind):
    model = make(kind)
    grid = tokens.errors(model, IMAGES, targets=[0.02, 0.3])
    encoded = model.encode(batch(), error=0.3)
    np.testing.assert_array_equal(grid.active[:, 1], encoded.active.numpy())
    np.testing.assert_array_equal(grid.images[:, 1], decode_images(model, encoded))
    assert grid.axis_values == ("0.02", "0.3")
    with pytest.raises(NotApplicable):
        tokens.errors(make(AE), IMAGES)


def test_dropped_tokens_are_not_decoded():
    model = make(AE)
    grid, encoded = tokens.dropped(model, IMAGES), model.encode(batch())
    np.testing.assert_array_equal(grid.reference, decode_images(model, encoded))
    left = torch.tensor([True, True, False, True]).expand(3, 4)
    np.testing.assert_array_equal(
        grid.images[:, 2], decode_images(model, Tokens(encoded.latents, active=left))
    )
    assert grid.reference_label == "all its tokens" and grid.axis_values == ("0", "1", "2", "3")


def test_swapped_changes_one_token_per_column():
    model, donors = make(AE), IMAGES[::-1]
    grid = tokens.swapped(model, IMAGES, donors)
    own, donor_tokens = model.encode(batch()), model.encode(batch(donors.copy()))
    latents = own.latents.clone()
    latents[:, 1] = donor_tokens.latents[:, 1]
    np.testing.assert_array_equal(grid.images[:, 1], decode_images(model, Tokens(latents)))
    assert (grid.images[0, 1] != grid.reference[0]).any()
    np.testing.assert_array_equal(
        tokens.swapped(model, IMAGES, IMAGES).images[:, 3], grid.reference
    )


def test_recoded_with_the_same_code_changes_nothing():
    model = make(VQVAE, codebook_size=8)
    encoded = model.encode(batch(IMAGES[:1]))
    code = int(encoded.codes[0, 2])
    grid = tokens.recoded(model, IMAGES[:1], token=2, codes=[code, (code + 1) % 8])
    np.testing.assert_array_equal(grid.images[:, 0], grid.reference)
    assert (grid.images[:, 1] != grid.reference).any()
    for wrong in ({"token": 4, "codes": [0]}, {"token": 0, "codes": [8]}):
        with pytest.raises(UserError):
            tokens.recoded(model, IMAGES, **wrong)
    with pytest.raises(NotApplicable):
        tokens.recoded(make(AE), IMAGES, token=0, codes=[0])


def test_reconstructions_of_every_checkpoint(trained):
    run = Run(trained / "soft-4")
    images = np.asarray(run.evidence().images[:2])
    grid = tokens.checkpoints(run, images)
    assert grid.axis_values == ("30", "60") and (grid.images[:, 0] != grid.images[:, 1]).any()
    model = run.load(30)
    np.testing.assert_array_equal(
        grid.images[:, 0], decode_images(model, model.encode(batch(images)))
    )


# Modes


def test_means_of_modes():
    latents = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    means = modes.means(latents, np.array([1, 0, 1]))
    np.testing.assert_array_equal(means, [latents[1], (latents[0] + latents[2]) / 2])
    with pytest.raises(UserError):
        modes.means(latents, np.array([0, 2, 2]))


def test_walk_decodes_both_ends_and_the_middle():
    model, latents = make(AE), np.random.default_rng(1).normal(size=(2, 4, 4)).astype(np.float32)
    grid = modes.walk(model, latents[:1], latents[1:], num_columns=3)
    for stop, expected in enumerate([latents[0], latents.mean(axis=0), latents[1]]):
        np.testing.assert_array_equal(grid.images[:, stop], modes.decode(model, expected[None]))
    assert grid.axis_values == ("0.00", "0.50", "1.00")
    with pytest.raises(UserError):
        modes.walk(model, latents[:1], latents[1:], num_columns=1)


# Samples


@pytest.fixture(scope="module")
def flow(trained):
    run = Run(trained / "flow")
    return run.load(), samples.tokenizer_of(run)


def test_guidance_scales_share_the_noise(flow):
    model, tokenizer = flow
    grid = samples.guidance(model, tokenizer, [0, 3], scales=[1, 3], steps=4, seed=5)
    expected = draw_samples(model, tokenizer, torch.tensor([0, 3]), steps=4, guidance=3, seed=5)
    np.testing.assert_array_equal(grid.images[:, 1], expected)
    assert grid.rows == ("class 0", "class 3") and grid.reference_label == "guidance: 1"


def test_empty_guidance_interval_is_conditional(flow):
    model, tokenizer = flow
    grid = samples.intervals(
        model, tokenizer, 3, scales=[1, 4], within=[(0, 1), (0.99, 0.995)], steps=4
    )
    np.testing.assert_array_equal(grid.images[1, 1], grid.images[1, 0])
    assert (grid.images[0, 1] != grid.images[0, 0]).any() and grid.rows[0] == "times 0 to 1"


def test_trajectory_ends_at_the_sample(flow):
    model, tokenizer = flow
    grid = samples.trajectory(model, tokenizer, [2], steps=5, scale=2, seed=1)
    end = sample_latents(model, torch.tensor([2]), steps=5, solver="euler", guidance=2, seed=1)
    np.testing.assert_array_equal(grid.images[:, -1], decode_images(tokenizer, Tokens(end)))
    # On the linear path Euler's last step goes where the velocity points to.
    np.testing.assert_array_equal(grid.images[:, -2], grid.images[:, -1])
    assert grid.axis_values == ("1.00", "0.80", "0.60", "0.40", "0.20", "0.00")


def test_checkpoints_share_the_noise(trained, flow):
    grid = samples.checkpoints(Run(trained / "flow"), [1], steps=4, seed=2)
    expected = draw_samples(*flow, torch.tensor([1]), steps=4, guidance=2.0, seed=2)
    np.testing.assert_array_equal(grid.images[:, -1], expected)
    assert grid.axis_values == ("30", "60") and (grid.images[:, 0] != grid.images[:, 1]).any()


# Axes by name


def test_every_axis_has_images(trained):
    for name, known in {"soft-4": "code", "plain": "token swapped", "flow": "interval"}.items():
        loaded = LoadedRun.load(Run(trained / name))
        assert known in loaded.axes
        for axis in loaded.axes:
            grid = loaded.explore(axis, [0, 1])
            assert grid.images.dtype == np.uint8 and len(grid.rows) == len(grid.images)
    assert "code" not in LoadedRun.load(Run(trained / "plain")).axes
    with pytest.raises(UserError):
        LoadedRun.load(Run(trained / "soft-4")).explore("tokns", [0])


def test_walks_from_a_mode_to_every_other(trained):
    loaded = LoadedRun.load(Run(trained / "plain"))
    first, third = loaded.explore("modes", []), loaded.explore("modes", [], mode=2)
    encoded = [[int(n) for n in re.findall(r"n = (\d+)", row)] for row in first.rows]
    sizes = [encoded[0][0], *(end for _, end in encoded)]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == len(loaded.evidence.images)
    assert third.rows[0].startswith("mode 2 (") and " to 0 (" in third.rows[0]
    for grid in (first, third):  # all begin at one mean
        assert (grid.images[:, 0] == grid.images[0, 0]).all()
    np.testing.assert_array_equal(first.images[1, -1], third.images[0, 0])
    np.testing.assert_array_equal(third.images[0, -1], first.images[0, 0])
    with pytest.raises(UserError):
        loaded.explore("modes", [], mode=8)


def test_code_axis_has_the_most_frequent_codes(trained):
    codes = np.asarray(Run(trained / "soft-4").evidence().codes)[:, 1]
    grid = LoadedRun.load(Run(trained / "soft-4")).explore("code", [0], token=1)
    counts = np.bincount(codes, minlength=32)[[int(stop) for stop in grid.axis_values]]
    assert counts[0] == np.bincount(codes).max() and (np.diff(counts) <= 0).all()
