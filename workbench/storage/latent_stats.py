"""Mean and standard deviation of latents, which generators need to scale them.

`latent_stats.json` stores them. With z a latent and i its channel:

================= ==============================================================================
channel_mean      mean of z[i] over all images and tokens
channel_std       standard deviation of z[i], divided by the number of values (not that minus 1)
channel_shift     equals channel_mean
channel_scale     1 / channel_std; 1 for a constant channel
mean              mean over all channels of all latents
std               standard deviation over all channels of all latents
shift_factor      equals mean
scaling_factor    1 / std
================= ==============================================================================

A trainer that scales each channel (LightningDiT, REPA-E) uses
`(z[i] - channel_shift[i]) * channel_scale[i]`; one that scales all alike (diffusers, LDM) uses
`(z - shift_factor) * scaling_factor`, with diffusers' names. A trainer without a shift factor may
leave it out if the mean is small relative to the standard deviation.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.errors import UserError
from workbench.core.mapped_memory import release_mapped_pages
from workbench.core.printable import printable
from workbench.storage.files import DamagedError, is_finite, parse_json, read_bytes
from workbench.storage.sharded_array import RowArray

STATS_FILE = "latent_stats.json"
MAX_VALUES_IN_MEMORY = 1 << 22


class LatentMoments:
    """Sums over latents that arrive in parts, of which none is kept.

    Examples
    --------
    >>> moments = LatentMoments()
    >>> moments.add(np.array([[[1.0, 0.0]]]))
    >>> moments.add(np.array([[[3.0, 0.0]]]))
    >>> moments.stats().channel_mean.tolist(), moments.stats().channel_std.tolist()
    ([2.0, 0.0], [1.0, 0.0])
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = np.zeros(1)
        self._squares = np.zeros(1)  # sums of squared differences from the mean

    def add(self, latents: np.ndarray, active: np.ndarray | None = None) -> None:
        """Add the active tokens of some images.

        Parameters
        ----------
        latents : ndarray of float, shape (n, tokens, d)
            Latents of a batch of images.
        active : ndarray of bool, shape (n, tokens), optional
            Tokens that the decoder reads. All other tokens are ignored.
        """
        rows = np.asarray(latents, np.float64)
        if active is None:
            rows = rows.reshape(-1, rows.shape[-1])
        else:
            rows = rows[np.asarray(active, bool)]
        if not len(rows):
            return
        # The update of Chan, Golub and LeVeque, which loses no digits to large means.
        total = self._count + len(rows)
        mean = rows.mean(axis=0)
        difference = mean - self._mean
        between = np.square(difference) * (self._count * len(rows) / total)
        self._squares = self._squares + np.square(rows - mean).sum(axis=0) + between
        self._mean = self._mean + difference * (len(rows) / total)
        self._count = total

    def stats(self) -> "LatentStats":
        """Return the mean and the standard deviation of the tokens so far."""
        deviation = np.sqrt(self._squares / max(self._count, 1))
        return LatentStats(channel_mean=self._mean, channel_std=deviation)


@dataclass(frozen=True, eq=False)
class LatentStats:
    """Mean and standard deviation of latents by channel.

    Attributes
    ----------
    channel_mean, channel_std : ndarray of float64, shape (d,)
        Mean and standard deviation of each channel over all images and tokens.
    """

    channel_mean: np.ndarray = field(repr=False)
    channel_std: np.ndarray = field(repr=False)

    @classmethod
    def of_latents(cls, latents: RowArray, active: np.ndarray | None = None) -> "LatentStats":
        """Compute the statistics of latents.

        Parameters
        ----------
        latents : RowArray of float, shape (n, tokens, d)
            The latents, which may be mapped from files.
        active : ndarray of bool, shape (n, tokens), optional
            Tokens that the decoder reads. All other tokens are ignored.
        """
        moments = LatentMoments()
        step = max(1, MAX_VALUES_IN_MEMORY // max(1, math.prod(latents.shape[1:])))
        for start in range(0, len(latents), step):
            part = slice(start, start + step)
            moments.add(latents[part], None if active is None else active[part])
            release_mapped_pages()
        return moments.stats()

    @property
    def mean(self) -> float:
        """The mean over all channels of the latents."""
        return float(self.channel_mean.mean())

    @property
    def std(self) -> float:
        """The standard deviation over all channels of the latents."""
        between = np.square(self.channel_mean - self.mean)
        return float(np.sqrt((np.square(self.channel_std) + between).mean()))

    @property
    def channel_scale(self) -> np.ndarray:
        """1 over the standard deviation of each channel; 1 for a constant channel."""
        is_constant = self.channel_std == 0
        return 1 / np.where(is_constant, 1.0, self.channel_std)

    @property
    def scaling_factor(self) -> float:
        """1 over the standard deviation of all channels; 1 for constant latents."""
        return 1 / self.std if self.std else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers by the names of `latent_stats.json`."""
        return {
            "channel_mean": self.channel_mean.tolist(),
            "channel_std": self.channel_std.tolist(),
            "channel_shift": self.channel_mean.tolist(),
            "channel_scale": self.channel_scale.tolist(),
            "mean": self.mean,
            "std": self.std,
            "shift_factor": self.mean,
            "scaling_factor": self.scaling_factor,
        }

    @classmethod
    def from_dict(cls, stored: Any, source: Path) -> "LatentStats":
        """Check the mean and the standard deviation of each channel that a file contains.

        Parameters
        ----------
        stored : object
            The content of the file: a table with `channel_mean` and `channel_std`.
        source : Path
            The file, for the error.

        Raises
        ------
        UserError
            If they are missing, differ in length or are not finite, or a standard deviation is
        negative.
        """
        table = stored if isinstance(stored, Mapping) else {}
        mean = _numbers(table.get("channel_mean"))
        std = _numbers(table.get("channel_std"))
        if not len(mean) or mean.shape != std.shape or (std < 0).any():
            raise UserError(
                f"{printable(source)} must have channel_mean and channel_std, a number per channel "
                "each, with deviations of at least 0."
            )
        return cls(channel_mean=mean, channel_std=std)

    @classmethod
    def read(cls, path: Path) -> "LatentStats":
        """Read a `latent_stats.json`.

        Raises
        ------
        UserError
            If the file is damaged; see `from_dict`.
        """
        try:
            stored = parse_json(read_bytes(path))
        except DamagedError as error:
            raise UserError(f"{printable(path)} is not JSON: {error}.") from None
        return cls.from_dict(stored, path)

    def write(self, path: Path, **details: Any) -> None:
        """Write a `latent_stats.json`, with details about the latents that were measured."""
        path.write_text(json.dumps(details | self.to_dict(), indent=1), encoding="utf-8")


def _numbers(values: Any) -> np.ndarray:
    """Return a list of finite numbers as an array; an empty array if it is anything else."""
    is_valid = isinstance(values, list) and all(is_finite(value) for value in values)
    return np.array(values if is_valid else [], np.float64)
