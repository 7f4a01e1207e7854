"""A generator's own measurements on the tokens of held-out images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import class_labels
from workbench.core.errors import NotApplicable
from workbench.core.types import Tokens
from workbench.data import ImageSet
from workbench.generators.base import Generator


@collector(
    "generator",
    provides=["loss_times", "loss_by_time", "code_bits", "predicted", "labels"],
)
def evaluation(model: Generator, images: ImageSet, context: CollectContext) -> Arrays:
    """Evaluate the generator on images that it was not trained on."""
    classes = class_labels(images)
    if len(classes) and classes.max() >= model.config.classes:
        raise NotApplicable(
            f"The generator has {model.config.classes} classes, and {images.source} has labels up "
            f"to {classes.max()}."
        )
    encoded = [context.tokenizer.encode(batch) for _, batch in context.batches(images)]
    labels = torch.from_numpy(classes).to(context.device)
    arrays = model.evaluate(_concatenate(encoded), labels, seed=context.seed)
    if images.labels is None:
        arrays.pop("predicted", None)  # there is no true class
    elif "predicted" in arrays:
        arrays["labels"] = images.labels
    return arrays


def _concatenate(batches: Sequence[Tokens]) -> Tokens:
    codes = _concatenate_optional([tokens.codes for tokens in batches])
    active = _concatenate_optional([tokens.active for tokens in batches])
    latents = torch.cat([tokens.latents for tokens in batches])
    return Tokens(latents, codes, active, batches[0].grid)


def _concatenate_optional(parts: Sequence[Tensor | None]) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None
