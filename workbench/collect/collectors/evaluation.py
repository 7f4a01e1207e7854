"""A generator's own measurements on the tokens of held-out images."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from workbench.collect.batches import HeldOutImages
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import indexed_seed
from workbench.core.errors import NotApplicable
from workbench.core.types import Tokens
from workbench.generators.base import Generator
from workbench.storage.evidence import ARRAYS

BLOCK_IMAGES = 4096  # whose tokens are in memory at a time


@collector(
    "generator",
    provides=["loss_times", "loss_by_time", "code_bits", "predicted", "labels"],
)
def evaluation(model: Generator, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Evaluate the generator on images that it was not trained on."""
    classes = model.config.classes
    labels = images.class_labels(classes)
    names = images.image_set.names
    if context.run.config.imported is not None and classes > 1 and len(names) not in (0, classes):
        raise NotApplicable(
            f"The generator has {classes} classes, and {images.image_set.source} has {len(names)},"
            " so that its labels are not those of the generator."
        )
    blocks: list[Arrays] = []
    sizes: list[int] = []
    for tokens, part in _token_blocks(images, labels):
        on_device = torch.from_numpy(part).to(context.device)
        seed = indexed_seed(context.seed, len(blocks))
        blocks.append(model.evaluate(tokens, on_device, seed=seed))
        sizes.append(len(part))
    arrays = {name: _combine(name, [block[name] for block in blocks], sizes) for name in blocks[0]}
    if images.labels is None:
        arrays.pop("predicted", None)  # there is no true class
    elif "predicted" in arrays:
        arrays["labels"] = images.labels
    return arrays


def _token_blocks(images: HeldOutImages, labels: np.ndarray) -> Iterator[tuple[Tokens, np.ndarray]]:
    """Encode the images, and yield the tokens of many batches together, with their classes."""
    encoded: list[Tokens] = []
    start = 0
    for batch in images.batches():
        encoded.append(batch.tokens)
        stop = batch.rows.stop
        if stop - start >= BLOCK_IMAGES or stop == len(images):
            yield _concatenate(encoded), labels[start:stop]
            encoded = []
            start = stop


def _combine(name: str, values: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Join the values of images, and average those that are means over images."""
    if ARRAYS[name].axes[0] == "image":
        return np.concatenate(values)
    if len(values) == 1:
        return values[0]
    return np.average(values, axis=0, weights=sizes).astype(values[0].dtype)


def _concatenate(batches: Sequence[Tokens]) -> Tokens:
    codes = _concatenate_optional([tokens.codes for tokens in batches])
    active = _concatenate_optional([tokens.active for tokens in batches])
    latents = torch.cat([tokens.latents for tokens in batches])
    return Tokens(latents, codes, active, batches[0].grid)


def _concatenate_optional(parts: Sequence[Tensor | None]) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None
