"""Tokenizers from two functions: layouts, ranges, types, and what the probe refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import workbench as wb
from workbench.core.errors import NotApplicable, UserError
from workbench.core.types import Tokens
from workbench.tokenizers.active import respects_active
from workbench.tokenizers.base import Tokenizer
from workbench.tokenizers.pretrained.wrapped import wrap

TABLE = torch.tensor([[-1.0], [-0.5], [0.0], [0.5], [1.0]])


def images(count: int = 3, channels: int = 3, side: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.manual_seed(seed)) * 2 - 1


def shrink(x):
    return F.avg_pool2d(x, 2)


def enlarge(z):
    return F.interpolate(z, scale_factor=2.0)


def to_codes(x):
    return torch.round(shrink(x) * 2 + 2).long()[:, 0]


def projected_codewords(x):
    codes = to_codes(x).flatten(1)
    return Tokens(TABLE[codes].expand(-1, -1, 2), codes)


def from_codes(codes):
    return enlarge((codes[:, None].float() - 2) / 2)


def test_latent_maps_become_tokens_on_a_grid_and_come_back():
    received = []
    tokenizer = wrap(
        lambda x: F.avg_pool2d(x, (2, 4)),
        lambda z: received.append(z) or F.interpolate(z, scale_factor=(2.0, 4.0)),
    )
    x = images()
    tokens = tokenizer.encode(x)
    assert (tokens.latents.shape, tokens.grid, tokenizer.grid) == ((3, 8, 3), (4, 2), (4, 2))
    assert tokens.codes is None and not tokenizer.discrete
    decoded = tokenizer.decode(tokens)
    assert torch.equal(received[0], F.avg_pool2d(x, (2, 4))) and decoded.shape == x.shape
    assert torch.equal(decoded, F.interpolate(received[0], scale_factor=(2.0, 4.0)))


def test_vectors_are_passed_as_they_are():
    tokenizer = wrap(lambda x: x.flatten(2), lambda z: z.reshape(-1, 3, 8, 8), side=8)
    tokens = tokenizer.encode(images())
    assert tokens.latents.shape == (3, 3, 64) and tokens.grid is None
    assert torch.allclose(tokenizer.decode(tokens), images(), atol=1e-6)


def test_value_range_is_that_of_both_functions():
    seen = []
    tokenizer = wrap(
        lambda x: seen.append(x) or x, lambda z: z, value_range=(0, 255), dtype=torch.float64
    )
    x = images()
    assert torch.allclose(tokenizer.decode(tokenizer.encode(x)), x, atol=1e-5)
    assert torch.allclose(seen[0], (x.double() + 1) * 127.5)


@pytest.mark.parametrize("is_map", [True, False])
def test_codes_are_looked_up_and_come_back(is_map):
    received = []

    def decode(codes):
        received.append(codes)
        return from_codes(codes if is_map else codes.reshape(-1, 4, 4))

    tokenizer = wrap(
        to_codes if is_map else lambda x: to_codes(x).flatten(1),
        decode,
        codebook=TABLE.numpy(),
        channels=1,
        side=8,
    )
    x = images(channels=1)
    tokens = tokenizer.encode(x)
    assert tokens.codes.shape == (3, 16) and tokenizer.discrete
    assert torch.equal(tokens.latents, TABLE[tokens.codes])
    assert tokens.grid == ((4, 4) if is_map else None)
    expected = to_codes(x) if is_map else to_codes(x).flatten(1)
    tokenizer.decode(tokens)
    assert torch.equal(received[-1], expected) and received[-1].dtype == torch.int64
    # Without codes, as from a generator of latents, the nearest codewords are decoded.
    noisy = Tokens(tokens.latents + 0.1, grid=tokens.grid)
    tokenizer.decode(noisy)
    assert torch.equal(received[-1], expected)


def test_number_of_codewords_is_enough_for_codes():
    tokenizer = wrap(to_codes, from_codes, codebook=5, channels=1, side=8)
    tokens = tokenizer.encode(images(channels=1))
    assert tokens.latents.shape == (3, 16, 0) and tokenizer.codebook.shape == (1, 5, 0)
    assert tokenizer.decode(tokens).shape == (3, 1, 8, 8)
    with pytest.raises(NotApplicable):
        tokenizer.decode(Tokens(tokens.latents, grid=tokens.grid))


def test_blocks_of_tokens_have_their_own_codebooks():
    table = torch.arange(12.0).reshape(2, 3, 2)
    tokenizer = wrap(
        lambda x: torch.tensor([[0, 1, 2, 0]]).expand(len(x), 4),
        lambda codes: torch.zeros(len(codes), 3, 8, 8),
        codebook=table,
    )
    latents = tokenizer.encode(images(1)).latents[0]
    assert torch.equal(latents, torch.stack([*table[0][[0, 1]], *table[1][[2, 0]]]))


def test_latents_that_are_codewords_are_discrete():
    quantize = lambda x: TABLE[to_codes(x)].movedim(-1, 1)  # noqa: E731
    tokenizer = wrap(quantize, enlarge, codebook=TABLE, channels=1, side=8)
    tokens = tokenizer.encode(images(channels=1))
    assert torch.equal(tokens.codes, to_codes(images(channels=1)).flatten(1))
    assert tokenizer.discrete
    soft = wrap(shrink, enlarge, codebook=TABLE, channels=1, side=8)
    assert soft.encode(images(channels=1)).codes.max() <= 4 and not soft.discrete


def test_channel_order_and_position_are_those_of_both_functions():
    received = []

    def encode(x):
        received.append(x)
        return x[:, ::2, ::2]

    def decode(z):
        return z.repeat_interleave(2, 1).repeat_interleave(2, 2)

    tokenizer = wrap(encode, decode, channel_order="bgr", channels_last=True)
    x = images()
    tokens = tokenizer.encode(x)
    assert torch.equal(received[0], x.flip(1).movedim(1, -1))
    assert tokens.grid == (4, 4) and tokens.latents.shape == (3, 16, 3)
    expected = x[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(tokenizer.decode(tokens), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks(dtype):
    network = nn.Conv2d(3, 3, 1).to(dtype)
    tokenizer = wrap(network, lambda z: z, side=8)
    tokens = tokenizer.encode(images())
    assert tokens.latents.dtype == torch.float32
    assert tokenizer.decode(tokens).dtype == torch.float32
    functions = wrap(lambda x: network(x), lambda z: z, network=network, side=8)
    assert torch.equal(functions.encode(images()).latents, tokens.latents)


def test_network_is_part_of_the_module_and_in_evaluation_mode():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    tokenizer = wrap(lambda x: network(x), lambda z: z, network=network, side=8)
    assert not network.training and len(list(tokenizer.parameters())) == 4
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_tokens_keep_what_they_are():
    class Masked(nn.Module):
        def encode(self, x):
            return Tokens(x.flatten(2).transpose(1, 2), grid=(8, 8))

        def decode(self, tokens):
            latents = tokens.latents
            if tokens.active is not None:
                latents = latents * tokens.active[..., None]
            return latents.transpose(1, 2).reshape(-1, 3, 8, 8)

    network = Masked()
    tokenizer = wrap(network.encode, network.decode, side=8)
    tokens = tokenizer.encode(images())
    assert torch.allclose(tokenizer.decode(tokens), images(), atol=1e-6)
    assert respects_active(tokenizer, tokens)
    careless = wrap(
        network.encode, lambda t: network.decode(Tokens(t.latents, grid=t.grid)), side=8
    )
    assert not respects_active(careless, careless.encode(images()))


def test_decoders_of_maps_always_use_all_tokens():
    tokenizer = wrap(shrink, enlarge, side=8)
    assert not respects_active(tokenizer, tokenizer.encode(images()))


def refusal(encode, decode, **options) -> str:
    with pytest.raises(UserError) as error:
        wrap(encode, decode, side=16, **options)
    return str(error.value)


def test_wrong_range_is_refused_with_the_right_one():
    def encode(x):
        return shrink(x.clamp(0, 1))

    assert "(0, 1)" in refusal(encode, lambda z: enlarge(z).clamp(0, 1))
    wrap(encode, lambda z: enlarge(z).clamp(0, 1), value_range=(0, 1), side=16)
    assert "(0, 255)" in refusal(lambda x: shrink(x.round() / 255), lambda z: enlarge(z) * 255)


def test_random_networks_are_not_refused():
    for seed in range(4):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 3, 4, 4))
        wrap(network[0], network[1], side=16)


@pytest.mark.parametrize(
    ("encode", "decode", "word"),
    [
        (shrink, lambda z: z, "(2, 3, 16, 16)"),  # another shape
        (shrink, lambda z: enlarge(z) * float("nan"), "NaN"),
        (shrink, lambda z: enlarge(z) * 50, "46.7"),
        (lambda x: (shrink(x), None), lambda z: enlarge(z[0]), "tuple"),
        (shrink, lambda z: {"sample": enlarge(z)}, "dict"),
        (lambda x: shrink(x)[:1], enlarge, "1 for 2"),
        (lambda x: F.linear(x, torch.zeros(3, 5)), enlarge, "encode failed"),
        (shrink, lambda z: F.linear(z, torch.zeros(3, 5)), "decode failed"),
        (to_codes, from_codes, "codebook="),
    ],
)
def test_faults_are_named(encode, decode, word):
    assert word in refusal(encode, decode)


def test_codebook_must_fit_the_codes():
    assert "4 codewords" in refusal(to_codes, from_codes, channels=1, codebook=4)
    assert "channels" in refusal(shrink, enlarge, codebook=np.zeros((4, 2)))
    assert "channels" in refusal(projected_codewords, shrink, codebook=TABLE)
    assert "(k, d)" in refusal(shrink, enlarge, codebook=np.zeros(4))
    assert "value_range" in refusal(shrink, enlarge, value_range=(1, -1))


def test_latents_of_any_tokenizer_have_the_channels_of_its_codewords():
    class Projecting(Tokenizer):
        codebook = TABLE[None]

        def encode(self, images):
            return projected_codewords(images)

        def decode(self, tokens):
            return enlarge(tokens.latents[:, :, 0].unflatten(1, (1, 8, 8)))

    with pytest.raises(UserError, match="channels"):
        Projecting().check_round_trip(images(channels=1, side=16))


def test_public_name():
    assert wb.wrap is wrap
