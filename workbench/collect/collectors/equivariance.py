"""Latents and reconstructions of mirrored, turned and shrunken images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from workbench.collect.batches import HeldOutImages
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import batch_slices
from workbench.core.errors import NotApplicable
from workbench.core.types import Images, Tokens
from workbench.tokenizers.base import Tokenizer

MAX_IMAGES = 256  # a mean of errors needs no more
MIN_IMAGES = 2  # the mean at each position is subtracted


def _halve(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 2)


# In the order of the axis `transform`. Each acts on maps of shape (b, c, rows, columns).
TRANSFORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mirror": lambda maps: maps.flip(3),
    "quarter turn": lambda maps: maps.rot90(1, dims=(2, 3)),
    "half size": _halve,
}


@collector(
    "tokenizer",
    provides=["equivariance_mse", "equivariance_direct_mse", "equivariance_latent_errors"],
    requires=["encoding"],
)
def equivariance(model: Tokenizer, images: HeldOutImages, context: CollectContext) -> Arrays:
    """Compare decoded transformed latents with transformed images, and latents of both."""
    if context.grid is None:
        raise NotApplicable(
            f"{context.source.name} has 1-D tokens, which have no position in the image: mirroring,"
            " turning and shrinking are not defined for them."
        )
    if len(images) < MIN_IMAGES:
        raise NotApplicable(f"Equivariance needs at least {MIN_IMAGES} images.")
    batch = images.batch(slice(0, min(MAX_IMAGES, len(images)))).images
    results = [_compare(model, batch, transform) for transform in TRANSFORMS]
    return {
        "equivariance_mse": np.stack([result.mse for result in results]),
        "equivariance_direct_mse": np.stack([result.direct_mse for result in results]),
        "equivariance_latent_errors": np.array(
            [result.latent_errors for result in results], np.float64
        ),
    }


@dataclass(frozen=True, eq=False)
class _Comparison:
    """The errors of one transform; NaN if the tokenizer cannot be transformed by it."""

    mse: np.ndarray  # (n_images,), of the decoded transformed latents
    direct_mse: np.ndarray  # (n_images,), of the reconstructions of the transformed images
    latent_errors: tuple[float, float]  # raw, and without the mean at each position


def _compare(model: Tokenizer, images: Images, name: str) -> _Comparison:
    transform = TRANSFORMS[name]
    if not _applies(model, images, name):
        nothing = np.full(len(images), np.nan, np.float32)
        return _Comparison(mse=nothing, direct_mse=nothing, latent_errors=(np.nan, np.nan))
    mse = []
    direct_mse = []
    transformed_latents = []
    latents_of_transformed = []
    for part in batch_slices(len(images), images.shape[2] * images.shape[3]):
        target = transform(images[part])
        moved = _transform_tokens(model.encode(images[part]), transform)
        direct = model.encode(target)
        mse.append(_squared_error(model.decode(moved), target))
        direct_mse.append(_squared_error(model.decode(direct), target))
        transformed_latents.append(moved.latents.float().cpu())
        latents_of_transformed.append(direct.latents.float().cpu())
    return _Comparison(
        mse=np.concatenate(mse),
        direct_mse=np.concatenate(direct_mse),
        latent_errors=latent_errors(
            torch.cat(transformed_latents), torch.cat(latents_of_transformed)
        ),
    )


def latent_errors(transformed: Tensor, expected: Tensor) -> tuple[float, float]:
    """Compare transformed latents T E(x) with the latents E(Tx) of transformed images.

    Channels are scaled to the deviation of the latter.

    Parameters
    ----------
    transformed, expected : Tensor of shape (n_images, n_tokens, dim)
        T E(x) and E(Tx).

    Returns
    -------
    raw, place_free : float
        Mean squared difference divided by the variance over images at each position. The second
        is without the mean of each position: 0 is exact, 1 a constant, and 2 unrelated latents.
    """
    deviation = expected.double().std(dim=(0, 1))
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    first = transformed.double() / deviation
    second = expected.double() / deviation
    centered_first = first - first.mean(dim=0)
    centered_second = second - second.mean(dim=0)
    variance = centered_second.square().sum()
    if not variance > 0:
        return float("nan"), float("nan")
    raw = (first - second).square().sum() / variance
    place_free = (centered_first - centered_second).square().sum() / variance
    return raw.item(), place_free.item()


def _applies(model: Tokenizer, images: Images, name: str) -> bool:
    """Return True if images and latents can be transformed, and the tokenizer takes the results."""
    tokens = model.encode(images[:1])
    assert tokens.grid is not None
    rows, columns = tokens.grid
    if name == "mirror":
        return True
    if name == "quarter turn":
        return rows == columns and images.shape[2] == images.shape[3]
    if rows % 2 or columns % 2:
        return False
    transform = TRANSFORMS[name]
    target = transform(images[:1])
    try:
        encoded = model.encode(target)
        decoded = model.decode(_transform_tokens(tokens, transform))
    except (RuntimeError, ValueError):
        return False  # it takes images of one size only
    return encoded.grid == (rows // 2, columns // 2) and decoded.shape == target.shape


def _transform_tokens(tokens: Tokens, transform: Callable[[Tensor], Tensor]) -> Tokens:
    assert tokens.grid is not None
    rows, columns = tokens.grid
    maps = transform(rearrange(tokens.latents, "b (h w) d -> b d h w", h=rows, w=columns))
    return Tokens(
        rearrange(maps, "b d h w -> b (h w) d").contiguous(), grid=(maps.shape[2], maps.shape[3])
    )


def _squared_error(decoded: Images, target: Images) -> np.ndarray:
    difference = (decoded.clamp(-1, 1) - target) / 2
    return difference.square().mean(dim=(1, 2, 3)).float().cpu().numpy()
