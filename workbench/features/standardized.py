"""A teacher whose every channel has mean 0 and deviation 1 over a set of images.

Features after a ReLU all point one way: their cosines are high whatever an image shows, so a constant would already be
aligned with them. What is left when the common part is taken away tells images apart.
"""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.features.base import FeatureExtractor
from workbench.features.cache import BATCH, Pictures
from workbench.storage.atomic import atomic_path


class StandardizedExtractor(FeatureExtractor):
    """Another teacher's features, less their mean and over their deviation, which `standardise` left in a file."""

    def __init__(self, teacher: FeatureExtractor, path: str | Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path} holds no means of features ({str(error).splitlines()[0]})."
            ) from None
        if found.keys() != {"mean", "deviation"} or any(
            x.shape != (teacher.dim,) for x in found.values()
        ):
            raise UserError(
                f"{path} was not made by `standardise` for {teacher.name}, which has {teacher.dim} channels."
            )
        self.mean, self.deviation = found["mean"], found["deviation"]
        self.teacher, self.name = teacher, f"standardised:{teacher.name}"
        self.dim, self.directional = teacher.dim, teacher.directional

    @property
    def fingerprint(self) -> str:
        """The plain features', and the numbers they are changed by."""
        told = b"".join(x.numpy().tobytes() for x in (self.mean, self.deviation))
        return f"standardised-{hashlib.sha256(told).hexdigest()[:8]}-{self.teacher.fingerprint}"

    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """The features, by channel."""
        found = self.teacher.features(images, grid)
        return (found - self.mean.to(found)) / self.deviation.to(found)


@torch.no_grad()
def fit_standardization(
    teacher: FeatureExtractor, pictures: Pictures, grid: tuple[int, int], path: str | Path
) -> StandardizedExtractor:
    """The teacher by the mean and deviation of its features of some images in the cells of a grid, kept in a file.

    A channel that never changes keeps its deviation of 1. A file that is there already is read.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if not path.exists():
        count, total, squares = (
            0,
            torch.zeros(teacher.dim).double(),
            torch.zeros(teacher.dim).double(),
        )
        for start in range(0, len(pictures), BATCH):
            part = slice(start, min(start + BATCH, len(pictures)))
            rows = teacher.features(pictures.images(part), grid).flatten(0, 1).double().cpu()
            count, total, squares = (
                count + len(rows),
                total + rows.sum(dim=0),
                squares + rows.square().sum(dim=0),
            )
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        deviation = torch.where(deviation > 1e-6, deviation, 1.0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as beside:
            save_file({"mean": mean.float(), "deviation": deviation.float()}, beside)
    return StandardizedExtractor(teacher, path)
