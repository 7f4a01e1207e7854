"""Autoencoders of diffusers: the adapter gives what diffusers gives when it is called directly."""

import json
import sys

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.tokenizers.pretrained import load

diffusers = pytest.importorskip("diffusers")

WEIGHTS = "diffusion_pytorch_model.safetensors"
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
KL = {
    "block_out_channels": (32, 32),
    "down_block_types": (DOWN, DOWN),
    "up_block_types": (UP, UP),
    "latent_channels": 4,
    "sample_size": 16,
}
SETTINGS = {
    "AutoencoderKL": KL | {"scaling_factor": 0.5, "shift_factor": 0.25},
    "AsymmetricAutoencoderKL": {
        "down_block_types": (DOWN, DOWN),
        "up_block_types": (UP, UP),
        "down_block_out_channels": (32, 32),
        "up_block_out_channels": (32, 64),
        "sample_size": 16,
    },
    "AutoencoderKLFlux2": KL,
    "AutoencoderKLQwenImage": {
        "base_dim": 8,
        "z_dim": 4,
        "dim_mult": [1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [False],
        "latents_mean": [0.0, 1.0, 2.0, 3.0],
        "latents_std": [1.0, 2.0, 3.0, 4.0],
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "encoder_block_out_channels": (8, 16),
        "decoder_block_out_channels": (8, 16),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), ()),
        "decoder_qkv_multiscales": ((), ()),
        "scaling_factor": 0.25,
    },
    "AutoencoderRAE": {
        "encoder_hidden_size": 64,
        "encoder_patch_size": 8,
        "encoder_num_hidden_layers": 1,
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "patch_size": 4,
        "encoder_input_size": 32,
    },
    "VQModel": {
        "block_out_channels": (32, 32),
        "down_block_types": (DOWN, DOWN),
        "up_block_types": (UP, UP),
        "num_vq_embeddings": 20,
        "latent_channels": 4,
        "sample_size": 16,
    },
}
CONTINUOUS = [name for name in SETTINGS if name != "VQModel"]
ENCODED = {
    "AutoencoderTiny": lambda output: output.latents,
    "AutoencoderDC": lambda output: output.latent,
    "AutoencoderRAE": lambda output: output.latent,
}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def make(name: str, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = getattr(diffusers, name, None)
    if kind is None:
        pytest.skip(f"this version of diffusers has no {name}")
    model = kind(**SETTINGS[name] | settings)
    if name == "VQModel":
        features = model.encode(torch.rand(1, 3, 16, 16) * 2 - 1).latents
        model.quantize.embedding.weight.copy_(features[0].flatten(1).T[:20])
    return model.eval()


def images(*, count: int = 2, rows: int = 16, columns: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(count, 3, rows, columns, generator=generator) * 2 - 1


def cells(tokens: Tokens) -> torch.Tensor:
    rows, columns = tokens.grid
    return rearrange(tokens.latents, "b (h w) d -> b d h w", h=rows, w=columns)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_autoencoder_equals_diffusers(tmp_path, name):
    model, x = make(name), images()
    model.save_pretrained(tmp_path)
    pretrained = load(f"diffusers:{tmp_path}")
    tokenizer = pretrained.tokenizer
    pixels = x[:, :, None] if name == "AutoencoderKLQwenImage" else x
    if name == "AutoencoderRAE":
        pixels = (x + 1) / 2
    output = model.encode(pixels)
    latents = ENCODED[name](output) if name in ENCODED else output.latent_dist.mode()
    expected = model.decode(latents).sample
    if name == "AutoencoderKLQwenImage":
        latents, expected = latents[:, :, 0], expected[:, :, 0]
    if name == "AutoencoderRAE":
        expected = 2 * expected - 1
    tokens = tokenizer.encode(x)
    torch.testing.assert_close(cells(tokens), latents)
    torch.testing.assert_close(tokenizer.decode(tokens), expected)
    side = pretrained.side
    assert tokenizer.encode(images(rows=side, columns=side)).grid == tokenizer.grid
    assert [file.name for file in pretrained.files] == ["config.json", WEIGHTS]


def test_vq_model_equals_diffusers(tmp_path):
    model, x = make("VQModel", lookup_from_codebook=True), images()
    model.save_pretrained(tmp_path)
    tokenizer = load(f"diffusers:{tmp_path}").tokenizer
    features = model.encode(x).latents
    _, _, (_, _, codes) = model.quantize(features)
    tokens = tokenizer.encode(x)
    assert torch.equal(tokens.codes.flatten(), codes) and codes.unique().numel() > 3
    assert torch.equal(tokenizer.codebook[0][tokens.codes], tokens.latents)
    torch.testing.assert_close(tokenizer.decode(tokens), model.decode(features).sample)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("AutoencoderKL", (0.25,), (2.0,)),
        ("AutoencoderDC", (0.0,), (4.0,)),
        ("AutoencoderTiny", (0.0,), (1.0,)),
        ("AutoencoderKLQwenImage", (0.0, 1.0, 2.0, 3.0), (1.0, 2.0, 3.0, 4.0)),
    ],
)
def test_scale_is_that_of_the_configuration(tmp_path, name, mean, std):
    make(name).save_pretrained(tmp_path)
    scale = load(f"diffusers:{tmp_path}").scale
    assert scale.mean == mean and scale.std == std


def test_normalization_of_flux2_is_only_noted(tmp_path):
    make("AutoencoderKLFlux2").save_pretrained(tmp_path)
    pretrained = load(f"diffusers:{tmp_path}")
    assert pretrained.scale is None and len(pretrained.notes) == 1


def test_images_that_are_not_square_have_their_own_grid(tmp_path):
    model, x = make("AutoencoderKL"), images(rows=16, columns=24)
    model.save_pretrained(tmp_path)
    tokenizer = load(f"diffusers:{tmp_path}").tokenizer
    tokens = tokenizer.encode(x)
    assert tokens.grid == (8, 12)
    expected = model.decode(model.encode(x).latent_dist.mode()).sample
    torch.testing.assert_close(tokenizer.decode(tokens), expected)
    with pytest.raises(UserError):
        tokenizer.encode(images(rows=15))


def test_a_network_of_one_side_refuses_others(tmp_path):
    make("AutoencoderRAE").save_pretrained(tmp_path)
    pretrained = load(f"diffusers:{tmp_path}")
    assert pretrained.side == 16 and not pretrained.flexible
    with pytest.raises(UserError):
        pretrained.tokenizer.encode(images(rows=32, columns=32))
    with pytest.raises(UserError, match="side"):
        load(f"diffusers:{tmp_path}", side=32)


def test_half_precision_is_computed_in_float32(tmp_path):
    make("AutoencoderKL").half().save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    tokenizer = load(f"diffusers:{tmp_path}").tokenizer
    model = make("AutoencoderKL")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    tokens = tokenizer.encode(images())
    torch.testing.assert_close(cells(tokens), model.encode(images()).latent_dist.mode())
    coarse = load(f"diffusers:{tmp_path}", dtype="bfloat16").tokenizer.encode(images()).latents
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - tokens.latents).abs().max() < 0.2


def test_samples_follow_the_posterior(tmp_path):
    model, x = make("AutoencoderKL"), images(count=3)
    model.quant_conv.bias[4:] -= 2  # the logarithms of the variances
    model.save_pretrained(tmp_path)
    tokenizer = load(f"diffusers:{tmp_path}", posterior="sample", seed=3).tokenizer
    posterior = model.encode(x).latent_dist
    sample = cells(tokenizer.encode(x))
    noise = (sample - posterior.mean) / posterior.std
    assert abs(noise.mean()) < 0.15 and abs(noise.std() - 1) < 0.15
    torch.testing.assert_close(cells(tokenizer.encode(x[1:2])), sample[1:2])


def test_autoencoder_of_a_pipeline_is_found(tmp_path):
    make("AutoencoderKL").save_pretrained(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    assert load(f"diffusers:{tmp_path}").tokenizer.encode(images()).grid == (8, 8)


def test_side_is_an_option(tmp_path):
    make("AutoencoderKL").save_pretrained(tmp_path)
    pretrained = load(f"diffusers:{tmp_path}", side="24")
    assert pretrained.side == 24 and pretrained.tokenizer.grid == (12, 12)
    with pytest.raises(UserError, match="side"):
        load(f"diffusers:{tmp_path}", side=25)


def change_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"_class_name": "UNet2DModel"}, "UNet2DModel"),
        ({"_class_name": None, "auto_map": {"AutoModel": "code.Model"}}, "_class_name"),
        ({"_class_name": ["AutoencoderKL"]}, "AutoencoderKL"),
        ({"latent_channels": 8}, r"of another shape: .* instead of \(8"),
        ({"block_out_channels": "wide"}, "AutoencoderKL"),
        ({"scaling_factor": "large"}, "scaling_factor"),
        ({"scaling_factor": 0.0}, "scaling_factor"),
        ({"latents_std": [1.0, -1.0]}, "latents_std"),
    ],
)
def test_configuration_that_does_not_fit_raises(tmp_path, changes, fragment):
    make("AutoencoderKL").save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(UserError, match=fragment):
        load(f"diffusers:{tmp_path}")


def test_names_that_do_not_fit_raise(tmp_path):
    make("AutoencoderKL").save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    missing = weights.pop("encoder.conv_in.bias")
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match="encoder.conv_in.bias"):
        load(f"diffusers:{tmp_path}")
    weights |= {"encoder.conv_in.bias": missing, "extra": torch.zeros(1)}
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match="extra"):
        load(f"diffusers:{tmp_path}")


def test_other_formats_and_damaged_files_raise(tmp_path):
    model = make("AutoencoderKL")
    model.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(UserError, match="safetensors"):
        load(f"diffusers:{tmp_path}")
    (tmp_path / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(UserError):
        load(f"diffusers:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        load(f"diffusers:{tmp_path}")
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="config.json"):
        load(f"diffusers:{tmp_path}")


def test_sample_of_a_network_without_posterior_raises(tmp_path):
    make("AutoencoderTiny").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="posterior"):
        load(f"diffusers:{tmp_path}", posterior="sample")


def test_missing_library_names_the_extra(tmp_path, monkeypatch):
    make("AutoencoderKL").save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"\[diffusers\]"):
        load(f"diffusers:{tmp_path}")
