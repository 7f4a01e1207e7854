"""Decoding of latents that no image was encoded to."""

from collections.abc import Iterator

import torch
from torch import Tensor

from workbench.collect.collectors.base import CollectContext
from workbench.core.types import Tokens
from workbench.tokenizers.base import Tokenizer


def decode_latents(
    model: Tokenizer, latents: Tensor, context: CollectContext
) -> Iterator[tuple[slice, Tensor]]:
    """Decode latents with the active tokens of the collected images.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    latents : Tensor of shape (n_images, n_tokens, dim)
        The latents, on the CPU.
    context : CollectContext
        `context.arrays` must hold the arrays of the collector `encoding`.

    Yields
    ------
    part : slice
        The images of the batch.
    decoded : Tensor of shape (batch, c, h, w)
        Their decoded latents, not clamped, on the device.
    """
    all_active = context.arrays.get("active")
    grid = context.grid
    for part in context.image_slices(len(latents)):
        active = None
        if all_active is not None:
            active = torch.from_numpy(all_active[part]).to(context.device)
        tokens = Tokens(latents[part].to(context.device), active=active, grid=grid)
        yield part, model.decode(tokens)
