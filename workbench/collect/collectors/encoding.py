"""The held-out images, their tokens and their reconstructions."""

import numpy as np

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import check_finite, to_uint8
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer


@collector(
    "tokenizer",
    provides=[
        "images",
        "labels",
        "complexity",
        "codebook",
        "reconstructions",
        "latents",
        "codes",
        "active",
    ],
)
def encoding(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Encode and decode the images."""
    rows: dict[str, list[np.ndarray]] = {}
    for _, batch in context.batches(images):
        tokens = model.encode(batch)
        check_finite(tokens.latents, "latents")
        rows.setdefault("reconstructions", []).append(to_uint8(model.decode(tokens)))
        if tokens.latents.shape[2]:  # no channels if only the number of codewords is known
            rows.setdefault("latents", []).append(tokens.latents.float().cpu().numpy())
        if tokens.codes is not None:
            rows.setdefault("codes", []).append(tokens.codes.int().cpu().numpy())
        if tokens.active is not None:
            rows.setdefault("active", []).append(tokens.active.cpu().numpy())
    arrays = {name: np.concatenate(parts) for name, parts in rows.items()}
    arrays["images"] = images.read()
    if images.labels is not None:
        arrays["labels"] = images.labels
    if images.complexity is not None:
        arrays["complexity"] = images.complexity
    if model.codebook is not None:
        arrays["codebook"] = model.codebook.float().cpu().numpy()
    return arrays
