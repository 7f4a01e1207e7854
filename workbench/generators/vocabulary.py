"""What a vocabulary of many codes needs: a loss that never holds all its logits, and a shortlist to draw from."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from workbench.core.errors import UserError


def chunked_cross_entropy(
    rows: Float[Tensor, "t e"],
    weight: Float[Tensor, "k e"],
    targets: Int[Tensor, " t"],
    *,
    bias: Float[Tensor, " k"] | None = None,
    chunk: int = 256,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of logits `rows weight^T + bias`, in nats, with at most `chunk` x k of them held at a time.

    The backward pass computes each chunk's logits again: memory for time, where there is more than one chunk.
    """
    if len(rows) <= chunk:
        return _cross_entropy(rows, weight, bias, targets) / len(rows)
    parts = zip(rows.split(chunk), targets.split(chunk), strict=True)
    sums = [checkpoint(_cross_entropy, r, weight, bias, t, use_reentrant=False) for r, t in parts]
    return torch.stack(sums).sum() / len(rows)


def shortlist(
    logits: Float[Tensor, "b k"], *, top_k: int = 0, top_p: float = 1.0
) -> Float[Tensor, "b k"]:
    """The logits with minus infinity for codes not to be drawn; nothing is refused by 0 and 1.

    `top_k` keeps the k largest; `top_p` (arXiv:1904.09751), of those, the fewest whose probability reaches p.
    """
    if not top_k and top_p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered[:, top_k:] = -torch.inf
    if top_p < 1:
        probability = ordered.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability
        ordered[before >= top_p] = -torch.inf
    return torch.empty_like(logits).scatter_(1, order, ordered)


def sample_codes(
    logits: Float[Tensor, "b k"],
    generator: torch.Generator,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Int[Tensor, " b"]:
    """One code a row, from the shortlist at a temperature: towards 0 the most probable, towards infinity any alike."""
    kept = shortlist(logits.float() / temperature, top_k=top_k, top_p=top_p)
    return torch.multinomial(kept.softmax(dim=-1), 1, generator=generator)[:, 0]


def check_drawing(*, temperature: float, top_k: int, top_p: float) -> None:
    """Raise UserError for what `draw` cannot do."""
    if not 0 < temperature < float("inf"):
        raise UserError(
            f"temperature is {temperature}; it must be above 0 (top_k 1 draws the most probable code)."
        )
    if top_k < 0:
        raise UserError(f"top_k is {top_k}; it must be at least 1, or 0 for all codes.")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}; it must be above 0, and 1 keeps all codes.")


def _cross_entropy(
    rows: Float[Tensor, "t e"],
    weight: Float[Tensor, "k e"],
    bias: Float[Tensor, " k"] | None,
    targets: Int[Tensor, " t"],
) -> Float[Tensor, ""]:
    return F.cross_entropy(F.linear(rows, weight, bias).float(), targets, reduction="sum")
