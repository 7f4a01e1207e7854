"""Published TiToks against plain formulas, and against reference checkpoints.

The reference checkpoints are used only if WORKBENCH_CHECKPOINTS names their folder.
"""

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
from workbench.tokenizers.pretrained import load
from workbench.tokenizers.pretrained.titok import MODEL_SIZES, Layout, PixelLayout
from workbench.tokenizers.titok import TiTok, TiTokVAE

GRID, PATCH, TOKENS, DIM, CODES = 4, 4, 8, 12, 32
PATCHES, SIDE, PIXELS = GRID**2, GRID * PATCH, 3 * PATCH**2
WIDTH, DEPTH, DECODER_WIDTH = 128, 2, 192
PIXEL_CODES, PIXEL_DIM, PIXEL_WIDTHS = 20, 8, (64, 64, 32)  # of the first release
EPS = 1e-5
LAYOUTS = ("legacy", "vq", "vae")
VQ_MODEL = {"token_size": DIM, "num_latent_tokens": TOKENS}
CONFIGS = {
    # The first release has neither is_legacy nor quantize_mode.
    "legacy": VQ_MODEL | {"codebook_size": CODES, "use_l2_norm": True, "finetune_decoder": True},
    "vq": VQ_MODEL
    | {
        "codebook_size": CODES,
        "use_l2_norm": False,
        "quantize_mode": "vq",
        "is_legacy": False,
        "finetune_decoder": False,
    },
    "vae": VQ_MODEL | {"quantize_mode": "vae", "is_legacy": False, "finetune_decoder": False},
}


def config_of(layout: str, **changes) -> dict:
    preprocessing = {"crop_size": SIDE}
    return {
        "model": {"vq_model": CONFIGS[layout] | changes},
        "dataset": {"preprocessing": preprocessing},
    }


# The published formats


def convolution_shapes(name: str, in_channels: int, out_channels: int, kernel: int) -> dict:
    shape = (out_channels, in_channels, kernel, kernel)
    return {f"{name}.weight": shape, f"{name}.bias": (out_channels,)}


def half_shapes(half: str, width: int, depth: int) -> dict:
    shapes = {
        f"{half}.class_embedding": (1, width),
        f"{half}.positional_embedding": (1 + PATCHES, width),
        f"{half}.latent_token_positional_embedding": (TOKENS, width),
    }
    shapes |= norm_shapes(f"{half}.ln_pre", width) | norm_shapes(f"{half}.ln_post", width)
    for index in range(depth):
        block = f"{half}.transformer.{index}"
        shapes |= norm_shapes(f"{block}.ln_1", width) | norm_shapes(f"{block}.ln_2", width)
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
        }
        shapes |= linear_shapes(f"{block}.attn.out_proj", width, width)
        shapes |= linear_shapes(f"{block}.mlp.c_fc", width, 4 * width)
        shapes |= linear_shapes(f"{block}.mlp.c_proj", 4 * width, width)
    return shapes


def pixel_decoder_shapes() -> dict:
    shapes = convolution_shapes("pixel_decoder.conv_in", PIXEL_DIM, PIXEL_WIDTHS[0], 3)
    blocks = [
        ("mid.0", PIXEL_WIDTHS[0], PIXEL_WIDTHS[0]),
        ("mid.1", PIXEL_WIDTHS[0], PIXEL_WIDTHS[0]),
    ]
    in_width = PIXEL_WIDTHS[0]
    for level, width in zip(reversed(range(len(PIXEL_WIDTHS))), PIXEL_WIDTHS, strict=True):
        blocks += [(f"up.{level}.block.0", in_width, width), (f"up.{level}.block.1", width, width)]
        if level:
            name = f"pixel_decoder.up.{level}.upsample_conv"
            shapes |= convolution_shapes(name, width, width, 3)
        in_width = width
    for name, in_width, width in blocks:
        block = f"pixel_decoder.{name}"
        shapes |= norm_shapes(f"{block}.norm1", in_width) | norm_shapes(f"{block}.norm2", width)
        shapes[f"{block}.conv1.weight"] = (width, in_width, 3, 3)
        shapes[f"{block}.conv2.weight"] = (width, width, 3, 3)
        if in_width != width:
            shapes[f"{block}.nin_shortcut.weight"] = (width, width, 1, 1)
    shapes |= norm_shapes("pixel_decoder.norm_out", PIXEL_WIDTHS[-1])
    return shapes | convolution_shapes("pixel_decoder.conv_out", PIXEL_WIDTHS[-1], 3, 3)


def titok_weights(layout: str) -> Weights:
    shapes = half_shapes("encoder", WIDTH, DEPTH) | half_shapes("decoder", DECODER_WIDTH, 1)
    shapes |= {
        "latent_tokens": (TOKENS, WIDTH),
        "encoder.patch_embed.weight": (WIDTH, 3, PATCH, PATCH),
        "encoder.patch_embed.bias": (WIDTH,),
        "decoder.mask_token": (1, 1, DECODER_WIDTH),
    }
    out = 2 * DIM if layout == "vae" else DIM
    shapes |= convolution_shapes("encoder.conv_out", WIDTH, out, 1)
    shapes |= linear_shapes("decoder.decoder_embed", DIM, DECODER_WIDTH)
    if layout != "vae":
        shapes["quantize.embedding.weight"] = (CODES, DIM)
    if layout == "legacy":
        shapes |= convolution_shapes("decoder.ffn.0", DECODER_WIDTH, 2 * DECODER_WIDTH, 1)
        shapes |= convolution_shapes("decoder.ffn.2", 2 * DECODER_WIDTH, PIXEL_CODES, 1)
        shapes["pixel_quantize.embedding.weight"] = (PIXEL_CODES, PIXEL_DIM)
        shapes |= pixel_decoder_shapes()
    else:
        shapes |= convolution_shapes("decoder.ffn.0", DECODER_WIDTH, PIXELS, 1)
        shapes |= convolution_shapes("decoder.conv_out", 3, 3, 3)
    return random_weights(shapes)


def save_titok(folder: Path, layout: str, **changes) -> Path:
    return save_checkpoint(folder, titok_weights(layout), config_of(layout, **changes))


# The published formulas; images have values in [0, 1]


def transform(weights: Weights, half: str, patches, tokens, mistake: str | None):
    positions = weights[f"{half}.positional_embedding"]
    tokens = tokens + weights[f"{half}.latent_token_positional_embedding"]
    class_token = weights[f"{half}.class_embedding"].expand(len(patches), 1, -1)
    x = torch.cat([class_token, patches], dim=1) + positions
    if mistake == "no class token":
        x = patches + positions[1:]
    x = torch.cat([x, tokens], dim=1)
    if mistake != "no first norm":
        x = layer_norm(weights, f"{half}.ln_pre", x, EPS, mistake)
    index = 0
    while f"{half}.transformer.{index}.ln_1.weight" in weights:
        block = f"{half}.transformer.{index}"
        rows = layer_norm(weights, f"{block}.ln_1", x, EPS, mistake)
        projected = rows @ weights[f"{block}.attn.in_proj_weight"].T
        mixed = attention(projected + weights[f"{block}.attn.in_proj_bias"])
        x = x + linear(weights, f"{block}.attn.out_proj", mixed)
        rows = layer_norm(weights, f"{block}.ln_2", x, EPS, mistake)
        x = x + mlp(weights, f"{block}.mlp.c_fc", f"{block}.mlp.c_proj", rows, mistake)
        index += 1
    return layer_norm(weights, f"{half}.ln_post", x, EPS, mistake)


def project(weights: Weights, images, layout: str, mistake: str | None = None):
    patches = linear(weights, "encoder.patch_embed", cut_patches(images, PATCH))
    tokens = weights["latent_tokens"].expand(len(images), -1, -1)
    rows = transform(weights, "encoder", patches, tokens, mistake)[:, -TOKENS:]
    if (layout == "legacy") != (mistake == "other layout"):
        rows = rows.reshape(len(images), WIDTH, TOKENS).transpose(1, 2)
    return linear(weights, "encoder.conv_out", rows)


def quantize(weights: Weights, projected, layout: str):
    codewords = weights["quantize.embedding.weight"]
    if layout == "legacy":
        codewords, projected = (F.normalize(x, dim=-1) for x in (codewords, projected))
    distances = (projected[:, :, None] - codewords).square().sum(dim=-1)
    codes = distances.argmin(dim=-1)
    return codewords[codes], codes


def decode(weights: Weights, latents, layout: str, mistake: str | None = None):
    patches = weights["decoder.mask_token"].expand(len(latents), PATCHES, -1)
    tokens = linear(weights, "decoder.decoder_embed", latents)
    rows = transform(weights, "decoder", patches, tokens, mistake)
    prefix = 0 if mistake == "no class token" else 1
    rows = linear(weights, "decoder.ffn.0", rows[:, prefix : prefix + PATCHES])
    if layout != "legacy":
        kernel, bias = weights["decoder.conv_out.weight"], weights["decoder.conv_out.bias"]
        images = join_patches(rows, PATCH)
        return images if mistake == "no convolution" else F.conv2d(images, kernel, bias, padding=1)
    probabilities = linear(weights, "decoder.ffn.2", rows.tanh()).softmax(dim=-1)
    expected = probabilities @ weights["pixel_quantize.embedding.weight"]
    grid = expected.reshape(-1, GRID, GRID, PIXEL_DIM).permute(0, 3, 1, 2)
    return decode_pixels(weights, grid, mistake)


def decode_pixels(weights: Weights, x, mistake: str | None):
    eps = 1e-5 if mistake == "eps" else 1e-6

    def normalize(name, rows):
        weight, bias = (weights[f"pixel_decoder.{name}.{part}"] for part in ("weight", "bias"))
        return F.silu(F.group_norm(rows, 32, weight, bias, eps))

    def convolve(name, rows):
        bias = weights.get(f"pixel_decoder.{name}.bias")
        kernel = weights[f"pixel_decoder.{name}.weight"]
        return F.conv2d(rows, kernel, bias, padding=kernel.shape[2] // 2)

    def residual(name, rows):
        branch = convolve(f"{name}.conv1", normalize(f"{name}.norm1", rows))
        branch = convolve(f"{name}.conv2", normalize(f"{name}.norm2", branch))
        if f"pixel_decoder.{name}.nin_shortcut.weight" not in weights:
            return branch + rows
        if mistake == "shortcut of the input":
            return branch + convolve(f"{name}.nin_shortcut", rows[:, : branch.shape[1]])
        return branch + convolve(f"{name}.nin_shortcut", branch)

    x = residual("mid.1", residual("mid.0", convolve("conv_in", x)))
    for level in reversed(range(len(PIXEL_WIDTHS))):
        x = residual(f"up.{level}.block.1", residual(f"up.{level}.block.0", x))
        if level:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = convolve(f"up.{level}.upsample_conv", x)
    return convolve("conv_out", normalize("norm_out", x))


# The right formulas agree, every usual mistake does not


@pytest.mark.parametrize("layout", LAYOUTS)
def test_titok_agrees_with_the_formulas(tmp_path, layout):
    weights, images = titok_weights(layout), random_images(SIDE)
    tokenizer = load(f"titok:{save_titok(tmp_path / layout, layout)}").tokenizer
    projected = project(weights, (images + 1) / 2, layout)
    assert projected.std() > 0.1
    assert largest_difference(tokenizer.encoder(images), projected) < TOLERANCE
    tokens = tokenizer.encode(images)
    if layout == "vae":
        assert isinstance(tokenizer, TiTokVAE) and tokens.codes is None
        latents = projected[..., :DIM]
    else:
        assert isinstance(tokenizer, TiTok)
        latents, codes = quantize(weights, projected, layout)
        assert torch.equal(tokens.codes, codes)
    assert largest_difference(tokens.latents, latents) < TOLERANCE
    pixels = 2 * decode(weights, latents, layout) - 1
    decoded = tokenizer.decode(Tokens(latents))
    assert decoded.std() > 0.1
    assert largest_difference(decoded, pixels) < TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "mistake", ["eps", "tanh", "no class token", "no first norm", "other layout", "other range"]
)
def test_mistakes_in_the_encoder_exceed_the_tolerance(tmp_path, layout, mistake):
    weights, images = titok_weights(layout), random_images(SIDE)
    tokenizer = load(f"titok:{save_titok(tmp_path / layout, layout)}").tokenizer
    zero_to_one = images if mistake == "other range" else (images + 1) / 2
    wrong = project(weights, zero_to_one, layout, mistake)
    assert largest_difference(tokenizer.encoder(images), wrong) > TOLERANCE


@pytest.mark.parametrize(
    ("layout", "mistake"),
    [
        *((layout, "eps") for layout in LAYOUTS),
        *((layout, "no class token") for layout in LAYOUTS),
        *((layout, "no first norm") for layout in LAYOUTS),
        ("vq", "no convolution"),
        ("legacy", "shortcut of the input"),
    ],
)
def test_mistakes_in_the_decoder_exceed_the_tolerance(tmp_path, layout, mistake):
    weights = titok_weights(layout)
    tokenizer = load(f"titok:{save_titok(tmp_path / layout, layout)}").tokenizer
    tokens = tokenizer.encode(random_images(SIDE))
    wrong = 2 * decode(weights, tokens.latents, layout, mistake) - 1
    assert largest_difference(tokenizer.decode(tokens), wrong) > TOLERANCE


@pytest.mark.parametrize(
    ("encoder", "decoder", "num_tokens", "dim", "codes", "is_legacy", "megabytes"),
    [
        ("large", "large", 32, 12, 4096, True, 2560),
        ("base", "base", 64, 12, 4096, True, 819),
        ("small", "small", 128, 12, 4096, True, 335),
        ("base", "large", 64, 64, 8192, False, 1560),
        ("small", "large", 256, 64, 8192, False, 1320),
        ("large", "large", 32, 16, 0, False, 2430),
        ("base", "large", 128, 16, 0, False, 1560),
    ],
)
def test_size_of_the_published_files(
    encoder, decoder, num_tokens, dim, codes, is_legacy, megabytes
):
    width, depth = MODEL_SIZES[encoder]
    decoder_width, decoder_depth = MODEL_SIZES[decoder]
    pixels = PixelLayout(codes=1024, dim=256, widths=(512, 256, 256, 128, 128))
    layout = Layout(
        grid=16,
        patch=16,
        channels=3,
        num_tokens=num_tokens,
        dim=dim,
        width=width,
        depth=depth,
        decoder_width=decoder_width,
        decoder_depth=decoder_depth,
        codes=codes,
        pixels=pixels if is_legacy else None,
    )
    numbers = sum(math.prod(shape) for shape in layout.shapes().values())
    assert 4e-6 * numbers == pytest.approx(megabytes, rel=0.004)


# What a checkpoint may and may not contain


@pytest.mark.parametrize("layout", LAYOUTS)
def test_facts_of_the_checkpoint(tmp_path, layout):
    pretrained = load(f"titok:{save_titok(tmp_path / layout, layout)}")
    assert pretrained.license == "Apache-2.0" and pretrained.scale is None
    assert pretrained.side == SIDE and pretrained.notes == ()
    tokens = pretrained.tokenizer.encode(random_images(SIDE))
    alone = pretrained.tokenizer.encode(random_images(SIDE)[:1])
    assert largest_difference(alone.latents, tokens.latents[:1]) < TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_survive_a_stored_run(tmp_path, layout):
    tokenizer = load(f"titok:{save_titok(tmp_path / layout, layout)}").tokenizer
    save_file(tokenizer.state_dict(), tmp_path / "step.safetensors")
    again = type(tokenizer)(tokenizer.config).eval()
    again.load_state_dict(load_file(tmp_path / "step.safetensors"))
    tokens = tokenizer.encode(random_images(SIDE))
    assert torch.equal(again.encode(random_images(SIDE)).latents, tokens.latents)
    assert torch.equal(again.decode(tokens), tokenizer.decode(tokens))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_imported_tokenizers_can_be_trained_further(tmp_path, layout):
    tokenizer = load(f"titok:{save_titok(tmp_path / layout, layout)}").tokenizer
    tokenizer.train().requires_grad_(True)
    tokenizer.objective(random_images(SIDE)).total.backward()
    assert all(parameter.grad is not None for parameter in tokenizer.parameters())
    if layout != "vae":
        before = tokenizer.codebook.clone()
        tokenizer.objective(random_images(SIDE))
        assert torch.equal(tokenizer.codebook, before)  # no code is replaced


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("legacy", "pixel_decoder.up.1.block.0.conv2.weight"),
        ("legacy", "decoder.ffn.2.bias"),
        ("vq", "encoder.transformer.1.attn.in_proj_bias"),
        ("vq", "decoder.conv_out.bias"),
        ("vae", "encoder.conv_out.bias"),
        ("vae", "decoder.mask_token"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, layout, name, fault):
    weights = titok_weights(layout)
    if fault == "missing":
        del weights[name]
    elif fault == "extra":
        name = f"{name}.more"
        weights[name] = torch.ones(1)
    else:
        weights[name] = weights[name][..., 1:]
    folder = save_checkpoint(tmp_path / layout, weights, config_of(layout))
    with pytest.raises(UserError) as error:
        load(f"titok:{folder}")
    assert name in str(error.value)


def test_note_on_another_side(tmp_path):
    config = config_of("vq") | {"dataset": {"preprocessing": {"crop_size": 512}}}
    pretrained = load(f"titok:{save_checkpoint(tmp_path, titok_weights('vq'), config)}")
    assert pretrained.side == SIDE and "512" in pretrained.notes[0]


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("vq", {"codebook_size": 4096}),
        ("vq", {"is_legacy": True}),
        ("legacy", {"is_legacy": False}),
        ("vae", {"quantize_mode": "vq"}),
        ("vae", {"vit_enc_model_size": "large"}),
        ("legacy", {"num_latent_tokens": 32}),
    ],
)
def test_sizes_of_the_tensors_win(tmp_path, layout, changes):
    images = random_images(SIDE)
    truthful = load(f"titok:{save_titok(tmp_path / 'a', layout)}")
    contradicted = load(f"titok:{save_titok(tmp_path / 'b', layout, **changes)}")
    key, value = next(iter(changes.items()))
    assert any(key in note and str(value) in note for note in contradicted.notes)
    latents = [p.tokenizer.encode(images).latents for p in (truthful, contradicted)]
    assert torch.equal(*latents)


@pytest.mark.parametrize(
    ("layout", "without", "extra", "fragment"),
    [
        ("legacy", ("pixel_",), {}, "first training stage"),
        ("vq", (), {"decoder.text_guidance_proj.weight": torch.ones(1)}, "text"),
        ("legacy", ("quantize.",), {}, "quantize.embedding"),
        ("vq", ("latent_tokens",), {}, "latent_tokens"),
        ("vq", (), {"encoder.positional_embedding": torch.ones(16, WIDTH)}, "15"),
        ("vq", (), {"decoder.decoder_embed.weight": torch.ones(100, DIM)}, "100"),
    ],
)
def test_unsupported_networks_are_refused(tmp_path, layout, without, extra, fragment):
    weights = {
        name: weight
        for name, weight in titok_weights(layout).items()
        if not (without and name.startswith(without))
    }
    folder = save_checkpoint(tmp_path / layout, weights | extra, config_of(layout))
    with pytest.raises(UserError) as error:
        load(f"titok:{folder}")
    assert fragment in str(error.value)


@pytest.mark.parametrize("config", [{}, {"model": {"vq_model": {"token_size": DIM}}}])
def test_configuration_must_name_the_comparison_of_codes(tmp_path, config):
    folder = save_checkpoint(tmp_path / "vq", titok_weights("vq"), config)
    with pytest.raises(UserError, match="vq_model"):
        load(f"titok:{folder}")


# Training the first release's layout


LEGACY = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 4,
    "dim": 6,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "legacy": True,
    "pixel_codes": 16,
    "pixel_dim": 8,
    "pixel_widths": (32, 64),
}


def test_legacy_layout_is_trainable():
    torch.manual_seed(0)
    model = TiTok(TiTok.Config(**LEGACY))
    model.objective(random_images(8, channels=1, count=8)).total.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not without


@pytest.mark.parametrize(
    "settings", [{"patch": 4}, {"pixel_widths": (32, 48)}, {"pixel_widths": ()}, {"pixel_codes": 0}]
)
def test_invalid_sizes_of_the_pixel_decoder_raise(settings):
    with pytest.raises(UserError):
        TiTok.Config(**(LEGACY | settings))


@pytest.mark.skipif("WORKBENCH_CHECKPOINTS" not in os.environ, reason="needs its folder")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reference_checkpoint_is_reproduced(layout):
    folder = Path(os.environ["WORKBENCH_CHECKPOINTS"]) / "titok" / layout
    reference = load_file(folder / "oracle.safetensors")
    tokenizer = load(f"titok:{folder}").tokenizer
    tokens = tokenizer.encode(reference["images"])
    decoded = (tokenizer.decode(Tokens(reference["latents"])) + 1) / 2
    assert largest_difference(tokenizer.encoder(reference["images"]), reference["projected"]) < 2e-5
    assert largest_difference(tokens.latents, reference["latents"]) < 2e-5
    pixel_tolerance = 1e-4 if layout == "legacy" else 2e-5
    assert largest_difference(decoded, reference["reconstruction"]) < pixel_tolerance
    if "codes" in reference:
        assert torch.equal(tokens.codes, reference["codes"])
