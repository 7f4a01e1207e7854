"""Two layouts of tokens: one axis of tokens, and a grid as LightningDiT stores it.

================== ===================== ==========================
array              one axis of tokens    grid
================== ===================== ==========================
latents            (n, tokens, d)        (n, d, rows, columns)
codes, active      (n, tokens)           (n, rows, columns)
================== ===================== ==========================
"""

import math

import numpy as np

Grid = tuple[int, int]


def with_grid(tokens: np.ndarray, grid: Grid | None) -> np.ndarray:
    """Return tokens on their grid, as a view; unchanged if they have none.

    Parameters
    ----------
    tokens : ndarray, shape (n, tokens, d) or (n, tokens)
        Latents, or one number per token.
    grid : tuple of int or None
        Rows and columns. A grid of another number of tokens is ignored.
    """
    if grid is None or math.prod(grid) != tokens.shape[1]:
        return tokens
    if tokens.ndim == 2:
        return tokens.reshape(len(tokens), *grid)
    return tokens.swapaxes(1, 2).reshape(len(tokens), tokens.shape[2], *grid)


def without_grid(tokens: np.ndarray, *, has_channels: bool) -> np.ndarray:
    """Return tokens with one axis of tokens, as a view where the memory permits.

    Parameters
    ----------
    tokens : ndarray
        An array of either layout.
    has_channels : bool
        True for latents, False for one number per token.

    Examples
    --------
    >>> tokens = np.arange(12).reshape(1, 6, 2)
    >>> grid = with_grid(tokens, (2, 3))
    >>> grid.shape, (without_grid(grid, has_channels=True) == tokens).all().item()
    ((1, 2, 2, 3), True)
    """
    if tokens.ndim == (3 if has_channels else 2):
        return tokens
    if not has_channels:
        return tokens.reshape(len(tokens), -1)
    return tokens.reshape(*tokens.shape[:2], -1).swapaxes(1, 2)
