"""Quantizers: against double loops, closed forms and their limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from workbench.quantizers.hard import HardQuantizer
from workbench.quantizers.soft import SoftQuantizer, entropy_gap

MAKERS = {
    "soft": lambda codes: SoftQuantizer(books=1, codes=codes, dim=4),
    "soft, 2 books": lambda codes: SoftQuantizer(books=2, codes=codes, dim=4),
    "hard": lambda codes: HardQuantizer(codes=codes, dim=4),
    "hard, cosine": lambda codes: HardQuantizer(codes=codes, dim=4, cosine=True),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("codes", [1, 7])
def test_every_quantizer_keeps_shapes_and_ranges_and_works_with_one_code(make, codes):
    torch.manual_seed(0)
    quantized = make(codes)(torch.randn(3, 6, 4))
    assert quantized.latents.shape == (3, 6, 4)
    assert quantized.codes.min() >= 0 and quantized.codes.max() < codes
    assert all(torch.isfinite(loss) for loss in quantized.losses.values())


def test_soft_quantizer_agrees_with_a_double_loop_over_images_and_tokens():
    torch.manual_seed(0)
    quantizer, x = SoftQuantizer(books=2, codes=5, dim=3, temperature=0.2), torch.randn(3, 4, 3)
    quantized = quantizer(x)
    for b in range(3):
        for n in range(4):
            words = F.normalize(quantizer.codebook[n // 2], dim=-1)  # contiguous blocks: tokens 0, 1 and 2, 3
            posterior = F.softmax(words @ F.normalize(x[b, n], dim=-1) / 0.2, dim=-1)
            torch.testing.assert_close(quantized.latents[b, n], posterior @ words)
            assert quantized.codes[b, n] == posterior.argmax()


def test_soft_gradients_are_the_closed_forms_and_logits_do_not_move_the_codebook():
    """dL/du = Cov_p(e) g / tau and dL/de_k = p_k g, for unit u and e, where g = dL/dz."""
    torch.manual_seed(0)
    quantizer = SoftQuantizer(books=1, codes=6, dim=4, temperature=0.3)
    words = F.normalize(quantizer.codebook.detach()[0], dim=-1)
    u, g = F.normalize(torch.randn(1, 1, 4), dim=-1).requires_grad_(), torch.randn(4)
    (quantizer(u).latents[0, 0] @ g).backward()
    p = F.softmax(words @ u.detach()[0, 0] / 0.3, dim=-1)
    mean = p @ words
    covariance = words.T @ torch.diag(p) @ words - torch.outer(mean, mean)
    across = torch.eye(4) - torch.outer(u.detach()[0, 0], u.detach()[0, 0])  # normalising removes the radial part
    torch.testing.assert_close(u.grad[0, 0], across @ covariance @ g / 0.3, atol=1e-5, rtol=1e-4)
    tangent = torch.stack([p[k] * (g - (words[k] @ g) * words[k]) for k in range(6)])
    torch.testing.assert_close(quantizer.codebook.grad[0], tangent, atol=1e-5, rtol=1e-4)  # rows have unit norm


def test_as_the_temperature_falls_the_soft_quantizer_becomes_the_hard_one():
    torch.manual_seed(0)
    soft = SoftQuantizer(books=1, codes=9, dim=4, temperature=1e-3)
    hard = HardQuantizer(codes=9, dim=4, cosine=True)
    hard.codebook.data = soft.codebook.data.clone()
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(soft(x).latents, hard(x).latents, atol=1e-3, rtol=0)
    assert torch.equal(soft(x).codes, hard(x).codes)


def test_soft_latents_never_leave_the_unit_ball():
    torch.manual_seed(0)
    assert SoftQuantizer(books=1, codes=50, dim=8)(10 * torch.randn(9, 4, 8)).latents.norm(dim=-1).max() <= 1 + 1e-6


def test_the_entropy_term_is_least_when_tokens_are_certain_and_codes_evenly_used():
    certain_and_even = 1e3 * torch.eye(4)[None]  # 4 tokens, each sure of its own code
    assert entropy_gap(certain_and_even).item() == pytest.approx(-math.log(4), abs=1e-5)
    assert entropy_gap(torch.zeros(1, 4, 4)).item() == pytest.approx(0, abs=1e-5)  # all unsure: log 4 - log 4
    one_code = torch.tensor([[1e3, 0.0, 0.0, 0.0]]).expand(1, 4, 4)
    assert entropy_gap(one_code).item() == pytest.approx(0, abs=1e-5)  # sure, but all of the same


def test_the_entropy_term_treats_books_apart():
    first, second = 1e3 * torch.eye(4)[[0, 1]], 1e3 * torch.eye(4)[[2, 3]]
    apart = entropy_gap(torch.stack([first, second])).item()
    assert apart == pytest.approx(-math.log(2), abs=1e-5)  # pooled over books it would be -log 4


def test_the_entropy_weight_and_its_own_temperature_scale_the_term():
    torch.manual_seed(0)
    x = torch.randn(4, 4, 4)
    weak, strong, soft = (
        SoftQuantizer(books=1, codes=8, dim=4, entropy_weight=w, entropy_temperature=t)
        for w, t in ((0.01, 0.01), (0.1, 0.01), (0.01, 10.0))
    )
    strong.codebook.data = soft.codebook.data = weak.codebook.data
    assert strong(x).losses["entropy"].item() == pytest.approx(10 * weak(x).losses["entropy"].item(), rel=1e-5)
    assert abs(soft(x).losses["entropy"].item()) < 1e-4  # all but uniform posteriors: nothing to gain


def test_a_code_that_nobody_chooses_leaves_the_entropy_gradient_finite():
    logits = (1e3 * torch.eye(4)[None, [0, 1, 1]]).requires_grad_()  # codes 2 and 3: posterior exactly 0 in float32
    entropy_gap(logits).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("cosine", [False, True])
def test_hard_quantizer_chooses_the_nearest_code_of_a_double_loop(cosine):
    torch.manual_seed(0)
    quantizer, x = HardQuantizer(codes=7, dim=3, cosine=cosine), torch.randn(4, 5, 3)
    quantizer.codebook.data *= torch.rand(1, 7, 1) + 0.5
    quantized, words = quantizer(x), quantizer.words[0]
    for b in range(4):
        for n in range(5):
            point = F.normalize(x[b, n], dim=-1) if cosine else x[b, n]
            nearest = (words - point).norm(dim=-1).argmin()
            assert quantized.codes[b, n] == nearest
            torch.testing.assert_close(quantized.latents[b, n], words[nearest])


def test_the_gradient_passes_the_hard_choice_as_if_it_were_the_identity():
    x, g = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    (HardQuantizer(codes=5, dim=4)(x).latents * g).sum().backward()
    torch.testing.assert_close(x.grad, g)


def test_commitment_moves_the_encoder_alone_and_the_codebook_loss_the_codes_alone():
    quantizer, x = HardQuantizer(codes=5, dim=4), torch.randn(2, 3, 4, requires_grad=True)
    losses = quantizer(x).losses
    losses["commitment"].backward()
    assert x.grad.abs().sum() > 0 and quantizer.codebook.grad is None
    x.grad = None
    quantizer(x).losses["codebook"].backward()
    assert x.grad is None and quantizer.codebook.grad.abs().sum() > 0


def test_codes_rebuild_the_hard_latents():
    torch.manual_seed(0)
    quantizer = HardQuantizer(codes=16, dim=4)
    quantized = quantizer(torch.randn(3, 5, 4))
    looked_up = F.embedding(rearrange(quantized.codes, "b n -> (b n)"), quantizer.words[0])
    torch.testing.assert_close(rearrange(quantized.latents, "b n d -> (b n) d"), looked_up)
