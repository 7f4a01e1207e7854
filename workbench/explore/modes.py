"""Decoding latents between images: the mean of a mode, and the line from one mode to another."""

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
    """Compute the mean latents of each mode.

    Parameters
    ----------
    latents : ndarray of float, shape (n_images, n_tokens, dim)
        Latents of the images that were assigned to modes.
    assignment : ndarray of int, shape (n_images,)
        Mode of each image.

    Returns
    -------
    ndarray of float32, shape (n_modes, n_tokens, dim)
        The means.

    Raises
    ------
    UserError
        If a mode has no images, or there are not as many modes as images.
    """
    if len(latents) != len(assignment):
        raise UserError(
            f"Every image needs one mode, got {len(latents)} images and {len(assignment)} modes."
        )
    mode_means = []
    for mode in range(int(assignment.max()) + 1):
        members = np.flatnonzero(assignment == mode)
        if not len(members):
            raise UserError(f"Every mode needs at least one image; mode {mode} has none.")
        mode_means.append(np.asarray(latents[members], np.float32).mean(axis=0))
    return np.stack(mode_means)


@torch.no_grad()
def walk(
    model: Tokenizer,
    starts: np.ndarray,
    ends: np.ndarray,
    *,
    num_columns: int = 9,
    grid: tuple[int, int] | None = None,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Decode latents at equal steps along straight lines.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    starts, ends : ndarray of float, shape (n, n_tokens, dim)
        The ends of the lines, one line per row. The starts are the reference.
    num_columns : int
        Columns, at least 2.
    grid : (int, int), optional
        Rows and columns of the tokens.
    rows : sequence of str
        Names of the rows; by default their numbers.

    Raises
    ------
    UserError
        If there are fewer than 2 columns.
    """
    if num_columns < 2:
        raise UserError(f"num_columns must be at least 2 (both ends), got {num_columns}.")
    fractions = np.linspace(0, 1, num_columns, dtype=np.float32)
    lines = starts[:, None] + fractions[:, None, None] * (ends - starts)[:, None]
    images = np.stack([decode(model, lines[:, j], grid=grid) for j in range(num_columns)], axis=1)
    return ImageGrid(
        axis="share of the way",
        axis_values=tuple(f"{fraction:.2f}" for fraction in fractions),
        rows=tuple(rows) or tuple(f"#{row}" for row in range(len(starts))),
        reference=images[:, 0],
        images=images,
        reference_label="start",
    )


@torch.no_grad()
def decode(
    model: Tokenizer, latents: np.ndarray, *, grid: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode latents (n, n_tokens, dim) to images, uint8 (n, h, w, c)."""
    latent_tensor = torch.from_numpy(np.ascontiguousarray(latents, np.float32))
    return to_uint8(model.decode(Tokens(latent_tensor.to(model_device(model)), grid=grid)))
