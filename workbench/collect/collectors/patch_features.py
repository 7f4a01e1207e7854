"""Features of every patch of the held-out images."""

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import MAX_ARRAY_BYTES
from workbench.core.errors import NotApplicable
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["teacher_features"], over="images")
def patch_features(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Compute features on the grid of the tokenizer's patches, in float16."""
    extractor = context.feature_extractor
    rows, columns = model.feature_grid
    if context.num_pictures * rows * columns * extractor.dim * 2 > MAX_ARRAY_BYTES:
        raise NotApplicable(
            f"Patch features of {context.num_pictures:,} images need more than"
            f" {MAX_ARRAY_BYTES:,} bytes."
        )
    if not batch.num_pictures:
        return {}
    features = extractor.features(batch.images, (rows, columns))
    return {"teacher_features": features.half().cpu().numpy()}
