"""The held-out images, their tokens and their reconstructions."""

import numpy as np

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.tokenizers.base import Tokenizer


@collector(
    "tokenizer",
    provides=[
        "images",
        "labels",
        "complexity",
        "reconstructions",
        "latents",
        "codes",
        "active",
        "mse",
        "l1",
    ],
    requires=["codebook"],
    over="images",
)
def encoding(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Encode and decode the images, and measure the errors of the pixels."""
    tokens = batch.tokens
    arrays = {"images": batch.pixels, "reconstructions": batch.reconstructions}
    arrays["mse"], arrays["l1"] = _pixel_errors(batch.pixels, batch.reconstructions)
    if tokens.latents.shape[2]:  # no channels if only the number of codewords is known
        arrays["latents"] = tokens.latents.float().cpu().numpy()
    if tokens.codes is not None:
        arrays["codes"] = tokens.codes.int().cpu().numpy()
    if tokens.active is not None:
        arrays["active"] = tokens.active.cpu().numpy()
    if batch.labels is not None:
        arrays["labels"] = batch.labels
    if batch.complexity is not None:
        arrays["complexity"] = batch.complexity
    return arrays


def _pixel_errors(pixels: np.ndarray, reconstructions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean squared and mean absolute error of each image, pixels in [0, 1]."""
    difference = (pixels.astype(np.float64) - reconstructions) / 255
    axes = (1, 2, 3)
    return np.square(difference).mean(axis=axes), np.abs(difference).mean(axis=axes)
