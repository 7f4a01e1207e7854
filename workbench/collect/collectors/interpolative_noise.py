"""Reconstructions from latents that are mixed with noise."""

import numpy as np
import torch

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.perturbed import decode_latents
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer

NOISE_SHARES = (0.1, 0.3, 0.5)
NOISE_STRENGTH = 3.0  # of the noise, in deviations of the latents, as in l-DeTok
MAX_IMAGES = 256  # a mean of errors needs no more


@collector(
    "tokenizer",
    provides=["interpolative_noise_shares", "interpolative_noise_mse"],
    requires=["encoding"],
)
def interpolative_noise(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Replace a share of the latents by noise of three deviations, and measure the error."""
    every_latent = torch.from_numpy(context.latents)
    deviation = every_latent.std()
    latents = every_latent[:MAX_IMAGES]
    generator = torch.Generator().manual_seed(context.seed)
    mse = np.zeros((len(latents), len(NOISE_SHARES)), np.float32)
    for column, share in enumerate(context.track(NOISE_SHARES)):
        noise = NOISE_STRENGTH * deviation * torch.randn(latents.shape, generator=generator)
        mixed = (1 - share) * latents + share * noise
        for part, decoded in decode_latents(model, mixed, context):
            difference = (decoded.clamp(-1, 1) - images.images(part).to(context.device)) / 2
            mse[part, column] = difference.square().mean(dim=(1, 2, 3)).cpu().numpy()
    return {
        "interpolative_noise_shares": np.array(NOISE_SHARES, np.float32),
        "interpolative_noise_mse": mse,
    }
