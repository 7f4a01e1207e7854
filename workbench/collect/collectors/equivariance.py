"""Latents and reconstructions of mirrored, turned and shrunken images."""

from collections.abc import Callable, Mapping, Sequence
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
from workbench.core.moments import mean_and_scale
from workbench.core.types import Images, Tokens
from workbench.tokenizers.base import Tokenizer

MAX_IMAGES = 128  # a mean of errors needs no more
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
            "1-D tokens have no position in the image, so that mirroring, turning and shrinking are"
            " not defined for them."
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
    """The errors of one transform; NaN where the tokenizer does not take its results."""

    mse: np.ndarray  # (n_images,), of the decoded transformed latents
    direct_mse: np.ndarray  # (n_images,), of the reconstructions of the transformed images
    latent_errors: tuple[float, float]  # raw, and without the mean at each position


def _compare(model: Tokenizer, images: Images, name: str) -> _Comparison:
    transform = TRANSFORMS[name]
    mse = np.full(len(images), np.nan, np.float32)
    direct_mse = mse.copy()
    errors = (float("nan"), float("nan"))
    if _is_defined(model, images, name):
        moved = [
            _transform_tokens(model.encode(images[part]), transform) for part in _parts(images)
        ]
        targets = [transform(images[part]) for part in _parts(images)]
        if _takes(lambda: model.decode(_first(moved[0])).shape == targets[0][:1].shape):
            mse = _squared_errors(model, moved, targets)
        if _takes(lambda: model.encode(targets[0][:1]).grid == moved[0].grid):
            direct = [model.encode(target) for target in targets]
            direct_mse = _squared_errors(model, direct, targets)
            errors = latent_errors(_latents(moved), _latents(direct))
    return _Comparison(mse=mse, direct_mse=direct_mse, latent_errors=errors)


def latent_errors(transformed: Tensor, expected: Tensor) -> tuple[float, float]:
    """Compare transformed latents T E(x) with the latents E(Tx) of transformed images.

    Channels are scaled to the standard deviation of the latter.

    Parameters
    ----------
    transformed, expected : Tensor of shape (n_images, n_tokens, dim)
        T E(x) and E(Tx).

    Returns
    -------
    raw, centered : float
        Mean squared difference divided by the variance over images at each position, the mean of
        both latents': a transform that averages has less. The second is without the mean of each
        position: 0 is exact, and 2 are unrelated latents.
    """
    deviation = torch.from_numpy(mean_and_scale(expected.numpy(), axis=(0, 1))[1])
    first = transformed.double() / deviation
    second = expected.double() / deviation
    centered_first = first - first.mean(dim=0)
    centered_second = second - second.mean(dim=0)
    variance = (centered_first.square().sum() + centered_second.square().sum()) / 2
    if not variance > 0:
        return float("nan"), float("nan")
    raw = (first - second).square().sum() / variance
    centered = (centered_first - centered_second).square().sum() / variance
    return raw.item(), centered.item()


def _is_defined(model: Tokenizer, images: Images, name: str) -> bool:
    """Return True if the transform maps images and grids to images and grids."""
    grid = model.encode(images[:1]).grid
    assert grid is not None
    if name == "quarter turn":
        return grid[0] == grid[1] and images.shape[2] == images.shape[3]
    return name == "mirror" or not (grid[0] % 2 or grid[1] % 2)


def _takes(is_possible: Callable[[], bool]) -> bool:
    """Return False if a tokenizer that takes one size only refuses another one."""
    try:
        return is_possible()
    except (RuntimeError, ValueError):
        return False


def _parts(images: Images) -> list[slice]:
    return list(batch_slices(len(images), images.shape[2] * images.shape[3]))


def _first(tokens: Tokens) -> Tokens:
    return Tokens(tokens.latents[:1], grid=tokens.grid)


def _latents(parts: Sequence[Tokens]) -> Tensor:
    return torch.cat([tokens.latents.float().cpu() for tokens in parts])


def _transform_tokens(tokens: Tokens, transform: Callable[[Tensor], Tensor]) -> Tokens:
    assert tokens.grid is not None
    rows, columns = tokens.grid
    maps = transform(rearrange(tokens.latents, "b (h w) d -> b d h w", h=rows, w=columns))
    return Tokens(
        rearrange(maps, "b d h w -> b (h w) d").contiguous(), grid=(maps.shape[2], maps.shape[3])
    )


def _squared_errors(
    model: Tokenizer, parts: Sequence[Tokens], targets: Sequence[Tensor]
) -> np.ndarray:
    """Return the mean squared error of each decoded image, pixels in [0, 1]."""
    errors = []
    for tokens, target in zip(parts, targets, strict=True):
        difference = (model.decode(tokens).clamp(-1, 1) - target) / 2
        errors.append(difference.square().mean(dim=(1, 2, 3)).float().cpu().numpy())
    return np.concatenate(errors)
