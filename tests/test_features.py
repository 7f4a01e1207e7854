"""Tests of feature extractors: HOG, networks, controls, stored features, pretrained models."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

from workbench.core.errors import RunError, UserError
from workbench.data import load
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.features.cache import WithFeatures, cached_features
from workbench.features.contrastive import ContrastiveNet, train_contrastive
from workbench.features.hog import HOG, sobel
from workbench.features.network import ShuffledExtractor, random_network
from workbench.features.standardized import fit_standardization
from workbench.storage.run import Run
from workbench.training import TrainConfig

QUICK = TrainConfig(steps=20, batch_size=16, warmup_steps=2, save_every=10, log_every=5)
LOCAL = ("hog", "random", "shuffled:hog")


def images(count: int = 4, *, channels: int = 3, side: int = 16) -> Tensor:
    return (
        torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    )


def slow_hog(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return HOG cells (c, 2 rows, 2 columns, 9) of an image (c, h, w), pixel by pixel."""
    c, height, width = image.shape
    padded = np.pad(image.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    kernel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    patch_height, patch_width = height // rows, width // columns
    cells = np.zeros((c, 2 * rows, 2 * columns, 9))
    for channel in range(c):
        for i in range(height):
            for j in range(width):
                around = padded[channel, i : i + 3, j : j + 3]
                x, y = (around * kernel).sum(), (around * kernel.T).sum()
                angle = (
                    math.atan2(x, y) % math.pi
                )  # of a line: orientations 180 degrees apart are equal
                down = (i % patch_height - (patch_height - 1) / 2) / (patch_height / 2)
                across = (j % patch_width - (patch_width - 1) / 2) / (patch_width / 2)
                weight = math.exp(-(down**2 + across**2) / 2)
                cell = (
                    channel,
                    i * 2 * rows // height,
                    j * 2 * columns // width,
                    int(angle / math.pi * 9) % 9,
                )
                cells[cell] += weight * math.hypot(x, y)
    return cells / np.maximum(
        np.linalg.norm(cells, axis=-1, keepdims=True), 1e-9
    )  # the gradient is zero at corners


@pytest.mark.parametrize(("channels", "grid"), [(1, (3, 3)), (3, (2, 3)), (1, (6, 6))])
def test_hog_agrees_with_a_loop_over_pixels(channels, grid):
    image = images(1, channels=channels, side=12)
    features = HOG(channels).features(image, grid)[0]
    cells = rearrange(
        features, "(h w) (c k i j) -> c (h i) (w j) k", h=grid[0], c=channels, k=9, i=2
    )
    np.testing.assert_allclose(cells.numpy(), slow_hog(image[0].numpy(), *grid), atol=1e-5)


@pytest.mark.parametrize("source", ["digits", "photos", "shapes"])
def test_hog_cells_have_norm_one_or_zero(source):
    image_set = load(source, limit=50)
    teacher = get_feature_extractor("hog", channels=image_set.pixels.shape[-1])
    cells = rearrange(
        teacher.features(image_set.images(), (4, 4)), "b p (c k ij) -> (b p c ij) k", k=9, ij=4
    )
    norms = cells.norm(dim=1)
    assert (((norms - 1).abs() < 1e-5) | (norms == 0)).all() and (norms == 1).sum() > 100


def test_flat_images_have_no_orientation():
    grays = torch.linspace(-1, 1, 255)[:, None, None, None].expand(-1, 1, 8, 8)
    assert (HOG(1).features(grays, (2, 2)) == 0).all()


def test_rounding_gives_no_orientation():
    patch = torch.tensor([[0, 0.05, 0.1, 0], [0, 0, -0.15, 0], [0, 0, 0.2, 0], [0, 0, 0, 0]])[
        None, None
    ]
    x, y = (
        gradient[0, 0, 1, 1] for gradient in sobel(patch)
    )  # 0.1 - 0.3 + 0.2 and 0.1 + 0.1 - 0.2
    assert 0 < max(abs(x), abs(y)) < 1e-7
    assert (HOG(1).features(patch, (2, 2))[0, 0].unflatten(0, (9, 2, 2))[:, 1, 1] == 0).all()


def test_staircase_has_one_orientation():
    staircase = torch.arange(8.0).div(8).expand(1, 1, 8, 8)[..., 1:7, :]
    cells = rearrange(HOG(1).features(staircase, (1, 2)), "b p (k i j) -> (b p i j) k", k=9, i=2)
    assert (
        cells.shape == (8, 9) and (cells == torch.eye(9)[4]).all()
    )  # x alone: 90 degrees, the fifth of nine


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 5), (16, 16)])
def test_every_extractor_fills_any_grid(name, channels, grid):
    teacher = get_feature_extractor(name, channels=channels)
    features = teacher.features(images(channels=channels).requires_grad_(), grid)
    assert teacher.name == name and features.shape == (4, grid[0] * grid[1], teacher.dim)
    assert torch.isfinite(features).all() and not features.requires_grad
    assert torch.equal(features, teacher.features(images(channels=channels), grid))


@pytest.mark.parametrize("name", ["hog", "random"])
def test_features_are_local_and_per_image(name):
    teacher, x = get_feature_extractor(name), images()
    whole = teacher.features(x, (4, 4))
    torch.testing.assert_close(teacher.features(x[2:3], (4, 4)), whole[2:3])
    corner = x.clone()
    corner[..., :2, :2] *= -1
    changed = (teacher.features(corner, (4, 4)) - whole).abs().mean(dim=(0, 2))
    assert (
        changed.argmax() == 0 and changed[-1] < changed[0] / 3
    )  # the norms of a network depend on the whole image


def test_network_features_are_normalized():
    features = get_feature_extractor("random").features(images(), (4, 4))
    torch.testing.assert_close(features.mean(dim=2), torch.zeros(4, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        features.var(dim=2, unbiased=False), torch.ones(4, 16), atol=1e-3, rtol=0
    )


def test_gray_and_color_images_are_converted():
    x = images()
    gray = x.mean(dim=1, keepdim=True)
    color_network, gray_network = random_network(3), random_network(1)
    same = color_network.features(gray.repeat(1, 3, 1, 1), (4, 4))
    torch.testing.assert_close(color_network.features(gray, (4, 4)), same)
    torch.testing.assert_close(
        gray_network.features(x, (4, 4)), gray_network.features(gray, (4, 4))
    )


def test_copies_share_an_extractor():
    teacher = get_feature_extractor("random")
    assert copy.deepcopy(teacher) is teacher


# Controls


def test_shuffled_features_belong_to_other_images():
    true = get_feature_extractor("hog").features(images(7), (2, 2))
    shuffled = get_feature_extractor("shuffled:hog").features(images(7), (2, 2))
    sources = [[torch.equal(row, other) for other in true].index(True) for row in shuffled]
    assert sorted(sources) == list(range(7)) and all(i != j for i, j in enumerate(sources))
    assert not torch.equal(shuffled, ShuffledExtractor(HOG(), seed=1).features(images(7), (2, 2)))


def test_shuffling_one_image_raises():
    with pytest.raises(UserError):
        get_feature_extractor("shuffled:hog").features(images(1), (2, 2))


def test_standardized_features_by_channel(
    tmp_path,
):
    digits = load("digits", limit=200)
    extractor = fit_standardization(
        get_feature_extractor("hog", channels=1), digits, (2, 2), tmp_path / "means.safetensors"
    )
    again = get_feature_extractor(f"standardized:{tmp_path / 'means.safetensors'}:hog", channels=1)
    assert (
        again.fingerprint
        == extractor.fingerprint
        != get_feature_extractor("hog", channels=1).fingerprint
    )
    plain = get_feature_extractor("hog", channels=1).features(digits.images(), (2, 2)).flatten(0, 1)
    standardized = again.features(digits.images(), (2, 2)).flatten(0, 1)
    varies = plain.std(dim=0) > 1e-5
    torch.testing.assert_close(
        standardized.mean(dim=0), torch.zeros(extractor.dim), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        standardized.std(dim=0, correction=0)[varies],
        torch.ones(int(varies.sum())),
        atol=1e-3,
        rtol=0,
    )


def test_standardized_features_have_no_common_direction(
    tmp_path,
):
    digits = load("digits", limit=200)
    plain = get_feature_extractor("hog", channels=1)
    standardized = fit_standardization(plain, digits, (2, 2), tmp_path / "means.safetensors")

    def nearest(teacher: FeatureExtractor) -> float:
        rows = teacher.features(digits.images(), (2, 2)).flatten(0, 1)
        units = torch.nn.functional.normalize(rows, dim=1)
        return float((units @ torch.nn.functional.normalize(units.mean(dim=0), dim=0)).mean())

    assert nearest(plain) > 0.5 and nearest(standardized) < 0.2


def test_missing_or_foreign_statistics_raise(tmp_path):
    with pytest.raises(UserError) as error:
        get_feature_extractor(f"standardized:{tmp_path / 'none.safetensors'}:hog")
    assert "none.safetensors" in str(error.value)
    fit_standardization(
        get_feature_extractor("hog", channels=1),
        load("digits", limit=20),
        (2, 2),
        tmp_path / "gray.safetensors",
    )
    with pytest.raises(UserError) as error:
        get_feature_extractor(f"standardized:{tmp_path / 'gray.safetensors'}:hog", channels=3)
    assert "108" in str(error.value)


def test_old_spelling_of_standardized_names(tmp_path):
    path = tmp_path / "statistics.safetensors"
    hog = get_feature_extractor("hog", channels=1)
    fit_standardization(hog, load("digits", limit=20), (2, 2), path)
    old, new = (
        get_feature_extractor(f"{spelling}:{path}:hog", channels=1)
        for spelling in ("standardised", "standardized")
    )
    assert old.fingerprint == new.fingerprint


def test_pooled_features_cover_the_whole_image():
    hog, x = get_feature_extractor("hog"), images()
    assert torch.equal(hog.pooled(x), hog.features(x, (1, 1))[:, 0])


def test_random_network_depends_on_its_seed_only():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    network = random_network(seed=0)
    assert torch.equal(torch.rand(3), expected)  # the global random state is unchanged
    assert (
        network.fingerprint
        == random_network(seed=0).fingerprint
        != random_network(seed=1).fingerprint
    )


# The network trained here


def test_trained_network_is_named_after_its_folder(tmp_path):
    digits = load("digits", limit=100)
    run = train_contrastive(digits, tmp_path / "t", train_config=QUICK)
    assert run.steps == [10, 20] and run.history().columns[1] == "contrastive"
    teacher = get_feature_extractor(str(tmp_path / "t"), channels=1)
    train_contrastive(digits, tmp_path / "t", train_config=QUICK)
    assert (
        teacher.fingerprint
        == get_feature_extractor(str(tmp_path / "t")).fingerprint
        != random_network(1).fingerprint
    )
    assert teacher.features(digits.images(slice(3)), (4, 4)).shape == (3, 16, 64)
    with pytest.raises(RunError):
        train_contrastive(digits, tmp_path / "t", width=8, train_config=QUICK)


@pytest.mark.slow
def test_training_improves_digit_classification(tmp_path):
    from sklearn.linear_model import RidgeClassifier

    digits, held_out = load("digits"), load("digits", split="test")
    train_contrastive(digits, tmp_path / "t")

    def accuracy(name: str) -> float:
        features = [
            get_feature_extractor(name, channels=1).features(s.images(), (1, 1))[:, 0].numpy()
            for s in (digits, held_out)
        ]
        return (
            RidgeClassifier(alpha=10.0)
            .fit(features[0], digits.labels)
            .score(features[1], held_out.labels)
        )

    assert accuracy(str(tmp_path / "t")) > accuracy("random") + 0.03  # 0.97 against 0.89


def test_every_weight_gets_a_gradient():
    network = ContrastiveNet(ContrastiveNet.Config(channels=1, width=8))
    network.objective(images(channels=1)).total.backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_contrastive_loss_of_equal_views():
    network = ContrastiveNet(ContrastiveNet.Config(width=8))
    with torch.no_grad():
        network.head[2].weight.zero_()
    assert network.objective(images(4)).total.item() == pytest.approx(math.log(7), abs=1e-5)


def test_run_of_another_model_raises(tmp_path):
    Run.create(tmp_path / "a", {"class": "workbench.tokenizers.ae:AE", "settings": {}})
    with pytest.raises(UserError) as error:
        get_feature_extractor(str(tmp_path / "a"))
    assert "AE" in str(error.value)


# Names


def test_unknown_name_raises():
    with pytest.raises(UserError) as error:
        get_feature_extractor("hogg")
    assert "`hogg`" in str(error.value) and "`hog`" in str(error.value)


def test_invalid_width_raises():
    with pytest.raises(UserError) as error:
        ContrastiveNet.Config(width=20)
    assert "width" in str(error.value) and "20" in str(error.value)


# Stored features


class Counting(FeatureExtractor):
    """Return the mean of each image, and count the images."""

    name, dim, directional, count = "counting", 1, False, 0

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        self.count += len(images)
        return images.mean(dim=(1, 2, 3))[:, None, None].expand(-1, grid[0] * grid[1], 1)


def test_features_are_computed_once(tmp_path):
    digits, teacher = load("digits", limit=150), Counting()
    first = cached_features(digits, teacher, (2, 2), tmp_path / "new")
    again = cached_features(digits, teacher, (2, 2), tmp_path / "new")
    assert teacher.count == 150 and isinstance(again, np.memmap) and np.array_equal(first, again)
    expected = teacher.features(digits.images(), (2, 2))
    np.testing.assert_allclose(first, expected, atol=1e-3)
    for other in (
        cached_features(digits.take(100), teacher, (2, 2), tmp_path / "new"),
        cached_features(digits, teacher, (1, 1), tmp_path / "new"),
        cached_features(digits, HOG(1), (2, 2), tmp_path / "new"),
    ):
        assert other.shape != first.shape
    assert len(list((tmp_path / "new").iterdir())) == 4


def test_other_weights_have_another_file(tmp_path):
    first, second = (
        cached_features(load("digits", limit=9), random_network(1, seed), (2, 2), tmp_path)
        for seed in (0, 1)
    )
    assert first.shape == second.shape and not np.array_equal(first, second)


def test_interrupted_features_leave_no_file(tmp_path):
    class Failing(Counting):
        def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
            raise MemoryError

    with pytest.raises(MemoryError):
        cached_features(load("digits", limit=10), Failing(), (2, 2), tmp_path)
    assert not list(tmp_path.iterdir())


def test_batch_contains_images_and_features(tmp_path):
    digits = load("digits", limit=50)
    tables = tuple(
        cached_features(digits, get_feature_extractor(name, channels=1), (4, 4), tmp_path)
        for name in ("hog", "random")
    )
    data, indices = WithFeatures(digits, tables), torch.tensor([7, 3, 30])
    batch, hog, random = data.batch(indices)
    assert len(data) == 50 and torch.equal(batch, digits.images(indices))
    torch.testing.assert_close(hog, HOG(1).features(batch, (4, 4)), atol=1e-3, rtol=0)
    torch.testing.assert_close(random, random_network(1).features(batch, (4, 4)), atol=5e-3, rtol=0)


# From the hub


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Save tiny untrained models of the three families; CLIP and SigLIP with a text tower."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    image = small | {"intermediate_size": 32, "patch_size": 16, "image_size": 64}
    text = small | {"intermediate_size": 32, "vocab_size": 50}
    torch.manual_seed(0)
    dino = transformers.Dinov2Config(**small, patch_size=14, image_size=56)
    transformers.Dinov2Model(dino).save_pretrained(folder / "dinov2")
    for name in ("CLIP", "Siglip"):
        config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=image)
        getattr(transformers, f"{name}Model")(config).save_pretrained(folder / name.lower())
    return folder


@pytest.mark.parametrize(("family", "resolution"), [("dinov2", 224), ("clip", 64), ("siglip", 64)])
def test_pretrained_model_preprocessing(models, family, resolution):
    teacher = get_feature_extractor(f"{family}:{models / family}")
    black, white = (teacher.preprocess(torch.full((1, 1, 8, 8), value)) for value in (-1.0, 1.0))
    assert white.shape == (1, 3, resolution, resolution)
    red_mean = {"dinov2": 0.485, "clip": 0.48145466, "siglip": 0.5}[family]
    red_std = {"dinov2": 0.229, "clip": 0.26862954, "siglip": 0.5}[family]
    assert black[0, 0, 0, 0].item() == pytest.approx(-red_mean / red_std, rel=1e-5)
    assert (white - black)[0, 0, 0, 0].item() == pytest.approx(1 / red_std, rel=1e-5)
    features = teacher.features(images(2, channels=1, side=8), (3, 5))
    assert features.shape == (2, 15, 16) and torch.isfinite(features).all() and teacher.dim == 16


def test_clip_checkpoint_with_both_towers(models):
    import transformers

    whole, teacher = (
        transformers.CLIPModel.from_pretrained(models / "clip").eval(),
        get_feature_extractor(f"clip:{models / 'clip'}"),
    )
    rows = whole.vision_model(pixel_values=teacher.preprocess(images())).last_hidden_state
    torch.testing.assert_close(
        teacher.features(images(), (4, 4)), rows[:, 1:]
    )  # without the class token


def test_embeddings_of_images_are_those_of_the_models(models):
    import transformers

    dino, clip, siglip = (
        get_feature_extractor(f"{family}:{models / family}")
        for family in ("dinov2", "clip", "siglip")
    )
    x = images(3)
    whole = transformers.CLIPModel.from_pretrained(models / "clip").eval()
    projected = whole.get_image_features(pixel_values=clip.preprocess(x)).pooler_output
    torch.testing.assert_close(clip.pooled(x), projected)
    # Features of images are projected, and features of patches are not.
    assert (clip.pooled_dim, clip.dim) == (projected.shape[1], 16)
    assert (dino.pooled_dim, siglip.pooled_dim) == (16, 16)
    tokens = dino.network(pixel_values=dino.preprocess(x)).last_hidden_state
    torch.testing.assert_close(dino.pooled(x), tokens[:, 0])
    assert siglip.pooled(x).shape == (3, 16)


def test_clip_without_projection_has_no_embedding(models, tmp_path):
    import transformers

    tower = transformers.CLIPVisionModel.from_pretrained(models / "clip")
    tower.save_pretrained(tmp_path / "tower")
    with pytest.raises(UserError, match="projection"):
        get_feature_extractor(f"clip:{tmp_path / 'tower'}").pooled(images())


def test_missing_weights_raise_with_instructions(
    monkeypatch,
):
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        get_feature_extractor("dinov2:owner/none")
    assert "`hf download owner/none --local-dir FOLDER`" in str(error.value)
    assert "dinov2:FOLDER" in str(error.value)


def test_missing_folder_raises():
    pytest.importorskip("transformers")
    with pytest.raises(UserError) as error:
        get_feature_extractor("clip:./none")
    assert "./none" in str(error.value)
