"""A self-supervised network for machines without weights: it tells two views of an image from all other images' views.

After SimCLR (arXiv:2002.05709). Here: five small convolutions with group norms, crops and channel-wise contrast and
brightness as the only changes of view, 64 images a batch: half a minute on a CPU instead of days on many GPUs.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import RunError, UserError
from workbench.core.types import Images, Objective
from workbench.storage.run import Run
from workbench.training import MapDataset, TrainConfig, fit

GROUP = 8  # channels a norm looks at together
TEMPERATURE = 0.2  # of the similarities


class ContrastiveNet(nn.Module):
    """Images of any size to feature maps of a quarter of their side."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes; images may have any side."""

        channels: int = 3  # 1 grey, 3 RGB
        width: int = 16  # channels after the first convolution; features have four times as many

        def __post_init__(self) -> None:
            if self.width < GROUP or self.width % GROUP:
                raise UserError(
                    f"width {self.width} is not a multiple of {GROUP}. Use {GROUP}, 16, 32 or 64."
                )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.dim = config, 4 * config.width
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
        """Feature maps, without the head that only training uses."""
        return self.trunk(images)

    def objective(self, images: Images) -> Objective:
        """Cross-entropy of finding, for each view, the other view of its image in the batch."""
        seen = torch.cat([another_view(images), another_view(images)])
        points = F.normalize(self.head(self(seen).mean(dim=(2, 3))), dim=1)
        itself = torch.eye(len(points), dtype=torch.bool, device=points.device)
        similarities = (points @ points.T / TEMPERATURE).masked_fill(itself, -torch.inf)
        partner = torch.arange(len(points), device=points.device).roll(len(images))
        return Objective({"contrastive": F.cross_entropy(similarities, partner)})


def another_view(images: Images) -> Images:
    """A random crop of at least half the side, at full size, with each channel's contrast and brightness changed."""
    b, c = images.shape[:2]
    share = torch.empty(b, device=images.device).uniform_(0.5, 1)
    place = (torch.rand(b, 2, device=images.device) * 2 - 1) * (1 - share)[:, None]
    crop = torch.cat([torch.diag_embed(share[:, None].expand(b, 2)), place[:, :, None]], dim=2)
    cropped = F.grid_sample(
        images, F.affine_grid(crop, list(images.shape), align_corners=False), align_corners=False
    )
    contrast = torch.empty(b, c, 1, 1, device=images.device).uniform_(0.6, 1.4)
    brightness = torch.empty(b, c, 1, 1, device=images.device).uniform_(-0.3, 0.3)
    return cropped * contrast + brightness


def train_contrastive(
    images: MapDataset, out: str | Path, *, width: int = 16, train_config: TrainConfig | None = None
) -> Run:
    """Train a contrastive network on images into a run's folder, or go on with one that was stopped.

    The folder is then the teacher's name. Raises RunError if it holds a run of other images, settings or training.
    """
    train_config = train_config or TrainConfig(
        steps=200, batch_size=64, warmup_steps=20, save_every=100
    )
    (first,) = images.batch(torch.arange(1))
    settings = ContrastiveNet.Config(channels=first.shape[1], width=width)
    config = {
        "class": "workbench.features.contrastive:ContrastiveNet",
        "settings": asdict(settings),
    }
    config |= {
        "training": asdict(train_config),
        "data": {name: getattr(images, name, None) for name in ("source", "fingerprint")},
    }
    run = Run(out) if (Path(out) / "config.json").exists() else Run.create(out, config)
    if any(run.config.get(name) != json.loads(json.dumps(told)) for name, told in config.items()):
        raise RunError(
            f"{out} holds a run of other images, settings or training; choose another folder for this one."
        )
    torch.manual_seed(train_config.seed)
    for _ in fit(run.build(), images, train_config, run):
        pass
    return run


def _convolution(inward: int, outward: int, *, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inward, outward, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(outward // GROUP, outward), nn.GELU())
