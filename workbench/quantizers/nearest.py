"""Exact nearest-codeword search that never stores a table of all tokens x codewords."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CODEWORDS_PER_BLOCK = 4096
# Products with fewer rows or columns are summed in another order, which could decide a near tie
# differently.
ROW_MULTIPLE = 16
GROUP_SIZE = 128  # codewords whose smallest distance is computed before the codeword itself


@torch.no_grad()
def nearest_code(
    tokens: Float[Tensor, "t d"], codewords: Float[Tensor, "k d"], *, chunk: int = 512
) -> Int[Tensor, " t"]:
    """Find the codeword with the smallest Euclidean distance to each token.

    Parameters
    ----------
    tokens : Tensor, shape (tokens, dim)
        Vectors to be assigned to codewords.
    codewords : Tensor, shape (codewords, dim)
        The codebook.
    chunk : int
        Tokens per product; 512 need 8 MB. On a CPU, neither the chunk size nor the other tokens
        change an index.

    Returns
    -------
    Tensor of int64, shape (tokens,)
        Index of the nearest codeword; of equally near ones the first.

    Examples
    --------
    >>> nearest_code(torch.tensor([[0.9], [0.1]]), torch.tensor([[0.0], [1.0]]))
    tensor([1, 0])
    """
    # Half precision would decide near ties by rounding.
    with torch.autocast(tokens.device.type, enabled=False):
        tokens, codewords = tokens.float(), codewords.float()
        # |w|^2 - 2 x.w cancels badly where norms are much larger than distances.
        center = codewords.mean(dim=0)
        tokens, codewords = tokens - center, codewords - center
        # |x - w|^2 = |x|^2 + 2 (|w|^2 / 2 - x.w): the last factor orders the codewords, as one
        # product of longer vectors.
        half_norms = codewords.square().sum(dim=-1, keepdim=True) / 2
        padding = (0, 0, 0, -len(codewords) % ROW_MULTIPLE)
        padded_norms = F.pad(half_norms, padding, value=math.inf)
        codewords = torch.cat([F.pad(-codewords, padding), padded_norms], dim=-1)
        tokens = F.pad(tokens, (0, 1), value=1.0)
        # One table for all chunks: with one per chunk, an allocator may keep twenty of them.
        rows = chunk + -chunk % ROW_MULTIPLE
        table = tokens.new_empty(rows, min(CODEWORDS_PER_BLOCK, len(codewords)))
        return torch.cat([_nearest(part, codewords, table) for part in tokens.split(chunk)])


def _nearest(
    tokens: Float[Tensor, "t e"], codewords: Float[Tensor, "k e"], table: Float[Tensor, "r w"]
) -> Int[Tensor, " t"]:
    padded = F.pad(tokens, (0, 0, 0, -len(tokens) % ROW_MULTIPLE))
    blocks = [
        _row_minimum(_product(padded, block, table))
        for block in codewords.split(CODEWORDS_PER_BLOCK)
    ]
    winner = torch.stack([values for values, _ in blocks]).min(dim=0).indices
    within_block = torch.stack([indices for _, indices in blocks]).gather(0, winner[None])[0]
    return (winner * CODEWORDS_PER_BLOCK + within_block)[: len(tokens)]


def _product(
    tokens: Float[Tensor, "t e"], codewords: Float[Tensor, "k e"], table: Float[Tensor, "r w"]
) -> Float[Tensor, "t k"]:
    """Multiply every token by every codeword, in the memory of the table."""
    out = table.view(-1)[: len(tokens) * len(codewords)].view(len(tokens), len(codewords))
    return torch.mm(tokens, codewords.T, out=out)


def _row_minimum(table: Float[Tensor, "t k"]) -> tuple[Float[Tensor, " t"], Int[Tensor, " t"]]:
    """Return the smallest value of each row and its first index.

    For wide rows on a CPU, this takes half the time of `min`.
    """
    if table.is_cuda or table.shape[1] < CODEWORDS_PER_BLOCK:
        smallest = table.min(dim=-1)
        return smallest.values, smallest.indices
    groups = table.unflatten(1, (-1, GROUP_SIZE))
    # Without indices, `amin` is vectorized.
    group = groups.amin(dim=-1).min(dim=-1).indices
    values, within_group = groups[torch.arange(len(table)), group].min(dim=-1)
    return values, group * GROUP_SIZE + within_group
