"""Pretrained vision transformers from the hub or a local folder, through `transformers`: DINO,
DINOv2, CLIP and SigLIP.

Each family gets images as it was trained: with its own mean, standard deviation and resolution.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
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

    title: str
    model_class: str  # class of the image tower in transformers
    default_model: str  # name on the hub
    mean: Color  # of RGB in [0, 1]
    std: Color
    resolution: int | None = None  # pixels; None: the model's own
    # Class with a projection after the tower, whose output is the embedding of an image.
    projection_class: str = ""
    # Arguments with which the model is loaded.
    load_options: Mapping[str, Any] = field(default_factory=dict)
    has_class_token: bool = True


FAMILIES = {
    # Its weights have no pooling layer, which would be random.
    "dino": Family(
        title="DINO",
        model_class="ViTModel",
        default_model="facebook/dino-vits16",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        load_options={"add_pooling_layer": False},
    ),
    # Its positions were trained at 518 pixels and are interpolated; 224 is its usual crop.
    "dinov2": Family(
        title="DINOv2",
        model_class="Dinov2Model",
        default_model="facebook/dinov2-small",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        resolution=224,
    ),
    "clip": Family(
        title="CLIP",
        model_class="CLIPVisionModel",
        default_model="openai/clip-vit-base-patch16",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        projection_class="CLIPVisionModelWithProjection",
    ),
    "siglip": Family(
        title="SigLIP",
        model_class="SiglipVisionModel",
        default_model="google/siglip-base-patch16-224",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        has_class_token=False,
    ),
}
NUM_READOUTS = 5  # the embedded patches, and each quarter of the blocks


class HubExtractor(FeatureExtractor):
    """Patch features of a pretrained model, without its class and register tokens.

    The feature of a whole image is the model's own: the class token of DINO and DINOv2, the
    projected embedding of CLIP and the attention pool of SigLIP. Weights are loaded on first use.

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
    batch_size = 64
    num_readouts = NUM_READOUTS

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
    def pooled_dim(self) -> int:
        """Number of channels of an embedding, which a projection changes."""
        config = self.config
        return config.projection_dim if self.family.projection_class else config.hidden_size

    @property
    def title(self) -> str:
        """Return the name of the family and of the model."""
        return f"{self.family.title} ({self.model})"

    @property
    def protocol(self) -> str:
        """Return network, weights and resizing in one line."""
        return (
            f"{self.title}, weights {weights_digest(self.network)}, "
            f"bicubic resize to {self.resolution} × {self.resolution}"
        )

    @property
    def fingerprint(self) -> str:
        """Return a key of the weights and of the preprocessing."""
        return f"{self.family}-{weights_digest(self.network)}"

    @cached_property
    def network(self) -> nn.Module:
        """Return the frozen image tower."""
        options = dict(self.family.load_options)
        network = self._load(self._model_class(), use_safetensors=True, **options)
        return network.eval().requires_grad_(False)

    def preprocess(self, images: Images) -> Float[Tensor, "b 3 side side"]:
        """Resize and normalize images with values in [-1, 1] as in the model's training."""
        size = (self.resolution, self.resolution)
        resized = F.interpolate(
            match_channels(images, 3).float(), size, mode="bicubic", antialias=True
        )
        return self._normalize(resized.clamp(-1, 1))

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Return the patch features of the last layer, resized to the grid."""
        network = self.network.to(images.device)
        rows = network(pixel_values=self.preprocess(images)).last_hidden_state
        return resize_to_grid(self._patch_maps(rows), grid)

    @torch.no_grad()
    def pooled(self, images: Images) -> Float[Tensor, "b e"]:
        """Return the model's embedding of each image, which Fréchet distance and CMMD compare."""
        pixels = self.preprocess(images)
        if self.family.projection_class:
            return self.projected_network.to(images.device)(pixel_values=pixels).image_embeds
        output = self.network.to(images.device)(pixel_values=pixels)
        if output.pooler_output is None:
            return output.last_hidden_state[:, 0]
        return output.pooler_output

    @cached_property
    def projected_network(self) -> nn.Module:
        """Return the frozen image tower with its projection.

        Raises
        ------
        UserError
            If the weights have no projection.
        """
        model_class = self._model_class(self.family.projection_class)
        network, report = self._load(model_class, use_safetensors=True, output_loading_info=True)
        missing = [name for name in report["missing_keys"] if "projection" in name]
        if missing:
            raise UserError(
                f"The weights of {self.name} have no {missing[0]}, which the embedding of an image "
                "needs. Save the whole model, not only its image tower."
            )
        return network.eval().requires_grad_(False)

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """Return the patch features after each quarter of the blocks."""
        states = self._states(self.preprocess(images))
        return [self._patch_maps(state) for state in states[1:]]

    def readouts(self, images: Images) -> list[Float[Tensor, "b p e"]]:
        """Return the rows of patches, plus the class token's, as embedded and after each quarter of
        the blocks.

        Gradients flow to the images, also to pixels out of range.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, resolution, resolution)
            Images in [-1, 1] of the model's resolution.

        Raises
        ------
        UserError
            If the model has no class token.
        """
        if not self.family.has_class_token:
            raise UserError(f"The model of {self.name} has no class token, which readouts need.")
        patches = (self.resolution // self.config.patch_size) ** 2
        pixels = self._normalize(match_channels(images, 3))
        return [state[:, -patches:] + state[:, :1] for state in self._states(pixels)]

    def _states(self, pixels: Tensor) -> list[Float[Tensor, "b t e"]]:
        """Return all rows as embedded, and after each quarter of the blocks."""
        network = self.network.to(pixels.device)
        states = network(pixel_values=pixels, output_hidden_states=True).hidden_states
        blocks = len(states) - 1
        quarters = [states[max(1, blocks * quarter // 4)] for quarter in (1, 2, 3, 4)]
        return [states[0], *quarters]

    def _normalize(self, images: Images) -> Images:
        mean = images.new_tensor(self.family.mean)[:, None, None]
        std = images.new_tensor(self.family.std)[:, None, None]
        return ((images + 1) / 2 - mean) / std

    @property
    def location(self) -> str:
        """Return the name on the hub, or the path of the folder."""
        return str(Path(self.model).expanduser()) if self.model.startswith("~") else self.model

    def _patch_maps(self, rows: Tensor) -> Float[Tensor, "b e h w"]:
        side = self.resolution // self.config.patch_size
        # Class and register tokens come first.
        return rearrange(rows[:, -(side**2) :], "b (h w) e -> b e h w", h=side)

    def _model_class(self, name: str = "") -> Any:
        try:
            import transformers
        except ModuleNotFoundError:
            subject = f"The feature extractor {self.name}"
            raise missing_extra("transformers", "teachers", subject) from None
        return getattr(transformers, name or self.family.model_class)

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


def is_cached(family: str) -> bool:
    """Return True if the default model of a family is on this machine, without using the network.

    Parameters
    ----------
    family : str
        A key of `FAMILIES`.
    """
    if importlib.util.find_spec("transformers") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    model = FAMILIES[family].default_model
    files = [try_to_load_from_cache(model, name) for name in ("config.json", "model.safetensors")]
    return all(isinstance(file, str) for file in files)
