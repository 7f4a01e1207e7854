"""Codes as every analysis of them reads them: checked, numbered across books, inactive tokens left out."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from workbench.core.errors import NotApplicable, UserError

AT_ONCE = 1 << 20  # tokens in memory at a time: the arrays may be larger than it


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of n images. Code c of book b has the id b * k + c, since two books' codes have nothing in common."""

    rows: np.ndarray = field(repr=False)  # int (n, tokens)
    active: np.ndarray | None = field(repr=False)  # bool (n, tokens); None: all are
    counts: np.ndarray = field(repr=False)  # int64 (g, k): how often active tokens chose each

    @property
    def books(self) -> int:
        """How many books share the tokens, in equal blocks."""
        return len(self.counts)

    @property
    def size(self) -> int:
        """How many codes a book has."""
        return self.counts.shape[1]

    def ids(self, images: slice | np.ndarray) -> np.ndarray:
        """The ids of some images' tokens, int64 (m, tokens); -1 where a token is not active."""
        return _ids(self.rows, self.active, images, self.books, self.size)

    def parts(self) -> Iterator[np.ndarray]:
        """The ids of all images, a part at a time."""
        return (self.ids(part) for part in _slices(self.rows))

    def of_book(self, book: int, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each active token of a book: its code, its image's place among `images` and its place in the block."""
        ids = np.split(self.ids(images), self.books, axis=1)[book]
        image, position = np.nonzero(ids >= 0)
        return ids[image, position] - book * self.size, image, position


def parse_codes(
    codes: np.ndarray, codebook: np.ndarray, active: np.ndarray | None, purpose: str
) -> Codes:
    """Check codes (n, tokens) against a codebook (g, k, d) and count them.

    Raises UserError for a code outside the book, tokens that g does not divide or `active` of another shape,
    NotApplicable without tokens.
    """
    if codebook.ndim != 3:
        raise UserError(
            f"The codebook has {codebook.ndim} axes; it needs 3: books, codes, dimensions."
        )
    (books, size, _), tokens = codebook.shape, codes.shape[1]
    if not codes.size:
        raise NotApplicable(
            f"{purpose} needs at least one image with codes; this evidence has none."
        )
    if tokens % books:
        raise UserError(
            f"{tokens} tokens cannot be shared by {books} books. Do both come from the same run?"
        )
    if active is not None and active.shape != codes.shape:
        a, b = (" × ".join(map(str, x.shape)) for x in (active, codes))
        raise UserError(f"`active` is {a} and the codes are {b}. Do both come from the same run?")
    counts = np.zeros(books * size, np.int64)
    for part in _slices(codes):
        chosen = (
            np.asarray(codes[part])
            if active is None
            else np.asarray(codes[part])[np.asarray(active[part], bool)]
        )
        for code in (int(chosen.max(initial=0)), int(chosen.min(initial=0))):
            if not 0 <= code < size:
                raise UserError(
                    f"code {code} in a codebook of {size}. Do both come from the same run?"
                )
        ids = _ids(codes, active, part, books, size)
        counts += np.bincount(ids[ids >= 0], minlength=len(counts))
    counts = counts.reshape(books, size)
    if not counts.sum(axis=1).all():
        raise NotApplicable(
            f"{purpose} needs active tokens in every book; one of {books} has none."
        )
    return Codes(codes, active, counts)


def check_grid(grid: tuple[int, int] | None, tokens: int) -> None:
    """Raise UserError where a grid does not hold the tokens."""
    if grid is not None and grid[0] * grid[1] != tokens:
        raise UserError(
            f"A grid of {grid[0]} × {grid[1]} does not hold {tokens} tokens. Do both come from one run?"
        )


def _ids(
    rows: np.ndarray, active: np.ndarray | None, images: slice | np.ndarray, books: int, size: int
) -> np.ndarray:
    first = np.repeat(np.arange(books) * size, rows.shape[1] // books)
    ids = np.asarray(rows[images], np.int64) + first
    return ids if active is None else np.where(np.asarray(active[images], bool), ids, -1)


def _slices(rows: np.ndarray) -> list[slice]:
    step = max(1, AT_ONCE // rows.shape[1])
    return [slice(i, i + step) for i in range(0, len(rows), step)]
