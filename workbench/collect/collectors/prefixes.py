"""Reconstructions from an image's first tokens alone."""

import numpy as np
import torch

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import MAX_ARRAY_BYTES, pooled_features, to_uint8
from workbench.collect.ssim import ssim
from workbench.core.errors import NotApplicable
from workbench.core.types import Images, Tokens
from workbench.data import ImageSet
from workbench.features import FeatureExtractor
from workbench.tokenizers.active import respects_active
from workbench.tokenizers.base import Tokenizer


@collector(
    "tokenizer",
    provides=["prefixes", "prefix_mse", "prefix_l1", "prefix_ssim", "prefix_features"],
)
def prefixes(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Decode the first 1, 2, 4, ... tokens of each image and measure the errors."""
    rows: dict[str, list[np.ndarray]] = {}
    num_tokens = 0
    for part, batch in context.batches(images):
        tokens = model.encode(batch)
        if part.start == 0 and not respects_active(model, tokens):
            raise NotApplicable("this decoder always uses all tokens.")
        num_tokens = tokens.latents.shape[1]
        metrics = prefix_metrics(model, tokens, batch, context.feature_extractor, len(images))
        for name, values in metrics.items():
            rows.setdefault(name, []).append(values)
    arrays = {name: np.concatenate(parts) for name, parts in rows.items()}
    if "prefix_features" in arrays:
        arrays["prefix_features"] = np.moveaxis(arrays["prefix_features"], 1, 0)
    arrays["prefixes"] = np.array(prefix_lengths(num_tokens), dtype=np.int32)
    return arrays


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
        if num_featured * num_images * feature_extractor.dim * 4 <= MAX_ARRAY_BYTES:
            features = pooled_features(feature_extractor, to_uint8(decoded), images.device)
            columns["prefix_features"].append(features)
    return {name: np.stack(values, axis=1) for name, values in columns.items() if values}
