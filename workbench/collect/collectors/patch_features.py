"""Features of every patch of the held-out images."""

import torch

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import MAX_ARRAY_BYTES
from workbench.core.errors import NotApplicable
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["teacher_features"])
def patch_features(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Compute features on the grid of the tokenizer's patches, in float16."""
    extractor = context.feature_extractor
    rows, columns = model.feature_grid
    if len(images) * rows * columns * extractor.dim * 2 > MAX_ARRAY_BYTES:
        raise NotApplicable(
            f"Patch features of {len(images):,} images need more than {MAX_ARRAY_BYTES:,} bytes."
        )
    parts = [extractor.features(batch, (rows, columns)) for _, batch in context.batches(images)]
    return {"teacher_features": torch.cat(parts).half().cpu().numpy()}
