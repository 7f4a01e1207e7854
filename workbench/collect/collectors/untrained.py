"""The latents of the same images before training."""

import numpy as np
import torch

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.models import build_tokenizer
from workbench.core.errors import NotApplicable
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["untrained_latents"], requires=["encoding"])
def untrained(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Encode the images with the weights that the run started from."""
    if context.run.config.imported is not None:
        raise NotApplicable(f"{context.run.name} was trained elsewhere; its start is not known.")
    if model.frozen_encoder:
        # Its codebook is made from the training data, which an untrained model has not seen.
        raise NotApplicable(f"{type(model).__name__} has a frozen encoder; training is not in it.")
    with torch.random.fork_rng():
        torch.manual_seed(context.run.config.training.get("seed", 0))
        initial = build_tokenizer(context.run, context.trust)
    initial.to(context.device)
    latents = [
        initial.encode(batch).latents.float().cpu().numpy() for _, batch in context.batches(images)
    ]
    untrained_latents = np.concatenate(latents)
    if np.array_equal(untrained_latents, context.latents):
        # A class that loads its weights when it is built has no untrained encoder.
        raise NotApplicable(f"The encoder of {context.run.name} is as it was before training.")
    return {"untrained_latents": untrained_latents}
