"""An encoder that starts from a pretrained DINOv2, against `transformers` on seeded weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from workbench.core.errors import UserError
from workbench.launch.in_process import prepare_training
from workbench.nn.vit import Encoder, ViTConfig, ViTOptions
from workbench.tokenizers.dinov2_start import load_dinov2, resample_patches, resample_positions
from workbench.tokenizers.softvq import SoftVQ
from workbench.training import fit

transformers = pytest.importorskip("transformers")
SIZES = ViTConfig(
    side=20, patch=4, num_tokens=25, dim=3, width=12, depth=2, heads=3, linear_init=False
)
OPTIONS = ViTOptions(class_token=True, norm_eps=1e-6)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A folder with a DINOv2 of patches of 4 pixels for images of 20, with strong gains."""
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=20,
        patch_size=4,
        layerscale_value=0.5,
    )
    model = transformers.Dinov2Model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "scale" in name or "embeddings" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def images(count: int = 2, side: int = 20) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("layer_scale", [None, 1e-5])
def test_encoder_without_tokens_computes_what_dinov2_does(dinov2, layer_scale):
    encoder = Encoder(SIZES, learned=False, options=replace(OPTIONS, layer_scale=layer_scale))
    load_dinov2(encoder, str(dinov2))
    expected = transformers.Dinov2Model.from_pretrained(dinov2)(pixel_values=images())
    rows = encoder.token_rows(encoder.embed_patches(images()))
    torch.testing.assert_close(rows, expected.last_hidden_state[:, 1:], rtol=1e-4, atol=1e-5)


def test_enlarged_patches_have_the_embeddings_of_the_original_ones():
    torch.manual_seed(0)
    kernel, patches = torch.randn(6, 3, 14, 14), torch.randn(5, 3, 14, 14)
    enlarged = F.interpolate(patches, (16, 16), mode="bicubic", antialias=True)
    expected = torch.einsum("bcij,wcij->bw", patches, kernel)
    embedded = torch.einsum("bcij,wcij->bw", enlarged, resample_patches(kernel, 16))
    torch.testing.assert_close(embedded, expected, rtol=1e-4, atol=1e-3)
    assert resample_patches(kernel, 14) is kernel


def test_positions_are_resized_as_pillow_resizes_images():
    torch.manual_seed(0)
    positions = torch.randn(37 * 37, 2)
    resized = resample_positions(positions, (16, 24))
    for channel in range(2):
        image = Image.fromarray(positions[:, channel].reshape(37, 37).numpy())
        expected = np.asarray(image.resize((24, 16), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(resized[:, channel].reshape(16, 24), expected, atol=1e-4)


def test_training_starts_from_dinov2_with_other_patches(dinov2, tmp_path):
    """Patches of 8 instead of 4 pixels, and gray images."""
    settings = {"width": 12, "depth": 2, "heads": 3, "num_tokens": 4, "codebook_size": 8}
    settings |= {"steps": 1, "batch_size": 4, "warmup_steps": 1, "limit": 40, "lr": 1e-9}
    job = prepare_training(
        "softvq-digits", tmp_path / "run", encoder_start=str(dinov2), layer_scale=0.1, **settings
    )
    for _ in fit(job.model, job.data, job.train_config, job.run):
        pass
    encoder = job.run.load().encoder
    published = transformers.Dinov2Model.from_pretrained(dinov2)
    torch.testing.assert_close(encoder.norm.weight, published.layernorm.weight)
    gains = dict(published.named_parameters())["encoder.layer.1.layer_scale2.lambda1"]
    torch.testing.assert_close(encoder.blocks[1].scale_2.gain, gains)
    assert encoder.embed.weight.shape == (12, 4) and encoder.patch_positions.shape == (16, 12)


def test_other_sizes_are_refused(dinov2, tmp_path):
    for name, sizes in (("depth", {"depth": 1}), ("width", {"width": 24}), ("heads", {"heads": 2})):
        with pytest.raises(UserError, match=name):
            load_dinov2(Encoder(replace(SIZES, **sizes)), str(dinov2))
    with pytest.raises(UserError):
        load_dinov2(Encoder(SIZES), str(tmp_path / "missing"))


def test_gains_start_at_the_setting():
    config = SoftVQ.Config(layer_scale=1e-5)
    model = SoftVQ(config)
    gains = {name: p for name, p in model.named_parameters() if "scale_" in name}
    assert len(gains) == 2 * 2 * config.depth
    assert all((gain == 1e-5).all() for gain in gains.values())
    patches = model.encoder.embed_patches(torch.zeros(1, 3, 32, 32))
    rows = model.encoder.queries(patches)
    # The blocks are almost the identity.
    torch.testing.assert_close(
        model.encoder.token_rows(patches), model.encoder.norm(rows), atol=1e-3, rtol=0
    )
    with pytest.raises(UserError):
        SoftVQ.Config(layer_scale=0.0)
