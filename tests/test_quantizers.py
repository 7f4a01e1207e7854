"""Tests of quantizers against double loops, closed forms and limits."""

import math

import pytest
import scipy.special
import torch
import torch.nn.functional as F
from einops import rearrange

from workbench.quantizers.gaussian import GaussianBottleneck, divergence
from workbench.quantizers.nearest import nearest_code
from workbench.quantizers.scalar import ScalarQuantizer
from workbench.quantizers.soft import SoftQuantizer, entropy_gap
from workbench.quantizers.vector import VectorQuantizer

MAKERS = {
    "soft": lambda codes: SoftQuantizer(num_codebooks=1, codebook_size=codes, dim=4),
    "soft, 2 codebooks": lambda codes: SoftQuantizer(num_codebooks=2, codebook_size=codes, dim=4),
    "soft, distances": lambda codes: SoftQuantizer(
        num_codebooks=1, codebook_size=codes, dim=4, logits="distance"
    ),
    "hard": lambda codes: VectorQuantizer(codebook_size=codes, dim=4),
    "hard, cosine": lambda codes: VectorQuantizer(codebook_size=codes, dim=4, cosine=True),
    "hard, ema, revived": lambda codes: VectorQuantizer(
        codebook_size=codes, dim=4, learn="ema", revive=0.1
    ),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("codes", [1, 7])
def test_shapes_and_ranges_of_every_quantizer(make, codes):
    torch.manual_seed(0)
    quantizer = make(codes)
    for _ in range(3):  # the codebook changes
        quantized = quantizer(torch.randn(3, 6, 4))
    assert quantized.latents.shape == (3, 6, 4)
    assert quantized.codes.min() >= 0 and quantized.codes.max() < codes
    assert all(torch.isfinite(loss) for loss in quantized.losses.values())


@pytest.mark.parametrize("logits", ["cosine", "distance"])
def test_soft_quantizer_agrees_with_a_double_loop(logits):
    torch.manual_seed(0)
    quantizer, x = (
        SoftQuantizer(num_codebooks=2, codebook_size=5, dim=3, logits=logits, temperature=0.2),
        torch.randn(3, 4, 3),
    )
    quantizer.codebook.data *= torch.rand(2, 5, 1) + 0.5
    quantized = quantizer(x)
    for b in range(3):
        for n in range(4):
            words = quantizer.codebook[n // 2]  # contiguous blocks: tokens 0, 1 and 2, 3
            if logits == "cosine":
                words = F.normalize(words, dim=-1)
                posterior = F.softmax(words @ F.normalize(x[b, n], dim=-1) / 0.2, dim=-1)
            else:
                posterior = F.softmax(-(words - x[b, n]).norm(dim=-1) / 0.2, dim=-1)
            torch.testing.assert_close(quantized.latents[b, n], posterior @ words)
            assert quantized.codes[b, n] == posterior.argmax()


def test_soft_gradients_agree_with_closed_forms():
    """dL/du = Cov_p(e) g / tau and dL/de_k = p_k g, for unit u and e, where g = dL/dz."""
    torch.manual_seed(0)
    quantizer = SoftQuantizer(num_codebooks=1, codebook_size=6, dim=4, temperature=0.3)
    words = F.normalize(quantizer.codebook.detach()[0], dim=-1)
    u, g = F.normalize(torch.randn(1, 1, 4), dim=-1).requires_grad_(), torch.randn(4)
    (quantizer(u).latents[0, 0] @ g).backward()
    p = F.softmax(words @ u.detach()[0, 0] / 0.3, dim=-1)
    mean = p @ words
    covariance = words.T @ torch.diag(p) @ words - torch.outer(mean, mean)
    across = torch.eye(4) - torch.outer(
        u.detach()[0, 0], u.detach()[0, 0]
    )  # normalizing removes the radial part
    torch.testing.assert_close(u.grad[0, 0], across @ covariance @ g / 0.3, atol=1e-5, rtol=1e-4)
    tangent = torch.stack([p[k] * (g - (words[k] @ g) * words[k]) for k in range(6)])
    torch.testing.assert_close(
        quantizer.codebook.grad[0], tangent, atol=1e-5, rtol=1e-4
    )  # rows have unit norm


@pytest.mark.parametrize("logits", ["cosine", "distance"])
def test_low_temperature_makes_the_soft_quantizer_hard(logits):
    torch.manual_seed(0)
    soft = SoftQuantizer(num_codebooks=1, codebook_size=9, dim=4, logits=logits, temperature=1e-3)
    hard = VectorQuantizer(codebook_size=9, dim=4, cosine=logits == "cosine")
    hard.codebook.data = soft.codebook.data.clone()
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(soft(x).latents, hard(x).latents, atol=1e-3, rtol=0)
    assert torch.equal(soft(x).codes, hard(x).codes)


def test_soft_latents_are_in_the_unit_ball():
    torch.manual_seed(0)
    assert (
        SoftQuantizer(num_codebooks=1, codebook_size=50, dim=8)(10 * torch.randn(9, 4, 8))
        .latents.norm(dim=-1)
        .max()
        <= 1 + 1e-6
    )


def test_uniform_codebook_scales_directions():
    """Latents are the encoder's directions times the mean resultant length of von Mises and Fisher.

    The length is A_d(1 / tau).
    """
    torch.manual_seed(0)
    quantizer, x = SoftQuantizer(num_codebooks=1, codebook_size=20_000, dim=8), torch.randn(4, 4, 8)
    quantizer.codebook.data = torch.randn(1, 20_000, 8)
    shrink = scipy.special.ive(4, 1 / 0.07) / scipy.special.ive(3, 1 / 0.07)  # 0.778
    latents = quantizer(x).latents
    torch.testing.assert_close(latents, shrink * F.normalize(x, dim=-1), atol=0.1, rtol=0)
    assert latents.norm(dim=-1).mean().item() == pytest.approx(shrink, rel=0.01)


def test_entropy_gap_at_known_points():
    certain_and_even = 1e3 * torch.eye(4)[None]  # 4 tokens, each with its own code
    assert entropy_gap(certain_and_even).item() == pytest.approx(-math.log(4), abs=1e-5)
    assert entropy_gap(torch.zeros(1, 4, 4)).item() == pytest.approx(
        0, abs=1e-5
    )  # all unsure: log 4 - log 4
    one_code = torch.tensor([[1e3, 0.0, 0.0, 0.0]]).expand(1, 4, 4)
    assert entropy_gap(one_code).item() == pytest.approx(0, abs=1e-5)  # sure, but all of the same


def test_entropy_gap_is_computed_per_codebook():
    first, second = 1e3 * torch.eye(4)[[0, 1]], 1e3 * torch.eye(4)[[2, 3]]
    apart = entropy_gap(torch.stack([first, second])).item()
    assert apart == pytest.approx(-math.log(2), abs=1e-5)  # pooled over books it would be -log 4


def test_entropy_weight_and_temperature():
    torch.manual_seed(0)
    x = torch.randn(4, 4, 4)
    weak, strong, soft = (
        SoftQuantizer(
            num_codebooks=1, codebook_size=8, dim=4, entropy_weight=w, entropy_temperature=t
        )
        for w, t in ((0.01, 0.01), (0.1, 0.01), (0.01, 10.0))
    )
    strong.codebook.data = soft.codebook.data = weak.codebook.data
    assert strong(x).losses["entropy"].item() == pytest.approx(
        10 * weak(x).losses["entropy"].item(), rel=1e-5
    )
    assert (
        abs(soft(x).losses["entropy"].item()) < 1e-4
    )  # all but uniform posteriors: nothing to gain


def test_entropy_gradient_is_finite_for_unused_codes():
    logits = (
        1e3 * torch.eye(4)[None, [0, 1, 1]]
    ).requires_grad_()  # codes 2 and 3: posterior exactly 0 in float32
    entropy_gap(logits).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("cosine", [False, True])
def test_vector_quantizer_agrees_with_a_double_loop(cosine):
    torch.manual_seed(0)
    quantizer, x = VectorQuantizer(codebook_size=7, dim=3, cosine=cosine), torch.randn(4, 5, 3)
    quantizer.codebook.data *= torch.rand(1, 7, 1) + 0.5
    quantized, words = quantizer(x), quantizer.codewords[0]
    for b in range(4):
        for n in range(5):
            point = F.normalize(x[b, n], dim=-1) if cosine else x[b, n]
            least = (words - point).norm(dim=-1).argmin()
            assert quantized.codes[b, n] == least
            assert torch.equal(quantized.latents[b, n], words[least])


def test_straight_through_gradient():
    x, g = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    (VectorQuantizer(codebook_size=5, dim=4)(x).latents * g).sum().backward()
    torch.testing.assert_close(x.grad, g)


def test_commitment_and_codebook_losses_are_separate():
    quantizer, x = VectorQuantizer(codebook_size=5, dim=4), torch.randn(2, 3, 4, requires_grad=True)
    losses = quantizer(x).losses
    losses["commitment"].backward()
    assert x.grad.abs().sum() > 0 and quantizer.codebook.grad is None
    x.grad = None
    quantizer(x).losses["codebook"].backward()
    assert x.grad is None and quantizer.codebook.grad.abs().sum() > 0


def test_codes_determine_the_latents():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(codebook_size=16, dim=4)
    quantized = quantizer(torch.randn(3, 5, 4))
    looked_up = F.embedding(rearrange(quantized.codes, "b n -> (b n)"), quantizer.codewords[0])
    assert torch.equal(rearrange(quantized.latents, "b n d -> (b n) d"), looked_up)


def near_ties(count: int = 200, dim: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and words of which each has a twin that differs in the last bits."""
    torch.manual_seed(0)
    words = torch.randn(count, dim)
    return words[:100] + 0.3 * torch.randn(100, dim), torch.cat([words, words * (1 + 6e-8), words])


@pytest.mark.parametrize("chunk", [1, 2, 7, 33, 99])
def test_chunks_do_not_change_the_nearest_code(chunk):
    tokens, words = near_ties()
    alone = torch.cat([nearest_code(part, words) for part in tokens.split(chunk)])
    assert torch.equal(nearest_code(tokens, words, chunk=chunk), nearest_code(tokens, words))
    assert torch.equal(alone, nearest_code(tokens, words))


def test_first_of_equal_codes_is_nearest():
    torch.manual_seed(0)
    words = torch.randn(4097, 16)  # a chunk of words and one more, which a product takes on its own
    words[4096] = words[4095] = words[6] = words[5]
    assert nearest_code(words[5] + 0.1 * torch.randn(100, 16), words).unique().tolist() == [5]


def test_autocast_does_not_change_the_nearest_code():
    tokens, words = near_ties()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        blurred = nearest_code(tokens, words)
    assert torch.equal(blurred, nearest_code(tokens, words))


def test_nearest_code_far_from_the_origin():
    torch.manual_seed(0)
    words, tokens = 1e3 + torch.randn(500, 8), 1e3 + torch.randn(300, 8)
    assert torch.equal(
        nearest_code(tokens, words), torch.cdist(tokens.double(), words.double()).argmin(dim=-1)
    )


def test_largest_tensor_is_smaller_than_tokens_times_codes():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                self.numbers = max(
                    self.numbers, tensor.numel() if isinstance(tensor, torch.Tensor) else 0
                )
            return out

    quantizer, x = (
        VectorQuantizer(codebook_size=20_000, dim=4, learn="ema", revive=0.1),
        torch.randn(64, 32, 4),
    )
    with Largest() as largest:
        quantizer(x)
    assert 512 * 4096 <= largest.numbers < 2048 * 20_000 / 10


def averaged(**settings) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(
        **({"codebook_size": 6, "dim": 3, "learn": "ema", "decay": 0.8} | settings)
    )


def test_ema_code_is_the_weighted_mean_of_its_tokens():
    quantizer, seen = averaged(), []
    for step in range(5):
        x = torch.randn(2, 7, 3)
        for token, code in zip(x.reshape(-1, 3), quantizer(x).codes.reshape(-1), strict=True):
            seen.append((step, int(code), token))
    for k in range(6):
        mine = [(0.2 * 0.8 ** (4 - step), token) for step, code, token in seen if code == k]
        if mine:
            mean = sum(weight * token for weight, token in mine) / sum(weight for weight, _ in mine)
            torch.testing.assert_close(quantizer.codebook[0, k], mean)
            assert quantizer.counts[k].item() == pytest.approx(
                sum(weight for weight, _ in mine), rel=1e-5
            )


def test_ema_codebook_is_no_parameter():
    quantizer = averaged()
    assert not list(quantizer.parameters())
    assert {"codebook", "counts", "sums"} <= quantizer.state_dict().keys()
    assert quantizer(torch.randn(2, 3, 3)).losses.keys() == {"commitment"}


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_evaluation_leaves_the_codebook_unchanged(learn):
    quantizer, x = averaged(learn=learn, revive=0.5), torch.randn(4, 3, 3)
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    with torch.no_grad():
        quantizer(x)
    quantizer.eval()(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_first_batch_moves_every_code_to_a_token(learn):
    quantizer, x = averaged(learn=learn, revive=0.1), 50 + torch.randn(4, 5, 3)
    codes = quantizer(x).codes
    assert len(set(codes.flatten().tolist())) == 6
    if learn == "gradient":
        assert all((x == word).all(dim=-1).any() for word in quantizer.codebook[0])


def test_unused_codes_are_revived():
    """The second cluster disappears; its code dies after log(0.1) / log(0.8) = 10.3 batches."""
    quantizer, far = averaged(codebook_size=2, revive=0.1), torch.tensor([100.0, 0.0, 0.0])
    near = torch.randn(8, 5, 3)
    quantizer(torch.stack([*near[:4], *(far + near[4:])]))
    quantizer.counts[:] = 20.0  # 40 tokens, 2 codes
    left = []
    for _ in range(12):
        quantizer(near)
        left.append(bool((quantizer.codebook[0, :, 0] > 50).any()))
    assert left == [True] * 11 + [False]


def test_revived_codes_are_distinct():
    quantizer = averaged(codebook_size=50, revive=0.1, learn="gradient")
    for _ in range(6):
        quantizer(torch.randn(2, 4, 3))
    assert len(torch.unique(quantizer.codebook[0], dim=0)) == 50


def test_revival_prevents_collapse():
    def used(revive: float) -> int:
        quantizer = averaged(codebook_size=64, decay=0.9, revive=revive)
        for step in range(60):
            torch.manual_seed(step)
            quantizer(5 + 0.1 * torch.randn(32, 8, 3))  # far from where the codes begin
        return len(quantizer.eval()(5 + 0.1 * torch.randn(200, 8, 3)).codes.unique())

    assert used(0.0) < 10 and used(0.1) > 55


def test_divergence_agrees_with_torch():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    normal = torch.distributions.Normal
    each = torch.distributions.kl_divergence(
        normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)
    )
    torch.testing.assert_close(divergence(mean, log_variance), each.sum(dim=(1, 2)).mean())
    assert divergence(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)).item() == 0  # the prior itself
    assert divergence(torch.ones(1, 4, 2), torch.zeros(1, 4, 2)).item() == pytest.approx(
        4
    )  # 8 numbers, 1/2 nat each


def test_gaussian_samples_in_training_only():
    torch.manual_seed(0)
    moments = torch.cat(
        [torch.full((1, 20_000, 1), 3.0), torch.full((1, 20_000, 1), math.log(4.0))], dim=-1
    )
    bottleneck = GaussianBottleneck(beta=1.0)
    sampled = bottleneck(moments).latents
    assert sampled.mean().item() == pytest.approx(
        3, abs=0.05
    ) and sampled.std().item() == pytest.approx(2, rel=0.02)
    assert torch.equal(bottleneck.eval()(moments).latents, moments[..., :1])


def test_beta_and_extreme_variances():
    moments = torch.randn(2, 3, 8)
    ratio = (
        GaussianBottleneck(beta=0.5)(moments).losses["kl"]
        / GaussianBottleneck(beta=0.1)(moments).losses["kl"]
    )
    assert ratio.item() == pytest.approx(5)
    for extreme in (-1e4, 1e4):
        quantized = GaussianBottleneck(beta=1.0)(torch.full((1, 2, 4), extreme))
        assert torch.isfinite(quantized.losses["kl"]) and torch.isfinite(quantized.latents).all()


LEVELS = (8, 5, 4, 3)


def test_scalar_quantizer_agrees_with_a_loop():
    torch.manual_seed(0)
    x, quantizer = 2 * torch.randn(3, 6, 4), ScalarQuantizer(levels=LEVELS)
    quantized = quantizer(x)
    for b in range(3):
        for n in range(6):
            code, place_value = 0, 1
            for i, levels in enumerate(LEVELS):
                half, offset = (levels - 1) / 2 * 1.001, 0.5 if levels % 2 == 0 else 0.0
                rounded = round(
                    math.tanh(x[b, n, i].item() + math.atanh(offset / half)) * half - offset
                )
                assert quantized.latents[b, n, i].item() == pytest.approx(rounded / (levels // 2))
                code, place_value = (
                    code + (rounded + levels // 2) * place_value,
                    place_value * levels,
                )
            assert quantized.codes[b, n] == code


def test_scalar_codes_index_the_whole_grid():
    torch.manual_seed(0)
    quantizer = ScalarQuantizer(levels=LEVELS)
    quantized = quantizer(2 * torch.randn(10, 80, 4))
    swept = quantizer(torch.linspace(-6, 6, 200).expand(4, -1).T[None]).latents[0]
    assert [len(channel.unique()) for channel in swept.T] == list(
        LEVELS
    )  # each level of each channel is reachable
    assert torch.equal(quantizer.look_up(quantized.codes), quantized.latents)
    assert torch.equal(quantizer.codewords[0, quantized.codes], quantized.latents)
    assert (
        quantizer.codewords.abs().max() == 1
        and len(torch.unique(quantizer.codewords[0], dim=0)) == 480
    )


def test_scalar_zero_and_its_gradient():
    quantizer, x = ScalarQuantizer(levels=LEVELS), torch.zeros(1, 1, 4, requires_grad=True)
    quantizer(x).latents.sum().backward()
    assert torch.equal(quantizer(x).latents, torch.zeros(1, 1, 4))
    half = [(levels - 1) / 2 * 1.001 for levels in LEVELS]
    slope = [
        (h - (0.5 * (n % 2 == 0)) ** 2 / h) / (n // 2) for h, n in zip(half, LEVELS, strict=True)
    ]  # h sech^2
    torch.testing.assert_close(x.grad[0, 0], torch.tensor(slope))


def test_posterior_at_low_and_high_temperature():
    x = torch.randn(2, 6, 4)
    torch.manual_seed(0)
    for temperature, largest in ((1e-4, 1.0), (1e4, 1 / 16)):
        quantizer = SoftQuantizer(num_codebooks=2, codebook_size=16, dim=4, temperature=temperature)
        posterior = quantizer.log_posterior(x).exp()
        torch.testing.assert_close(posterior.sum(dim=-1), torch.ones(2, 6))
        torch.testing.assert_close(
            posterior.amax(dim=-1), torch.full((2, 6), largest), rtol=1e-3, atol=1e-3
        )
    expected = F.softmax(
        F.normalize(x[1, 4], dim=0) @ quantizer.codewords[1].T / 1e4, dim=0
    )  # token 4 belongs to codebook 1
    torch.testing.assert_close(posterior[1, 4], expected)
