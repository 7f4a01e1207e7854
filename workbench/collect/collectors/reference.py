"""Statistics of a reference set, from a file of ADM's evaluator."""

import warnings

from torch import nn

from workbench.collect.batches import HeldOutImages
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.statistics import reference_statistics
from workbench.core.errors import NotApplicable
from workbench.core.printable import printable
from workbench.data.resize import DEFAULT_RESIZE


@collector(
    "tokenizer",
    "generator",
    provides=[
        "reference_mean",
        "reference_covariance",
        "reference_spatial_mean",
        "reference_spatial_covariance",
    ],
)
def reference(model: nn.Module, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Read the statistics of the reference file, or compute them from its images."""
    if context.reference is None:
        raise NotApplicable("No reference file was given (--reference FILE.npz).")
    statistics = reference_statistics(context.reference, context.feature_extractor, context.device)
    data = context.source.config.data
    resize = (data and data.resize) or DEFAULT_RESIZE
    if statistics.resize not in ("", resize):
        warnings.warn(
            f"The images of {printable(context.reference)} were resized by {statistics.resize} and"
            f" those of {context.source.name} by {resize}, which adds to their distance. Compute"
            f" the statistics with --resize {resize}.",
            stacklevel=2,
        )
    arrays = {
        "reference_mean": statistics.features.mean,
        "reference_covariance": statistics.features.covariance,
    }
    if statistics.spatial_features is not None:
        arrays["reference_spatial_mean"] = statistics.spatial_features.mean
        arrays["reference_spatial_covariance"] = statistics.spatial_features.covariance
    return arrays
