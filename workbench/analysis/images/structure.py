"""How alike the structure of two images is: the structural similarity index (Wang et al. 2004)."""

import numpy as np

SIDE = 7  # pixels of the window; of smaller images the widest odd one that fits
FIRST, SECOND = 0.01**2, 0.03**2  # C1 and C2, for pixels in [0, 1]


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The structural similarity (n,) of uint8 images (n, h, w, c) to others, 1 where they are the same.

    The mean over channels and all windows that lie inside, every pixel of a window counting alike, with unbiased
    covariances: what scikit-image does unless told otherwise.
    """
    return np.array(
        [
            _one(np.asarray(a) / 255.0, np.asarray(b) / 255.0)
            for a, b in zip(images, others, strict=True)
        ]
    )


def _one(a: np.ndarray, b: np.ndarray) -> float:
    side = min(SIDE, (min(a.shape[:2]) - 1) // 2 * 2 + 1)
    windows = (
        np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(0, 1)) for x in (a, b)
    )
    x, y = (w.reshape(*w.shape[:3], side * side) for w in windows)
    mean_x, mean_y, free = x.mean(axis=-1), y.mean(axis=-1), max(side * side - 1, 1)
    x, y = x - mean_x[..., None], y - mean_y[..., None]
    spread = ((x * x).sum(axis=-1) + (y * y).sum(axis=-1)) / free
    together = (x * y).sum(axis=-1) / free
    index = (2 * mean_x * mean_y + FIRST) * (2 * together + SECOND)
    return float((index / ((mean_x**2 + mean_y**2 + FIRST) * (spread + SECOND))).mean())
