"""Reconstructions from latents with noise."""

import numpy as np
import torch

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.perturbed import decode_latents
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer

NOISE_LEVELS = (0.1, 0.2, 0.4, 0.8)  # in standard deviations of the latents


@collector("tokenizer", provides=["noise_levels", "noise_mse"], requires=["encoding"])
def noise(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Add noise to the latents, decode them, and measure the squared error."""
    latents = torch.from_numpy(context.latents)
    generator = torch.Generator().manual_seed(context.seed)
    mse = np.zeros((len(latents), len(NOISE_LEVELS)), np.float32)
    for column, level in enumerate(context.track(NOISE_LEVELS)):
        perturbation = level * latents.std() * torch.randn(latents.shape, generator=generator)
        for part, decoded in decode_latents(model, latents + perturbation, context):
            difference = (decoded.clamp(-1, 1) - images.images(part).to(context.device)) / 2
            mse[part, column] = difference.square().mean(dim=(1, 2, 3)).cpu().numpy()
    return {"noise_levels": np.array(NOISE_LEVELS, np.float32), "noise_mse": mse}
