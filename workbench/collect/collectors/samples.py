"""Samples of a generator, with their labels and features."""

import numpy as np

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import extractor_outputs
from workbench.collect.sampling import draw_samples, sample_labels
from workbench.data import ImageSet
from workbench.generators.base import Generator

SAMPLES_PER_SEED = 256  # samples that are drawn with one seed


@collector(
    "generator",
    provides=[
        "samples",
        "sample_labels",
        "sample_features",
        "sample_spatial_features",
        "sample_logits",
    ],
)
def samples(model: Generator, images: ImageSet, context: CollectContext) -> Arrays:
    """Sample equally many images of every class."""
    labels = sample_labels(model.config.classes, context.limit)
    parts = []
    for number, part in enumerate(context.track(labels.split(SAMPLES_PER_SEED))):
        parts.append(
            draw_samples(
                model,
                context.tokenizer,
                part.to(context.device),
                seed=context.seed + number,
                guidance=context.guidance,
            )
        )
    pixels = np.concatenate(parts)
    return {
        "samples": pixels,
        "sample_labels": labels.numpy(),
    } | extractor_outputs(context.feature_extractor, pixels, context.device, "sample_")
