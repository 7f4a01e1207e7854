"""Features of the held-out images, of the training images and of reconstructions."""

import numpy as np
from torch import nn

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import extractor_outputs
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", "generator", provides=["features", "spatial_features"])
def features(model: nn.Module, images: ImageSet, context: CollectContext) -> Arrays:
    """Compute the features of the held-out images."""
    extractor = context.feature_extractor
    return extractor_outputs(extractor, images.pixels, context.device, skip=["logits"])


@collector(
    "tokenizer",
    provides=[
        "reconstruction_features",
        "reconstruction_spatial_features",
        "reconstruction_logits",
    ],
    requires=["encoding"],
)
def reconstruction_features(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Compute the features of the reconstructions."""
    pixels: np.ndarray = context.arrays["reconstructions"]
    extractor = context.feature_extractor
    return extractor_outputs(extractor, pixels, context.device, "reconstruction_")
