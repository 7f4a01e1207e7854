"""Samples of a generator, with their labels and features."""

from workbench.collect.batches import SampleBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import extractor_outputs
from workbench.collect.sampling import draw_samples
from workbench.generators.base import Generator


@collector(
    "generator",
    provides=[
        "samples",
        "sample_labels",
        "sample_features",
        "sample_spatial_features",
        "sample_logits",
    ],
    over="samples",
)
def samples(model: Generator, batch: SampleBatch, context: CollectContext) -> Arrays:
    """Sample equally many images of every class."""
    pixels = draw_samples(
        model,
        context.tokenizer,
        batch.labels.to(context.device),
        seed=batch.seed,
        guidance=context.guidance,
    )
    return {
        "samples": pixels,
        "sample_labels": batch.labels.numpy(),
    } | extractor_outputs(context.feature_extractor, pixels, context.device, "sample_")
