"""The latents of training images, which references of generated images are made of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.collect.images import batch_slices, is_stream, load_images
from workbench.core.errors import NotApplicable
from workbench.core.moments import mean_and_scale

if TYPE_CHECKING:
    from workbench.collect.collectors.base import CollectContext

MAX_LATENT_BYTES = 2**28  # of the latents of training images, which are in memory at once


@dataclass(frozen=True, eq=False)
class TrainingLatents:
    """Latents of training images, and their classes.

    Attributes
    ----------
    latents : ndarray of float32, shape (n_images, n_tokens, dim)
        Latents in the scale of the tokenizer.
    labels : ndarray of int64, shape (n_images,), or None
        The class of each image.
    """

    latents: np.ndarray
    labels: np.ndarray | None

    @property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel, shapes (dim,); 1 for a constant channel."""
        return mean_and_scale(self.latents, axis=(0, 1))


def check_training_images(context: "CollectContext") -> None:
    """Raise NotApplicable if the images that a tokenizer was trained on cannot be drawn."""
    if is_stream(context.source):
        raise NotApplicable(f"{context.source.name} was trained on a stream; it has no index.")
    data = context.source.config.data
    if data is not None and data.split == "all" and context.run is context.source:
        raise NotApplicable(f"{data.source} has no splits, so every image of it was evaluated.")


def encode_training_images(context: "CollectContext") -> TrainingLatents:
    """Encode a random sample of the training images, in random order.

    It is another sample than that of `train_features`, if there are as many images: draws from
    Gaussians that were fitted to the very images they are compared with would share the sampling
    error of these.

    Parameters
    ----------
    context : CollectContext
        Its `limit` and `seed` determine the images.

    Raises
    ------
    NotApplicable
        If the training images are a stream, or the latents differ in the number of tokens.
    """
    check_training_images(context)
    seed = context.seed + 1
    images = load_images(context.source, "train", sample=context.limit, seed=seed)
    order = np.random.default_rng(seed).permutation(len(images))
    parts: list[np.ndarray] = []
    num_bytes = 0
    _, height, width = context.image_shape
    for part in batch_slices(len(images), height * width):
        tokens = context.tokenizer.encode(images.images(order[part]).to(context.device))
        if tokens.active is not None:
            raise NotApplicable(
                f"{context.source.name} chooses the number of tokens per image, so that latents"
                " have no common mean and covariance."
            )
        if not tokens.latents.shape[2]:
            raise NotApplicable(f"{context.source.name} has codes, but no latents.")
        parts.append(tokens.latents.float().cpu().numpy())
        num_bytes += parts[-1].nbytes
        if num_bytes > MAX_LATENT_BYTES:
            break
    latents = np.concatenate(parts)
    labels = None if images.labels is None else images.labels[order[: len(latents)]]
    return TrainingLatents(latents=latents, labels=labels)
