"""Features of the held-out images, of the training images and of reconstructions."""

import numpy as np
from torch import nn

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import pooled_features
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", "generator", provides=["features"])
def features(model: nn.Module, images: ImageSet, context: CollectContext) -> Arrays:
    """Compute the features of the held-out images."""
    extractor = context.feature_extractor
    return {"features": pooled_features(extractor, images.pixels, context.device)}


@collector("tokenizer", provides=["reconstruction_features"], requires=["encoding"])
def reconstruction_features(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Compute the features of the reconstructions."""
    pixels: np.ndarray = context.arrays["reconstructions"]
    return {
        "reconstruction_features": pooled_features(
            context.feature_extractor, pixels, context.device
        )
    }
