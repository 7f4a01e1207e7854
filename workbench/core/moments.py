"""Means, variances and covariances, computed block by block in float64 and merged exactly."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from workbench.core.errors import UserError
from workbench.core.mapped_memory import release_mapped_pages

BLOCK_ROWS = 2048
MAX_BLOCK_VALUES = 1 << 22  # float64 values in memory at once, 32 MiB
# Numbers whose standard deviation is a smaller part of their magnitude are constant up to rounding.
MAX_ROUNDING_ERROR = 1e-6


def row_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Read an array in blocks of rows of bounded size, as float64.

    Parameters
    ----------
    rows : ndarray, shape (n, ...)
        An array, which may be memory-mapped and larger than memory.

    Yields
    ------
    ndarray of float64, shape (m, ...)
    """
    step = max(1, MAX_BLOCK_VALUES // max(1, int(np.prod(rows.shape[1:]))))
    for start in range(0, len(rows), step):
        yield np.asarray(rows[start : start + step], np.float64)
        release_mapped_pages()


def mean_and_scale(
    rows: np.ndarray, axis: int | tuple[int, ...] = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation, with 1 in place of that of constant numbers.

    Division by the deviation of numbers that are constant up to rounding would make noise of them.

    Parameters
    ----------
    rows : ndarray of float
        Numbers.
    axis : int or tuple of int
        The axes of the mean.

    Returns
    -------
    mean, scale : ndarray of float64
        Without these axes.

    Examples
    --------
    >>> rows = np.array([[1.0, 5.0], [3.0, 5.0 + 1e-9]])
    >>> mean_and_scale(rows)[1].tolist()
    [1.0, 1.0]
    """
    mean = rows.mean(axis=axis, dtype=np.float64)
    deviation = rows.std(axis=axis, dtype=np.float64)
    return mean, np.where(is_constant(deviation, mean), 1.0, deviation)


def is_constant(deviation: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return which numbers of this standard deviation and mean are constant up to rounding."""
    return deviation <= MAX_ROUNDING_ERROR * np.hypot(deviation, mean)


@dataclass(frozen=True, eq=False)
class ElementMoments:
    """The mean and the variance of every element of the rows of an array.

    Attributes
    ----------
    mean, variance : ndarray of float64
        Of the finite rows; the variance is that of the rows themselves, divided by their number.
    count : int
        Number of finite rows.
    num_invalid : int
        Number of rows with NaN or infinity, which are left out.

    Examples
    --------
    >>> rows = np.array([[0.0, 2.0], [2.0, 4.0], [np.nan, 0.0]])
    >>> moments = ElementMoments.from_blocks([rows[:1], rows[1:]])
    >>> moments.mean.tolist(), moments.variance.tolist(), moments.num_invalid
    ([1.0, 3.0], [1.0, 1.0], 1)
    """

    mean: np.ndarray
    variance: np.ndarray
    count: int
    num_invalid: int

    @classmethod
    def from_blocks(cls, blocks: Iterable[np.ndarray]) -> "ElementMoments":
        """Compute the moments of a stream of arrays (m, ...).

        Parameters
        ----------
        blocks : iterable of ndarray of float64, shape (m, ...)
            At least one block.
        """
        count = 0
        num_invalid = 0
        mean = squares = np.zeros(())
        for block in blocks:
            is_valid = np.isfinite(block).reshape(len(block), -1).all(axis=1)
            rows = block if is_valid.all() else block[is_valid]
            num_invalid += len(block) - len(rows)
            if not count:
                mean = np.zeros(block.shape[1:])
                squares = np.zeros(block.shape[1:])
            if not len(rows):
                continue
            block_mean = rows.mean(axis=0)
            difference = block_mean - mean
            total = count + len(rows)
            # The update of Chan, Golub and LeVeque, which loses no digits to large means.
            squares += np.square(rows - block_mean).sum(axis=0)
            squares += np.square(difference) * (count * len(rows) / total)
            mean += difference * (len(rows) / total)
            count = total
        return cls(
            mean=mean, variance=squares / max(count, 1), count=count, num_invalid=num_invalid
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """The Gaussian that is fitted to a set of features.

    Attributes
    ----------
    mean : ndarray of float64, shape (dim,)
        Mean over the rows.
    covariance : ndarray of float64, shape (dim, dim)
        The unbiased covariance; zeros for one row.
    count : int or None
        Number of rows; None if a file of statistics does not contain it.

    Examples
    --------
    >>> rows = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 0.0]])
    >>> whole = Moments.from_rows(rows)
    >>> parts = Moments.from_rows(rows[:1]).merge(Moments.from_rows(rows[1:]))
    >>> whole.count, whole.mean.tolist(), bool(np.allclose(whole.covariance, parts.covariance))
    (3, [2.0, 2.0], True)
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> "Moments":
        """Compute the moments of an array without copying it as a whole.

        Parameters
        ----------
        rows : ndarray of float, shape (n, dim)
            Features of at least one image; may be memory-mapped and larger than memory.
        """
        starts = range(0, len(rows), BLOCK_ROWS)
        return cls.from_blocks(rows[start : start + BLOCK_ROWS] for start in starts)

    @classmethod
    def from_blocks(cls, blocks: Iterable[np.ndarray]) -> "Moments":
        """Compute the moments of a stream of arrays (n, dim).

        Raises
        ------
        UserError
            If there is no row.
        """
        count = 0
        mean = np.zeros(0)
        scatter = np.zeros((0, 0))
        for block in blocks:
            rows = np.asarray(block, np.float64)
            if not len(rows):
                continue
            block_mean = rows.mean(axis=0)
            centered = rows - block_mean
            if not count:
                mean = np.zeros(rows.shape[1])
                scatter = np.zeros((rows.shape[1], rows.shape[1]))
            difference = block_mean - mean
            total = count + len(rows)
            scatter += centered.T @ centered
            scatter += np.outer(difference, difference) * (count * len(rows) / total)
            mean += difference * (len(rows) / total)
            count = total
            release_mapped_pages()
        if not count:
            raise UserError("Moments need at least one image; the set is empty.")
        return cls(mean=mean, covariance=scatter / max(count - 1, 1), count=count)

    @property
    def dim(self) -> int:
        """Number of features."""
        return len(self.mean)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together, such as of two shards.

        Raises
        ------
        UserError
            If the dimensions differ, or the number of rows of a set is unknown.
        """
        if self.dim != other.dim:
            raise UserError(
                f"Moments of {self.dim:,} and of {other.dim:,} features cannot be merged; compute "
                "both with one feature extractor."
            )
        if self.count is None or other.count is None:
            raise UserError("Moments can be merged only if the number of images of both is known.")
        total = self.count + other.count
        difference = other.mean - self.mean
        scatter = self.covariance * (self.count - 1) + other.covariance * (other.count - 1)
        scatter += np.outer(difference, difference) * (self.count * other.count / total)
        return Moments(
            mean=self.mean + difference * (other.count / total),
            covariance=scatter / (total - 1),
            count=total,
        )
