"""The table from which a cascaded codebook started."""

from workbench.collect.batches import HeldOutImages
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.core.errors import NotApplicable
from workbench.tokenizers.base import HasInitialCodebook, Tokenizer


@collector("tokenizer", provides=["cascade_start"])
def initial_codebook(model: Tokenizer, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Copy the frozen table of a cascaded codebook."""
    codebook = model.initial_codebook if isinstance(model, HasInitialCodebook) else None
    if codebook is None:
        raise NotApplicable(f"{type(model).__name__} has no cascaded codebook.")
    return {"cascade_start": codebook.float().cpu().numpy()}
