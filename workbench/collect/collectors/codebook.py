"""The codewords."""

from workbench.collect.batches import HeldOutImages
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["codebook"])
def codebook(model: Tokenizer, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Copy the codewords, if the tokenizer has any."""
    if model.codebook is None:
        return {}
    return {"codebook": model.codebook.float().cpu().numpy()}
