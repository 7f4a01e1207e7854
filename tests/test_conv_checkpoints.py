"""Published convolutional autoencoders: the layouts of latent diffusion and LlamaGen.

Loaded networks are compared with plain functions of the same weights (`conv_reference`).
"""

import json
import os
import re
from pathlib import Path

import conv_reference as reference
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.nn.conv import ConvConfig, ConvDecoder, ConvEncoder
from workbench.storage.foreign_weights import read_weights
from workbench.tokenizers.pretrained import ldm, load
from workbench.tokenizers.pretrained.conv_layout import autoencoder_views

# Largest difference over the standard deviation, before and after a decoder.
BOUND = 2e-4
DECODED_BOUND = 1e-3
KL_LAYOUTS = {
    "attention": {},
    "encoder attention only": {"attention": (True, False)},
    "middle attention only": {"attention": (False, False), "multipliers": (1, 2, 2), "blocks": 2},
}
ENCODER_MISTAKES = (
    "unit range",
    "symmetric padding",
    "top left padding",
    "no attention",
    "attention scale",
    "epsilon",
)
DECODER_MISTAKES = ("no attention", "attention scale", "epsilon", "bilinear growth")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def images(*, count: int = 2, rows: int = 16, columns: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(count, 3, rows, columns, generator=generator) * 2 - 1


def cells(tokens: Tokens) -> torch.Tensor:
    rows, columns = tokens.grid
    return rearrange(tokens.latents, "b (h w) d -> b d h w", h=rows, w=columns)


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.std()).item()


def save(folder: Path, weights: dict, name: str = "model.safetensors") -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
    else:
        torch.save(weights, path)
    return path


def to_llamagen(weights: dict) -> dict:
    """Rename the entries as in LlamaGen's code, for networks with two levels."""
    names = {
        r"encoder\.down\.": "encoder.conv_blocks.",
        r"decoder\.up\.0\.": "decoder.conv_blocks.X.",
        r"decoder\.up\.1\.": "decoder.conv_blocks.0.",
        r"conv_blocks\.X\.": "conv_blocks.1.",
        r"\.block\.": ".res.",
        r"mid\.block_1": "mid.0",
        r"mid\.attn_1": "mid.1",
        r"mid\.block_2": "mid.2",
    }
    renamed = {}
    for name, tensor in weights.items():
        for pattern, replacement in names.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("layout", KL_LAYOUTS)
def test_kl_autoencoder_equals_the_reference(tmp_path, layout):
    weights = reference.random_weights(quantized=False, **KL_LAYOUTS[layout])
    pretrained = load(f"ldm:{save(tmp_path, weights)}")
    tokenizer, x = pretrained.tokenizer, images()
    moments = reference.encode(weights, x)
    mean = moments.chunk(2, dim=1)[0]
    tokens = tokenizer.encode(x)
    assert error(cells(tokens), mean) < BOUND
    encoded = rearrange(tokenizer.encoder(x), "b (h w) d -> b d h w", h=mean.shape[2])
    assert error(encoded, moments) < BOUND
    assert error(tokenizer.decode(tokens), reference.decode(weights, mean)) < DECODED_BOUND
    assert pretrained.notes == (ldm.SIDE_NOTE,)
    assert pretrained.scale is None and pretrained.flexible


@pytest.mark.parametrize("mistake", ENCODER_MISTAKES)
def test_mistakes_of_the_encoder_are_detected(tmp_path, mistake):
    weights = reference.random_weights(quantized=False)
    tokenizer = load(f"ldm:{save(tmp_path, weights)}").tokenizer
    mean = reference.encode(weights, images(), mistake).chunk(2, dim=1)[0]
    assert error(cells(tokenizer.encode(images())), mean) > 2 * BOUND


@pytest.mark.parametrize("mistake", DECODER_MISTAKES)
def test_mistakes_of_the_decoder_are_detected(tmp_path, mistake):
    weights = reference.random_weights(quantized=False)
    tokenizer = load(f"ldm:{save(tmp_path, weights)}").tokenizer
    tokens = tokenizer.encode(images())
    decoded = reference.decode(weights, cells(tokens), mistake)
    assert error(tokenizer.decode(tokens), decoded) > 2 * DECODED_BOUND


@pytest.mark.parametrize("middle", [True, False])
def test_vq_autoencoder_equals_the_reference(tmp_path, middle):
    options = {} if middle else {"middle": False, "attention": (False, False)}
    weights = reference.random_weights(quantized=True, **options)
    tokenizer, x = load(f"ldm:{save(tmp_path, weights)}").tokenizer, images()
    codes, codewords = reference.quantize(weights, reference.encode(weights, x))
    tokens = tokenizer.encode(x)
    assert torch.equal(tokens.codes, codes) and codes.unique().numel() > 3
    assert torch.equal(cells(tokens), codewords)
    assert torch.equal(tokenizer.codebook[0], weights["quantize.embedding.weight"])
    assert error(tokenizer.decode(tokens), reference.decode(weights, codewords)) < DECODED_BOUND


def test_llamagen_equals_the_reference_at_two_sizes(tmp_path):
    weights = reference.random_weights(quantized=True)
    published = to_llamagen(weights) | {"quantize.codebook_used": torch.zeros(8)}
    tokenizer = load(f"llamagen:{save(tmp_path, {'model': published}, 'vq.pt')}").tokenizer
    for x in (images(), images(rows=24, columns=32)):
        features = reference.encode(weights, x)
        codes, codewords = reference.quantize(weights, features, unit=True)
        tokens = tokenizer.encode(x)
        assert torch.equal(tokens.codes, codes) and codes.unique().numel() > 3
        assert tokens.grid == (x.shape[2] // 2, x.shape[3] // 2)
        assert error(cells(tokens), codewords) < BOUND
        decoded = tokenizer.decode(tokens)
        assert error(decoded, reference.decode(weights, codewords)) < DECODED_BOUND
        _, stored = reference.quantize(weights, features, unit=True, mistake="stored codeword")
        assert error(decoded, reference.decode(weights, stored)) > 2 * DECODED_BOUND


@pytest.mark.parametrize("container", ["lightning", "ema", "prefix", "half", "matrices"])
def test_containers_give_the_same_network(tmp_path, container):
    weights = reference.random_weights(quantized=False)
    unused = {"loss.logvar": torch.zeros(()), "foundation_model.norm.bias": torch.ones(3)}
    content, name = {
        "lightning": ({"state_dict": weights | unused, "global_step": 3}, "last.ckpt"),
        "ema": ({"ema": weights, "model": {"a": torch.zeros(1)}}, "model.pt"),
        "prefix": (
            {f"first_stage_model.{key}": tensor for key, tensor in weights.items()}
            | {"cond_stage_model.a": torch.zeros(1)},
            "sd.safetensors",
        ),
        "half": ({key: tensor.half() for key, tensor in weights.items()}, "model.safetensors"),
        "matrices": (
            {
                key: tensor[..., 0, 0] if "attn" in key and tensor.ndim == 4 else tensor
                for key, tensor in weights.items()
            },
            "model.safetensors",
        ),
    }[container]
    pretrained = load(f"ldm:{save(tmp_path, content, name)}")
    if container == "half":
        weights = {key: tensor.half().float() for key, tensor in weights.items()}
    mean = reference.encode(weights, images()).chunk(2, dim=1)[0]
    assert error(cells(pretrained.tokenizer.encode(images())), mean) < BOUND
    counts = {"lightning": "foundation_model (1), loss (1)", "prefix": "cond_stage_model (1)"}
    notes = [note for note in pretrained.notes if note != ldm.SIDE_NOTE]
    assert len(notes) == (container in counts)
    assert all(counts[container] in note for note in notes)


def test_missing_maps_to_tokens_are_the_identity(tmp_path):
    weights = reference.random_weights(quantized=False, z=4, dim=4)
    names = [
        f"{layer}.{kind}"
        for layer in ("quant_conv", "post_quant_conv")
        for kind in ("weight", "bias")
    ]
    kept = {name: tensor for name, tensor in weights.items() if name not in names}
    pretrained = load(f"ldm:{save(tmp_path, kept)}")
    for layer, size in (("quant_conv", 8), ("post_quant_conv", 4)):
        weights[f"{layer}.weight"] = torch.eye(size)[..., None, None]
        weights[f"{layer}.bias"] = torch.zeros(size)
    mean = reference.encode(weights, images()).chunk(2, dim=1)[0]
    assert error(cells(pretrained.tokenizer.encode(images())), mean) < BOUND
    assert any("quant_conv" in note for note in pretrained.notes)


def test_samples_depend_on_the_image_and_the_seed_only(tmp_path):
    weights = reference.random_weights(quantized=False)
    weights["quant_conv.bias"].chunk(2)[1].sub_(2)  # the logarithms of the variances
    path = save(tmp_path, weights)
    x = images(count=3)
    mean, log_variance = reference.encode(weights, x).chunk(2, dim=1)
    sampling = load(f"ldm:{path}", posterior="sample", seed=1).tokenizer
    sample = cells(sampling.encode(x))
    noise = (sample - mean) / (log_variance / 2).exp()
    assert abs(noise.mean()) < 0.15 and abs(noise.std() - 1) < 0.15
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.3
    torch.testing.assert_close(cells(sampling.encode(x[2:])), sample[2:])
    other = load(f"ldm:{path}", posterior="sample", seed=2).tokenizer
    assert not torch.allclose(cells(other.encode(x)), sample)


def test_sizes_and_scale_come_from_the_configuration(tmp_path):
    save(tmp_path, reference.random_weights(quantized=False))
    parameters = {"embed_dim": 5, "ddconfig": {"resolution": 64, "ch": 32, "ch_mult": [1, 2]}}
    section = {"target": "AutoencoderKL", "params": parameters}
    config = {"model": {"params": {"scale_factor": 0.5, "first_stage_config": section}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pretrained = load(f"ldm:{tmp_path}")
    assert pretrained.side == 64 and pretrained.tokenizer.grid == (32, 32)
    assert pretrained.scale.std == (2.0,)
    assert len(pretrained.notes) == 1 and "embed_dim 5" in pretrained.notes[0]
    assert [file.name for file in pretrained.files] == ["model.safetensors", "config.json"]
    assert load(f"ldm:{tmp_path}", scale="4").scale.std == (0.25,)
    larger = load(f"ldm:{tmp_path}", side=128)
    assert larger.side == 128 and larger.tokenizer.grid == (64, 64)
    yaml = tmp_path / "my.yaml"
    yaml.write_text("model:\n  params:\n    ddconfig:\n      resolution: 32\n")
    assert load(f"ldm:{tmp_path / 'model.safetensors'}", config=str(yaml)).side == 32


def test_statistics_next_to_the_file_are_the_scale(tmp_path):
    save(tmp_path, reference.random_weights(quantized=False), "vae.pt")
    statistics = {"mean": torch.arange(4.0), "std": torch.arange(1.0, 5.0)}
    torch.save(
        {k: v.reshape(1, 4, 1, 1) for k, v in statistics.items()}, tmp_path / "latents_stats.pt"
    )
    scale = load(f"ldm:{tmp_path}").scale
    assert scale.mean == (0, 1, 2, 3) and scale.std == (1, 2, 3, 4)
    torch.save({"mean": torch.zeros(3), "std": torch.ones(3)}, tmp_path / "latents_stats.pt")
    with pytest.raises(UserError, match="latents_stats"):
        load(f"ldm:{tmp_path}")


@pytest.mark.parametrize(
    ("text_encoder", "factor"), [("cond_stage_model", 0.18215), ("conditioner.embedders", 0.13025)]
)
def test_scale_of_a_whole_diffusion_model_is_known(tmp_path, text_encoder, factor):
    weights = reference.random_weights(quantized=False)
    whole = {f"first_stage_model.{name}": tensor for name, tensor in weights.items()}
    path = save(tmp_path, whole | {f"{text_encoder}.0.weight": torch.zeros(1)})
    assert load(f"ldm:{path}").scale.std == pytest.approx((1 / factor,))


def test_scale_and_license_of_a_published_file_are_known(tmp_path, monkeypatch):
    facts = {"multipliers": (1, 2), "z_channels": 6, "factor": 0.5, "license": "MIT"}
    published = (ldm.PublishedFile(name="vae-v1", **facts),)
    monkeypatch.setattr(ldm, "PUBLISHED_FILES", published)
    weights = reference.random_weights(quantized=False)
    known = load(f"ldm:{save(tmp_path, weights, 'vae-v1.pt')}")
    assert known.scale.std == (2.0,) and known.license == "MIT"
    other_name = load(f"ldm:{save(tmp_path, weights, 'mine.pt')}")
    other_sizes = reference.random_weights(quantized=False, z=8)
    of_other_sizes = load(f"ldm:{save(tmp_path, other_sizes, 'vae-v1.safetensors')}")
    for unknown in (other_name, of_other_sizes):
        assert unknown.scale is None and unknown.license is None


# Millions of numbers and entries of published files, with the codebook of a VQ autoencoder.
LDM_SIZES = {"width": 128, "multipliers": (1, 1, 2, 2, 4), "blocks": 2}
PUBLISHED_SIZES = {
    "VA-VAE f16d32": (69.84, 342, LDM_SIZES | {"dim": 32}, (4,), (4,)),
    "MAR KL-16": (66.46, 312, LDM_SIZES | {"dim": 16}, (4,), ()),
    "SD-VAE": (83.65, 248, LDM_SIZES | {"dim": 4, "multipliers": (1, 2, 4, 4)}, (), ()),
    "taming f16, 1024 codes": (72.14, 343, LDM_SIZES | {"dim": 256}, (4,), (4,)),
}


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_network_has_the_published_size(name):
    millions, entries, sizes, encoder_attention, decoder_attention = PUBLISHED_SIZES[name]
    config = ConvConfig(
        side=256,
        linear_init=False,
        padding="bottom_right",
        encoder_attention=encoder_attention,
        decoder_attention=decoder_attention,
        **sizes,
    )
    has_codebook = name.startswith("taming")
    with torch.device("meta"):
        encoder = ConvEncoder(config, parts=1 if has_codebook else 2)
        views = autoencoder_views(encoder, ConvDecoder(config))
        if has_codebook:
            views["codebook"] = torch.empty(1024, 256)
    assert len(views) == entries
    assert sum(view.numel() for view in views.values()) / 1e6 == pytest.approx(millions, abs=0.005)


def broken_weights(fault: str) -> dict:
    weights = reference.random_weights(quantized=fault == "mage")
    if fault == "missing":
        del weights["decoder.mid.attn_1.q.bias"]
    if fault == "unknown":
        weights["decoder.extra.weight"] = torch.zeros(1)
    if fault == "shape":
        weights["encoder.norm_out.bias"] = torch.zeros(3)
    if fault == "mage":
        del weights["encoder.conv_in.bias"]
    if fault == "groups":
        weights["encoder.conv_in.weight"] = torch.zeros(24, 3, 3, 3)
    if fault == "not a convolution":
        weights["encoder.conv_in.weight"] = torch.tensor(1.0)
    if fault == "no channels":
        weights["encoder.conv_in.weight"] = torch.zeros(0, 3, 3, 3)
    if fault == "level":
        weights["decoder.up.7.attn.0.norm.weight"] = torch.zeros(32)
    if fault == "other":
        return {"layers.0.weight": torch.zeros(2, 2)}
    if fault == "llamagen":
        return to_llamagen(weights)
    if fault == "diffusers":
        return {"encoder.down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}
    return weights


@pytest.mark.parametrize(
    ("fault", "fragment"),
    [
        ("missing", "decoder.mid.attn_1.q.bias"),
        ("unknown", "decoder.extra.weight"),
        ("shape", "encoder.norm_out.bias"),
        ("mage", "MAGE"),
        ("groups", "32"),
        ("not a convolution", "encoder.conv_in.weight"),
        ("no channels", "encoder.conv_in.weight"),
        ("level", "7"),
        ("other", "encoder.conv_in.weight"),
        ("llamagen", "llamagen:"),
        ("diffusers", "diffusers:"),
    ],
)
def test_a_file_that_does_not_fit_raises(tmp_path, fault, fragment):
    path = save(tmp_path, broken_weights(fault))
    with pytest.raises(UserError, match=re.escape(fragment)):
        load(f"ldm:{path}")


def test_ldm_file_for_llamagen_raises(tmp_path):
    path = save(tmp_path, reference.random_weights(quantized=True))
    with pytest.raises(UserError, match="ldm:FILE"):
        load(f"llamagen:{path}")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"posterior": "median"}, "posterior"),
        ({"posterior": "sample"}, "VQ"),
        ({"scale": 0.0}, "scale"),
        ({"side": 31}, "side"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
        ({"file": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_invalid_options_raise(tmp_path, options, fragment):
    save(tmp_path, reference.random_weights(quantized=True))
    with pytest.raises(UserError, match=fragment):
        load(f"ldm:{tmp_path}", **options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "{"),
        ("config.yaml", "a: [1"),
        ("config.json", '{"ddconfig": {"resolution": -3}}'),
        ("config.json", '{"scaling_factor": "large"}'),
    ],
)
def test_damaged_configuration_raises(tmp_path, name, text):
    save(tmp_path, reference.random_weights(quantized=False))
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        load(f"ldm:{tmp_path}")


def test_images_that_do_not_fit_raise(tmp_path):
    weights = reference.random_weights(quantized=False)
    tokenizer = load(f"ldm:{save(tmp_path, weights)}").tokenizer
    for x in (images(rows=15), images()[:, :1]):
        with pytest.raises(UserError):
            tokenizer.encode(x)


# Reference outputs of the original modules, which are not part of this repository.

CHECKPOINTS = os.environ.get("WORKBENCH_CHECKPOINTS")
needs_checkpoints = pytest.mark.skipif(
    not CHECKPOINTS, reason="WORKBENCH_CHECKPOINTS names no folder of reference outputs"
)


@needs_checkpoints
@pytest.mark.parametrize(
    ("address", "folder"),
    [
        ("ldm:vavae/vavae", "vavae/vavae"),
        ("ldm:vavae/vavae/lightning-2.ckpt", "vavae/vavae"),
        ("ldm:vavae/mar", "vavae/mar"),
        ("ldm:vavae/sd-ldm", "vavae/sd-ldm"),
        ("diffusers:vavae/sd-diffusers", "vavae/sd-diffusers"),
        ("ldm:vqgan/taming", "vqgan/taming"),
        ("llamagen:vqgan/llamagen", "vqgan/llamagen"),
    ],
)
def test_reference_outputs_are_reproduced(address, folder):
    family, _, location = address.partition(":")
    pretrained = load(f"{family}:{Path(CHECKPOINTS) / location}")
    outputs = load_file(Path(CHECKPOINTS) / folder / "outputs.safetensors")
    tokenizer = pretrained.tokenizer
    tokens = tokenizer.encode(outputs["images"])
    latents = outputs.get("quantized", outputs.get("moments"))
    assert error(cells(tokens), latents[:, : tokens.latents.shape[2]]) < BOUND
    assert error(tokenizer.decode(tokens), outputs["reconstruction"]) < DECODED_BOUND
    if "codes" in outputs:
        assert torch.equal(tokens.codes, outputs["codes"])
    if "images_larger" in outputs:
        larger = tokenizer.encode(outputs["images_larger"])
        assert torch.equal(larger.codes, outputs["codes_larger"])
        assert error(tokenizer.decode(larger), outputs["reconstruction_larger"]) < DECODED_BOUND
    if "scaled" in outputs:
        base = outputs.get("sample", outputs.get("mean"))
        assert error(base / pretrained.scale.std[0], outputs["scaled"]) < BOUND


@needs_checkpoints
def test_old_names_of_diffusers_are_read(tmp_path):
    folder = Path(CHECKPOINTS) / "vavae/sd-diffusers"
    names = json.loads((folder / "old-names.json").read_text())
    name = "diffusion_pytorch_model.safetensors"
    weights = {names.get(key, key): tensor for key, tensor in load_file(folder / name).items()}
    save(tmp_path, weights, name)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    outputs = load_file(folder / "outputs.safetensors")
    tokens = load(f"diffusers:{tmp_path}").tokenizer.encode(outputs["images"])
    assert error(cells(tokens), outputs["mean"]) < BOUND


@needs_checkpoints
def test_class_keys_of_lightning_are_read():
    folder = Path(CHECKPOINTS) / "vavae/vavae"
    weights = load_file(folder / "model.safetensors")
    small = read_weights(folder / "lightning-1-class-keys.ckpt")  # it has only small tensors
    assert len(small.keys() & weights.keys()) > 200
    assert all(torch.equal(small[name], weights[name]) for name in small.keys() & weights.keys())
    with pytest.raises(UserError, match="missing"):
        load(f"ldm:{folder / 'lightning-1-class-keys.ckpt'}")
