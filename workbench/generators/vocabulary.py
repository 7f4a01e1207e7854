"""Losses and sampling for large vocabularies of codes."""

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
    """Compute the mean cross-entropy of the logits `rows weight^T + bias`, in nats.

    At most `chunk` x k logits are in memory at a time. With more than one chunk, the backward pass
    computes the logits of each chunk again: it trades time for memory.
    """
    if len(rows) <= chunk:
        return _cross_entropy_sum(rows, weight, bias, targets) / len(rows)
    chunks = zip(rows.split(chunk), targets.split(chunk), strict=True)
    sums = [
        checkpoint(_cross_entropy_sum, r, weight, bias, t, use_reentrant=False) for r, t in chunks
    ]
    return torch.stack(sums).sum() / len(rows)


def shortlist(
    logits: Float[Tensor, "b k"], *, top_k: int = 0, top_p: float = 1.0
) -> Float[Tensor, "b k"]:
    """Set the logits of codes that must not be sampled to minus infinity.

    Parameters
    ----------
    logits : Tensor of shape (batch, n_codes)
        Logits of the next code, one row per image.
    top_k : int
        Keep the k largest logits; 0 keeps all.
    top_p : float
        Of those, keep the fewest whose probability reaches p (arXiv:1904.09751); 1 keeps all.
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
    """Sample one code per row from the shortlist.

    A temperature near 0 samples the most probable code, a high one samples all codes equally.
    """
    candidates = shortlist(logits.float() / temperature, top_k=top_k, top_p=top_p)
    return torch.multinomial(candidates.softmax(dim=-1), 1, generator=generator)[:, 0]


def check_sampling_options(*, temperature: float, top_k: int, top_p: float) -> None:
    """Raise UserError if `sample_codes` cannot use an option."""
    if not 0 < temperature < float("inf"):
        raise UserError(
            f"temperature must be above 0, got {temperature} (top_k=1 samples the most probable"
            " code)."
        )
    if top_k < 0:
        raise UserError(f"top_k must be at least 1, or 0 for all codes, got {top_k}.")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1 (all codes), got {top_p}.")


def _cross_entropy_sum(
    rows: Float[Tensor, "t e"],
    weight: Float[Tensor, "k e"],
    bias: Float[Tensor, " k"] | None,
    targets: Int[Tensor, " t"],
) -> Float[Tensor, ""]:
    return F.cross_entropy(F.linear(rows, weight, bias).float(), targets, reduction="sum")
