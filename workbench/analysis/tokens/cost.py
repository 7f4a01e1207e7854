"""What tokens cost: the bits of their codes, and the work of a generator that draws them."""

import math

import numpy as np

from workbench.storage.evidence import Evidence

LAYERS, WIDTH = 28, 1152  # of SiT-XL, the generator whose work is counted


def generator_gmacs(tokens: np.ndarray | float) -> np.ndarray | float:
    """Billions of multiply-adds of one SiT-XL pass over so many tokens.

    A layer: 12 w^2 a token for its matrices, 2 n w a token for attention, 6 w^2 for its modulation.
    """
    layer = 12 * WIDTH**2 * tokens + 2 * WIDTH * tokens**2 + 6 * WIDTH**2
    return LAYERS * layer / 1e9


def bits_per_token(evidence: Evidence) -> float:
    """log2 of the codes a token chooses from; NaN where the decoder reads more than the code says."""
    discrete = evidence.provenance.get("discrete") is True
    if not discrete or evidence.codes is None or evidence.codebook is None:
        return math.nan  # of a soft quantizer the codes are only labels
    return math.log2(evidence.codebook.shape[1])
