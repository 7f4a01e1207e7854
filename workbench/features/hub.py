"""Pretrained vision transformers from the hub or a local folder, through `transformers`: DINOv2, CLIP and SigLIP.

Each family sees images as it was trained to: its own mean, deviation and resolution.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.types import Images
from workbench.features.base import FeatureExtractor, match_channels, resize_to_grid, weights_digest

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Family:
    """What the models of one paper share."""

    model: str  # the image tower's class in transformers
    usual: str  # the model where none is named
    mean: Colour  # of RGB in [0, 1]
    std: Colour
    resolution: int | None = None  # pixels; None: the model's own


FAMILIES = {
    "dinov2": Family(  # its positions were trained at 518 pixels, and it interpolates them; 224 is its usual crop
        "Dinov2Model", "facebook/dinov2-small", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224
    ),
    "clip": Family(
        "CLIPVisionModel",
        "openai/clip-vit-base-patch16",
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "siglip": Family(
        "SiglipVisionModel", "google/siglip-base-patch16-224", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    ),
}


class HubExtractor(FeatureExtractor):
    """A pretrained model's patch features, without its class and register tokens. Weights are read when first used."""

    directional = True

    def __init__(self, family: str, model: str = "") -> None:
        if family not in FAMILIES:
            raise unknown("family of teachers", family, FAMILIES)
        self.family, self.model = FAMILIES[family], model or FAMILIES[family].usual
        self.name = f"{family}:{self.model}"
        if self.model.startswith(("/", ".", "~")) and not Path(self.place).is_dir():
            raise UserError(
                f"The teacher {self.name} needs the folder {self.model}, which does not exist."
            )
        self.config = self._read(self._tower().config_class)
        self.dim, self.resolution = (
            self.config.hidden_size,
            self.family.resolution or self.config.image_size,
        )

    @property
    def fingerprint(self) -> str:
        """The weights, wherever they lie, and how images are shown to them."""
        return f"{self.family}-{weights_digest(self.network)}"

    @cached_property
    def network(self) -> nn.Module:
        """The image tower, frozen."""
        return self._read(self._tower(), use_safetensors=True).eval().requires_grad_(False)

    def seen(self, images: Images) -> Float[Tensor, "b 3 side side"]:
        """Images in [-1, 1] as the model was trained to see them."""
        size = (self.resolution, self.resolution)
        enlarged = F.interpolate(
            match_channels(images, 3).float(), size, mode="bicubic", antialias=True
        )
        mean, std = (
            images.new_tensor(colour)[:, None, None]
            for colour in (self.family.mean, self.family.std)
        )
        return ((enlarged.clamp(-1, 1) + 1) / 2 - mean) / std

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """The last layer's patch features, resized to the grid."""
        rows = self.network.to(images.device)(pixel_values=self.seen(images)).last_hidden_state
        side = self.resolution // self.config.patch_size
        maps = rearrange(
            rows[:, -(side**2) :], "b (h w) e -> b e h w", h=side
        )  # class and registers come first
        return resize_to_grid(maps, grid)

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """Patch features after each quarter of the blocks."""
        told = self.network.to(images.device)(
            pixel_values=self.seen(images), output_hidden_states=True
        ).hidden_states
        side, blocks = self.resolution // self.config.patch_size, len(told) - 1
        chosen = [told[max(1, blocks * quarter // 4)] for quarter in (1, 2, 3, 4)]
        return [rearrange(rows[:, -(side**2) :], "b (h w) e -> b e h w", h=side) for rows in chosen]

    @property
    def place(self) -> str:
        """A hub name, or a folder."""
        return str(Path(self.model).expanduser()) if self.model.startswith("~") else self.model

    def _tower(self) -> Any:
        try:
            import transformers
        except ModuleNotFoundError:
            raise UserError(
                f"The teacher {self.name} needs transformers: pip install transformers"
            ) from None
        return getattr(transformers, self.family.model)

    def _read(self, kind: Any, **how: Any) -> Any:
        """Read from this machine; download only what is not here."""
        from transformers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity_error()  # it would list every weight of a text tower, which nobody asked for
        try:
            try:
                return kind.from_pretrained(self.place, local_files_only=True, **how)
            except OSError:
                return kind.from_pretrained(self.place, **how)
        except (OSError, ValueError) as error:
            raise UserError(
                f"The teacher {self.name} is neither on this machine nor could it be downloaded. On a machine with "
                f"network say `hf download {self.model} --local-dir FOLDER`, bring the FOLDER here, "
                f"and name the teacher {self.name.partition(':')[0]}:FOLDER."
            ) from error
        finally:
            logging.set_verbosity(before)
