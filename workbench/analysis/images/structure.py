"""Structural similarity of images.

The implementation in `workbench.collect` runs on tensors on a device; this one runs on stored
images.
"""

import numpy as np

WINDOW_SIZE = 7  # pixels; the largest odd size that fits for smaller images
LUMINANCE_CONSTANT = 0.01**2  # C1, for pixels in [0, 1]
CONTRAST_CONSTANT = 0.03**2  # C2, for pixels in [0, 1]


def ssim(images: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Compute the structural similarity index of image pairs.

    The index is averaged over channels and over all windows inside the image. Windows are uniform
    and covariances unbiased, which are the defaults of scikit-image.

    Parameters
    ----------
    images, references : ndarray of uint8, shape (n, h, w, c)
        Images to compare, in pairs.

    Returns
    -------
    ndarray of float64, shape (n,)
        1 for equal images.

    References
    ----------
    Wang et al. (2004), "Image quality assessment: from error visibility to structural similarity".

    Examples
    --------
    >>> images = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    >>> ssim(images, images).tolist()
    [1.0]
    """
    return np.array(
        [
            _ssim_of_pair(np.asarray(a) / 255.0, np.asarray(b) / 255.0)
            for a, b in zip(images, references, strict=True)
        ]
    )


def _ssim_of_pair(a: np.ndarray, b: np.ndarray) -> float:
    size = min(WINDOW_SIZE, (min(a.shape[:2]) - 1) // 2 * 2 + 1)
    x, y = _windows(a, size), _windows(b, size)
    mean_x, mean_y = x.mean(axis=-1), y.mean(axis=-1)
    x, y = x - mean_x[..., None], y - mean_y[..., None]
    degrees_of_freedom = max(size * size - 1, 1)
    variances = ((x * x).sum(axis=-1) + (y * y).sum(axis=-1)) / degrees_of_freedom
    covariance = (x * y).sum(axis=-1) / degrees_of_freedom
    numerator = (2 * mean_x * mean_y + LUMINANCE_CONSTANT) * (2 * covariance + CONTRAST_CONSTANT)
    luminance = mean_x**2 + mean_y**2 + LUMINANCE_CONSTANT
    return float((numerator / (luminance * (variances + CONTRAST_CONSTANT))).mean())


def _windows(image: np.ndarray, size: int) -> np.ndarray:
    """Return all windows of an image (h, w, c) as rows: (rows, columns, c, size * size)."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(0, 1))
    return windows.reshape(*windows.shape[:3], size * size)
