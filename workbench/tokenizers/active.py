"""Probe of a decoder: it should leave out the tokens that `active` excludes."""

from dataclasses import replace

import torch

from workbench.core.types import Tokens
from workbench.tokenizers.base import Tokenizer

NUM_PROBED_IMAGES = 2
TOLERANCE = 1e-4  # of pixels in [-1, 1]; products of another size are rounded differently


@torch.no_grad()
def respects_active(model: Tokenizer, tokens: Tokens) -> bool:
    """Return True if a decoder leaves out inactive tokens, so that fewer tokens can be decoded.

    If the class does not declare it, the second half of the tokens is excluded: the images must
    change, and must not depend on the content of the excluded tokens.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    tokens : Tokens
        Tokens of some images, on the device of the model.
    """
    if model.respects_active is not None:
        return model.respects_active
    few = _first_images(tokens)
    count = few.latents.shape[1]
    if count < 2:
        return True  # there is nothing to exclude
    is_first = torch.arange(count, device=few.latents.device) < count // 2
    is_first = is_first.expand(few.latents.shape[:2])
    every_image = model.decode(few)
    partial = model.decode(replace(few, active=is_first))
    if torch.allclose(partial, every_image, rtol=0, atol=TOLERANCE):
        return False
    other = _with_other_content(few, is_first)
    return torch.allclose(model.decode(other), partial, rtol=0, atol=TOLERANCE)


def _first_images(tokens: Tokens) -> Tokens:
    return Tokens(
        tokens.latents[:NUM_PROBED_IMAGES],
        None if tokens.codes is None else tokens.codes[:NUM_PROBED_IMAGES],
        grid=tokens.grid,
    )


def _with_other_content(tokens: Tokens, active: torch.Tensor) -> Tokens:
    """Return the tokens with those that are inactive replaced by the first one."""
    latents = torch.where(active[..., None], tokens.latents, tokens.latents[:, :1])
    codes = tokens.codes
    if codes is not None:
        codes = torch.where(active, codes, codes[:, :1])
    return Tokens(latents, codes, active, tokens.grid)
