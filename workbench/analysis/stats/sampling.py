"""Subsampling, and the text that reports it."""

from dataclasses import dataclass

import numpy as np

from workbench.core.mapped_memory import release_mapped_pages

BLOCK_ROWS = 1000  # that are read at a time
MAX_SAMPLE_VALUES = 1 << 24  # of all images of a sample together, 128 MiB as float64
AT_RANDOM = "drawn at random"
STRATIFIED = "stratified by class"


@dataclass(frozen=True)
class Subset:
    """The part of the evidence that an analysis used.

    Attributes
    ----------
    count, of : int
        Number of items that were used, and in the evidence.
    what : str, default "images"
        Noun for the items.
    method : str, default "drawn at random"
        How they were selected.

    Examples
    --------
    >>> str(Subset(5_000, 50_000, method=STRATIFIED))
    '5,000 of 50,000 images, stratified by class'
    >>> Subset.if_partial(360, 360) is None
    True
    """

    count: int
    of: int
    what: str = "images"
    method: str = AT_RANDOM

    @classmethod
    def if_partial(
        cls, count: int, of: int, what: str = "images", *, stratified: bool = False
    ) -> "Subset | None":
        """Return the subset; None if all items were used."""
        if count >= of:
            return None
        return cls(count=count, of=of, what=what, method=STRATIFIED if stratified else AT_RANDOM)

    def __str__(self) -> str:
        return f"{self.count:,} of {self.of:,} {self.what}, {self.method}"


def subsample(
    n: int, max_items: int, random: np.random.Generator, labels: np.ndarray | None = None
) -> np.ndarray:
    """Draw at most `max_items` of n indices without replacement.

    Parameters
    ----------
    n : int
        Number of items.
    max_items : int
        Largest number of indices to return. If n is not larger, all indices are returned and no
        random number is drawn.
    random : numpy.random.Generator
        Source of randomness.
    labels : ndarray, shape (n,), optional
        If given, the sample is stratified: each class keeps its share, up to one item.

    Returns
    -------
    ndarray of int, shape (min(n, max_items),)
        Indices in ascending order.

    Examples
    --------
    >>> subsample(3, 5, np.random.default_rng(0))
    array([0, 1, 2])
    >>> labels = np.repeat([0, 1], [6, 2])
    >>> np.bincount(labels[subsample(8, 4, np.random.default_rng(0), labels)])
    array([3, 1])
    """
    if n <= max_items:
        return np.arange(n)
    if labels is None:
        return np.sort(random.choice(n, max_items, replace=False))
    order = random.permutation(n)
    class_index = np.unique(np.asarray(labels), return_inverse=True)[1]
    sizes = np.bincount(class_index)
    quotas = _class_quotas(sizes, max_items, random)
    order = order[np.argsort(class_index[order], kind="stable")]  # by class, random within each
    starts = np.cumsum(sizes) - sizes
    position_in_class = np.arange(n) - starts[class_index[order]]
    return np.sort(order[position_in_class < quotas[class_index[order]]])


def rows_at(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Read some rows of an array, which may be mapped from a file, in blocks.

    Parameters
    ----------
    array : ndarray, shape (n, ...)
        An array, which may be memory-mapped.
    indices : ndarray of int, shape (m,)
        The distinct rows, in ascending order.

    Returns
    -------
    ndarray, shape (m, ...)
        The rows; the array itself if they are all.

    Examples
    --------
    >>> rows_at(np.array([5, 6, 7]), np.array([0, 2]))
    array([5, 7])
    """
    if len(indices) == len(array):
        return array
    rows = np.empty((len(indices), *array.shape[1:]), array.dtype)
    for start in range(0, len(indices), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        rows[part] = array[indices[part]]
        release_mapped_pages()
    return rows


def affordable_images(values_per_image: int, max_images: int) -> int:
    """Return the number of images whose values an analysis can hold in memory.

    Parameters
    ----------
    values_per_image : int
        Such as tokens times channels.
    max_images : int
        Largest number of images.

    Returns
    -------
    int
        At most `max_images`, and at most 2^24 values.

    Examples
    --------
    >>> affordable_images(32 * 16, 5_000), affordable_images(256 * 32, 5_000)
    (5000, 2048)
    """
    return max(1, min(max_images, MAX_SAMPLE_VALUES // max(1, values_per_image)))


def describe_subset(count: int, of: int, what: str = "images", *, stratified: bool = False) -> str:
    """Describe the size of a sample and the way it was drawn.

    Parameters
    ----------
    count, of : int
        Number of items in the sample and in total.
    what : str, default "images"
        Noun for the items.
    stratified : bool, default False
        Whether the sample was stratified by class.

    Returns
    -------
    str

    Examples
    --------
    >>> describe_subset(20_000, 50_000, stratified=True)
    '20,000 of 50,000 images, stratified by class'
    >>> describe_subset(360, 360)
    '360 images'
    """
    subset = Subset.if_partial(count, of, what, stratified=stratified)
    return f"{of:,} {what}" if subset is None else str(subset)


def _class_quotas(sizes: np.ndarray, total: int, random: np.random.Generator) -> np.ndarray:
    """Distribute `total` over classes in proportion to their sizes, by largest remainders."""
    share = total * sizes / sizes.sum()
    quotas = share.astype(int)
    ties = random.permutation(len(sizes))
    largest_remainders = ties[np.argsort((quotas - share)[ties], kind="stable")]
    quotas[largest_remainders[: total - quotas.sum()]] += 1
    return quotas
