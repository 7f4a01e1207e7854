"""Features of decoded points between latents of held-out and of training images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import image_generator, pooled_features, to_uint8
from workbench.core.errors import NotApplicable
from workbench.core.moments import mean_and_scale
from workbench.core.types import Tokens
from workbench.tokenizers.base import Tokenizer

ALPHA = 0.5  # position on the arc; 0 is the held-out latent
NUM_NEIGHBORS = 10  # of which one is drawn
MIN_SINE = 1e-4  # of an angle between latents; below it, the arc is a line


@collector(
    "tokenizer",
    provides=["interpolation_features", "interpolation_partners"],
    over="images",
)
def interpolation(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Decode points halfway to one of the ten nearest training latents, on the sphere."""
    training = context.training_latents.latents
    held_out = batch.tokens.latents.float().cpu().numpy()
    partners = nearest_partners(
        held_out, context.resource(_training_neighbors), seed=context.seed, first=batch.rows.start
    )
    return {
        "interpolation_features": _decoded_features(batch, training[partners], context),
        "interpolation_partners": partners.astype(np.int32),
    }


@collector(
    "tokenizer",
    provides=["random_interpolation_features"],
    over="images",
    on_request=True,
)
def random_interpolation(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Decode points halfway to random training latents, the null of `interpolation`."""
    training = context.training_latents.latents
    partners = np.array(
        [
            torch.randint(len(training), (1,), generator=image_generator(context.seed, index))
            for index in batch.indices
        ]
    )[:, 0]
    return {"random_interpolation_features": _decoded_features(batch, training[partners], context)}


@dataclass(frozen=True, eq=False)
class TrainingNeighbors:
    """Training latents, centered and scaled by channel, of which neighbors are found.

    Otherwise the nearest of most images are a few that are near to all.

    Attributes
    ----------
    mean : ndarray of float, shape (n_tokens, dim)
        Mean of the training latents.
    deviation : ndarray of float, shape (dim,)
        Their standard deviation by channel.
    unit_rows : Tensor of float32, shape (m, n_tokens * dim)
        The scaled latents, of norm 1.
    """

    mean: np.ndarray
    deviation: np.ndarray
    unit_rows: Tensor

    @classmethod
    def of(cls, training: np.ndarray) -> "TrainingNeighbors":
        """Scale training latents, shape (m, n_tokens, dim)."""
        mean = training.mean(axis=0, dtype=np.float64)
        _, deviation = mean_and_scale(training, axis=(0, 1))
        return cls(mean, deviation, _unit_rows((training - mean) / deviation))

    def similarity(self, latents: np.ndarray) -> Tensor:
        """Return the cosine of latents, shape (n, n_tokens, dim), and training latents, (n, m)."""
        return _unit_rows((latents - self.mean) / self.deviation) @ self.unit_rows.T


def nearest_partners(
    held_out: np.ndarray, training: TrainingNeighbors, *, seed: int, first: int = 0
) -> np.ndarray:
    """Draw one of the nearest training latents of each held-out latent.

    Parameters
    ----------
    held_out : ndarray of float, shape (n, n_tokens, dim)
        Latents.
    training : TrainingNeighbors
        The training latents.
    seed : int
        Seed of the choice among the ten nearest, with probabilities exp(cosine).
    first : int
        The row of the first held-out latent in the evidence.

    Returns
    -------
    ndarray of int, shape (n,)
        Indices of training latents.
    """
    count = min(NUM_NEIGHBORS, len(training.unit_rows))
    similarity, nearest = training.similarity(held_out).topk(count, dim=1)
    shares = similarity.softmax(dim=1)
    samples = [
        torch.multinomial(row, 1, generator=image_generator(seed, first + i))
        for i, row in enumerate(shares)
    ]
    return nearest.gather(1, torch.stack(samples))[:, 0].numpy()


def spherical_interpolation(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """Interpolate latents along the arc between them, all dimensions of an image as one vector.

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


def _training_neighbors(context: CollectContext) -> TrainingNeighbors:
    return TrainingNeighbors.of(context.training_latents.latents)


def _decoded_features(
    batch: ImageBatch, partners: np.ndarray, context: CollectContext
) -> np.ndarray:
    """Decode the points between latents, and return the features of the images."""
    tokens = batch.tokens
    if tokens.active is not None:
        raise NotApplicable(
            f"{context.source.name} chooses the number of tokens per image, so that there is no"
            " point between two latents."
        )
    ends = torch.from_numpy(partners).to(context.device)
    points = spherical_interpolation(tokens.latents.float(), ends, ALPHA)
    decoded = context.tokenizer.decode(Tokens(points, grid=context.grid))
    return pooled_features(context.feature_extractor, to_uint8(decoded), context.device)


def _unit_rows(latents: np.ndarray) -> Tensor:
    rows = torch.from_numpy(np.ascontiguousarray(latents, np.float32)).flatten(1)
    return torch.nn.functional.normalize(rows, dim=1)
