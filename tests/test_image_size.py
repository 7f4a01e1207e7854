"""Images whose height is not their width, from files to evidence."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import workbench as wb
from workbench import analysis
from workbench.collect.models import load_tokenizer
from workbench.collect.sampling import draw_samples
from workbench.core.coerce import coerce, to_json
from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize, Side, as_side
from workbench.data import load
from workbench.data.decode import decode_picture
from workbench.generators.embeddings import token_coordinates
from workbench.generators.transformer import SiT
from workbench.storage.run_config import RunConfig
from workbench.tokenizers.ae import AE
from workbench.tokenizers.unicode2 import UniCode2
from workbench.tokenizers.vavae import VAVAE
from workbench.tokenizers.vqgan import VQGAN

SIZE = ImageSize(16, 32)


@pytest.mark.parametrize("value", ["16x32", "16 X 32", "16×32", (16, 32), [16, 32]])
def test_a_size_is_a_height_and_a_width(value):
    assert as_side(value) == SIZE
    assert coerce(Side | None, "side", value) == SIZE


@pytest.mark.parametrize("value", [64, "64", "6.4e1", "64x64", (64, 64)])
def test_a_square_is_an_integer(value):
    side = coerce(Side, "side", value)
    assert side == 64 and isinstance(side, int)


@pytest.mark.parametrize("value", ["", "16x", "x", "16x32x3", 0, "16x0", 1.5, True, None, "none"])
def test_anything_else_is_refused(value):
    with pytest.raises(UserError, match="side"):
        coerce(Side, "side", value)


@pytest.mark.parametrize("value", [b"12", bytearray(b"  "), (b"16", 16), 10**400, "1e400", "nan"])
def test_bytes_and_numbers_beyond_all_floats_are_no_size(value):
    with pytest.raises(UserError, match="side"):
        ImageSize.of(value)


def test_sizes_are_stored_as_text_and_squares_as_integers():
    sections = {"class": "a:b", "settings": {"side": SIZE}, "data": {"side": (16, 32)}}
    stored = RunConfig.from_dict(sections).to_dict()
    assert stored["settings"]["side"] == stored["data"]["side"] == "16x32"
    again = RunConfig.from_dict(json.loads(json.dumps(stored)))
    assert again.data is not None and again.data.side == SIZE
    square = RunConfig.from_dict(sections | {"settings": {"side": 8}, "data": {"side": 8}})
    assert square.to_dict()["settings"]["side"] == square.to_dict()["data"]["side"] == 8
    assert to_json(SIZE) == "16x32"


def test_a_turned_jpeg_is_reduced_to_what_covers_the_size(tmp_path):
    pixels = np.arange(400, dtype=np.uint8)[:, None, None].repeat(80, 1).repeat(3, 2)
    exif = Image.Exif()
    exif[274] = 6  # shown turned by a quarter: 80 x 400 pixels
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    picture = decode_picture(
        tmp_path / "turned.jpg", "turned", size=ImageSize(20, 100), reduced=True
    )
    assert picture.size == (100, 20)
    with pytest.raises(UserError, match="80 x 400"):
        decode_picture(tmp_path / "turned.jpg", "turned", size=ImageSize(400, 20))


def test_images_of_one_size_need_no_side(tmp_path):
    random = np.random.default_rng(0)
    for number in range(3):
        pixels = random.integers(0, 256, (12, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    images = load(str(tmp_path), split="all")
    assert images.image_shape == (12, 20, 3) and images.side == (12, 20)
    assert load(str(tmp_path), split="all", side="8x10").image_shape == (8, 10, 3)


def test_bundled_squares_are_refused_as_rectangles():
    for source in ("digits", "shapes"):
        with pytest.raises(UserError, match="square"):
            load(source, side="8x16")
    with pytest.raises(UserError, match="smaller"):
        load("photos", side="32x3200")


TINY_VIT = {"side": "16x24", "patch": 4, "dim": 4, "width": 16, "depth": 1, "heads": 2}
TINY_CONV = {"side": "16x24", "dim": 4, "width": 8, "multipliers": (1, 1, 1)}


@pytest.mark.parametrize(
    "model",
    [
        lambda: AE(AE.Config(**TINY_VIT)),
        lambda: VQGAN(VQGAN.Config(**TINY_CONV, codebook_size=8)),
        lambda: VAVAE(VAVAE.Config(**TINY_CONV)),
        lambda: UniCode2(UniCode2.Config(side="16x24", patch=4, codebook_size=8, width=16)),
    ],
    ids=["ae", "vqgan", "vavae", "unicode2"],
)
def test_tokenizers_take_their_size_and_no_other(model):
    torch.manual_seed(0)
    tokenizer = model().eval()
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    tokenizer.check_round_trip(images)
    assert tokenizer.feature_grid == (4, 6)
    assert tokenizer.grid in (None, (4, 6))
    with pytest.raises(UserError):
        tokenizer.encode(images.transpose(2, 3))


def test_what_needs_squares_refuses_others():
    with pytest.raises(UserError, match="square"):
        VAVAE.Config(**TINY_CONV, equivariance_weight=0.1)
    with pytest.raises(UserError, match="flow"):
        UniCode2.Config(side="16x24", patch=4, decoder="flow")
    with pytest.raises(UserError, match="multiples"):
        VQGAN.Config(side="16x26", multipliers=(1, 1, 1))


CODEBOOK = np.random.default_rng(0).uniform(-1, 1, (32, 3)).astype(np.float32)
# Those that draw images, or arrange tokens on their grid.
SPATIAL = (
    "image_comparison",
    "similar_images",
    "reconstruction",
    "latent_pictures",
    "code_gallery",
    "code_cooccurrence",
    "neighbor_consistency",
    "decoder_noise",
    "equivariance",
)


def make_tokenizer():
    """Return a pair of functions with a quarter of the rows and columns of any image."""
    return wb.wrap(
        lambda x: F.avg_pool2d(x, 4),
        lambda z: F.interpolate(z, scale_factor=4.0),
        codebook=CODEBOOK,
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Evaluate these functions on images of 16 x 32 pixels, with a grid of 4 x 8 tokens."""
    return wb.evaluate(
        f"python:{__name__}:make_tokenizer",
        "photos",
        tmp_path_factory.mktemp("runs") / "wide",
        side="16x32",
        trust=(__name__,),
        limit=24,
        progress=False,
    )


def test_a_rectangular_autoencoder_is_evaluated(wide, tmp_path):
    assert (wide.config.data.side, wide.config.settings["side"]) == (SIZE, "16x32")
    evidence = wide.evidence()
    assert evidence.images.shape[1:] == evidence.reconstructions.shape[1:] == (16, 32, 3)
    assert evidence.grid == (4, 8)
    means = evidence.images.reshape(24, 4, 4, 8, 4, 3).mean(axis=(2, 4)) / 127.5 - 1
    np.testing.assert_allclose(evidence.latents.reshape(24, 4, 8, 3), means, atol=1e-5)
    square = wb.wrap(lambda x: x, lambda z: z, side=16)
    with pytest.raises(UserError, match="16x32"):
        wb.evaluate(square, "photos", tmp_path / "other", side="16x32")


@pytest.mark.parametrize("name", SPATIAL)
def test_analyses_of_images_and_grids_take_rectangles(wide, name):
    function = analysis.get(name)
    result = function(**wide.evidence().kwargs_for(function))
    assert result.summary() and result.figure() is not None


@pytest.mark.parametrize("settings", [{"patch": 2}, {"positions": "rope"}], ids=["patch", "rope"])
def test_generators_sample_images_of_the_size(wide, settings, tmp_path):
    sizes = {"num_tokens": 32, "dim": 3, "classes": 16, "width": 16, "depth": 1, "heads": 2}
    torch.manual_seed(0)
    fitting = SiT(SiT.Config(**sizes, **settings, rows=4))
    assert {tuple(place) for place in token_coordinates(32, 4).tolist()} == set(np.ndindex(4, 8))
    (samples,) = draw_samples(
        fitting, load_tokenizer(wide, None, (__name__,)), torch.tensor([0]), steps=2
    )
    assert samples.shape == (16, 32, 3)
    turned = SiT(SiT.Config(**sizes, **settings, rows=8))
    with pytest.raises(UserError, match="ratio"):
        wb.evaluate(turned, out=tmp_path / "out", tokenizer=wide.folder, trust=(__name__,))
