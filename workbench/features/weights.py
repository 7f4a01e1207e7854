"""Files of published weights: where they are searched, and how they are obtained.

A file is used from, in this order: a path that the user names, an environment variable, an
installed package that ships it, and the cache of torch hub. Only a network that the user names is
downloaded. A file is read without unpickling objects.
"""

import importlib.util
import os
import urllib.error
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.errors import UserError
from workbench.core.printable import printable
from workbench.storage.files import file_digest
from workbench.storage.foreign_weights import check_names, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

DIGEST_DIGITS = 8


@dataclass(frozen=True)
class PublishedWeights:
    """The file of a network that was trained elsewhere.

    Attributes
    ----------
    title : str
        Name of the network in text, such as Inception-v3.
    filenames : tuple of str
        Names under which the file is distributed; a download gets the first.
    variable : str
        Environment variable with the path of the file.
    url : str
        Address of the file, empty if it is only distributed as a package.
    package_file : str
        Path of the file inside an installed package, empty if no package has it.
    install : str
        Command that installs this package.
    """

    title: str
    filenames: tuple[str, ...]
    variable: str
    url: str = ""
    package_file: str = ""
    install: str = ""

    def find(self) -> Path | None:
        """Return the file if it is on this machine, without downloading anything.

        Raises
        ------
        UserError
            If the environment variable names a file that does not exist.
        """
        named = os.environ.get(self.variable)
        if named:
            path = Path(named).expanduser()
            if not path.is_file():
                raise UserError(
                    f"{self.variable} names {printable(path)}, which does not exist; it must be a "
                    f"file with the weights of {self.title}."
                )
            return path
        candidates = [hub_folder() / name for name in self.filenames]
        if self.package_file:
            candidates.insert(0, _inside_package(self.package_file))
        return next((path for path in candidates if path.is_file()), None)

    def locate(self, path: str | Path = "") -> Path:
        """Return the file, downloaded if it is not on this machine.

        Parameters
        ----------
        path : path, optional
            The file, if it is neither in the cache nor named by the environment variable.

        Raises
        ------
        UserError
            If the file does not exist and cannot be downloaded.
        """
        if path:
            named = Path(path).expanduser()
            if not named.is_file():
                raise UserError(
                    f"{printable(named)} does not exist; it must be a file with the weights of "
                    f"{self.title}."
                )
            return named
        return self.find() or self._download()

    def instructions(self) -> str:
        """Return how to obtain the file on a machine without network access."""
        target = hub_folder() / self.filenames[0]
        ways = []
        if self.install:
            ways.append(f"run `{self.install}`")
        if self.url:
            ways.append(f"download {self.url} to {target}")
        ways.append(f"set {self.variable} to the path of the file")
        return ", or ".join(ways)

    def _download(self) -> Path:
        if not self.url:
            raise UserError(
                f"The weights of {self.title} are not on this machine: {self.instructions()}."
            )
        import torch

        target = hub_folder() / self.filenames[0]
        expected_digest = target.stem.rpartition("-")[2]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                self.url, str(target), hash_prefix=expected_digest, progress=False
            )
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"The weights of {self.title} are not on this machine and could not be downloaded "
                f"({reason}): {self.instructions()}."
            ) from None
        return target


class WeightsFile:
    """A file with the weights of one network, and its hash.

    Parameters
    ----------
    published : PublishedWeights
        The network.
    path : path, optional
        The file; by default it is searched for and, if necessary, downloaded.

    Raises
    ------
    UserError
        If the file does not exist and cannot be downloaded.
    """

    def __init__(self, published: PublishedWeights, path: str | Path = "") -> None:
        self.published = published
        self.path = published.locate(path)

    @cached_property
    def digest(self) -> str:
        """The first digits of the SHA-256 of the file."""
        return file_digest(self.path)[:DIGEST_DIGITS]

    def load_into(self, network: "nn.Module", *, ignore: tuple[str, ...] = ()) -> "nn.Module":
        """Load the weights into a network, and freeze it.

        Parameters
        ----------
        network : nn.Module
            The network; its state dict has the names of the file.
        ignore : tuple of str
            Prefixes of entries of the file that the network does not have.

        Returns
        -------
        nn.Module
            The network in evaluation mode, without gradients of its weights.

        Raises
        ------
        UserError
            If the file is damaged, or holds another network.
        """
        weights = {
            name: tensor
            for name, tensor in read_weights(self.path).items()
            if not name.startswith(ignore) and not _is_counter(name)
        }
        expected: dict[str, Tensor] = {
            name: tensor for name, tensor in network.state_dict().items() if not _is_counter(name)
        }
        check_names(self.path, weights, expected)
        network.load_state_dict(weights, strict=False)
        return network.eval().requires_grad_(False)


def hub_folder() -> Path:
    """Return the folder in which torch hub keeps checkpoints."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("TORCH_HOME", cache / "torch"))
    return home.expanduser() / "hub" / "checkpoints"


def _inside_package(file: str) -> Path:
    """Return the path of a file of an installed package, without importing the package."""
    package, _, inner = file.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return Path(file)
    return Path(next(iter(spec.submodule_search_locations))) / inner


def _is_counter(name: str) -> bool:
    """Return True if an entry is a counter of batch norms, which inference never reads."""
    return name.endswith("num_batches_tracked")
