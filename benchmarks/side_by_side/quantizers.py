"""Training steps of the quantizers, compared with vector-quantize-pytorch (MIT).

A step is a forward pass in training mode and the backward pass to the tokens (and to the codebook
if it learns by gradient). A lookup is a forward pass in evaluation mode. Both sides use the
straight-through gradient, commitment 0.25, decay 0.95, no revival, no k-means, and the same initial
codebook.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from workbench.quantizers.scalar import ScalarQuantizer
from workbench.quantizers.vector import VectorQuantizer

from .measure import Comparison, checked_before, max_difference
from .sizes import Size

# The grid nearest to each codebook size: 1000, 15360, 64000, 512000 points.
LEVELS = {
    1024: (8, 5, 5, 5),
    16384: (8, 8, 8, 6, 5),
    65536: (8, 8, 8, 5, 5, 5),
    512000: (8, 8, 8, 8, 5, 5, 5),
}
METHODS = {  # our settings and theirs
    "VQ (EMA), step": ({"learn": "ema"}, {}),
    "VQ (gradient), step": (
        {"learn": "gradient"},
        {"learnable_codebook": True, "ema_update": False},
    ),
    "VQ (cosine), step": ({"learn": "ema", "cosine": True}, {"use_cosine_sim": True}),
    "VQ, lookup": ({"learn": "ema"}, {}),
}
MIN_EQUAL_CODES = 0.999  # share; of two codewords at the same distance, either may be chosen
MAX_GRADIENT_DIFFERENCE = 1e-2


def comparisons(size: Size, device: str) -> Iterator[Callable[[], Comparison]]:
    """Yield functions that create the comparisons."""
    for codebook_size in size.codebook_sizes:
        for method in METHODS:
            yield partial(vector, method, codebook_size, size, device)
        yield partial(scalar, codebook_size, size, device)


def vector(method: str, codebook_size: int, size: Size, device: str) -> Comparison:
    """Compare vector quantization."""
    from vector_quantize_pytorch import VectorQuantize

    our_settings, their_settings = METHODS[method]
    ours = VectorQuantizer(codebook_size=codebook_size, dim=size.channels, **our_settings)
    theirs = VectorQuantize(
        dim=size.channels,
        codebook_size=codebook_size,
        decay=0.95,
        commitment_weight=0.25,
        rotation_trick=False,
        **their_settings,
    )
    theirs._codebook.embed.data.copy_(ours.codebook.detach())
    work = f"{method}, K={codebook_size}"
    return _compare(work, ours.to(device), theirs.to(device), size.channels, size, device)


def scalar(codebook_size: int, size: Size, device: str) -> Comparison:
    """Compare finite scalar quantization with about as many codes."""
    from vector_quantize_pytorch import FSQ

    levels = LEVELS[codebook_size]
    ours = ScalarQuantizer(levels=levels).to(device)
    theirs = FSQ(levels=list(levels)).to(device)
    return _compare(f"FSQ, step, K={ours.codebook_size}", ours, theirs, len(levels), size, device)


def _compare(
    work: str, ours: nn.Module, theirs: nn.Module, dim: int, size: Size, device: str
) -> Comparison:
    tokens = torch.randn(*size.quantized, dim, device=device, requires_grad=True)
    our_codes, our_gradient = _initial_outcome(copy.deepcopy(ours), tokens)
    their_codes, their_gradient = _initial_outcome(copy.deepcopy(theirs), tokens)
    equal_codes = (our_codes == their_codes).float().mean().item()
    difference = max_difference(our_gradient, their_gradient)
    agrees = equal_codes >= MIN_EQUAL_CODES and difference < MAX_GRADIENT_DIFFERENCE
    agreement = f"{equal_codes:.1%} of codes, gradients within {difference:.0e}"
    run = _lookup if "lookup" in work else _step
    return Comparison(
        work=work,
        sizes=f"{size.quantized[0] * size.quantized[1]:,} tokens of {dim}",
        reference="vector-quantize-pytorch",
        ours=partial(run, ours, tokens),
        theirs=partial(run, theirs, tokens),
        check=checked_before(agrees, agreement),
    )


def _step(quantizer: nn.Module, tokens: Tensor) -> Tensor:
    """Return the gradient of the tokens."""
    output = quantizer(tokens)
    if isinstance(output, tuple):  # theirs
        latents, losses = output[0], output[2:]
    else:
        latents, losses = output.latents, tuple(output.losses.values())
    quantizer.zero_grad()
    tokens.grad = None
    (latents.square().sum() + sum(loss.sum() for loss in losses)).backward()
    return tokens.grad


@torch.no_grad()
def _lookup(quantizer: nn.Module, tokens: Tensor) -> Tensor:
    """Return the codes of the tokens."""
    output = quantizer.eval()(tokens)
    return output[1] if isinstance(output, tuple) else output.codes


def _initial_outcome(quantizer: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes and gradient before the codebook has changed."""
    return _lookup(quantizer, tokens), _step(quantizer.train(), tokens)
