"""Reconstructions from an image's first tokens alone."""

import numpy as np
import torch

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import MAX_ARRAY_BYTES, pooled_features, to_uint8
from workbench.collect.ssim import ssim
from workbench.core.errors import NotApplicable
from workbench.core.types import Images, Tokens
from workbench.features import FeatureExtractor
from workbench.tokenizers.active import respects_active
from workbench.tokenizers.base import Tokenizer


@collector(
    "tokenizer",
    provides=["prefixes", "prefix_mse", "prefix_l1", "prefix_ssim", "prefix_features"],
    over="images",
)
def prefixes(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Decode the first 1, 2, 4, ... tokens of each image and measure the errors."""
    if not context.resource(_can_leave_out_tokens):
        raise NotApplicable("this decoder always uses all tokens.")
    tokens = batch.tokens
    arrays = prefix_metrics(
        model,
        tokens,
        batch.images,
        context.feature_extractor,
        context.num_pictures,
        with_features=batch.num_pictures > 0,
    )
    if "prefix_features" in arrays:
        arrays["prefix_features"] = np.moveaxis(arrays["prefix_features"], 1, 0)
    arrays["prefixes"] = np.array(prefix_lengths(tokens.latents.shape[1]), dtype=np.int32)
    return arrays


def _can_leave_out_tokens(context: CollectContext) -> bool:
    first_images = context.images.batch(context.images.parts()[0])
    return respects_active(context.tokenizer, first_images.tokens)


def prefix_lengths(num_tokens: int) -> list[int]:
    """Return the numbers of tokens that are decoded alone: powers of two, and all.

    Examples
    --------
    >>> prefix_lengths(6)
    [1, 2, 4, 6]
    """
    powers = (2**i for i in range(num_tokens.bit_length()))
    return sorted({num_tokens, *(power for power in powers if power <= num_tokens)})


def prefix_metrics(
    model: Tokenizer,
    tokens: Tokens,
    images: Images,
    feature_extractor: FeatureExtractor,
    num_images: int,
    *,
    with_features: bool = True,
) -> Arrays:
    """Measure the reconstructions of one batch from the first tokens.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    tokens : Tokens
        The tokens of the batch.
    images : Tensor of shape (batch, c, h, w)
        The images of the batch, in [-1, 1].
    feature_extractor : FeatureExtractor
        The network of `prefix_features`.
    num_images : int
        Images of all batches. Features are collected of as many prefixes, shortest first, as fit
        into `MAX_ARRAY_BYTES` for all of them.
    with_features : bool
        Whether to compute `prefix_features`.

    Returns
    -------
    dict of str to ndarray
        `prefix_mse`, `prefix_l1` and `prefix_ssim`, float32 of shape (batch, n_prefixes), for
        pixels in [0, 1], and `prefix_features` of shape (batch, fewer prefixes, dim).
    """
    num_tokens = tokens.latents.shape[1]
    columns: dict[str, list[np.ndarray]] = {
        "prefix_mse": [],
        "prefix_l1": [],
        "prefix_ssim": [],
        "prefix_features": [],
    }
    for length in prefix_lengths(num_tokens):
        active = torch.arange(num_tokens, device=images.device) < length
        active = active.expand(tokens.latents.shape[:2])
        if tokens.active is not None:
            active = active & tokens.active
        prefix = Tokens(tokens.latents, tokens.codes, active, tokens.grid)
        decoded = model.decode(prefix).clamp(-1, 1)
        difference = (decoded - images) / 2
        columns["prefix_mse"].append(difference.square().mean(dim=(1, 2, 3)).cpu().numpy())
        columns["prefix_l1"].append(difference.abs().mean(dim=(1, 2, 3)).cpu().numpy())
        columns["prefix_ssim"].append(ssim(decoded, images).cpu().numpy())
        num_featured = len(columns["prefix_features"]) + 1
        if (
            with_features
            and num_featured * num_images * feature_extractor.pooled_dim * 4 <= MAX_ARRAY_BYTES
        ):
            features = pooled_features(feature_extractor, to_uint8(decoded), images.device)
            columns["prefix_features"].append(features)
    return {name: np.stack(values, axis=1) for name, values in columns.items() if values}
