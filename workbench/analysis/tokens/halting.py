"""Perfect halting: for each image, the fewest tokens of the same decoder that meet an error.

No halting can do better. The tokens that an adaptive tokenizer spends are to be compared with these
instead of with properties of images, because an image may be hard in a way that this decoder does
not have.
"""

from dataclasses import dataclass

import numpy as np

from workbench.core.errors import UserError


@dataclass(frozen=True, eq=False)
class PerfectHalting:
    """The outcome of a perfect halting for each request and image.

    Attributes
    ----------
    needed : ndarray of int, shape (n_requests, n_images)
        Fewest tokens that meet the request; all tokens if none do.
    errors : ndarray of float, shape (n_requests, n_images)
        Errors with these tokens.
    reachable : ndarray of bool, shape (n_requests, n_images)
        Whether any number of tokens meets the request.
    """

    needed: np.ndarray
    errors: np.ndarray
    reachable: np.ndarray


def perfect_halting(
    requested: np.ndarray, budgets: np.ndarray, budget_l1: np.ndarray
) -> PerfectHalting:
    """Find the fewest tokens that meet each requested error.

    Parameters
    ----------
    requested : ndarray of float, shape (n_requests,)
        Requested mean absolute errors of pixels in [0, 1].
    budgets : ndarray of int, shape (n_budgets,)
        Numbers of tokens, ascending.
    budget_l1 : ndarray of float, shape (n_budgets, n_images)
        Errors with these numbers of tokens.

    Returns
    -------
    PerfectHalting
        Tokens and errors for each request and image.

    Raises
    ------
    UserError
        If the shapes do not match, or errors contain NaN.

    Examples
    --------
    >>> import numpy as np
    >>> errors = np.array([[0.2, 0.3], [0.1, 0.2]])
    >>> perfect_halting(np.array([0.15]), np.array([1, 4]), errors).needed.tolist()
    [[4, 4]]
    """
    counts = np.asarray(budgets, np.int64)
    errors = np.asarray(budget_l1, np.float64)
    if errors.ndim != 2 or len(errors) != len(counts) or not len(counts):
        shape = " × ".join(map(str, errors.shape))
        raise UserError(
            f"The errors of fixed budgets have shape {shape}; they need one row for each of"
            f" {len(counts)} budgets and one column per image. Collect the evidence again."
        )
    if not np.isfinite(errors).all() or np.any(np.diff(counts) <= 0):
        raise UserError(
            "The fixed budgets must ascend, and their errors must be finite. Collect the evidence"
            " again."
        )
    meets = errors[None] <= np.asarray(requested, np.float64)[:, None, None]
    reachable = np.asarray(meets.any(axis=1))
    first = np.where(reachable, meets.argmax(axis=1), len(counts) - 1)
    return PerfectHalting(
        needed=counts[first],
        errors=np.take_along_axis(errors[None], first[:, None], axis=1)[:, 0],
        reachable=reachable,
    )
