"""Autoencoders of the library diffusers: `diffusers:stabilityai/sd-vae-ft-mse`.

The networks are those of diffusers; the adapters translate values and shapes. The class is that of
`_class_name` in config.json, if it is in CLASSES. Weights are read from safetensors files only, and
no code of a repository is run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.counted import counted
from workbench.core.errors import UserError, missing_extra, unknown
from workbench.core.image_size import ImageSize, Side
from workbench.core.printable import printable
from workbench.core.types import Images, Tokens
from workbench.nn.image_shape import check_image_multiple, check_image_shape
from workbench.quantizers.gaussian import sample_posterior
from workbench.quantizers.nearest import nearest_code
from workbench.storage.files import DamagedError, is_number, parse_json, read_bytes
from workbench.storage.foreign_weights import MAX_NAMES, check_safetensors
from workbench.storage.published import Address
from workbench.tokenizers.base import Tokenizer
from workbench.tokenizers.pretrained.base import LatentScale, Pretrained

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model"
PIPELINE_PART = "vae"  # the folder of the autoencoder in the repository of a pipeline
PATTERNS = tuple(
    f"{folder}{name}"
    for folder in ("", f"{PIPELINE_PART}/")
    for name in (CONFIG, f"{WEIGHTS}*.safetensors", f"{WEIGHTS}*.safetensors.index*.json")
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_SIDE = 256  # pixels, if the configuration does not contain the side
FLUX2_NOTE = (
    "FLUX.2 normalizes each position of 2 x 2 latents by itself; this normalization is not applied."
)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The images that a network takes.

    Attributes
    ----------
    channels : int
        Color channels.
    size : ImageSize
        The size of images that the network is meant for.
    factor : int
        The side of the image per side of the grid of latents.
    flexible : bool
        Whether the network takes images of other sizes.
    """

    channels: int
    size: ImageSize
    factor: int
    flexible: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of latents of an image of the meant size."""
        return self.size.height // self.factor, self.size.width // self.factor

    def check(self, images: Images) -> None:
        """Raise UserError if the network does not take these images."""
        if self.flexible:
            check_image_multiple(images, channels=self.channels, multiple=self.factor)
        else:
            check_image_shape(images, channels=self.channels, size=self.size)


class DiffusersAutoencoder(Tokenizer):
    """An autoencoder of diffusers with continuous latents.

    Parameters
    ----------
    network : nn.Module
        A model of one of the CLASSES.
    convention : Convention
        The conventions of its class.
    frame : Frame
        The images that it takes.
    sample_seed : int, optional
        Seed of samples of the posterior. By default, latents are its mean.
    """

    respects_active = False

    def __init__(
        self,
        network: nn.Module,
        convention: "Convention",
        frame: Frame,
        sample_seed: int | None = None,
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.convention = convention
        self.frame = frame
        self.sample_seed = sample_seed

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of latents of an image of the meant size."""
        return self.frame.grid

    def encode(self, images: Images) -> Tokens:
        """Return the mean of the posterior, or a sample; of other networks, the latents."""
        self.frame.check(images)
        pixels = images.to(_dtype(self.network))
        if self.convention.unit_range:
            pixels = (pixels + 1) / 2
        if self.convention.has_frames:
            pixels = pixels[:, :, None]
        output = getattr(self.network.encode(pixels), self.convention.output)
        if not self.convention.has_posterior:
            latents = output
        elif self.sample_seed is None:
            latents = output.mean
        else:
            mean, log_variance = output.mean.float(), output.logvar.float()
            latents = sample_posterior(mean, log_variance, images, seed=self.sample_seed)
        if self.convention.has_frames:
            latents = latents[:, :, 0]
        return _tokens(latents)

    def decode(self, tokens: Tokens) -> Images:
        """Decode all tokens to images."""
        latents = _cells(tokens, self.grid).to(_dtype(self.network))
        if self.convention.has_frames:
            latents = latents[:, :, None]
        images = self.network.decode(latents).sample.float()
        if self.convention.has_frames:
            images = images[:, :, 0]
        return 2 * images - 1 if self.convention.unit_range else images


class DiffusersVQModel(Tokenizer):
    """A `VQModel` of diffusers: one codeword per position.

    Parameters
    ----------
    network : nn.Module
        The model.
    frame : Frame
        The images that it takes.
    """

    discrete = True
    respects_active = False

    def __init__(self, network: nn.Module, frame: Frame) -> None:
        super().__init__()
        self.network: Any = network
        self.frame = frame

    @property
    def codebook(self) -> Float[Tensor, "1 k d"]:
        """Return the codewords."""
        weight: Tensor = self.network.quantize.embedding.weight
        return weight.float()[None]

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of codes of an image of the meant size."""
        return self.frame.grid

    def encode(self, images: Images) -> Tokens:
        """Return the nearest codeword of each position, and its index."""
        self.frame.check(images)
        features = _tokens(self.network.encode(images.to(_dtype(self.network))).latents)
        codewords = self.codebook[0]
        flat_codes = nearest_code(rearrange(features.latents, "b n d -> (b n) d"), codewords)
        codes = rearrange(flat_codes, "(b n) -> b n", b=len(images))
        return Tokens(codewords[codes], codes, grid=features.grid)

    def decode(self, tokens: Tokens) -> Images:
        """Decode all tokens to images."""
        latents = _cells(tokens, self.grid).to(_dtype(self.network))
        images: Tensor = self.network.decode(latents, force_not_quantize=True).sample
        return images.float()


def _power_of_levels(network: Any) -> int:
    return 2 ** (len(network.config.block_out_channels) - 1)


def _power_of_encoder_levels(network: Any) -> int:
    """Return the factor where the halves may have different widths."""
    config = network.config
    widths = config.get("encoder_block_out_channels") or config.down_block_out_channels
    return 2 ** (len(widths) - 1)


def _compression_ratio(network: Any) -> int:
    ratio: int = network.spatial_compression_ratio
    return ratio


def _patch_size(network: Any) -> int:
    patch: int = network.decoder_patch_size
    return patch


def _channel_scale(config: Mapping[str, Any]) -> LatentScale:
    """Return the scale of (z - mean) * factor / std, where each may be missing."""
    (factor,) = _numbers(config, "scaling_factor", 1.0)
    mean = _numbers(config, "latents_mean", *_numbers(config, "shift_factor", 0.0))
    std = _numbers(config, "latents_std", 1.0)
    if not factor > 0 or not min(std) > 0:
        raise UserError(f"{CONFIG} must have a scaling_factor and latents_std greater than 0.")
    return LatentScale(mean=mean, std=tuple(value / factor for value in std))


def _numbers(config: Mapping[str, Any], name: str, *default: float) -> tuple[float, ...]:
    """Return a setting that is one number or one per channel, or the default without it."""
    value = config.get(name)
    if value is None:
        return default
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(is_number(number) and math.isfinite(number) for number in values):
        raise UserError(f"{name} in {CONFIG} must be one number, or one per channel; got {value}.")
    return tuple(float(number) for number in values)


def _scale_inside(config: Mapping[str, Any]) -> LatentScale | None:
    """Return the scale of a network that normalizes its latents by itself."""
    return LatentScale() if config.get("latents_mean") and config.get("latents_std") else None


def _no_scale(config: Mapping[str, Any]) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Convention:
    """The differences between the classes of diffusers.

    Attributes
    ----------
    output : {"latent_dist", "latents", "latent"}
        The attribute of the encoder's output with the latents or their distribution.
    channels : str
        The setting with the color channels of images.
    factor : callable
        Returns the side of the image per side of the grid, given the network.
    scale : callable
        Returns the normalization of latents for diffusion, given the configuration.
    has_frames : bool
        The network is one of videos, with an axis of frames after the channels.
    unit_range : bool
        Images have values in [0, 1] instead of [-1, 1].
    flexible : bool
        The network takes images of several sides.
    settings : mapping
        Settings that replace those of the configuration. They do not change a value.
    notes : sequence of str
        Remarks for the user.
    """

    output: Literal["latent_dist", "latents", "latent"] = "latent_dist"
    channels: str = "in_channels"
    factor: Callable[[Any], int] = _power_of_levels
    scale: Callable[[Mapping[str, Any]], LatentScale | None] = _channel_scale
    has_frames: bool = False
    unit_range: bool = False
    flexible: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def has_posterior(self) -> bool:
        """True if the encoder returns a distribution."""
        return self.output == "latent_dist"


VQ_MODEL = "VQModel"
CLASSES = {
    "AsymmetricAutoencoderKL": Convention(factor=_power_of_encoder_levels),
    "AutoencoderDC": Convention(output="latent", factor=_compression_ratio),
    "AutoencoderKL": Convention(),
    "AutoencoderKLFlux2": Convention(scale=_no_scale, notes=(FLUX2_NOTE,)),
    "AutoencoderKLQwenImage": Convention(
        channels="input_channels", factor=_compression_ratio, has_frames=True
    ),
    "AutoencoderRAE": Convention(
        output="latent",
        channels="num_channels",
        factor=_patch_size,
        scale=_scale_inside,
        unit_range=True,
        flexible=False,
        settings={"reshape_to_2d": True},
    ),
    "AutoencoderTiny": Convention(output="latents", factor=_power_of_encoder_levels),
    VQ_MODEL: Convention(output="latents", settings={"lookup_from_codebook": False}),
}


def load(
    address: Address,
    *,
    revision: str | None = None,
    side: Side | None = None,
    posterior: Literal["mean", "sample"] = "mean",
    seed: int = 0,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> Pretrained:
    """Load an autoencoder of diffusers.

    Parameters
    ----------
    address : Address
        A repository on the hub, or a folder with config.json and safetensors files. The
        autoencoder of a pipeline is found in its folder `vae`.
    revision : str, optional
        A branch, tag or commit on the hub.
    side : int or ImageSize, optional
        Height and width of the images in pixels, if they are not those of the configuration.
    posterior : {"mean", "sample"}
        The latents of a KL autoencoder.
    seed : int
        Seed of the samples. The same image always gets the same sample.
    dtype : {"float32", "bfloat16", "float16"}
        The precision of the network. Tokens and images are float32.

    Raises
    ------
    UserError
        If diffusers is not installed or does not have the class, or files are missing, damaged or
        do not fit it.
    """
    if seed < 0:
        raise UserError(f"seed must be at least 0, got {seed}.")
    folder = _model_folder(address.resolve(PATTERNS, revision=revision))
    config = _read_config(folder / CONFIG)
    name = config.get("_class_name")
    if name is None:
        raise UserError(
            f"{printable(folder / CONFIG)} has no _class_name, so that it is not of diffusers. "
            "Give a folder that diffusers wrote."
        )
    if not isinstance(name, str) or name not in CLASSES:
        raise unknown("supported class of diffusers", str(name), CLASSES)
    convention = CLASSES[name]
    if posterior == "sample" and not convention.has_posterior:
        raise UserError(f"{printable(folder)} is an {name}, which has no posterior.")
    files = _weight_files(folder)
    network: Any = _load_network(folder, name, convention, files, DTYPES[dtype])
    frame = Frame(
        channels=network.config[convention.channels],
        size=_size(config, network, convention, side),
        factor=convention.factor(network),
        flexible=convention.flexible,
    )
    tokenizer: Tokenizer
    if name == VQ_MODEL:
        tokenizer = DiffusersVQModel(network, frame)
    else:
        sample_seed = seed if posterior == "sample" else None
        tokenizer = DiffusersAutoencoder(network, convention, frame, sample_seed)
    return Pretrained(
        tokenizer=tokenizer,
        files=(folder / CONFIG, *files),
        side=frame.size.side,
        channels=frame.channels,
        flexible=frame.flexible,
        resize="adm",
        scale=convention.scale(network.config),
        notes=tuple(convention.notes),
    )


def _model_folder(path: Path) -> Path:
    folders = (path, path / PIPELINE_PART)
    folder = next((folder for folder in folders if (folder / CONFIG).is_file()), None)
    if folder is None:
        raise UserError(
            f"{printable(path)} must be a folder with {CONFIG} and {WEIGHTS}.safetensors, as "
            "diffusers writes it."
        )
    return folder


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(read_bytes(path))
    except DamagedError as error:
        raise UserError(f"{printable(path)} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise UserError(f"{printable(path)} must contain an object with settings.")
    return config


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of the network: one, or several shards."""
    files = sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
    full_precision = [file for file in files if ".fp16" not in file.name]
    if not files:
        raise UserError(
            f"{printable(folder)} has no {WEIGHTS}.safetensors. Other formats are not read."
        )
    for file in files:
        check_safetensors(file)
    return tuple(full_precision or files)


def _load_network(
    folder: Path, name: str, convention: Convention, files: Sequence[Path], dtype: torch.dtype
) -> nn.Module:
    try:
        import diffusers
    except ImportError:
        raise missing_extra("diffusers", "diffusers", f"Loading an {name}") from None
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise UserError(
            f"diffusers {diffusers.__version__} has no {name}: pip install --upgrade diffusers"
        )
    verbosity = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()  # what does not fit is an error below
    try:
        network, fit = kind.from_pretrained(
            folder,
            use_safetensors=True,
            variant="fp16" if ".fp16" in files[0].name else None,
            local_files_only=True,
            torch_dtype=dtype,
            low_cpu_mem_usage=False,
            ignore_mismatched_sizes=True,  # they are an error below, too
            output_loading_info=True,
            **convention.settings,
        )
    except ImportError as error:
        raise missing_extra(error.name or "transformers", "teachers", f"An {name}") from None
    except Exception as error:  # settings of any type reach the constructor
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{printable(folder)} cannot be loaded as an {name} with the settings of {CONFIG}: "
            f"{type(error).__name__}: {reason}"
        ) from None
    finally:
        diffusers.utils.logging.set_verbosity(verbosity)
    faults = _faults(fit)
    if faults:
        raise UserError(f"{printable(folder)} does not fit an {name}; {'; '.join(faults)}.")
    model: nn.Module = network
    return model


def _faults(fit: Mapping[str, Any]) -> list[str]:
    """Describe the entries that do not fit, at most five of each kind."""
    misshapen = [
        f"{name} {tuple(stored)} instead of {tuple(expected)}"
        for name, stored, expected in fit["mismatched_keys"]
    ]
    kinds = (
        ("missing", fit["missing_keys"]),
        ("unknown", fit["unexpected_keys"]),
        ("of another shape", misshapen),
    )
    return [
        f"{counted(len(names), 'entry is', 'entries are')} {fault}: "
        f"{', '.join(map(str, list(names)[:MAX_NAMES]))}"
        for fault, names in kinds
        if names
    ]


def _size(
    config: Mapping[str, Any], network: Any, convention: Convention, requested: Side | None
) -> ImageSize:
    """Return the size of images: multiples of the factor."""
    factor = convention.factor(network)
    if not convention.flexible:
        side: int = network.decoder_image_size
        if requested not in (None, side):
            raise UserError(f"This network takes images of {side} pixels, got side={requested}.")
        return ImageSize(side, side)
    if requested is not None:
        size = ImageSize.of(requested)
        if size.height % factor or size.width % factor:
            raise UserError(f"side must be a multiple of {factor}, got {requested}.")
        return size
    sample_size = config.get("sample_size")
    size = ImageSize.of(DEFAULT_SIDE if sample_size is None else sample_size, "sample_size")
    if min(size) < factor:
        raise UserError(
            f"sample_size in the configuration is {size}, less than the {factor} pixels of one "
            "token. Give side."
        )
    return ImageSize(size.height // factor * factor, size.width // factor * factor)


def _tokens(latents: Float[Tensor, "b d h w"]) -> Tokens:
    rows, columns = latents.shape[2:]
    return Tokens(rearrange(latents.float(), "b d h w -> b (h w) d"), grid=(rows, columns))


def _cells(tokens: Tokens, grid: tuple[int, int]) -> Float[Tensor, "b d h w"]:
    rows, columns = tokens.grid or grid
    return rearrange(tokens.latents, "b (h w) d -> b d h w", h=rows, w=columns)


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype
