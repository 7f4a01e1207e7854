"""Pretrained vision transformers from the hub or a local folder, through `transformers`: DINOv2,
CLIP and SigLIP.

Each family gets images as it was trained: with its own mean, deviation and resolution.
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

from workbench.core.errors import UserError, missing_extra, unknown
from workbench.core.types import Images
from workbench.features.base import FeatureExtractor, match_channels, resize_to_grid, weights_digest

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Family:
    """Properties that the models of one paper share."""

    model_class: str  # class of the image tower in transformers
    default_model: str  # name on the hub
    mean: Color  # of RGB in [0, 1]
    std: Color
    resolution: int | None = None  # pixels; None: the model's own


FAMILIES = {
    # Its positions were trained at 518 pixels and are interpolated; 224 is its usual crop.
    "dinov2": Family(
        model_class="Dinov2Model",
        default_model="facebook/dinov2-small",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        resolution=224,
    ),
    "clip": Family(
        model_class="CLIPVisionModel",
        default_model="openai/clip-vit-base-patch16",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    "siglip": Family(
        model_class="SiglipVisionModel",
        default_model="google/siglip-base-patch16-224",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
}


class HubExtractor(FeatureExtractor):
    """Patch features of a pretrained model, without its class and register tokens.

    Weights are loaded on first use.

    Parameters
    ----------
    family : str
        A key of `FAMILIES`.
    model : str
        Name on the hub or local folder; by default, the family's default model.

    Raises
    ------
    UserError
        If the family is unknown, or if the model is neither on this machine nor can be downloaded.
    """

    directional = True

    def __init__(self, family: str, model: str = "") -> None:
        if family not in FAMILIES:
            raise unknown("family of feature extractors", family, FAMILIES)
        self.family = FAMILIES[family]
        self.model = model or self.family.default_model
        self.name = f"{family}:{self.model}"
        is_folder = self.model.startswith(("/", ".", "~"))
        if is_folder and not Path(self.location).is_dir():
            raise UserError(
                f"The feature extractor {self.name} needs the folder {self.model}, "
                "which does not exist."
            )
        self.config = self._load(self._model_class().config_class)
        self.dim = self.config.hidden_size
        self.resolution = self.family.resolution or self.config.image_size

    @property
    def fingerprint(self) -> str:
        """Return a key of the weights and of the preprocessing."""
        return f"{self.family}-{weights_digest(self.network)}"

    @cached_property
    def network(self) -> nn.Module:
        """Return the frozen image tower."""
        return self._load(self._model_class(), use_safetensors=True).eval().requires_grad_(False)

    def preprocess(self, images: Images) -> Float[Tensor, "b 3 side side"]:
        """Resize and normalize images with values in [-1, 1] as in the model's training."""
        size = (self.resolution, self.resolution)
        resized = F.interpolate(
            match_channels(images, 3).float(), size, mode="bicubic", antialias=True
        )
        mean = images.new_tensor(self.family.mean)[:, None, None]
        std = images.new_tensor(self.family.std)[:, None, None]
        return ((resized.clamp(-1, 1) + 1) / 2 - mean) / std

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Return the patch features of the last layer, resized to the grid."""
        network = self.network.to(images.device)
        rows = network(pixel_values=self.preprocess(images)).last_hidden_state
        return resize_to_grid(self._patch_maps(rows), grid)

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """Return the patch features after each quarter of the blocks."""
        network = self.network.to(images.device)
        states = network(
            pixel_values=self.preprocess(images), output_hidden_states=True
        ).hidden_states
        blocks = len(states) - 1
        return [self._patch_maps(states[max(1, blocks * quarter // 4)]) for quarter in (1, 2, 3, 4)]

    @property
    def location(self) -> str:
        """Return the name on the hub, or the path of the folder."""
        return str(Path(self.model).expanduser()) if self.model.startswith("~") else self.model

    def _patch_maps(self, rows: Tensor) -> Float[Tensor, "b e h w"]:
        side = self.resolution // self.config.patch_size
        # Class and register tokens come first.
        return rearrange(rows[:, -(side**2) :], "b (h w) e -> b e h w", h=side)

    def _model_class(self) -> Any:
        try:
            import transformers
        except ModuleNotFoundError:
            subject = f"The feature extractor {self.name}"
            raise missing_extra("transformers", "teachers", subject) from None
        return getattr(transformers, self.family.model_class)

    def _load(self, loadable: Any, **options: Any) -> Any:
        """Load a configuration or a model from this machine, or download it."""
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        # Otherwise it would list every weight of a text tower that is not needed.
        logging.set_verbosity_error()
        try:
            try:
                return loadable.from_pretrained(self.location, local_files_only=True, **options)
            except OSError:
                return loadable.from_pretrained(self.location, **options)
        except (OSError, ValueError) as error:
            family = self.name.partition(":")[0]
            raise UserError(
                f"The feature extractor {self.name} is not on this machine and could not be "
                "downloaded. On a machine with network access, run "
                f"`hf download {self.model} --local-dir FOLDER`, "
                f"copy FOLDER to this machine, and use the name {family}:FOLDER."
            ) from error
        finally:
            logging.set_verbosity(verbosity)
