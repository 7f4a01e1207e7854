"""Features of decoded points between latents of held-out and of training images."""

import numpy as np
import torch
from torch import Tensor

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import pooled_features, to_uint8
from workbench.collect.perturbed import decode_latents
from workbench.core.errors import NotApplicable
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer

ALPHA = 0.5  # position on the arc; 0 is the held-out latent
NUM_NEIGHBORS = 10  # of which one is drawn
BLOCK_ROWS = 256  # held-out images whose similarities are in memory at once
MIN_SINE = 1e-4  # of an angle between latents; below it, the arc is a line


@collector(
    "tokenizer",
    provides=["interpolation_features", "interpolation_partners"],
    requires=["encoding"],
)
def interpolation(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Decode points halfway to one of the ten nearest training latents, on the sphere."""
    held_out = context.latents
    training = context.training_latents.latents
    partners = nearest_partners(held_out, training, seed=context.seed)
    return {
        "interpolation_features": _decoded_features(held_out, training[partners], context),
        "interpolation_partners": partners.astype(np.int32),
    }


@collector(
    "tokenizer",
    provides=["random_interpolation_features"],
    requires=["encoding"],
    on_request=True,
)
def random_interpolation(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Decode points halfway to random training latents, the null of `interpolation`."""
    held_out = context.latents
    training = context.training_latents.latents
    partners = np.random.default_rng(context.seed).integers(0, len(training), len(held_out))
    return {
        "random_interpolation_features": _decoded_features(held_out, training[partners], context)
    }


def nearest_partners(held_out: np.ndarray, training: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw one of the nearest training latents of each held-out latent.

    Latents are centered and scaled by channel before they are compared: otherwise the nearest of
    most images are a few that are near to all.

    Parameters
    ----------
    held_out, training : ndarray of float, shapes (n, n_tokens, dim) and (m, n_tokens, dim)
        Latents.
    seed : int
        Seed of the choice among the ten nearest, with probabilities exp(cosine).

    Returns
    -------
    ndarray of int, shape (n,)
        Indices of training latents.
    """
    mean = training.mean(axis=0)
    deviation = training.std(axis=(0, 1))
    deviation = np.where(deviation > 0, deviation, 1)
    references = _unit_rows((training - mean) / deviation)
    count = min(NUM_NEIGHBORS, len(training))
    generator = torch.Generator().manual_seed(seed)
    partners = []
    for start in range(0, len(held_out), BLOCK_ROWS):
        rows = _unit_rows((held_out[start : start + BLOCK_ROWS] - mean) / deviation)
        similarity, nearest = (rows @ references.T).topk(count, dim=1)
        drawn = torch.multinomial(similarity.softmax(dim=1), 1, generator=generator)
        partners.append(nearest.gather(1, drawn)[:, 0])
    return torch.cat(partners).numpy()


def spherical_interpolation(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """Interpolate latents along the arc between them, all numbers of an image as one vector.

    Parameters
    ----------
    start, end : Tensor of shape (n, n_tokens, dim)
        Latents.
    alpha : float
        Position on the arc: 0 is `start`, 1 is `end`.

    Returns
    -------
    Tensor of shape (n, n_tokens, dim)
    """
    flat_start = start.flatten(1)
    flat_end = end.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_start, flat_end, dim=1)
    angle = cosine.clamp(-1, 1).acos()[:, None]
    sine = angle.sin()
    is_line = sine < MIN_SINE
    sine = torch.where(is_line, torch.ones_like(sine), sine)
    first = torch.where(
        is_line, torch.full_like(sine, 1 - alpha), ((1 - alpha) * angle).sin() / sine
    )
    second = torch.where(is_line, torch.full_like(sine, alpha), (alpha * angle).sin() / sine)
    return (first * flat_start + second * flat_end).reshape(start.shape)


def _decoded_features(
    held_out: np.ndarray, partners: np.ndarray, context: CollectContext
) -> np.ndarray:
    """Decode the points between latents, and return the features of the images."""
    if "active" in context.arrays:
        raise NotApplicable(
            f"{context.source.name} chooses the number of tokens per image, so that there is no"
            " point between two latents."
        )
    points = spherical_interpolation(torch.from_numpy(held_out), torch.from_numpy(partners), ALPHA)
    decoded = decode_latents(context.tokenizer, points, context)
    pixels = np.concatenate([to_uint8(images) for _, images in decoded])
    return pooled_features(context.feature_extractor, pixels, context.device)


def _unit_rows(latents: np.ndarray) -> Tensor:
    rows = torch.from_numpy(np.ascontiguousarray(latents, np.float32)).flatten(1)
    return torch.nn.functional.normalize(rows, dim=1)
