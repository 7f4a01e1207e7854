"""The quantizers' training steps beside vector-quantize-pytorch's (MIT).

A step is a forward pass in training mode and the backward pass to the tokens (and to the codebook where it learns by
gradient); a look-up is a forward pass in evaluation. Both sides do the same: straight-through gradient, commitment
0.25, decay 0.95, no revival, no k-means, one codebook to begin with.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from workbench.quantizers.scalar import ScalarQuantizer
from workbench.quantizers.vector import VectorQuantizer

from .measure import Pair, distance, found
from .sizes import Size

# The grid nearest to each K: 1000, 15360, 64000, 512000 points.
LEVELS = {
    1024: (8, 5, 5, 5),
    16384: (8, 8, 8, 6, 5),
    65536: (8, 8, 8, 5, 5, 5),
    512000: (8, 8, 8, 8, 5, 5, 5),
}
METHODS = {  # settings of ours, and of theirs
    "VQ (averages), step": ({"learn": "ema"}, {}),
    "VQ (gradient), step": (
        {"learn": "gradient"},
        {"learnable_codebook": True, "ema_update": False},
    ),
    "VQ (cosine), step": ({"learn": "ema", "cosine": True}, {"use_cosine_sim": True}),
    "VQ, look-up": ({"learn": "ema"}, {}),
}
EQUAL = 0.999  # share of codes: of two that are equally near, either may be taken


def pairs(size: Size, device: str) -> Iterator[Callable[[], Pair]]:
    """Every comparison, each made when it is its turn."""
    for codes in size.codes:
        for method in METHODS:
            yield partial(vector, method, codes, size, device)
        yield partial(scalar, codes, size, device)


def vector(method: str, codes: int, size: Size, device: str) -> Pair:
    """Nearest codewords."""
    from vector_quantize_pytorch import VectorQuantize

    mine, its = METHODS[method]
    ours = VectorQuantizer(codebook_size=codes, dim=size.channels, **mine)
    fixed = {"decay": 0.95, "commitment_weight": 0.25, "rotation_trick": False}
    theirs = VectorQuantize(dim=size.channels, codebook_size=codes, **fixed, **its)
    theirs._codebook.embed.data.copy_(ours.codebook.detach())
    return _pair(
        f"{method}, K={codes}", ours.to(device), theirs.to(device), size.channels, size, device
    )


def scalar(codes: int, size: Size, device: str) -> Pair:
    """Rounded channels, as many as it takes for about that many codes."""
    from vector_quantize_pytorch import FSQ

    levels = LEVELS[codes]
    ours, theirs = ScalarQuantizer(levels=levels).to(device), FSQ(levels=list(levels)).to(device)
    return _pair(f"FSQ, step, K={ours.codes}", ours, theirs, len(levels), size, device)


def _pair(work: str, ours: nn.Module, theirs: nn.Module, dim: int, size: Size, device: str) -> Pair:
    x = torch.randn(*size.tokens, dim, device=device, requires_grad=True)
    codes, gradients = zip(
        *(_first(copy.deepcopy(side), x) for side in (ours, theirs)), strict=True
    )
    equal, apart = (codes[0] == codes[1]).float().mean().item(), distance(*gradients)
    agrees = found(
        equal >= EQUAL and apart < 1e-2, f"{equal:.1%} of codes, gradients but for {apart:.0e}"
    )
    sides = (partial(_look if "look-up" in work else _step, side, x) for side in (ours, theirs))
    sizes = f"{size.tokens[0] * size.tokens[1]:,} tokens of {dim}"
    return Pair(work, sizes, "vector-quantize-pytorch", *sides, agrees)


def _step(quantizer: nn.Module, x: Tensor) -> Tensor:
    """The gradient of the tokens."""
    out = quantizer(x)
    latents, losses = (
        (out[0], out[2:]) if isinstance(out, tuple) else (out.latents, tuple(out.losses.values()))
    )
    quantizer.zero_grad()
    x.grad = None
    (latents.square().sum() + sum(loss.sum() for loss in losses)).backward()
    return x.grad


@torch.no_grad()
def _look(quantizer: nn.Module, x: Tensor) -> Tensor:
    out = quantizer.eval()(x)
    return out[1] if isinstance(out, tuple) else out.codes


def _first(quantizer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and gradient before anything has moved."""
    return _look(quantizer, x), _step(quantizer.train(), x)
