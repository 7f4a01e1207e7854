"""Features of decoded draws from one Gaussian per class, which need no training."""

import math

import numpy as np

from workbench.collect.batches import HeldOutImages
from workbench.collect.class_gaussians import fit_class_gaussians
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.perturbed import decoded_features
from workbench.collect.sampling import sample_labels
from workbench.collect.training_latents import TrainingLatents
from workbench.core.errors import NotApplicable
from workbench.generators.base import Generator
from workbench.tokenizers.base import Tokenizer

MAX_DRAWS = 10_000
MAX_VALUES = 2**25  # of the latents of all draws, which are in memory at once


@collector("tokenizer", provides=["gaussian_features"])
def gaussian_reference(model: Tokenizer, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Draw from one Gaussian per class, fitted to training latents, and decode the draws.

    Classes are as frequent as among the training images, which are in random order.
    """
    training = context.training_latents
    count = _num_draws(len(images), training)
    labels = np.zeros(count, np.int64)
    if training.labels is not None:
        labels = np.resize(training.labels, count)
    return {"gaussian_features": _class_gaussian_features(labels, context)}


@collector("generator", provides=["gaussian_features", "isotropic_features"])
def generator_references(
    model: Generator, images: HeldOutImages, context: CollectContext
) -> Arrays:
    """Decode draws from one Gaussian per class, and from isotropic noise.

    The latter are the samples of an untrained flow.
    """
    if model.consumes == "codes":
        raise NotApplicable("This generator draws codes, and a Gaussian has none.")
    training = context.training_latents
    count = _num_draws(context.writer.lengths["sample"], training)
    labels = sample_labels(model.config.classes, context.limit, count).numpy()
    mean, deviation = training.moments
    random = np.random.default_rng(context.seed)
    noise = random.standard_normal((len(labels), *training.latents.shape[1:]))
    isotropic = (mean + deviation * noise).astype(np.float32)
    return {
        "gaussian_features": _class_gaussian_features(labels, context),
        "isotropic_features": decoded_features(context.tokenizer, isotropic, context),
    }


def _num_draws(num_compared: int, training: TrainingLatents) -> int:
    """Return the number of draws: as many as there are images to compare, if memory allows."""
    size = math.prod(training.latents.shape[1:])
    return min(num_compared, MAX_DRAWS, max(1, MAX_VALUES // size))


def _class_gaussian_features(labels: np.ndarray, context: CollectContext) -> np.ndarray:
    training = context.training_latents
    gaussians = fit_class_gaussians(training.latents, training.labels)
    draws = gaussians.sample(labels, context.seed)
    return decoded_features(context.tokenizer, draws, context)
