"""Features whose channels have mean 0 and standard deviation 1 over a set of images.

Features after a ReLU all point in similar directions: their cosines are high for any two images, so
that a constant would already be aligned with them. The remainder after subtracting the common part
distinguishes images.
"""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.features.base import FeatureExtractor
from workbench.features.cache import BATCH_SIZE, FingerprintedImages
from workbench.storage.atomic import atomic_path

MIN_DEVIATION = 1e-6  # of a channel; below it, the channel is constant


class StandardizedExtractor(FeatureExtractor):
    """Features of another extractor, minus their mean and divided by their standard deviation.

    Parameters
    ----------
    extractor : FeatureExtractor
        Source of the features.
    path : path
        File of `fit_standardization`.

    Raises
    ------
    UserError
        If the file is missing or belongs to another extractor.
    """

    def __init__(self, extractor: FeatureExtractor, path: str | Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            statistics = load_file(path)
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} does not contain statistics of features ({reason}).") from None
        shapes = {name: tuple(values.shape) for name, values in statistics.items()}
        if shapes != {"mean": (extractor.dim,), "deviation": (extractor.dim,)}:
            raise UserError(
                f"{path} must come from `fit_standardization` for {extractor.name}, "
                f"which has {extractor.dim} channels; it contains {shapes}."
            )
        self.mean, self.deviation = statistics["mean"], statistics["deviation"]
        self.extractor = extractor
        self.name = f"standardized:{extractor.name}"
        self.dim = extractor.dim
        self.directional = extractor.directional

    @property
    def fingerprint(self) -> str:
        """Return a key of the original features and the statistics."""
        values = b"".join(x.numpy().tobytes() for x in (self.mean, self.deviation))
        digest = hashlib.sha256(values).hexdigest()[:8]
        # The spelling is part of the names of cached features.
        return f"standardised-{digest}-{self.extractor.fingerprint}"

    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Return the standardized features."""
        features = self.extractor.features(images, grid)
        return (features - self.mean.to(features)) / self.deviation.to(features)


@torch.no_grad()
def fit_standardization(
    extractor: FeatureExtractor,
    image_set: FingerprintedImages,
    grid: tuple[int, int],
    path: str | Path,
) -> StandardizedExtractor:
    """Compute mean and standard deviation of the features of images, and store them in a file.

    A constant channel gets a standard deviation of 1. An existing file is read.

    Parameters
    ----------
    extractor : FeatureExtractor
        Source of the features.
    image_set : FingerprintedImages
        The images.
    grid : tuple of int
        Rows and columns of the grid of features.
    path : path
        File of the statistics.

    Returns
    -------
    StandardizedExtractor
        The extractor of the standardized features.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if not path.exists():
        count = 0
        total = torch.zeros(extractor.dim).double()
        squares = torch.zeros(extractor.dim).double()
        for start in range(0, len(image_set), BATCH_SIZE):
            indices = slice(start, min(start + BATCH_SIZE, len(image_set)))
            features = extractor.features(image_set.images(indices), grid)
            rows = features.flatten(0, 1).double().cpu()
            count += len(rows)
            total = total + rows.sum(dim=0)
            squares = squares + rows.square().sum(dim=0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        deviation = torch.where(deviation > MIN_DEVIATION, deviation, 1.0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as tmp:
            save_file({"mean": mean.float(), "deviation": deviation.float()}, tmp)
    return StandardizedExtractor(extractor, path)
