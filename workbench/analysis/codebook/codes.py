"""Validated codes, numbered across codebooks, with inactive tokens and padding left out."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import PADDING

# Codes are read in parts of this many tokens, because the arrays may exceed the memory.
MAX_TOKENS_IN_MEMORY = 1 << 20


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of n images.

    Code c of codebook b has the id ``b * codebook_size + c``, because codes of two codebooks are
    unrelated.

    Attributes
    ----------
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected, within the token's codebook. -1 is padding.
    active : ndarray of bool, shape (n_images, n_tokens), or None
        Tokens in use. None if all tokens are in use.
    counts : ndarray of int64, shape (n_codebooks, codebook_size)
        Number of active tokens that selected each code.
    """

    codes: np.ndarray = field(repr=False)
    active: np.ndarray | None = field(repr=False)
    counts: np.ndarray = field(repr=False)

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks that share the tokens in equal blocks."""
        return len(self.counts)

    @property
    def codebook_size(self) -> int:
        """Number of codes per codebook."""
        return self.counts.shape[1]

    @property
    def tokens_per_codebook(self) -> int:
        """Number of tokens per image that one codebook serves."""
        return self.codes.shape[1] // self.num_codebooks

    def ids(self, images: slice | np.ndarray) -> np.ndarray:
        """Return the ids of the tokens of some images, int64 (m, n_tokens).

        Inactive tokens and padding have the id -1.
        """
        return _ids(self.codes, self.active, images, self.num_codebooks, self.codebook_size)

    def iter_ids(self) -> Iterator[np.ndarray]:
        """Yield the ids of all images in consecutive parts that fit in memory."""
        return (self.ids(part) for part in _slices(self.codes))

    def of_codebook(
        self, codebook: int, images: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the active tokens of one codebook.

        Parameters
        ----------
        codebook : int
            Index of the codebook.
        images : ndarray of int, shape (m,)
            Indices of the images to read.

        Returns
        -------
        codes, images, positions : ndarray of int, shape (n_active,)
            The code of each token, the index of its image within `images`, and its position in
            the block of tokens that the codebook serves.
        """
        ids = np.split(self.ids(images), self.num_codebooks, axis=1)[codebook]
        image, position = np.nonzero(ids >= 0)
        return ids[image, position] - codebook * self.codebook_size, image, position


def parse_codes(
    codes: np.ndarray, codebook: np.ndarray | int, active: np.ndarray | None, purpose: str
) -> Codes:
    """Check codes against their codebook and count them.

    Parameters
    ----------
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected. -1 marks padding, which is not counted.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim), or int
        The codewords, or only their number if the vectors are not at hand. Codebook i serves the
        i-th of `n_codebooks` equal blocks of tokens.
    active : ndarray of bool, shape (n_images, n_tokens), or None
        Tokens in use; the others are not counted. None if all are in use.
    purpose : str
        Name of the analysis, used as the subject of error messages.

    Returns
    -------
    Codes
        The codes and their counts.

    Raises
    ------
    UserError
        If a code is outside its codebook, if the codebooks cannot share the tokens equally, or
        if `active` has another shape than `codes`.
    NotApplicable
        If there are no images, or if a codebook has no active token.
    """
    num_codebooks, codebook_size, _ = codebook_table(codebook).shape
    if codes.ndim != 2:
        raise UserError(f"The codes have {codes.ndim} axes; they need 2: images, tokens.")
    num_tokens = codes.shape[1]
    if not codes.size:
        raise NotApplicable(f"{purpose} needs at least one image with codes; this evidence has 0.")
    if num_tokens % num_codebooks:
        raise UserError(
            f"{num_codebooks} codebooks cannot share {num_tokens} tokens equally."
            " Do the codes and the codebook come from the same run?"
        )
    if active is not None and active.shape != codes.shape:
        raise UserError(
            f"`active` has shape {_shape(active)} and the codes have shape {_shape(codes)}."
            " Do both come from the same run?"
        )
    counts = np.zeros(num_codebooks * codebook_size, np.int64)
    for part in _slices(codes):
        _check_range(_active_codes(codes, active, part), codebook_size)
        ids = _ids(codes, active, part, num_codebooks, codebook_size)
        counts += np.bincount(ids[ids >= 0], minlength=len(counts))
    counts = counts.reshape(num_codebooks, codebook_size)
    if not counts.sum(axis=1).all():
        raise NotApplicable(
            f"{purpose} needs active tokens in every codebook;"
            f" at least one of {num_codebooks} codebooks has none."
        )
    return Codes(codes=codes, active=active, counts=counts)


def codebook_table(codebook: np.ndarray | int) -> np.ndarray:
    """Return a codebook as an array; one of which only the size is known has vectors of 0 numbers.

    Parameters
    ----------
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim), or int
        The codewords, or only the number of codes.

    Returns
    -------
    ndarray of float, shape (n_codebooks, codebook_size, dim)

    Raises
    ------
    UserError
        If the array does not have three axes, or there is no code.

    Examples
    --------
    >>> codebook_table(16384).shape
    (1, 16384, 0)
    """
    table = np.asarray(codebook)
    if table.ndim == 0:
        if table.dtype.kind not in "iu" or table < 1:
            raise UserError(f"The number of codes must be an integer of at least 1, got {table}.")
        return np.zeros((1, int(table), 0), np.float32)
    if table.ndim != 3:
        raise UserError(
            f"The codebook has {table.ndim} axes; it needs 3: codebooks, codes, dimensions."
        )
    return table


def require_vectors(codebook: np.ndarray | int, purpose: str) -> np.ndarray:
    """Return the codewords, or raise NotApplicable if only their number is known."""
    table = codebook_table(codebook)
    if not table.shape[2]:
        raise NotApplicable(
            f"{purpose} needs the vectors of the codebook; only the number of codes is known."
        )
    return table


def check_grid(grid: tuple[int, int] | None, num_tokens: int) -> None:
    """Raise UserError if a token grid does not hold exactly `num_tokens` tokens."""
    if grid is not None and grid[0] * grid[1] != num_tokens:
        raise UserError(
            f"A grid of {grid[0]} × {grid[1]} does not hold {num_tokens} tokens."
            " Do the grid and the codes come from the same run?"
        )


def _active_codes(codes: np.ndarray, active: np.ndarray | None, part: slice) -> np.ndarray:
    values = np.asarray(codes[part])
    is_active = values != PADDING
    if active is not None:
        is_active = is_active & np.asarray(active[part], bool)
    return values[is_active]


def _check_range(codes: np.ndarray, codebook_size: int) -> None:
    for code in (int(codes.max(initial=0)), int(codes.min(initial=0))):
        if not 0 <= code < codebook_size:
            raise UserError(
                f"Code {code} is outside its codebook of {codebook_size} codes."
                " Do the codes and the codebook come from the same run?"
            )


def _ids(
    codes: np.ndarray,
    active: np.ndarray | None,
    images: slice | np.ndarray,
    num_codebooks: int,
    codebook_size: int,
) -> np.ndarray:
    first_ids = np.repeat(np.arange(num_codebooks) * codebook_size, codes.shape[1] // num_codebooks)
    values = np.asarray(codes[images], np.int64)
    is_active = values != PADDING
    if active is not None:
        is_active &= np.asarray(active[images], bool)
    return np.where(is_active, values + first_ids, -1)


def _slices(codes: np.ndarray) -> list[slice]:
    step = max(1, MAX_TOKENS_IN_MEMORY // codes.shape[1])
    return [slice(i, i + step) for i in range(0, len(codes), step)]


def _shape(array: np.ndarray) -> str:
    return " × ".join(map(str, array.shape))
