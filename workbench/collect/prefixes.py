"""What a decoder makes of an image's first tokens alone."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.collect.images import MAX_ARRAY_BYTES, pooled_features, to_uint8
from workbench.core.types import Images, Tokens
from workbench.features import FeatureExtractor
from workbench.tokenizers.base import Tokenizer

SIDE = 7  # pixels of the window of SSIM; of smaller images the widest odd one that fits
FIRST, SECOND = 0.01**2, 0.03**2  # its C1 and C2, for pixels in [0, 1]


def prefix_lengths(tokens: int) -> list[int]:
    """The token counts that are decoded alone: powers of two, and all."""
    return sorted({tokens, *(2**i for i in range(tokens.bit_length()) if 2**i <= tokens)})


def prefix_metrics(
    model: Tokenizer, tokens: Tokens, images: Images, feature_extractor: FeatureExtractor, of: int
) -> dict[str, np.ndarray]:
    """Errors per pixel in [0, 1], SSIM and features, when the decoder may look at the first tokens only.

    A row an image. Features are of as many prefixes, the shortest first, as have room where there are `of` images.
    """
    count = tokens.latents.shape[1]
    found: dict[str, list] = {
        "prefix_mse": [],
        "prefix_l1": [],
        "prefix_ssim": [],
        "prefix_features": [],
    }
    for length in prefix_lengths(count):
        active = (torch.arange(count, device=images.device) < length).expand(
            tokens.latents.shape[:2]
        )
        if tokens.active is not None:
            active = active & tokens.active
        decoded = model.decode(Tokens(tokens.latents, tokens.codes, active, tokens.grid)).clamp(
            -1, 1
        )
        difference = (decoded - images) / 2
        found["prefix_mse"].append(difference.square().mean(dim=(1, 2, 3)).cpu().numpy())
        found["prefix_l1"].append(difference.abs().mean(dim=(1, 2, 3)).cpu().numpy())
        found["prefix_ssim"].append(ssim(decoded, images).cpu().numpy())
        if (len(found["prefix_features"]) + 1) * of * feature_extractor.dim * 4 <= MAX_ARRAY_BYTES:
            found["prefix_features"].append(
                pooled_features(feature_extractor, to_uint8(decoded), images.device)
            )
    return {name: np.stack(several, axis=1) for name, several in found.items() if several}


def ssim(a: Images, b: Images) -> Float[Tensor, " b"]:
    """The structural similarity (Wang et al. 2004) of images in [-1, 1]; both are rounded to 256 shades first.

    The mean over channels and windows that lie inside, every pixel counting alike, with unbiased covariances.
    """
    a, b = (((x.double() + 1) * 127.5).round() / 255 for x in (a, b))
    side = min(SIDE, (min(a.shape[2:]) - 1) // 2 * 2 + 1)
    unbiased = side**2 / max(side**2 - 1, 1)

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, side, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    spread = (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2) * unbiased
    together = (mean(a * b) - mean_a * mean_b) * unbiased
    index = (2 * mean_a * mean_b + FIRST) * (2 * together + SECOND)
    return (
        (index / ((mean_a**2 + mean_b**2 + FIRST) * (spread + SECOND))).mean(dim=(1, 2, 3)).float()
    )
