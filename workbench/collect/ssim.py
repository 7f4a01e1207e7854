"""Structural similarity of images (Wang et al. 2004), and at several scales (Wang et al. 2003).

Images are rounded to 256 levels first, and the data range is 1 for pixels in [0, 1].
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.types import Images

WINDOW = 7  # pixels; for smaller images, the widest odd window that fits
C1, C2 = 0.01**2, 0.03**2  # for pixels in [0, 1]
GAUSSIAN_WINDOW = 11  # pixels
GAUSSIAN_DEVIATION = 1.5  # pixels
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of the scales, finest first
# Below this side, the window does not fit into the coarsest scale.
MS_SSIM_MIN_SIDE = GAUSSIAN_WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)


def ssim(a: Images, b: Images) -> Float[Tensor, " b"]:
    """Compute the structural similarity of images in [-1, 1].

    Both are rounded to 256 gray levels first. The result is the mean over channels and over the
    windows inside the image. Every pixel of a window has the same weight, and covariances are
    unbiased.
    """
    a, b = _rounded(a), _rounded(b)
    window = min(WINDOW, (min(a.shape[2:]) - 1) // 2 * 2 + 1)
    unbiased = window**2 / max(window**2 - 1, 1)

    def window_mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1)

    mean_a, mean_b = window_mean(a), window_mean(b)
    variances = (window_mean(a * a) - mean_a**2 + window_mean(b * b) - mean_b**2) * unbiased
    covariance = (window_mean(a * b) - mean_a * mean_b) * unbiased
    index = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    index = index / ((mean_a**2 + mean_b**2 + C1) * (variances + C2))
    return index.mean(dim=(1, 2, 3)).float()


def gaussian_ssim(a: Images, b: Images) -> Float[Tensor, " b"]:
    """Compute the structural similarity with the Gaussian window of the paper.

    The window has 11 x 11 pixels with a standard deviation of 1.5; images have at least as many
    pixels. This is what torchmetrics and pytorch-msssim compute with a data range of 1.

    Parameters
    ----------
    a, b : Tensor, shape (batch, channels, height, width)
        Images with values in [-1, 1].

    Returns
    -------
    Tensor, shape (batch,)
        Mean over channels and windows; 1 for equal images.

    Raises
    ------
    UserError
        If the images are smaller than the window.
    """
    _require_side(a, GAUSSIAN_WINDOW, "SSIM with a Gaussian window")
    luminance, contrast = _gaussian_terms(_rounded(a), _rounded(b))
    return (luminance * contrast).mean(dim=(1, 2, 3)).float()


def ms_ssim(a: Images, b: Images) -> Float[Tensor, " b"]:
    """Compute the multi-scale structural similarity over five scales.

    Each scale halves the image by averaging 2 x 2 pixels. The contrast terms of the first four
    scales and the whole index of the last one are multiplied with the exponents of the paper.
    Negative terms count as zero.

    Parameters
    ----------
    a, b : Tensor, shape (batch, channels, height, width)
        Images with values in [-1, 1], of at least 176 pixels.

    Returns
    -------
    Tensor, shape (batch,)
        Mean over channels, in [0, 1]; 1 for equal images.

    Raises
    ------
    UserError
        If the images are too small for five scales.
    """
    _require_side(a, MS_SSIM_MIN_SIDE, "MS-SSIM")
    a, b = _rounded(a), _rounded(b)
    index = torch.ones(a.shape[:2], dtype=a.dtype, device=a.device)
    last = len(MS_SSIM_WEIGHTS) - 1
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        luminance, contrast = _gaussian_terms(a, b)
        terms = luminance * contrast if scale == last else contrast
        index = index * terms.mean(dim=(2, 3)).clamp_min(0) ** weight
        if scale < last:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return index.mean(dim=1).float()


def _rounded(images: Images) -> Float[Tensor, "b c h w"]:
    """Round images in [-1, 1] to 256 levels in [0, 1]."""
    return ((images.double().clamp(-1, 1) + 1) * 127.5).round() / 255


def _gaussian_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the luminance term, and the term of contrast and structure, of every window."""
    positions = torch.arange(GAUSSIAN_WINDOW, device=a.device, dtype=a.dtype)
    kernel = torch.exp(-((positions - GAUSSIAN_WINDOW // 2) / GAUSSIAN_DEVIATION).square() / 2)
    kernel = kernel / kernel.sum()
    channels = a.shape[1]
    column = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)

    def window_mean(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, column, groups=channels), row, groups=channels)

    mean_a, mean_b = window_mean(a), window_mean(b)
    variances = window_mean(a * a) - mean_a**2 + window_mean(b * b) - mean_b**2
    covariance = window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)


def _require_side(images: Tensor, min_side: int, metric: str) -> None:
    side = min(images.shape[2:])
    if side < min_side:
        raise UserError(f"{metric} needs images of at least {min_side} pixels, got {side}.")
