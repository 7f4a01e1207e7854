"""Features of the held-out images and of their reconstructions."""

from torch import nn

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import extractor_outputs
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", "generator", provides=["features", "spatial_features"], over="images")
def features(model: nn.Module, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Compute the features of the held-out images."""
    extractor = context.feature_extractor
    return extractor_outputs(extractor, batch.pixels, context.device, skip=["logits"])


@collector(
    "tokenizer",
    provides=[
        "reconstruction_features",
        "reconstruction_spatial_features",
        "reconstruction_logits",
    ],
    over="images",
)
def reconstruction_features(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Compute the features of the reconstructions."""
    extractor = context.feature_extractor
    return extractor_outputs(extractor, batch.reconstructions, context.device, "reconstruction_")
