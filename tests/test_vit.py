"""Variants of the one-dimensional ViT: class tokens, rotary positions, modulation, sizes apart."""

import math

import pytest
import torch
import torch.nn.functional as F

from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.nn.transformer import Block, MixedRotary, TokenModulatedBlock, apply_rotary
from workbench.nn.vit import Encoder, ExtendedViTConfig, PixelDecoder, ViTConfig, ViTOptions
from workbench.tokenizers.maetok import MAETok
from workbench.tokenizers.softvq import SoftVQ

SIZES = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 4,
    "dim": 6,
    "width": 16,
    "depth": 2,
    "heads": 2,
}
RELEASED = {
    "encoder_class_token": True,
    "decoder_class_token": True,
    "norm_eps": 1e-6,
    "rotary": True,
    "modulated": True,
    "decoder_width": 24,
    "decoder_depth": 1,
    "decoder_heads": 3,
}


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def make(kind, **settings):
    torch.manual_seed(0)
    return kind(kind.Config(**(SIZES | settings)))


def randomize_modulation(model: torch.nn.Module) -> None:
    """Move the modulation away from zero, where the decoder does not see the tokens."""
    for block in model.modules():
        if isinstance(block, TokenModulatedBlock):
            torch.nn.init.normal_(block.modulation.weight, std=0.5)


@pytest.mark.parametrize("kind", [SoftVQ, MAETok])
def test_every_parameter_of_the_variants_gets_a_gradient(kind):
    more = {"aux_width": 8} if kind is MAETok else {}
    model = make(kind, **RELEASED, **more)
    randomize_modulation(model)
    model.objective(images()).total.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not without


def test_variants_hide_inactive_tokens():
    model = make(MAETok, **RELEASED, targets=()).eval()
    randomize_modulation(model)
    tokens = model.encode(images())
    active = torch.tensor([True, True, False, False]).expand(5, 4)
    decoded = model.decode(Tokens(tokens.latents, active=active))
    changed = torch.where(active[..., None], tokens.latents, 1e3)
    torch.testing.assert_close(model.decode(Tokens(changed, active=active)), decoded)
    assert not torch.allclose(model.decode(tokens), decoded)


def test_encoder_and_decoder_have_their_own_sizes():
    model = make(SoftVQ, decoder_width=24, decoder_depth=1, decoder_heads=3)
    decoder = model.decoder.decoder
    assert len(model.encoder.blocks) == 2 and len(decoder.blocks) == 1
    assert model.encoder.norm.weight.shape == (16,) and decoder.norm.weight.shape == (24,)
    assert decoder.blocks[0].attention.heads == 3
    same = make(SoftVQ, decoder_width=16, decoder_depth=2, decoder_heads=2)
    assert torch.equal(same.encode(images()).latents, make(SoftVQ).encode(images()).latents)


def test_class_token_takes_part_in_attention_only():
    sizes, options = ViTConfig(**SIZES), ViTOptions(class_token=True)
    encoder, decoder = Encoder(sizes, options=options), PixelDecoder(sizes, options=options)

    def outputs() -> tuple[torch.Tensor, torch.Tensor]:
        latents = encoder(images())
        return latents, decoder(Tokens(torch.ones_like(latents)))

    def change_class_tokens() -> None:
        for half in (encoder, decoder.decoder):
            torch.nn.init.normal_(half.class_token)

    before = outputs()
    assert before[0].shape == (5, 4, 6) and before[1].shape == (5, 1, 8, 8)
    change_class_tokens()
    assert not any(torch.allclose(a, b) for a, b in zip(outputs(), before, strict=True))
    for block in (*encoder.blocks, *decoder.decoder.blocks):  # no exchange between rows
        block.attention.project_out.weight.data.zero_()
    before = outputs()
    change_class_tokens()
    assert all(torch.equal(a, b) for a, b in zip(outputs(), before, strict=True))


def test_input_is_normalized_before_the_first_block():
    sizes = ViTConfig(**SIZES | {"linear_init": False})
    encoder = Encoder(sizes, options=ViTOptions(norm_input=True))
    before = encoder(images())
    with torch.no_grad():
        for parameter in (*encoder.embed.parameters(), encoder.patch_positions, encoder.tokens):
            parameter *= 2
    torch.testing.assert_close(encoder(images()), before, rtol=1e-3, atol=1e-3)


def test_mixed_rotary_rotates_patches_by_their_column_and_row():
    rotary = MixedRotary(depth=2, heads=3, width=8, grid=(3, 5), before=1, after=2)
    rotations = rotary()
    assert len(rotations) == 2
    cosines, sines = rotations[1]
    assert cosines.shape == (3, 1 + 15 + 2, 4)
    column, row = 3, 2
    x_frequencies, y_frequencies = rotary.frequencies[:, 1]
    angles = column * x_frequencies + row * y_frequencies
    torch.testing.assert_close(cosines[:, 1 + row * 5 + column], angles.cos())
    torch.testing.assert_close(sines[:, 1 + row * 5 + column], angles.sin())
    for other in (0, 16, 17):
        assert (cosines[:, other] == 1).all() and (sines[:, other] == 0).all()


def test_rotated_products_depend_on_differences_of_positions():
    rotary = MixedRotary(depth=1, heads=1, width=8, grid=(4, 4), before=0, after=0)
    q, k = (torch.randn(1, 1, 1, 8).expand(-1, -1, 16, -1) for _ in range(2))
    rotation = rotary()[0]
    products = apply_rotary(q, rotation) @ apply_rotary(k, rotation).mT
    torch.testing.assert_close(products[..., 0, 6], products[..., 5, 11])  # one row, two columns
    torch.testing.assert_close(products[..., 0, 6], products[..., 8, 14])
    assert (products[..., 0, 6] - products[..., 0, 9]).abs() > 1e-4


def test_frequencies_start_as_rotated_axes():
    rotary = MixedRotary(depth=1, heads=2, width=16, grid=(2, 2), before=0, after=0)
    x_frequencies, y_frequencies = rotary.frequencies[:, 0]
    lengths = (x_frequencies.square() + y_frequencies.square()).sqrt()
    expected = torch.tensor([10 ** (-4 * i / 16) for i in range(4)] * 2)
    torch.testing.assert_close(lengths, expected.expand(2, -1))
    angles = torch.atan2(y_frequencies, x_frequencies)
    turned = torch.remainder(angles[:, 4:] - angles[:, :4], 2 * math.pi)
    torch.testing.assert_close(turned, torch.full((2, 4), math.pi / 2))


def test_modulation_scales_and_shifts_the_rows_of_tokens():
    block = TokenModulatedBlock(16, 2, dim=6)
    plain = Block(16, 2)
    plain.load_state_dict(block.state_dict(), strict=False)
    x, latents = torch.randn(3, 7, 16), torch.randn(3, 4, 6)
    block.modulation.bias.data[16:32] = 1  # scale before attention
    block.modulation.bias.data[48:] = 1  # scale before the MLP
    torch.testing.assert_close(block(x, latents=latents), plain(x))
    block.modulation.bias.data[:16] = 0.5
    block.modulation.bias.data[16:32] = 2.0
    normalized = F.layer_norm(x, (16,))
    normalized[:, 3:] = 2 * normalized[:, 3:] + 0.5
    expected = x + block.attention(normalized)
    expected = expected + block.mlp(F.layer_norm(expected, (16,)))
    torch.testing.assert_close(block(x, latents=latents), expected)


@pytest.mark.slow
def test_variants_learn():
    model = make(MAETok, **RELEASED, targets=())
    optimizer, x = torch.optim.AdamW(model.parameters(), lr=5e-3), images(16)
    before = model.objective(x).terms["pixel"].item()
    for _ in range(100):
        optimizer.zero_grad()
        model.objective(x).total.backward()
        optimizer.step()
    assert model.objective(x).terms["pixel"].item() < 0.7 * before


@pytest.mark.parametrize(
    "settings",
    [
        {"norm_eps": 0.0},
        {"decoder_depth": 0},
        {"decoder_heads": 3},
        {"decoder_width": 25, "decoder_heads": 2},
        {"rotary": True, "heads": 8},
        {"rotary": True, "decoder_heads": 8},
    ],
)
def test_invalid_variants_raise(settings):
    with pytest.raises(UserError):
        ExtendedViTConfig(**(SIZES | settings))
