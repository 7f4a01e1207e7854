"""Samples of a generator as images, and previews of a run during its training."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.collect.images import load_images, model_device, to_uint8
from workbench.collect.models import load_source_tokenizer
from workbench.core.errors import RunError
from workbench.core.types import Tokens
from workbench.generators.base import Generator
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

DECODE_BATCH = 32  # samples that are decoded at a time
PREVIEW_STEPS = 20
PREVIEW_GUIDANCE = 2.0
MAX_SAMPLES_PER_CLASS = 64
MIN_SAMPLES = 640  # of all classes together, if the limit allows: distances of fewer are unreliable


def guidance_scale(model: Generator, guidance: float) -> float:
    """Return the scale with which a generator samples: 1 if guidance has no effect."""
    return guidance if model.supports_guidance else 1.0


def draw_samples(
    model: Generator,
    tokenizer: Tokenizer,
    labels: Tensor,
    *,
    steps: int | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> np.ndarray:
    """Sample one image per label.

    Parameters
    ----------
    model : Generator
        The generator.
    tokenizer : Tokenizer
        The tokenizer that decodes its samples.
    labels : Tensor of int, shape (n,)
        Classes, on the device of the generator.
    steps : int, optional
        Sampling steps; None uses the generator's default.
    guidance : float
        Scale of classifier-free guidance; 1 samples from the conditional model. A generator
        without a null class is never guided.
    seed : int
        Seed of all random numbers.
    **options
        Options of this kind of generator, such as `shift` of a flow.

    Returns
    -------
    ndarray of uint8, shape (n, h, w, c)
        The images.
    """
    tokens = model.sample(
        labels,
        codebook=tokenizer.codebook,
        guidance=guidance_scale(model, guidance),
        steps=steps,
        seed=seed,
        **options,
    )
    return decode_samples(tokenizer, tokens)


def sample_labels(classes: int, limit: int, count: int | None = None) -> Tensor:
    """Return the classes of samples: equally many of every class, at most `limit` in all.

    With a `count`, it is their number, and some classes have one more than others. Fewer samples
    than classes are spread over all classes.

    Examples
    --------
    >>> sample_labels(3, 7).tolist()
    [0, 0, 1, 1, 2, 2]
    >>> sample_labels(3, 7, count=4).tolist()
    [0, 0, 1, 2]
    >>> sample_labels(1000, 2000, count=4).tolist()
    [0, 250, 500, 750]
    """
    if count is None:
        per_class = max(MAX_SAMPLES_PER_CLASS, MIN_SAMPLES // classes)
        per_class = max(1, min(per_class, limit // classes))
        count = min(limit, per_class * classes)
    return torch.arange(count) * classes // count


def decode_samples(tokenizer: Tokenizer, tokens: Tokens) -> np.ndarray:
    """Decode sampled tokens to uint8 (n, h, w, c), on the tokenizer's device."""
    device = model_device(tokenizer)

    def rows(values: Tensor | None, start: int) -> Tensor | None:
        return None if values is None else values[start : start + DECODE_BATCH].to(device)

    pixels = []
    for start in range(0, len(tokens.latents), DECODE_BATCH):
        part = Tokens(
            latents=tokens.latents[start : start + DECODE_BATCH].to(device),
            codes=rows(tokens.codes, start),
            active=rows(tokens.active, start),
            grid=tokens.grid,
        )
        pixels.append(to_uint8(tokenizer.decode(part)))
    return np.concatenate(pixels)


def previewer(
    run: Run, count: int = 16, *, trust: Sequence[str] = ()
) -> Callable[[nn.Module], np.ndarray]:
    """Return a function that draws the same images of a model at any step of its training.

    For a tokenizer these are reconstructions of held-out images, for a generator samples from fixed
    noise.
    """
    if not run.is_generator:
        images = load_images(run, max_images=count).images()
        return torch.no_grad()(lambda model: _reconstruct(run, model, images))
    tokenizer = load_source_tokenizer(run, trust)
    labels = torch.arange(count) % run.config.settings["classes"]
    return torch.no_grad()(lambda model: _preview_samples(run, model, tokenizer, labels))


def _reconstruct(run: Run, model: nn.Module, images: Tensor) -> np.ndarray:
    if not isinstance(model, Tokenizer):
        raise RunError(f"{run.folder} must hold a Tokenizer, got {run.kind}.")
    return to_uint8(model.decode(model.encode(images.to(model_device(model)))))


def _preview_samples(
    run: Run, model: nn.Module, tokenizer: Tokenizer, labels: Tensor
) -> np.ndarray:
    if not isinstance(model, Generator):
        raise RunError(f"{run.folder} must hold a Generator, got {run.kind}.")
    return draw_samples(
        model,
        tokenizer,
        labels.to(model_device(model)),
        steps=PREVIEW_STEPS,
        guidance=PREVIEW_GUIDANCE,
    )
