"""Reconstructions from latents that are mixed with noise."""

import numpy as np
import torch

from workbench.collect.batches import HeldOutImages
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.perturbed import decode_in_batches, latent_deviation
from workbench.tokenizers.base import Tokenizer

NOISE_SHARES = (0.1, 0.3, 0.5)
NOISE_STRENGTH = 3.0  # of the noise, in standard deviations of the latents, as in l-DeTok
MAX_IMAGES = 128  # a mean of errors needs no more


@collector(
    "tokenizer",
    provides=["interpolative_noise_shares", "interpolative_noise_mse"],
    requires=["encoding"],
)
def interpolative_noise(model: Tokenizer, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Measure the error when a share of the latents is noise of three standard deviations."""
    deviation = context.resource(latent_deviation)
    latents = context.latents(slice(MAX_IMAGES))
    pixels = images.batch(slice(0, len(latents))).images
    generator = torch.Generator().manual_seed(context.seed)
    mse = np.zeros((len(latents), len(NOISE_SHARES)), np.float32)
    for column, share in enumerate(NOISE_SHARES):
        draws = torch.randn(latents.shape, generator=generator).numpy()
        noise = np.float32(NOISE_STRENGTH * deviation) * draws
        mixed = np.float32(1 - share) * latents + np.float32(share) * noise
        for part, decoded in decode_in_batches(model, mixed, context):
            difference = (decoded.clamp(-1, 1) - pixels[part]) / 2
            mse[part, column] = difference.square().mean(dim=(1, 2, 3)).cpu().numpy()
    return {
        "interpolative_noise_shares": np.array(NOISE_SHARES, np.float32),
        "interpolative_noise_mse": mse,
    }
