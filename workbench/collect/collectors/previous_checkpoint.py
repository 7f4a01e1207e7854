"""The codes of the same images at the checkpoint before."""

import numpy as np

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.models import load_tokenizer
from workbench.core.errors import NotApplicable
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["previous_codes"], requires=["encoding"])
def previous_checkpoint(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Encode the images with the previous checkpoint of the run."""
    earlier_steps = [step for step in context.run.steps if step < context.step]
    if "codes" not in context.arrays or not earlier_steps:
        raise NotApplicable(f"{context.run.name} has no codes or no earlier checkpoint.")
    previous = load_tokenizer(context.run, earlier_steps[-1], context.trust).to(context.device)
    codes = []
    for _, batch in context.batches(images):
        batch_codes = previous.encode(batch).codes
        if batch_codes is None:
            raise NotApplicable(f"{context.run.name} has no codes at its earlier checkpoint.")
        codes.append(batch_codes.int().cpu().numpy())
    return {"previous_codes": np.concatenate(codes)}
