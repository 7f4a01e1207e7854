"""The nearest codeword of every token, exactly, without ever holding a table of tokens x codewords."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

WORDS = 4096  # codewords at a time
ROWS = 16  # products of fewer rows or columns sum in another order, and a near tie could fall the other way
GROUP = 128  # words whose least distance is looked for before the word itself


@torch.no_grad()
def nearest_code(
    tokens: Float[Tensor, "t d"], words: Float[Tensor, "k d"], *, chunk: int = 512
) -> Int[Tensor, " t"]:
    """The index of the codeword at the least Euclidean distance; of equal ones the first.

    `chunk` tokens at a time (512: 8 MB); on a CPU neither it nor a token's neighbours change an index.
    """
    with torch.autocast(
        tokens.device.type, enabled=False
    ):  # half precision would decide near ties by rounding
        tokens, words = tokens.float(), words.float()
        centre = words.mean(
            dim=0
        )  # |w|^2 - 2 x.w cancels badly where norms are much larger than distances
        tokens, words = tokens - centre, words - centre
        # |x - w|^2 = |x|^2 + 2 (|w|^2 / 2 - x.w): the last factor orders the words, as one product of longer vectors.
        half, short = words.square().sum(dim=-1, keepdim=True) / 2, (0, 0, 0, -len(words) % ROWS)
        words = torch.cat([F.pad(-words, short), F.pad(half, short, value=math.inf)], dim=-1)
        tokens = F.pad(tokens, (0, 1), value=1.0)
        # One table for all: where each part has its own, an allocator may come to hold twenty of them.
        table = tokens.new_empty(chunk + -chunk % ROWS, min(WORDS, len(words)))
        return torch.cat([_nearest(part, words, table) for part in tokens.split(chunk)])


def _nearest(
    tokens: Float[Tensor, "t e"], words: Float[Tensor, "k e"], table: Float[Tensor, "r w"]
) -> Int[Tensor, " t"]:
    padded = F.pad(tokens, (0, 0, 0, -len(tokens) % ROWS))
    lowest = [_lowest(_product(padded, part, table)) for part in words.split(WORDS)]
    winner = torch.stack([values for values, _ in lowest]).min(dim=0).indices
    inside = torch.stack([places for _, places in lowest]).gather(0, winner[None])[0]
    return (winner * WORDS + inside)[: len(tokens)]


def _product(
    tokens: Float[Tensor, "t e"], words: Float[Tensor, "k e"], table: Float[Tensor, "r w"]
) -> Float[Tensor, "t k"]:
    """Every token with every word, in the table's memory."""
    out = table.view(-1)[: len(tokens) * len(words)].view(len(tokens), len(words))
    return torch.mm(tokens, words.T, out=out)


def _lowest(table: Float[Tensor, "t k"]) -> tuple[Float[Tensor, " t"], Int[Tensor, " t"]]:
    """The least number of each row and its first place, as `min` tells; of many on a CPU, in half its time."""
    if table.is_cuda or table.shape[1] < WORDS:
        return tuple(table.min(dim=-1))
    groups = table.unflatten(1, (-1, GROUP))
    group = (
        groups.amin(dim=-1).min(dim=-1).indices
    )  # without places, `amin` compares many numbers at once
    values, inside = groups[torch.arange(len(table)), group].min(dim=-1)
    return values, group * GROUP + inside
