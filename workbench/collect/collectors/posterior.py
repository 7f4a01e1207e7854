"""The distribution over codes of a soft tokenizer."""

import torch
from einops import rearrange
from torch import Tensor

from workbench.collect.batches import HeldOutImages, ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.core.errors import NotApplicable
from workbench.tokenizers.base import SupportsPosterior, Tokenizer


@collector("tokenizer", provides=["posterior"], over="images")
def posterior(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Measure the perplexity and the largest probability of each token's soft code."""
    probabilities = _probabilities(model, batch)
    perplexity = torch.special.entr(probabilities).sum(dim=-1).exp()
    pair = torch.stack([perplexity, probabilities.amax(dim=-1)], dim=-1)
    return {"posterior": pair.cpu().numpy()}


@collector("tokenizer", provides=["mean_posterior"])
def mean_posterior(model: Tokenizer, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Average the soft codes over all tokens of the images with pictures."""
    total: Tensor | None = None
    for batch in images.batches(context.num_pictures):
        probabilities = _probabilities(model, batch)
        assert model.codebook is not None  # otherwise there are no probabilities
        by_codebook = rearrange(probabilities, "b (g m) k -> b g m k", g=model.codebook.shape[0])
        of_batch = by_codebook.mean(dim=2).double().sum(dim=0)
        total = of_batch if total is None else total + of_batch
    if total is None:
        raise NotApplicable(f"There are no images of {context.source.name}.")
    return {"mean_posterior": (total / context.num_pictures).float().cpu().numpy()}


def _probabilities(model: Tokenizer, batch: ImageBatch) -> Tensor:
    """Return the probabilities of the codes, (b, n_tokens, n_codes)."""
    if not isinstance(model, SupportsPosterior) or model.codebook is None:
        raise NotApplicable(f"{type(model).__name__} has no distribution over codes.")
    return model.posterior(batch.images).float()
