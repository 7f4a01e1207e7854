"""Addresses of published checkpoints: `family:location`, and the files that they name.

A location is a folder or a file of this machine, or the id of a repository on the hub, which a file
of it may follow.
"""

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.core.coerce import coerce
from workbench.core.errors import UserError, missing_extra, unknown
from workbench.core.printable import printable
from workbench.storage.published_models import find_published, known_addresses

HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w./-]+))?")  # a repository, and a file of it
HUB_PAGE = "https://huggingface.co/"
HUB_WEIGHTS = "model.safetensors"  # the name that the hub's libraries give to a network
LATENT_STATISTICS = "latents_stats"  # a file that is stored next to weights
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
NOT_OPTIONS = ("revision", "trust")  # keyword-only parameters of `load` that every family shares


@dataclass(frozen=True)
class Address:
    """The address of a model that was trained elsewhere.

    Attributes
    ----------
    family : str
        The format of the checkpoint, such as softvq or ldm.
    location : str
        A folder, a file, the id of a repository on the hub (`owner/name`), a file of one
        (`owner/name/file`), or `module:function`.

    Examples
    --------
    >>> Address.parse("softvq:SoftVQVAE/softvq-l-64", families=["ldm", "softvq"])
    Address(family='softvq', location='SoftVQVAE/softvq-l-64')
    """

    family: str
    location: str

    @classmethod
    def parse(cls, text: str, *, families: Iterable[str]) -> "Address":
        """Split an address at its first colon.

        Parameters
        ----------
        text : str
            `family:location`.
        families : iterable of str
            The families that can be loaded.

        Raises
        ------
        UserError
            If a part is missing, or the family is unknown.
        """
        family, colon, location = text.partition(":")
        if not colon or not family or not location:
            names = ", ".join(sorted(families))
            raise UserError(
                f"An address is FAMILY:LOCATION with a family of {names}; got `{text}`."
            )
        if family not in families:
            raise unknown("family of checkpoints", family, families)
        return cls(family, location)

    def __str__(self) -> str:
        return f"{self.family}:{self.location}"

    def resolve(self, patterns: Sequence[str], *, revision: str | None = None) -> Path:
        """Return the folder or the file, downloaded from the hub if necessary.

        Parameters
        ----------
        patterns : sequence of str
            The files that are needed from a repository, such as `*.safetensors`.
        revision : str, optional
            A branch, tag or commit of the repository.

        Raises
        ------
        UserError
            If the path does not exist, or the repository is not on this machine and cannot be
            downloaded.
        """
        try:
            path = Path(self.location).expanduser()
            exists = path.exists()
        except (OSError, RuntimeError) as error:  # the name is too long, or ~user is unknown
            raise UserError(f"{printable(self.location)} is not a path: {error}.") from None
        if exists:
            if revision is not None:
                raise UserError(f"{path} is on this machine and has no revision `{revision}`.")
            return path
        looks_like_a_path = self.location.startswith(("/", ".", "~"))
        on_hub = None if looks_like_a_path else HUB_ID.fullmatch(self.location)
        repository, file = (None, None) if on_hub is None else on_hub.groups()
        names_a_file = path.suffix in WEIGHT_SUFFIXES
        is_local = file is not None and Path(path.parts[0]).exists()
        if repository is None or names_a_file is (file is None) or is_local:
            raise UserError(self._missing_text(path))
        if file is not None:  # in place of the other weights
            settings = [p for p in patterns if "*" not in p and p not in (file, HUB_WEIGHTS)]
            patterns = [file, *settings]
        folder = self._from_hub(repository, patterns, revision)
        return folder if file is None else folder / file

    def _missing_text(self, path: Path) -> str:
        published = find_published(str(self))
        advice = "Give a folder, a file, or the id of a repository on the hub (owner/name)."
        if published is not None:
            advice = (
                f"Download {published.name} (see: {published.source}), and give"
                f" {self.family}:FILE or {self.family}:FOLDER."
            )
        return f"{printable(path)} does not exist. {advice}"

    def _from_hub(self, repository: str, patterns: Sequence[str], revision: str | None) -> Path:
        try:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        except ImportError:
            raise missing_extra("huggingface-hub", "train", str(self)) from None
        try:
            folder = snapshot_download(repository, revision=revision, allow_patterns=list(patterns))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            page = f"{HUB_PAGE}{repository}"
            if revision is not None:
                page = f"{page}/tree/{revision}"
            raise UserError(
                f"{self.location} is not on this machine and cannot be downloaded ({reason})."
                f"{self._similar_text()} Download {_files_text(patterns)} from"
                f" {page} into a folder, and give {self.family}:FOLDER."
            ) from None
        return Path(folder)

    def _similar_text(self) -> str:
        """Return a question for the known checkpoint that was probably meant; empty if it is it."""
        known = [address for address in known_addresses() if address.startswith(f"{self.family}:")]
        closest = difflib.get_close_matches(str(self), known, n=1, cutoff=0.8)
        if not closest or closest == [str(self)]:
            return ""
        return f" Did you mean {closest[0]}?"


def _files_text(patterns: Sequence[str]) -> str:
    """Return the names of the files that a local folder of a model must have, as text."""
    names = [name for name in patterns if "/" not in name and ".index" not in name]
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def option_kinds(load: Callable[..., Any]) -> dict[str, Any]:
    """Return the declared types of the options of a family, by the name of the option.

    Parameters
    ----------
    load : callable
        The function `load` of the family's module; its keyword-only parameters other than
        `revision` and `trust` are the options.
    """
    kinds = typing.get_type_hints(load)
    return {
        parameter.name: kinds[parameter.name]
        for parameter in inspect.signature(load).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in NOT_OPTIONS
    }


def coerce_options(load: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the options of a family from text, or from Python objects, to their declared types.

    Raises
    ------
    UserError
        If an option does not exist or does not fit its type.
    """
    kinds = option_kinds(load)
    for name in options:
        if name not in kinds:
            family = load.__module__.rpartition(".")[2]
            raise unknown("option", name, kinds, within=f"of {family}")
    return {name: coerce(kinds[name], name, value) for name, value in options.items()}


def weight_file(path: Path) -> Path:
    """Return the one file with weights that a path names.

    Parameters
    ----------
    path : Path
        A file with weights, or a folder that contains one. `model.safetensors` is preferred to
        other safetensors files, and these to other formats.

    Raises
    ------
    UserError
        If the folder contains none, or several of the preferred format.
    """
    if path.is_file():
        return path
    if (path / HUB_WEIGHTS).is_file():
        return path / HUB_WEIGHTS
    candidates = sorted(file for file in path.iterdir() if file.stem != LATENT_STATISTICS)
    for suffixes in (WEIGHT_SUFFIXES[:1], WEIGHT_SUFFIXES[1:]):
        files = [file for file in candidates if file.suffix in suffixes]
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(file.name for file in files)
            raise UserError(f"{printable(path)} has several files with weights: {names}. Name one.")
    raise UserError(f"{printable(path)} has no file with weights ({', '.join(WEIGHT_SUFFIXES)}).")
