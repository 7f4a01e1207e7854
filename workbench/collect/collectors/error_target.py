"""The errors and token counts of an adaptive tokenizer for requested errors."""

import numpy as np
import torch

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.core.errors import NotApplicable
from workbench.tokenizers.base import SupportsErrorTarget, Tokenizer

ERRORS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15)  # requested mean absolute errors, pixels in [0, 1]


@collector("tokenizer", provides=["requested", "reached", "spent"], over="images")
def error_target(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Encode with a target error, and measure the error and the number of tokens."""
    if not isinstance(model, SupportsErrorTarget):
        raise NotApplicable(f"{type(model).__name__} cannot encode with a target error.")
    images = batch.images
    errors, counts = [], []
    for error in ERRORS:
        tokens = model.encode(images, error=error)
        difference = (model.decode(tokens).clamp(-1, 1) - images) / 2
        errors.append(difference.abs().mean(dim=(1, 2, 3)))
        active = tokens.active
        if active is None:
            active = torch.ones(tokens.latents.shape[:2], dtype=torch.bool, device=images.device)
        counts.append(active.sum(dim=1))
    return {
        "requested": np.array(ERRORS, np.float32),
        "reached": torch.stack(errors).cpu().numpy(),
        "spent": torch.stack(counts).int().cpu().numpy(),
    }
