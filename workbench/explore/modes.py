"""Decoding what no image is: the mean of a mode, and the way from one mode to another."""

from collections.abc import Sequence

import numpy as np
import torch

from workbench.collect import to_uint8
from workbench.collect.images import model_device
from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.explore.image_grid import ImageGrid
from workbench.tokenizers.base import Tokenizer


def means(latents: np.ndarray, assignment: np.ndarray) -> np.ndarray:
    """The mean latents of each mode, float32 (k, tokens, d), from latents (n, tokens, d) and each image's mode (n,).

    Raises UserError for a mode without images.
    """
    if len(latents) != len(assignment):
        raise UserError(
            f"There are latents of {len(latents)} images and modes of {len(assignment)}."
        )
    found = []
    for mode in range(int(assignment.max()) + 1):
        members = np.flatnonzero(assignment == mode)
        if not len(members):
            raise UserError(f"No image is in mode {mode}, so it has no mean.")
        found.append(np.asarray(latents[members], np.float32).mean(axis=0))
    return np.stack(found)


@torch.no_grad()
def walk(
    model: Tokenizer,
    starts: np.ndarray,
    ends: np.ndarray,
    *,
    stops: int = 9,
    grid: tuple[int, int] | None = None,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Straight lines from latents (n, tokens, d) to others, decoded at equal steps and held against their starts."""
    if stops < 2:
        raise UserError(f"A walk has at least 2 stops, its ends; got {stops}.")
    shares = np.linspace(0, 1, stops, dtype=np.float32)
    path = starts[:, None] + shares[:, None, None] * (ends - starts)[:, None]
    shown = np.stack([decode(model, path[:, j], grid=grid) for j in range(stops)], axis=1)
    names = tuple(rows) or tuple(f"#{row}" for row in range(len(starts)))
    return ImageGrid(
        "share of the way",
        tuple(f"{s:.2f}" for s in shares),
        names,
        shown[:, 0],
        shown,
        against="start",
    )


@torch.no_grad()
def decode(
    model: Tokenizer, latents: np.ndarray, *, grid: tuple[int, int] | None = None
) -> np.ndarray:
    """Pictures, uint8 (n, h, w, c), of latents (n, tokens, d)."""
    tokens = torch.from_numpy(np.ascontiguousarray(latents, np.float32)).to(model_device(model))
    return to_uint8(model.decode(Tokens(tokens, grid=grid)))
