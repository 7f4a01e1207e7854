"""Cost of tokens: the bits of their codes, and the work of a generator that samples them."""

import math
from typing import TypeVar

import numpy as np

from workbench.storage.evidence import Evidence

# Depth and width of SiT-XL, the generator whose work is counted.
SIT_XL_LAYERS = 28
SIT_XL_WIDTH = 1152

Number = TypeVar("Number", float, np.ndarray)


def generator_gmacs(tokens: Number) -> Number:
    """Return the work of one SiT-XL forward pass, in billions of multiply-adds.

    With width w and n tokens, a layer needs 12 w^2 n for its matrices, 2 n^2 w for attention and
    6 w^2 for its modulation.

    Parameters
    ----------
    tokens : float or ndarray of float
        Number of tokens per image.

    Examples
    --------
    >>> round(generator_gmacs(256), 1)
    118.6
    """
    w = SIT_XL_WIDTH
    layer = 12 * w**2 * tokens + 2 * w * tokens**2 + 6 * w**2
    return SIT_XL_LAYERS * layer / 1e9


def bits_per_token(evidence: Evidence) -> float:
    """Return log2 of the codebook size; NaN if the decoder reads more than the code.

    The codes of a soft quantizer are only labels, so that they have no bit cost.
    """
    is_discrete = evidence.provenance.get("discrete") is True
    if not is_discrete or evidence.codes is None or evidence.codebook is None:
        return math.nan
    return math.log2(evidence.codebook.shape[1])
