"""Training images to compare with, and their features."""

import math

from torch import nn

from workbench.collect.batches import HeldOutImages
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import MAX_ARRAY_BYTES, extractor_outputs, load_images
from workbench.collect.training_latents import check_training_images


@collector(
    "tokenizer",
    "generator",
    provides=["train_images", "train_features", "train_spatial_features"],
)
def training_images(model: nn.Module, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Draw images that the tokenizer was trained on, compute features, and store the first."""
    check_training_images(context)
    train = load_images(context.source, "train", sample=context.limit, seed=context.seed)
    num_pictures = min(len(train), max(1, MAX_ARRAY_BYTES // math.prod(context.image_shape)))
    extractor = context.feature_extractor
    outputs = extractor_outputs(extractor, train.pixels, context.device, "train_", skip=["logits"])
    return {"train_images": train.read(slice(num_pictures))} | outputs
