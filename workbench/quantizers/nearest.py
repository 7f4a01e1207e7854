"""The nearest codeword of every token, exactly, without ever holding a table of tokens x codewords."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

WORDS = 4096  # codewords at a time
ROWS = 16  # products of fewer rows or columns sum in another order, and a near tie could fall the other way


@torch.no_grad()
def nearest(tokens: Float[Tensor, "t d"], words: Float[Tensor, "k d"], *, chunk: int = 512) -> Int[Tensor, " t"]:
    """The index of the codeword at the least Euclidean distance; of equal ones the first.

    `chunk` tokens at a time (512: 8 MB); on a CPU neither it nor a token's neighbours change an index.
    """
    with torch.autocast(tokens.device.type, enabled=False):  # half precision would decide near ties by rounding
        tokens, words = tokens.float(), words.float()
        centre = words.mean(dim=0)  # |w|^2 - 2 x.w cancels badly where norms are much larger than distances
        tokens, words = tokens - centre, words - centre
        # |x - w|^2 = |x|^2 + 2 (|w|^2 / 2 - x.w): the last factor orders the words, as one product of longer vectors.
        half, short = words.square().sum(dim=-1, keepdim=True) / 2, (0, 0, 0, -len(words) % ROWS)
        words = torch.cat([F.pad(-words, short), F.pad(half, short, value=math.inf)], dim=-1)
        tokens = F.pad(tokens, (0, 1), value=1.0)
        return torch.cat([_nearest(part, words) for part in tokens.split(chunk)])


def _nearest(tokens: Float[Tensor, "t e"], words: Float[Tensor, "k e"]) -> Int[Tensor, " t"]:
    padded = F.pad(tokens, (0, 0, 0, -len(tokens) % ROWS))
    lowest = [(padded @ part.T).min(dim=-1) for part in words.split(WORDS)]
    winner = torch.stack([found.values for found in lowest]).min(dim=0).indices
    inside = torch.stack([found.indices for found in lowest]).gather(0, winner[None])[0]
    return (winner * WORDS + inside)[: len(tokens)]
