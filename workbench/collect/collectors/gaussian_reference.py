"""Features of decoded draws from one Gaussian per class, which need no training."""

import numpy as np
import torch

from workbench.collect.class_gaussians import fit_class_gaussians
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import pooled_features, to_uint8
from workbench.collect.perturbed import decode_latents
from workbench.collect.sampling import sample_labels
from workbench.core.errors import NotApplicable
from workbench.data import ImageSet
from workbench.generators.base import Generator
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["gaussian_features"])
def gaussian_reference(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Draw from one Gaussian per class, fitted to training latents, and decode the draws."""
    training = context.training_latents
    labels = np.zeros(len(images), np.int64)
    if training.labels is not None:
        labels = np.resize(training.labels, len(images))
    return {"gaussian_features": _class_gaussian_features(labels, context)}


@collector("generator", provides=["gaussian_features", "isotropic_features"])
def generator_references(model: Generator, images: ImageSet, context: CollectContext) -> Arrays:
    """Decode draws from one Gaussian per class, and from noise of the deviation of each channel.

    The latter are the samples of an untrained flow.
    """
    if model.consumes == "codes":
        raise NotApplicable("This generator draws codes, and a Gaussian has none.")
    labels = sample_labels(model.config.classes, context.limit).numpy()
    training = context.training_latents
    mean, deviation = training.moments
    random = np.random.default_rng(context.seed)
    noise = random.standard_normal((len(labels), *training.latents.shape[1:]))
    isotropic = (mean + deviation * noise).astype(np.float32)
    return {
        "gaussian_features": _class_gaussian_features(labels, context),
        "isotropic_features": _decoded_features(isotropic, context),
    }


def _class_gaussian_features(labels: np.ndarray, context: CollectContext) -> np.ndarray:
    training = context.training_latents
    gaussians = fit_class_gaussians(training.latents, training.labels)
    return _decoded_features(gaussians.sample(labels, context.seed), context)


def _decoded_features(latents: np.ndarray, context: CollectContext) -> np.ndarray:
    """Decode latents with the tokenizer, and return the features of the images."""
    decoded = decode_latents(context.tokenizer, torch.from_numpy(latents), context)
    pixels = np.concatenate([to_uint8(images) for _, images in decoded])
    return pooled_features(context.feature_extractor, pixels, context.device)
