"""Features of reconstructions after codes are replaced by similar ones."""

import numpy as np
import torch
from torch import Tensor

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import image_generator, pooled_features, to_uint8
from workbench.core.errors import NotApplicable
from workbench.core.types import Tokens
from workbench.tokenizers.base import Tokenizer

CODE_SHARES = (0.1, 0.25, 0.5)
NEIGHBOR_SHARE = 1 / 16  # of the codebook: a code is replaced by one of so many nearest others
BLOCK_ROWS = 1024  # codewords whose distances are in memory at once


@collector(
    "tokenizer",
    provides=["perturbed_code_shares", "perturbed_code_features"],
    over="images",
    on_request=True,
)
def perturbed_codes(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Replace a share of the codes by one of their nearest, decode, and compute features."""
    codes = _codes(model, batch, context)
    assert model.codebook is not None
    codebook = model.codebook.float().cpu()
    neighbors = context.resource(_neighbors)
    generators = [image_generator(context.seed, index) for index in batch.indices]
    features = []
    for share in CODE_SHARES:
        perturbed = torch.cat(
            [
                perturb_codes(codes[i : i + 1], neighbors, share, generator)
                for i, generator in enumerate(generators)
            ]
        )
        pixels = to_uint8(model.decode(_tokens(perturbed, codebook, context)))
        features.append(pooled_features(context.feature_extractor, pixels, context.device))
    return {
        "perturbed_code_shares": np.array(CODE_SHARES, np.float32),
        "perturbed_code_features": np.stack(features),
    }


def nearest_codes(codebook: Tensor) -> Tensor:
    """Return the nearest other codes of each code.

    Parameters
    ----------
    codebook : Tensor of shape (n_codebooks, n_codes, dim)
        The codewords.

    Returns
    -------
    Tensor of int, shape (n_codebooks, n_codes, n_neighbors)
        A sixteenth of the codebook, at least one code.
    """
    num_codes = codebook.shape[1]
    count = max(1, min(num_codes - 1, round(NEIGHBOR_SHARE * num_codes)))
    tables = []
    for table in codebook:
        parts = []
        for start in range(0, num_codes, BLOCK_ROWS):
            rows = torch.arange(start, min(start + BLOCK_ROWS, num_codes))
            distances = torch.cdist(table[rows], table)
            distances[torch.arange(len(rows)), rows] = torch.inf
            parts.append(distances.topk(count, dim=1, largest=False).indices)
        tables.append(torch.cat(parts))
    return torch.stack(tables)


def perturb_codes(
    codes: Tensor, neighbors: Tensor, share: float, generator: torch.Generator
) -> Tensor:
    """Replace codes, each with a probability of `share`, by one of their nearest others.

    Parameters
    ----------
    codes : Tensor of int, shape (n_images, n_tokens)
        The codes; codebook i serves the i-th of equal blocks of tokens.
    neighbors : Tensor of int, shape (n_codebooks, n_codes, n_neighbors)
        The result of `nearest_codes`.
    share : float
        Fraction of the codes, in [0, 1].
    generator : torch.Generator
        Source of the random numbers.

    Returns
    -------
    Tensor of int, shape (n_images, n_tokens)
    """
    num_codebooks, _, count = neighbors.shape
    table = torch.arange(codes.shape[1]) * num_codebooks // codes.shape[1]
    choice = torch.randint(count, codes.shape, generator=generator)
    is_replaced = torch.rand(codes.shape, generator=generator) < share
    return torch.where(is_replaced, neighbors[table, codes, choice], codes)


def _neighbors(context: CollectContext) -> Tensor:
    assert context.tokenizer.codebook is not None
    return nearest_codes(context.tokenizer.codebook.float().cpu())


def _codes(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Tensor:
    """Return the codes of the images, or raise NotApplicable with the reason."""
    codes = batch.tokens.codes
    name = context.source.name
    if not model.discrete or model.codebook is None or codes is None:
        raise NotApplicable(
            f"{name} is continuous: the latents are not determined by codes, so that no code can be"
            " replaced by a similar one."
        )
    if not model.codebook.shape[2] or model.codebook.shape[1] < 2:
        raise NotApplicable(
            f"The codewords of {name} are not known as vectors, so that no code has a nearest one."
        )
    if batch.tokens.active is not None:
        raise NotApplicable(f"{name} chooses the number of tokens per image.")
    return codes.long().cpu()


def _tokens(codes: Tensor, codebook: Tensor, context: CollectContext) -> Tokens:
    """Return the tokens of some images, whose latents are the codewords."""
    table = torch.arange(codes.shape[1]) * len(codebook) // codes.shape[1]
    latents = codebook[table, codes]
    return Tokens(
        latents=latents.to(context.device), codes=codes.to(context.device), grid=context.grid
    )
