"""The latents of the same images before training."""

import torch

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.models import build_tokenizer
from workbench.core.errors import NotApplicable
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["untrained_latents"], over="images")
def untrained(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Encode the images with the weights that the run started from."""
    if context.run.config.imported is not None:
        raise NotApplicable(f"{context.run.name} was trained elsewhere; its start is not known.")
    if model.frozen_encoder:
        # Its codebook is made from the training data, which an untrained model has not seen.
        raise NotApplicable(f"{type(model).__name__} has a frozen encoder; training is not in it.")
    start = context.run.config.settings.get("encoder_start")
    if start:
        raise NotApplicable(f"The encoder of {context.run.name} started from {start}.")
    if not batch.tokens.latents.shape[2]:
        raise NotApplicable(f"{context.source.name} has codes, but no latents.")
    latents = context.resource(_initial_tokenizer).encode(batch.images).latents
    if torch.equal(latents, batch.tokens.latents):
        # A class that loads its weights when it is built has no untrained encoder.
        raise NotApplicable(f"The encoder of {context.run.name} is as it was before training.")
    return {"untrained_latents": latents.float().cpu().numpy()}


def _initial_tokenizer(context: CollectContext) -> Tokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(context.run.config.training.get("seed", 0))
        initial = build_tokenizer(context.run, context.trust)
    return initial.to(context.device)
