"""The codes of the same images at the checkpoint before."""

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.models import load_tokenizer
from workbench.core.errors import NotApplicable
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["previous_codes"], over="images")
def previous_checkpoint(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Encode the images with the previous checkpoint of the run."""
    if not _earlier_steps(context) or batch.tokens.codes is None:
        raise NotApplicable(f"{context.run.name} has no codes or no earlier checkpoint.")
    codes = context.resource(_previous_tokenizer).encode(batch.images).codes
    if codes is None:
        raise NotApplicable(f"{context.run.name} has no codes at its earlier checkpoint.")
    return {"previous_codes": codes.int().cpu().numpy()}


def _earlier_steps(context: CollectContext) -> list[int]:
    return [step for step in context.run.steps if step < context.step]


def _previous_tokenizer(context: CollectContext) -> Tokenizer:
    step = _earlier_steps(context)[-1]
    return load_tokenizer(context.run, step, context.trust).to(context.device)
