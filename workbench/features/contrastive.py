"""A self-supervised network for machines without downloaded weights, trained by contrastive
learning.

After SimCLR (arXiv:2002.05709): the network distinguishes two views of an image from the views of
all other images.

Differences from the paper: five small convolutions with group norms; crops, contrast and brightness
per channel are the only augmentations; 64 images per batch. Training takes half a minute on a CPU
instead of days on many GPUs.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import RunError, UserError
from workbench.core.types import Images, Objective
from workbench.storage.run import Run
from workbench.storage.run_config import RunConfig
from workbench.training import TrainConfig, fit

CHANNELS_PER_GROUP = 8  # of the group norms
TEMPERATURE = 0.2  # of the similarities


@runtime_checkable
class TrainingImages(Protocol):
    """Images for training: a `MapDataset` with the properties that identify it."""

    source: str
    fingerprint: str

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Return the images at some indices."""
        ...


class ContrastiveNet(nn.Module):
    """Map images of any size to feature maps with a quarter of their side.

    Parameters
    ----------
    config : ContrastiveNet.Config
        The settings.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of the network."""

        channels: int = 3  # 1 for gray, 3 for RGB
        width: int = 16  # channels after the first convolution; features have four times as many

        def __post_init__(self) -> None:
            if self.width < CHANNELS_PER_GROUP or self.width % CHANNELS_PER_GROUP:
                raise UserError(
                    f"width must be a multiple of {CHANNELS_PER_GROUP}, such as 16, 32 or 64; "
                    f"got {self.width}."
                )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.dim = 4 * config.width
        self.trunk = nn.Sequential(
            _convolution(config.channels, config.width),
            _convolution(config.width, 2 * config.width, stride=2),
            _convolution(2 * config.width, 2 * config.width),
            _convolution(2 * config.width, self.dim, stride=2),
            _convolution(self.dim, self.dim),
        )
        self.head = nn.Sequential(
            nn.Linear(self.dim, self.dim), nn.GELU(), nn.Linear(self.dim, self.dim)
        )

    def forward(self, images: Images) -> Float[Tensor, "b e rows columns"]:
        """Return the feature maps, without the head that only training uses."""
        return self.trunk(images)

    def objective(self, images: Images) -> Objective:
        """Return the cross-entropy of identifying the other view of each image in the batch."""
        views = torch.cat([random_view(images), random_view(images)])
        points = F.normalize(self.head(self(views).mean(dim=(2, 3))), dim=1)
        is_self = torch.eye(len(points), dtype=torch.bool, device=points.device)
        similarities = (points @ points.T / TEMPERATURE).masked_fill(is_self, -torch.inf)
        partner = torch.arange(len(points), device=points.device).roll(len(images))
        return Objective({"contrastive": F.cross_entropy(similarities, partner)})


def random_view(images: Images) -> Images:
    """Augment images.

    Each image becomes a random crop of at least half its side, at full size, with the contrast and
    the brightness of each channel changed.

    Parameters
    ----------
    images : Tensor, shape (batch, channels, height, width)
        Images with values in [-1, 1].

    Returns
    -------
    Tensor, shape (batch, channels, height, width)
        The augmented images.
    """
    b, c = images.shape[:2]
    scale = torch.empty(b, device=images.device).uniform_(0.5, 1)
    offset = (torch.rand(b, 2, device=images.device) * 2 - 1) * (1 - scale)[:, None]
    crop = torch.cat([torch.diag_embed(scale[:, None].expand(b, 2)), offset[:, :, None]], dim=2)
    positions = F.affine_grid(crop, list(images.shape), align_corners=False)
    cropped = F.grid_sample(images, positions, align_corners=False)
    contrast = torch.empty(b, c, 1, 1, device=images.device).uniform_(0.6, 1.4)
    brightness = torch.empty(b, c, 1, 1, device=images.device).uniform_(-0.3, 0.3)
    return cropped * contrast + brightness


def train_contrastive(
    images: TrainingImages,
    out: str | Path,
    *,
    width: int = 16,
    train_config: TrainConfig | None = None,
) -> Run:
    """Train a contrastive network, or resume an interrupted training.

    Parameters
    ----------
    images : ImageSet
        Training images.
    out : path
        Folder of the run. It is also the name of the feature extractor.
    width : int
        Channels after the first convolution, a multiple of 8.
    train_config : TrainConfig, optional
        Training settings; 200 steps by default.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    RunError
        If the folder contains a run with other images or settings.
    """
    train_config = train_config or TrainConfig(
        steps=200, batch_size=64, warmup_steps=20, save_every=100
    )
    (first,) = images.batch(torch.arange(1))
    settings = ContrastiveNet.Config(channels=first.shape[1], width=width)
    config = RunConfig.from_dict(
        {
            "class": "workbench.features.contrastive:ContrastiveNet",
            "settings": asdict(settings),
            "training": train_config.to_dict(),
            "data": {"source": images.source, "fingerprint": images.fingerprint},
        }
    )
    run = Run(out) if (Path(out) / "config.json").exists() else Run.create(out, config)
    for name in ("class_path", "settings", "training", "data"):
        if getattr(run.config, name) != getattr(config, name):
            raise RunError(
                f"{out} contains a run with another `{name}`. Choose another folder for this one."
            )
    torch.manual_seed(train_config.seed)
    for _ in fit(run.build(), images, train_config, run):
        pass
    return run


def _convolution(in_width: int, width: int, *, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(width // CHANNELS_PER_GROUP, width), nn.GELU())
