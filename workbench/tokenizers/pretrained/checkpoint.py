"""A published checkpoint on disk: its tensors, its configuration, and checks of both."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.printable import printable
from workbench.storage.files import DamagedError, parse_json, read_bytes
from workbench.storage.foreign_weights import check_names, read_weights
from workbench.storage.published import Address, weight_file
from workbench.tokenizers.base import TrainableTokenizer

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MAX_NAMES = 5

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors and the configuration of a published model.

    Attributes
    ----------
    path : Path
        The file with the tensors.
    weights : dict of Tensor
        The tensors by their published names.
    config : dict
        The parsed config.json.
    files : tuple of Path
        The files that were read.
    """

    path: Path
    weights: dict[str, Tensor]
    config: dict[str, Any]
    files: tuple[Path, ...]

    @classmethod
    def read(cls, address: Address, *, revision: str | None = None) -> "Checkpoint":
        """Read the weights and the config.json next to them.

        Parameters
        ----------
        address : Address
            A hub id, a folder, or the file with the weights.
        revision : str, optional
            A branch, tag or commit on the hub.

        Raises
        ------
        UserError
            If a file does not exist or is damaged.
        """
        location = address.resolve((CONFIG, WEIGHTS), revision=revision)
        published = location / WEIGHTS
        path = published if published.is_file() else weight_file(location)
        config_path = path.with_name(CONFIG)
        return cls(
            path=path,
            weights=read_weights(path),
            config=_read_config(config_path),
            files=(path, config_path),
        )

    def refuse(self, reason: str) -> UserError:
        """Return the error for a checkpoint that cannot be loaded."""
        return UserError(f"{printable(self.path)} cannot be loaded: {reason}")

    def section(self, *keys: str) -> dict[str, Any]:
        """Return a part of a nested configuration; an empty one if it does not exist."""
        section: Any = self.config
        for key in keys:
            section = section.get(key) if isinstance(section, dict) else None
        return section if isinstance(section, dict) else {}

    def shape(self, name: str, pattern: str) -> tuple[int, ...]:
        """Return the shape of a tensor from which sizes are read.

        Parameters
        ----------
        name : str
            Name of the tensor.
        pattern : str
            One word per axis, such as "width 3 patch patch", for the number of axes and the
            message.

        Raises
        ------
        UserError
            If the tensor is missing, or has another number of axes.
        """
        if name not in self.weights:
            raise self.refuse(f"it has no tensor {name}.")
        shape = tuple(self.weights[name].shape)
        if len(shape) != len(pattern.split()):
            raise self.refuse(f"{name} must have the axes ({pattern}), got the shape {shape}.")
        return shape

    def depth(self, prefix: str) -> int:
        """Return the number of blocks whose names start with `prefix` and their index."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        matches = (pattern.match(name) for name in self.weights)
        indices = {int(match[1]) for match in matches if match}
        if not indices:
            raise self.refuse(f"it has no tensors {prefix}.0.*.")
        return len(indices)

    def grid(self, name: str, patches: int) -> int:
        """Return the number of patches per row of a square image.

        Parameters
        ----------
        name : str
            The tensor with one position per patch, for the message.
        patches : int
            Patches of an image.
        """
        side = math.isqrt(max(patches, 0))
        if not side or side**2 != patches:
            raise self.refuse(
                f"{name} has {patches} positions of patches, which is not a square number."
            )
        return side

    def check(self, expected: Shapes, *, unused: Callable[[str], bool]) -> None:
        """Check the name and the shape of every tensor.

        Parameters
        ----------
        expected : dict of str to tuple of int
            The shapes of the tensors that are used.
        unused : callable
            Whether a tensor of this name is never used. It may be there or not.

        Raises
        ------
        UserError
            With the names of tensors that are missing, unknown or of another shape.
        """
        used = {
            name: tensor
            for name, tensor in self.weights.items()
            if name in expected or not unused(name)
        }
        check_names(
            self.path,
            used,
            {name: torch.empty(shape, device="meta") for name, shape in expected.items()},
        )

    def contradictions(
        self, sizes: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """Return one sentence per size of the configuration that the tensors contradict.

        Parameters
        ----------
        sizes : mapping of str to Any
            The sizes of the tensors, by their key of the configuration.
        config : mapping of str to Any
            The configuration, or its part with these keys.
        """
        return tuple(
            f"According to {CONFIG}, {key} is {config[key]}; the tensors have {size}, "
            "which is used."
            for key, size in sizes.items()
            if key in config and config[key] != size
        )

    def left_out(self, unused: Callable[[str], bool]) -> tuple[str, ...]:
        """Return a sentence that names the tensors that are not used, if there are any."""
        names = sorted(name for name in self.weights if unused(name))
        if not names:
            return ()
        dots = ", ..." if len(names) > MAX_NAMES else ""
        return (f"Tensors that are not used: {', '.join(names[:MAX_NAMES])}{dots}.",)


def linear(name: str, in_channels: int, out_channels: int) -> Shapes:
    """Return the shapes of a linear layer."""
    return {f"{name}.weight": (out_channels, in_channels), f"{name}.bias": (out_channels,)}


def norm(name: str, width: int) -> Shapes:
    """Return the shapes of a normalization with gain and bias."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def build(
    kind: type[TrainableTokenizer], config: Any, weights: dict[str, Tensor]
) -> TrainableTokenizer:
    """Build a tokenizer from its weights, without initializing it first.

    Parameters
    ----------
    kind : type
        The class of the tokenizer.
    config : Config
        Its settings.
    weights : dict of Tensor
        Its state, by the names of its own modules.
    """
    with torch.device("meta"):
        tokenizer = kind(config)
    # A stored tensor is contiguous and shares no memory with another one.
    state = {
        name: tensor.float() if tensor.is_contiguous() and not _is_view(tensor) else _copy(tensor)
        for name, tensor in weights.items()
    }
    tokenizer.load_state_dict(state, assign=True)
    return tokenizer.eval()


def _is_view(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.float().clone(memory_format=torch.contiguous_format)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(read_bytes(path))
    except FileNotFoundError:
        raise UserError(
            f"{printable(path)} does not exist. The file is part of the checkpoint and must be "
            "next to its weights."
        ) from None
    except DamagedError as error:
        raise UserError(f"{printable(path)} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise UserError(f"{printable(path)} must contain an object of settings.")
    return config
