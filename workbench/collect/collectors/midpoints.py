"""Features of the decoded midpoints between nearest latents."""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import batch_slices, pooled_features, to_uint8
from workbench.collect.perturbed import decode_latents
from workbench.core.errors import NotApplicable
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["midpoint_features"], requires=["encoding"], on_request=True)
def midpoints(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Decode the midpoint between each image's latents and the nearest other ones."""
    latents = torch.from_numpy(context.latents)
    if "active" in context.arrays or len(latents) < 2:
        raise NotApplicable(
            "Midpoints need at least 2 images with equally many tokens; this tokenizer chooses the"
            " number of tokens per image, or there is 1 image."
        )
    flat = rearrange(latents, "n l d -> n (l d)")
    parts = batch_slices(len(flat))
    nearest = torch.cat([_nearest_other(flat, part) for part in parts])
    middles = (latents + latents[nearest]) / 2
    pixels = [to_uint8(decoded) for _, decoded in decode_latents(model, middles, context)]
    features = pooled_features(context.feature_extractor, np.concatenate(pixels), context.device)
    return {"midpoint_features": features}


def _nearest_other(flat: Tensor, part: slice) -> Tensor:
    distances = torch.cdist(flat[part], flat)
    distances[torch.arange(len(distances)), torch.arange(part.start, part.stop)] = torch.inf
    return distances.argmin(dim=1)
