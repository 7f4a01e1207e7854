"""Samples of a generator, with their labels and features."""

import numpy as np
import torch

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import extractor_outputs
from workbench.collect.sampling import draw_samples
from workbench.data import ImageSet
from workbench.generators.base import Generator

MAX_SAMPLES_PER_CLASS = 64
MIN_SAMPLES = 640  # of all classes together, if the limit allows: distances of fewer are unreliable
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
    classes = model.config.classes
    per_class = max(MAX_SAMPLES_PER_CLASS, MIN_SAMPLES // classes)
    per_class = max(1, min(per_class, context.limit // classes))
    labels = torch.arange(classes).repeat_interleave(per_class)[: context.limit]
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
