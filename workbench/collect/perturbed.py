"""Decoding of latents that no image was encoded to."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from workbench.collect.collectors.base import CollectContext
from workbench.collect.images import batch_slices, pooled_features, to_uint8
from workbench.core.moments import ElementMoments
from workbench.core.types import Tokens
from workbench.tokenizers.base import Tokenizer


def decode_latents(
    model: Tokenizer, latents: np.ndarray, rows: slice, context: CollectContext
) -> Tensor:
    """Decode the latents of a batch with the active tokens of the collected images.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    latents : ndarray of float32, shape (b, n_tokens, dim)
        Latents in the scale of the tokenizer.
    rows : slice
        The images whose active tokens are used. The collector `encoding` has written them.
    context : CollectContext
        The context of the collection.

    Returns
    -------
    Tensor of shape (b, c, h, w)
        The decoded latents, not clamped, on the device.
    """
    active = None
    if "active" in context.writer:
        active = torch.from_numpy(context.writer.read("active", rows)).to(context.device)
    tokens = Tokens(torch.from_numpy(latents).to(context.device), active=active, grid=context.grid)
    return model.decode(tokens)


def decode_in_batches(
    model: Tokenizer, latents: np.ndarray, context: CollectContext
) -> Iterator[tuple[slice, Tensor]]:
    """Decode latents of the first images, or of none, in batches.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    latents : ndarray of float32, shape (n, n_tokens, dim)
        Latents in the scale of the tokenizer.
    context : CollectContext
        The context of the collection.

    Yields
    ------
    part : slice
        The rows of the batch.
    decoded : Tensor of shape (b, c, h, w)
        Its decoded latents, not clamped, on the device.
    """
    _, height, width = context.image_shape
    for part in batch_slices(len(latents), height * width):
        yield part, decode_latents(model, latents[part], part, context)


def decoded_features(model: Tokenizer, latents: np.ndarray, context: CollectContext) -> np.ndarray:
    """Decode latents in batches, and return the features of the images, float32 (n, dim)."""
    features = [
        pooled_features(context.feature_extractor, to_uint8(decoded), context.device)
        for _, decoded in decode_in_batches(model, latents, context)
    ]
    return np.concatenate(features)


def latent_deviation(context: CollectContext) -> float:
    """Return the root mean square of the channels' standard deviations, read block by block.

    Differences between the means of channels are no variation: a decoder can undo an offset, and
    noise in units of it would be the larger, the larger the offset. Inactive tokens are left out.
    """
    blocks = (_active_rows(context, part) for part in batch_slices(context.writer.lengths["image"]))
    return math.sqrt(ElementMoments.from_blocks(blocks).variance.mean())


def _active_rows(context: CollectContext, part: slice) -> np.ndarray:
    """Return the active tokens of some images as rows, float64 (m, dim)."""
    latents = context.latents(part).astype(np.float64)
    if "active" in context.writer:
        return latents[context.writer.read("active", part)]
    return latents.reshape(-1, latents.shape[-1])
