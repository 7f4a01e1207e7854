"""The grid of tokens that measures of space and frequency need."""

from workbench.core.errors import UserError

MIN_SIDE = 4  # below it, distances and frequencies have no range


def grid_fault(
    grid: tuple[int, int] | None, tokens: int, of: int, *, need_square: bool = True
) -> str:
    """Return the reason why tokens have no square grid of at least 4 × 4; empty if they have.

    Parameters
    ----------
    grid : tuple of int, optional
        Rows and columns.
    tokens : int
        Number of tokens that the images share.
    of : int
        Number of tokens of the latents.
    need_square : bool
        If false, any grid will do, so that tokens only need positions in the image.

    Returns
    -------
    str
        A clause without a period.

    Raises
    ------
    UserError
        If the grid does not have as many cells as there are tokens.

    Examples
    --------
    >>> grid_fault((2, 2), 4, 4)
    'a grid of at least 4 × 4, and this one is 2 × 2'
    >>> grid_fault((2, 2), 4, 4, need_square=False)
    ''
    """
    if grid is None:
        return "a grid, and 1-D tokens have no position in the image"
    height, width = grid
    if height * width != of:
        raise UserError(
            f"A grid of {height} × {width} has {height * width} cells, but images have {of} tokens."
            " Check that both come from one run."
        )
    if tokens < of:
        return f"all {of} tokens of the grid, and the images share only the first {tokens}"
    if not need_square:
        return ""
    if height != width:
        return f"a square grid, and this one is {height} × {width}"
    if height < MIN_SIDE:
        return f"a grid of at least {MIN_SIDE} × {MIN_SIDE}, and this one is {height} × {width}"
    return ""
