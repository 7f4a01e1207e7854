"""Published SoftVQ-VAEs and MAEToks against plain formulas, and against reference checkpoints.

The reference checkpoints are used only if WORKBENCH_CHECKPOINTS names their folder.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from plain_vit import (
    TOLERANCE,
    Weights,
    attention,
    cut_patches,
    join_patches,
    largest_difference,
    layer_norm,
    linear,
    linear_shapes,
    mlp,
    norm_shapes,
    random_images,
    random_weights,
    save_checkpoint,
)
from safetensors.torch import load_file, save_file

from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.tokenizers.pretrained import LatentScale, load
from workbench.tokenizers.pretrained.continuous_tokenizer import Half, Layout

GRID, PATCH, TOKENS, DIM = 4, 4, 8, 16
PATCHES, SIDE, PIXELS = GRID**2, GRID * PATCH, 3 * PATCH**2
CODEBOOKS, CODES, TAU = 4, 32, 0.07
EPS = 1e-6
CONFIG = {
    "image_size": SIDE,
    "codebook_embed_dim": DIM,
    "num_latent_tokens": TOKENS,
    "enc_patch_size": PATCH,
    "dec_patch_size": PATCH,
    "enc_type": "vit",
    "vq_mean": 0.01,
    "vq_std": 0.5,
}
SOFTVQ_CONFIG = CONFIG | {
    "codebook_size": CODES,
    "num_codebooks": CODEBOOKS,
    "codebook_l2_norm": True,
    "tau": TAU,
}


# The published formats


def half_shapes(half: str, width: int, depth: int, *, class_token: bool = True) -> dict:
    shapes = norm_shapes(f"{half}.model.norm", width)
    shapes[f"{half}.model.pos_embed"] = (1, PATCHES + class_token, width)
    if class_token:
        shapes[f"{half}.model.cls_token"] = (1, 1, width)
    for index in range(depth):
        block = f"{half}.model.blocks.{index}"
        shapes |= norm_shapes(f"{block}.norm1", width) | norm_shapes(f"{block}.norm2", width)
        shapes |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
        shapes |= branch_shapes(block, width)
    return shapes


def branch_shapes(block: str, width: int) -> dict:
    return (
        linear_shapes(f"{block}.attn.qkv", width, 3 * width)
        | linear_shapes(f"{block}.attn.proj", width, width)
        | linear_shapes(f"{block}.mlp.fc1", width, 4 * width)
        | linear_shapes(f"{block}.mlp.fc2", 4 * width, width)
    )


def outer_shapes(width: int, decoder_width: int) -> dict:
    return {
        "encoder.latent_tokens": (1, TOKENS, width),
        "encoder.latent_pos_embed": (1, TOKENS, width),
        "encoder.model.patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "encoder.model.patch_embed.proj.bias": (width,),
        **linear_shapes("quant_conv", width, DIM),
        **linear_shapes("post_quant_conv", DIM, decoder_width),
        "decoder.mask_token": (1, 1, decoder_width),
        "decoder.latent_pos_embed": (1, TOKENS, decoder_width),
        **linear_shapes("decoder.to_pixel.model", decoder_width, PIXELS),
    }


def softvq_weights() -> Weights:
    """A decoder wider than the encoder, and codewords that are not of unit norm."""
    shapes = outer_shapes(128, 192)
    shapes |= half_shapes("encoder", 128, 2) | half_shapes("decoder", 192, 1)
    shapes["quantize.embedding"] = (CODEBOOKS, CODES, DIM)
    shapes["quantize.codebook_used"] = (CODEBOOKS, 10)
    return random_weights(shapes)


def maetok_weights(*, decoder_class_token: bool = False) -> Weights:
    """Rotary positions, and a modulated decoder."""
    width, depth = 128, 2
    shapes = outer_shapes(width, width) | half_shapes("encoder", width, depth)
    shapes |= {"encoder.mask_token": (1, 1, width), "decoder.model.pos_embed": (1, 17, width)}
    for index in range(depth):
        block = f"decoder.model.blocks.{index}"
        shapes |= branch_shapes(block, width)
        shapes |= linear_shapes(f"{block}.adaLN_modulation.1", DIM, 4 * width)
    shapes |= linear_shapes("decoder.model.norm.adaLN_modulation.1", DIM, 2 * width)
    for half in ("encoder", "decoder"):
        shapes[f"{half}.freqs"] = (2, depth, width // 2)
        shapes[f"{half}.freqs_t_x"] = (PATCHES,)
    if decoder_class_token:
        shapes["decoder.model.cls_token"] = (1, 1, width)
    return random_weights(shapes)


# The published formulas


def angles(weights: Weights, half: str, block: int, rows: int, mistake: str | None):
    """Return the angle of each head, row and pair, or None without rotary positions."""
    if f"{half}.freqs" not in weights or mistake == "no rotation":
        return None
    prefix = int(f"{half}.model.cls_token" in weights)
    frequencies = weights[f"{half}.freqs"][:, block]
    result = torch.zeros(frequencies.shape[1] // 32, rows, 32)
    for patch in range(PATCHES):
        x, y = patch % GRID, patch // GRID
        if mistake == "columns and rows exchanged":
            x, y = y, x
        result[:, prefix + patch] = (x * frequencies[0] + y * frequencies[1]).view(-1, 32)
    return result


def run_blocks(weights: Weights, half: str, x, latents, mistake: str | None):
    model = f"{half}.model"
    index = 0
    while f"{model}.blocks.{index}.attn.qkv.weight" in weights:
        block = f"{model}.blocks.{index}"
        turns = angles(weights, half, index, x.shape[1], mistake)
        is_modulated = f"{block}.adaLN_modulation.1.weight" in weights
        shift_1, scale_1, shift_2, scale_2 = (None,) * 4
        if is_modulated:
            modulation = linear(weights, f"{block}.adaLN_modulation.1", F.silu(latents))
            shift_1, scale_1, shift_2, scale_2 = modulation.chunk(4, dim=-1)

        def normalize(rows, name, shift, scale, block=block, is_modulated=is_modulated):
            if not is_modulated:
                return layer_norm(weights, f"{block}.{name}", rows, EPS, mistake)
            rows = layer_norm(weights, None, rows, EPS, mistake)
            if mistake == "no modulation":
                return rows
            scale = 1 + scale if mistake == "1 + scale" else scale
            rows[:, -TOKENS:] = rows[:, -TOKENS:] * scale + shift
            return rows

        def scale_layer(branch, name, block=block, is_modulated=is_modulated):
            if is_modulated or mistake == "no layer scale":
                return branch
            return weights[f"{block}.{name}.gamma"] * branch

        rows = linear(weights, f"{block}.attn.qkv", normalize(x, "norm1", shift_1, scale_1))
        mixed = linear(weights, f"{block}.attn.proj", attention(rows, turns))
        x = x + scale_layer(mixed, "ls1")
        rows = normalize(x, "norm2", shift_2, scale_2)
        branch = mlp(weights, f"{block}.mlp.fc1", f"{block}.mlp.fc2", rows, mistake)
        x = x + scale_layer(branch, "ls2")
        index += 1
    return x


def with_positions(weights: Weights, half: str, patches, mistake: str | None):
    """Put the class token before the patches, and add the learned positions."""
    model = f"{half}.model"
    prefix = int(f"{model}.cls_token" in weights)
    positions = weights.get(f"{model}.pos_embed")
    is_modulated = f"{model}.blocks.0.adaLN_modulation.1.weight" in weights
    if is_modulated or mistake == "no positions":
        positions = torch.zeros(1, prefix + PATCHES, patches.shape[2])
    if mistake == "no class token":
        return patches + positions[:, prefix:]
    if prefix:
        class_token = weights[f"{model}.cls_token"].expand(len(patches), 1, -1)
        patches = torch.cat([class_token, patches], dim=1)
    return patches + positions


def project(weights: Weights, images, mistake: str | None = None):
    patches = cut_patches(images, PATCH)
    x = linear(weights, "encoder.model.patch_embed.proj", patches)
    x = with_positions(weights, "encoder", x, mistake)
    tokens = weights["encoder.latent_tokens"] + weights["encoder.latent_pos_embed"]
    x = torch.cat([x, tokens.expand(len(x), -1, -1)], dim=1)
    without_class = weights | {}
    if mistake == "no class token":
        without_class.pop("encoder.model.cls_token")
    x = run_blocks(without_class, "encoder", x, None, mistake)
    x = layer_norm(weights, "encoder.model.norm", x, EPS, mistake)[:, -TOKENS:]
    return linear(weights, "quant_conv", x)


def quantize(weights: Weights, projected, mistake: str | None = None):
    """Return latents and codes, token by token."""
    latents, codes = torch.empty_like(projected), torch.empty(projected.shape[:2], dtype=int)
    for token in range(TOKENS):
        codewords = weights["quantize.embedding"][token * CODEBOOKS // TOKENS]
        unit = F.normalize(codewords, dim=-1)
        similarity = F.normalize(projected[:, token], dim=-1) @ unit.T
        mixed = codewords if mistake == "codewords not normalized" else unit
        latents[:, token] = (similarity / TAU).softmax(dim=-1) @ mixed
        codes[:, token] = similarity.argmax(dim=-1)
    return latents, codes


def decode(weights: Weights, latents, mistake: str | None = None):
    x = weights["decoder.mask_token"].expand(len(latents), PATCHES, -1)
    x = with_positions(weights, "decoder", x, mistake)
    tokens = linear(weights, "post_quant_conv", latents) + weights["decoder.latent_pos_embed"]
    x = torch.cat([x, tokens], dim=1)
    kept = weights | {}
    if mistake == "no class token":
        kept.pop("decoder.model.cls_token")
    x = run_blocks(kept, "decoder", x, latents, mistake)
    is_modulated = "decoder.model.norm.weight" not in weights
    x = layer_norm(weights, None if is_modulated else "decoder.model.norm", x, EPS, mistake)
    prefix = int("decoder.model.cls_token" in kept)
    numbers = linear(weights, "decoder.to_pixel.model", x[:, prefix : prefix + PATCHES])
    return join_patches(numbers, PATCH)


@pytest.fixture
def softvq(tmp_path) -> Path:
    return save_checkpoint(tmp_path / "softvq", softvq_weights(), SOFTVQ_CONFIG)


@pytest.fixture
def maetok(tmp_path) -> Path:
    return save_checkpoint(tmp_path / "maetok", maetok_weights(), CONFIG)


# The right formulas agree, every usual mistake does not


def test_softvq_agrees_with_the_formulas(softvq):
    weights, images = softvq_weights(), random_images(SIDE)
    tokenizer = load(f"softvq:{softvq}").tokenizer
    projected = project(weights, images)
    latents, codes = quantize(weights, projected)
    tokens = tokenizer.encode(images)
    assert projected.std() > 0.1 and latents.std() > 0.05
    assert largest_difference(tokenizer.encoder(images), projected) < TOLERANCE
    assert largest_difference(tokens.latents, latents) < TOLERANCE
    assert torch.equal(tokens.codes, codes)
    decoded = tokenizer.decode(Tokens(latents))
    assert decoded.std() > 0.1
    assert largest_difference(decoded, decode(weights, latents)) < TOLERANCE


@pytest.mark.parametrize("decoder_class_token", [False, True])
def test_maetok_agrees_with_the_formulas(tmp_path, decoder_class_token):
    weights = maetok_weights(decoder_class_token=decoder_class_token)
    folder, images = save_checkpoint(tmp_path / "maetok", weights, CONFIG), random_images(SIDE)
    tokenizer = load(f"maetok:{folder}").tokenizer
    latents = project(weights, images)
    tokens = tokenizer.encode(images)
    assert latents.std() > 0.1 and tokens.codes is None
    assert largest_difference(tokens.latents, latents) < TOLERANCE
    decoded = tokenizer.decode(Tokens(latents))
    assert decoded.std() > 0.1
    assert largest_difference(decoded, decode(weights, latents)) < TOLERANCE


@pytest.mark.parametrize(
    "mistake",
    ["eps", "tanh", "no layer scale", "no positions", "no class token", "codewords not normalized"],
)
def test_mistakes_in_softvq_exceed_the_tolerance(softvq, mistake):
    weights, images = softvq_weights(), random_images(SIDE)
    tokenizer = load(f"softvq:{softvq}").tokenizer
    tokens = tokenizer.encode(images)
    wrong, _ = quantize(weights, project(weights, images, mistake), mistake)
    assert largest_difference(tokens.latents, wrong) > TOLERANCE
    if mistake != "codewords not normalized":
        decoded = tokenizer.decode(tokens)
        assert largest_difference(decoded, decode(weights, tokens.latents, mistake)) > TOLERANCE


IN_ENCODER = ("no layer scale", "no positions", "no class token")
IN_DECODER = ("1 + scale", "no modulation")
IN_BOTH = ("eps", "tanh", "no rotation", "columns and rows exchanged")


@pytest.mark.parametrize("mistake", [*IN_ENCODER, *IN_DECODER, *IN_BOTH])
def test_mistakes_in_maetok_exceed_the_tolerance(maetok, mistake):
    weights, images = maetok_weights(), random_images(SIDE)
    tokenizer = load(f"maetok:{maetok}").tokenizer
    tokens = tokenizer.encode(images)
    if mistake not in IN_DECODER:
        assert largest_difference(tokens.latents, project(weights, images, mistake)) > TOLERANCE
    if mistake not in IN_ENCODER:
        decoded = tokenizer.decode(tokens)
        assert largest_difference(decoded, decode(weights, tokens.latents, mistake)) > TOLERANCE


# Sizes of the published files


def published_half(name: str, size: str, **options) -> Half:
    width, depth = {"base": (768, 12), "large": (1024, 24)}[size]
    options = {"class_token": True, "rotary": False, "modulated": False} | options
    return Half(name=name, width=width, depth=depth, **options)


@pytest.mark.parametrize(
    ("encoder", "decoder", "num_tokens", "num_tensors", "gigabytes"),
    [
        ("base", "base", 32, 358, 0.697),  # softvq-b-32
        ("base", "large", 64, 526, 1.57),  # softvq-bl-64
        ("large", "large", 64, 694, 2.43),  # softvq-l-64
    ],
)
def test_size_of_the_published_softvq(encoder, decoder, num_tokens, num_tensors, gigabytes):
    layout = Layout(
        grid=16,
        patch=16,
        channels=3,
        num_tokens=num_tokens,
        dim=2048 // num_tokens,
        encoder=published_half("encoder", encoder),
        decoder=published_half("decoder", decoder),
    )
    shapes = layout.shapes() | {
        "quantize.embedding": (4, 8192, layout.dim),
        "quantize.codebook_used": (4, 65536),
    }
    assert len(shapes) == num_tensors
    numbers = sum(math.prod(shape) for shape in shapes.values())
    assert 4e-9 * numbers == pytest.approx(gigabytes, abs=0.01)


def test_size_of_the_published_maetok():
    layout = Layout(
        grid=16,
        patch=16,
        channels=3,
        num_tokens=128,
        dim=32,
        encoder=published_half("encoder", "base", rotary=True),
        decoder=published_half("decoder", "base", rotary=True, modulated=True, class_token=False),
    )
    assert len(layout.shapes()) == 316 - 10  # ten are not used
    numbers = sum(math.prod(shape) for shape in layout.shapes().values())
    assert 4e-9 * numbers == pytest.approx(0.7, abs=0.02)


# What a checkpoint may and may not contain


@pytest.mark.parametrize("family", ["softvq", "maetok"])
def test_an_image_alone_has_its_tokens(family, request):
    tokenizer = load(f"{family}:{request.getfixturevalue(family)}").tokenizer
    images = random_images(SIDE)
    tokens = tokenizer.encode(images)
    for index in range(3):
        alone = tokenizer.encode(images[index : index + 1])
        assert largest_difference(alone.latents[0], tokens.latents[index]) < TOLERANCE
        if tokens.codes is not None:
            assert torch.equal(alone.codes[0], tokens.codes[index])


@pytest.mark.parametrize("family", ["softvq", "maetok"])
def test_facts_of_the_checkpoint(family, request):
    folder = request.getfixturevalue(family)
    pretrained = load(f"{family}:{folder}")
    assert pretrained.scale == LatentScale(mean=(0.01,), std=(0.5,))
    assert pretrained.side == SIDE and pretrained.channels == 3 and not pretrained.flexible
    assert pretrained.license is None
    assert [file.name for file in pretrained.files] == ["model.safetensors", "config.json"]
    assert not pretrained.tokenizer.training
    assert not any(parameter.requires_grad for parameter in pretrained.tokenizer.parameters())


@pytest.mark.parametrize("family", ["softvq", "maetok"])
def test_weights_survive_a_stored_run(family, request, tmp_path):
    tokenizer = load(f"{family}:{request.getfixturevalue(family)}").tokenizer
    save_file(tokenizer.state_dict(), tmp_path / "step.safetensors")
    again = type(tokenizer)(tokenizer.config).eval()
    again.load_state_dict(load_file(tmp_path / "step.safetensors"))
    images = random_images(SIDE)
    tokens = tokenizer.encode(images)
    assert torch.equal(again.encode(images).latents, tokens.latents)
    assert torch.equal(again.decode(tokens), tokenizer.decode(tokens))


@pytest.mark.parametrize("family", ["softvq", "maetok"])
def test_imported_tokenizers_can_be_trained_further(family, request):
    tokenizer = load(f"{family}:{request.getfixturevalue(family)}").tokenizer
    tokenizer.train().requires_grad_(True)
    tokenizer.objective(random_images(SIDE)).total.backward()
    without = [n for n, p in tokenizer.named_parameters() if p.grad is None]
    assert not without


def test_unused_tensors_may_be_there_or_not(tmp_path):
    weights = maetok_weights()
    images = random_images(SIDE)
    unused = ("mask_token", "freqs_t_x", "decoder.model.pos_embed", "norm.adaLN")
    needed = {
        name: weight
        for name, weight in weights.items()
        if name == "decoder.mask_token" or not any(word in name for word in unused)
    }
    assert len(needed) == len(weights) - 6
    more = {
        "repa_model.a": torch.ones(2),
        "decoder_hog.b": torch.ones(1),
        "projection.c": torch.ones(1),
    }
    loaded = [
        load(f"maetok:{save_checkpoint(tmp_path / str(i), content, CONFIG)}")
        for i, content in enumerate((needed, needed | more))
    ]
    assert loaded[0].notes == () and any("repa_model.a" in note for note in loaded[1].notes)
    tokens = [pretrained.tokenizer.encode(images).latents for pretrained in loaded]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("softvq", "decoder.model.blocks.0.ls2.gamma"),
        ("softvq", "decoder.model.pos_embed"),
        ("softvq", "encoder.model.blocks.0.attn.qkv.bias"),
        ("maetok", "decoder.model.blocks.1.adaLN_modulation.1.bias"),
        ("maetok", "decoder.mask_token"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, family, name, fault):
    weights = softvq_weights() if family == "softvq" else maetok_weights()
    if fault == "missing":
        del weights[name]
    elif fault == "extra":
        name = f"{name}.more"
        weights[name] = torch.ones(1)
    else:
        weights[name] = weights[name][..., 1:]
    folder = save_checkpoint(tmp_path / family, weights, SOFTVQ_CONFIG)
    with pytest.raises(UserError) as error:
        load(f"{family}:{folder}")
    assert name in str(error.value)


def test_sizes_of_the_tensors_win(tmp_path):
    config = SOFTVQ_CONFIG | {
        "image_size": 512,
        "codebook_size": 8192,
        "encoder_model": "vit_large_patch14_dinov2.lvd142m",
    }
    folder = save_checkpoint(tmp_path / "softvq-l-64", softvq_weights(), config)
    pretrained = load(f"softvq:{folder}")
    assert pretrained.side == SIDE and pretrained.tokenizer.config.codebook_size == CODES
    for key, size in (("image_size", "16"), ("codebook_size", "32"), ("vit_large", "128")):
        assert any(key in note and size in note for note in pretrained.notes)


def test_each_family_refuses_the_other(softvq, maetok):
    for address, other in ((f"softvq:{maetok}", "maetok:"), (f"maetok:{softvq}", "softvq:")):
        with pytest.raises(UserError) as error:
            load(address)
        assert other in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        {"enc_type": "cnn"},
        {"to_pixel": "conv"},
        {"decoder_model": "vit_base_patch16_clip_224"},
        {"use_rope": True},
        {"codebook_l2_norm": False},
        {"tau": 0},
        {"tau": "cold"},
        {"vq_std": -1.0},
    ],
)
def test_unsupported_configurations_are_refused(tmp_path, config):
    folder = save_checkpoint(tmp_path / "softvq", softvq_weights(), SOFTVQ_CONFIG | config)
    with pytest.raises(UserError) as error:
        load(f"softvq:{folder}")
    assert next(iter(config)) in str(error.value)


@pytest.mark.parametrize(
    ("names", "fragment"),
    [
        ({"encoder.model.reg_token": torch.ones(1, 4, 128)}, "registers"),
        ({"encoder.freqs": torch.ones(2, 2, 64)}, "freqs"),
        ({"encoder.model.pos_embed": torch.ones(1, 16, 128)}, "15"),
        ({"quant_conv.weight": torch.ones(16)}, "(dim width)"),
        ({"post_quant_conv.weight": torch.ones(100, 16)}, "100"),
    ],
)
def test_unsupported_networks_are_refused(tmp_path, names, fragment):
    folder = save_checkpoint(tmp_path / "softvq", softvq_weights() | names, SOFTVQ_CONFIG)
    with pytest.raises(UserError) as error:
        load(f"softvq:{folder}")
    assert fragment in str(error.value)


def test_configuration_must_be_next_to_the_weights(softvq):
    assert load(f"softvq:{softvq / 'model.safetensors'}").side == SIDE
    for content in ("{", "[]"):
        (softvq / "config.json").write_text(content)
        with pytest.raises(UserError, match="config.json"):
            load(f"softvq:{softvq}")
    (softvq / "config.json").unlink()
    with pytest.raises(UserError, match="config.json"):
        load(f"softvq:{softvq}")


@pytest.mark.skipif("WORKBENCH_CHECKPOINTS" not in os.environ, reason="needs its folder")
@pytest.mark.parametrize("family", ["softvq", "maetok"])
def test_reference_checkpoint_is_reproduced(family):
    folder = Path(os.environ["WORKBENCH_CHECKPOINTS"]) / family
    reference = load_file(folder / "oracle.safetensors")
    tokenizer = load(f"{family}:{folder}").tokenizer
    tokens = tokenizer.encode(reference["images"])
    decoded = tokenizer.decode(Tokens(reference["latents"]))
    assert largest_difference(tokenizer.encoder(reference["images"]), reference["projected"]) < 2e-5
    assert largest_difference(tokens.latents, reference["latents"]) < 2e-5
    assert largest_difference(decoded, reference["reconstruction"]) < 2e-5
    if "codes" in reference:
        assert torch.equal(tokens.codes, reference["codes"])
    published = json.loads((folder / "config.json").read_text())
    scale = load(f"{family}:{folder}").scale
    assert scale == LatentScale(mean=(published["vq_mean"],), std=(published["vq_std"],))
