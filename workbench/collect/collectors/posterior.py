"""The distribution over codes of a soft tokenizer."""

import numpy as np
import torch
from einops import rearrange

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.core.errors import NotApplicable
from workbench.data import ImageSet
from workbench.tokenizers.base import SupportsPosterior, Tokenizer


@collector("tokenizer", provides=["posterior", "mean_posterior"])
def posterior(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Measure the perplexity and the largest probability of each token's soft code."""
    if not isinstance(model, SupportsPosterior) or model.codebook is None:
        raise NotApplicable(f"{type(model).__name__} has no distribution over codes.")
    num_codebooks = model.codebook.shape[0]
    statistics, means = [], []
    for _, batch in context.batches(images):
        probabilities = model.posterior(batch).float()
        perplexity = torch.special.entr(probabilities).sum(dim=-1).exp()
        pair = torch.stack([perplexity, probabilities.amax(dim=-1)], dim=-1)
        statistics.append(pair.cpu().numpy())
        by_codebook = rearrange(probabilities, "b (g m) k -> b g m k", g=num_codebooks)
        means.append(by_codebook.mean(dim=2).cpu().numpy())
    return {
        "posterior": np.concatenate(statistics),
        "mean_posterior": np.concatenate(means).mean(axis=0),
    }
