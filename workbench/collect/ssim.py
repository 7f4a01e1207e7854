"""Structural similarity of images (Wang et al. 2004)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core.types import Images

WINDOW = 7  # pixels; for smaller images, the widest odd window that fits
C1, C2 = 0.01**2, 0.03**2  # for pixels in [0, 1]


def ssim(a: Images, b: Images) -> Float[Tensor, " b"]:
    """Compute the structural similarity of images in [-1, 1].

    Both are rounded to 256 gray levels first. The result is the mean over channels and over the
    windows inside the image. Every pixel of a window has the same weight, and covariances are
    unbiased.
    """
    a, b = (((x.double() + 1) * 127.5).round() / 255 for x in (a, b))
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
