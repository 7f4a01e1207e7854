"""Weights and images that any library can generate again: the inputs of the fixtures of metrics."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

IMAGE_SEED = 1
WEIGHT_SEED = 0


def seeded_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draw all entries of a state dict in alphabetical order from one generator of numpy.

    A kernel or matrix is Gaussian with variance 2 / fan-in. A bias or running mean is Gaussian with
    deviation 0.1. The weight of a batch norm is 1 plus such a number, and its variance uniform from
    0.5 to 1.5. Heads of LPIPS (`lin`) are uniform from 0 to 1.
    """
    random = np.random.default_rng(WEIGHT_SEED)
    weights = {}
    for name in sorted(state):
        shape = tuple(state[name].shape)
        if name.endswith("num_batches_tracked"):
            continue
        if name.startswith("lin"):
            values = random.random(shape)
        elif len(shape) > 1:
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            values = 0.5 + random.random(shape)
        else:
            values = 0.1 * random.standard_normal(shape) + float(name.endswith("weight"))
        weights[name] = torch.from_numpy(np.asarray(values, np.float32))
    return weights


def seeded_images(count: int = 2, height: int = 40, width: int = 56) -> np.ndarray:
    """Draw uint8 images (n, height, width, 3): smooth patterns with a little noise."""
    random = np.random.default_rng(IMAGE_SEED)
    y, x = np.mgrid[:height, :width] / max(height, width)
    frequency = random.uniform(2, 12, (count, 1, 1, 3, 2))
    phase = random.uniform(0, 2 * np.pi, (count, 1, 1, 3))
    angle = frequency[..., 0] * y[None, ..., None] + frequency[..., 1] * x[None, ..., None]
    waves = 0.5 + 0.4 * np.sin(angle + phase)
    noise = 0.05 * random.standard_normal(waves.shape)
    return (255 * np.clip(waves + noise, 0, 1)).round().astype(np.uint8)
