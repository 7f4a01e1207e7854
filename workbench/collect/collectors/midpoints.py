"""Features of the decoded midpoints between nearest latents."""

import torch
from einops import rearrange
from torch import Tensor

from workbench.collect.batches import HeldOutImages
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import batch_slices
from workbench.collect.perturbed import decoded_features
from workbench.core.errors import NotApplicable
from workbench.tokenizers.base import Tokenizer


@collector("tokenizer", provides=["midpoint_features"], requires=["encoding"], on_request=True)
def midpoints(model: Tokenizer, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Decode the midpoint between the latents of each image with a picture and the nearest."""
    latents = context.latents(slice(context.num_pictures))
    if "active" in context.writer or len(latents) < 2:
        raise NotApplicable(
            "Midpoints need at least 2 images with equally many tokens; this tokenizer chooses the"
            " number of tokens per image, or there is 1 image."
        )
    flat = rearrange(torch.from_numpy(latents), "n l d -> n (l d)")
    nearest = torch.cat([_nearest_other(flat, part) for part in batch_slices(len(flat))]).numpy()
    middles = (latents + latents[nearest]) / 2
    return {"midpoint_features": decoded_features(model, middles, context)}


def _nearest_other(flat: Tensor, part: slice) -> Tensor:
    distances = torch.cdist(flat[part], flat)
    distances[torch.arange(len(distances)), torch.arange(part.start, part.stop)] = torch.inf
    return distances.argmin(dim=1)
