"""Reconstructions from latents with noise."""

import numpy as np
import torch

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import image_generator
from workbench.collect.perturbed import decode_latents, latent_deviation
from workbench.tokenizers.base import Tokenizer

NOISE_LEVELS = (0.1, 0.2, 0.4, 0.8)  # in standard deviations of the latents


@collector(
    "tokenizer", provides=["noise_levels", "noise_mse"], requires=["encoding"], over="images"
)
def noise(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Add noise to the latents, decode them, and measure the squared error."""
    deviation = context.resource(latent_deviation)
    latents = context.latents(batch.rows)
    draws = image_noise(latents.shape, batch.rows.start, context.seed)
    mse = np.zeros((len(latents), len(NOISE_LEVELS)), np.float32)
    for column, level in enumerate(NOISE_LEVELS):
        noisy = latents + np.float32(level * deviation) * draws[:, column]
        decoded = decode_latents(model, noisy, batch.rows, context)
        difference = (decoded.clamp(-1, 1) - batch.images) / 2
        mse[:, column] = difference.square().mean(dim=(1, 2, 3)).cpu().numpy()
    return {"noise_levels": np.array(NOISE_LEVELS, np.float32), "noise_mse": mse}


def image_noise(shape: tuple[int, ...], first: int, seed: int) -> np.ndarray:
    """Draw the noise of some images, each from a seed of its own.

    Parameters
    ----------
    shape : tuple of int
        Shape of the latents of these images, (b, n_tokens, dim).
    first : int
        Index of the first of them.
    seed : int
        Seed of the collection.

    Returns
    -------
    ndarray of float32, shape (b, n_levels, n_tokens, dim)
        Standard normal numbers.
    """
    count, *latent_shape = shape
    draws = []
    for index in range(first, first + count):
        generator = image_generator(seed, index)
        draws.append(torch.randn(len(NOISE_LEVELS), *latent_shape, generator=generator))
    return torch.stack(draws).numpy()
