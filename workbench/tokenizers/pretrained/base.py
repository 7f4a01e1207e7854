"""The interface of families of published tokenizers: a tokenizer and its facts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from workbench.core.image_size import Side
from workbench.tokenizers.base import Tokenizer

# How images are brought to the model's size: "adm" halves by box filter while the short side is at
# least twice the target, then resizes by bicubic interpolation and crops the center.
ResizePolicy = Literal["adm", "bicubic", "lanczos"]


@dataclass(frozen=True, kw_only=True)
class LatentScale:
    """The published normalization of latents for diffusion: (z - mean) / std.

    Attributes
    ----------
    mean, std : tuple of float
        One number for all channels, or one per channel. A scaling factor s is a std of 1 / s.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A tokenizer that was trained elsewhere.

    Attributes
    ----------
    tokenizer : Tokenizer
        The tokenizer, in evaluation mode. It takes and returns images in [-1, 1], whatever the
        range of the original is.
    files : tuple of Path
        The files that were read. Their digests are stored in the run.
    side : int, ImageSize or None
        The height and width of the images in pixels that the checkpoint is meant for; None for any.
    channels : int
        Color channels of the images.
    flexible : bool
        Whether the tokenizer takes images of another size.
    resize : {"adm", "bicubic", "lanczos"}
        How the authors bring images to this size.
    scale : LatentScale or None
        The published normalization of latents, if it is known.
    license : str or None
        The license of the weights; None if none is stated.
    notes : tuple of str
        Remarks for the user, one sentence each: entries that were left out, or sizes in the
        configuration that the tensors contradict.
    """

    tokenizer: Tokenizer
    files: tuple[Path, ...] = ()
    side: Side | None = 256
    channels: int = 3
    flexible: bool = False
    resize: ResizePolicy = "adm"
    scale: LatentScale | None = None
    license: str | None = None
    notes: tuple[str, ...] = field(default=())
