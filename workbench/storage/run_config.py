"""The configuration of a run: the typed content of its config.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictInt,
    ValidationError,
)

from workbench.core.coerce import to_json
from workbench.core.counted import counted
from workbench.core.errors import RunError, UserError
from workbench.core.image_size import ImageSize, Side, as_side
from workbench.core.printable import printable
from workbench.storage.files import DamagedError, is_count, parse_json, read_bytes
from workbench.storage.migrations import FORMAT, is_format, migrate_config

REQUIRED = ("class", "settings")


def _stored_side(value: Any) -> Any:
    """Return a side; text that is none is refused as the value of a wrong type is."""
    try:
        return as_side(value)
    except UserError as error:
        raise ValueError(str(error)) from None


def _with_sizes_as_text(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, ImageSize) else value
        for name, value in settings.items()
    }


# An integer in JSON for square images, otherwise a text such as 128x256.
StoredSide = Annotated[Side, BeforeValidator(_stored_side), PlainSerializer(to_json)]
Settings = Annotated[dict[str, Any], AfterValidator(_with_sizes_as_text)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="allow", validate_by_name=True, validate_by_alias=True
    )


class DataConfig(_Section):
    """The images that a tokenizer was trained on.

    Attributes
    ----------
    source : str or None
        The name of a bundled dataset, a path, `hub:owner/name` or `stream:...`, as
        `workbench.data.load` takes it.
    side : int, ImageSize or None
        The height and width of the images in pixels.
    channels : int or None
        Their number of color channels.
    limit : int or None
        The largest number of images to load; None for all.
    fingerprint : str or None
        A hash of the images.
    names : tuple of str
        The names of the classes, by label.
    n : int or None
        The number of training images; None for a stream.
    skipped : tuple of str
        Files that could not be read.
    split : str or None
        The images that an imported tokenizer was evaluated on: "test", or "all" of a source
        without splits.
    resize : str or None
        How images are brought to their side; None for the default of `workbench.data.load`.
    value_range : tuple of float or None
        The values of black and white of images with more than 8 bits per channel.
    layout : str or None
        The layout of the files that was detected, such as `train/CLASS and val/CLASS`.
    splits : dict of str to int
        The number of images of each split, before `limit`.
    ignored : dict of str to int
        The number of files that are not used, by their extension.
    notes : tuple of str
        Sentences about parts of the source that are probably not as intended.
    """

    source: str | None = None
    side: StoredSide | None = None
    channels: StrictInt | None = None
    limit: StrictInt | None = None
    fingerprint: str | None = None
    names: tuple[str, ...] = ()
    n: StrictInt | None = None
    skipped: tuple[Any, ...] = ()
    split: str | None = None
    resize: str | None = None
    value_range: tuple[float, float] | None = None
    layout: str | None = None
    splits: dict[str, int] = Field(default_factory=dict)
    ignored: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str | None:
        """A sentence with the layout and its numbers; None if no layout is known."""
        if self.layout is None:
            return None
        kinds = {"train": "training", "test": "held-out"}
        counts = [f"{count:,} {kinds.get(name, name)}" for name, count in self.splits.items()]
        if self.split == "all":  # nothing is trained on any of them
            counts = [f"all {sum(self.splits.values()):,}"]
        classes = counted(len(self.names), "class", "classes") if self.names else "no classes"
        parts = [f"{' and '.join(counts)} images", classes]
        if self.skipped:
            parts.append(f"{counted(len(self.skipped), 'file')} skipped")
        if self.ignored:
            by_type = ", ".join(f"{count:,} {name}" for name, count in self.ignored.items())
            parts.append(f"{counted(sum(self.ignored.values()), 'file')} ignored ({by_type})")
        return f"Data: {self.source} ({self.layout}): {', '.join(parts)}."


class RunReference(_Section):
    """A checkpoint of another run.

    Attributes
    ----------
    run : str
        The path of the other run's folder, relative to the folder of this run.
    step : int or None
        The training step of the checkpoint; None for the last.
    """

    run: str
    step: StrictInt | None = None


class LatentsConfig(_Section):
    """Latents or codes in files, on which a generator was trained.

    Attributes
    ----------
    folder : str
        The absolute path of the folder.
    n : int or None
        The number of images.
    """

    folder: str
    n: StrictInt | None = None


class ScaleConfig(_Section):
    """The published normalization of latents for diffusion: (z - mean) / std.

    Attributes
    ----------
    mean, std : tuple of float
        One number for all channels, or one per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


class ImportedConfig(_Section):
    """The origin of a model that was trained elsewhere, which is loaded again when it is needed.

    Attributes
    ----------
    kind : {"tokenizer", "generator", "arrays"}
        The kind of model; arrays have none.
    address : str or None
        `family:location`; None if the model was evaluated from Python objects.
    revision : str or None
        A branch, tag or commit on the hub.
    options : dict
        Options of the family, by name.
    files : dict of str to str
        The SHA-256 of each file that was read, by its name.
    license : str or None
        The license of the weights; None if none is stated.
    side : int, ImageSize or None
        The height and width of the images in pixels that the checkpoint is meant for; None for any.
    flexible : bool
        Whether the model takes images of another size.
    scale : ScaleConfig or None
        The published normalization of latents, if it is known.
    notes : tuple of str
        Remarks on the checkpoint, one sentence each.
    """

    kind: Literal["tokenizer", "generator", "arrays"]
    address: str | None = None
    revision: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    license: str | None = None
    side: StoredSide | None = None
    flexible: bool = False
    scale: ScaleConfig | None = None
    notes: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """The address, or what replaces it in a sentence."""
        return self.address or "Python objects"


class RunConfig(_Section):
    """The settings of a run: enough to build its model again.

    Unknown sections of a config.json are kept.

    Attributes
    ----------
    class_path : str
        `module:Class` of the model. Its key in config.json is `class`.
    settings : dict
        The model's settings, by name.
    training : dict
        The training settings, by name (see `workbench.training.TrainConfig`).
    recipe : str or None
        The recipe, such as softvq-digits.
    changes : dict
        The settings that were changed when the recipe was trained.
    data : DataConfig or None
        The images of a tokenizer.
    tokenizer : RunReference or None
        The tokenizer of a generator; None if only its latents are known.
    latents : LatentsConfig or None
        The files that a generator was trained on, in place of the tokenizer's own.
    start : RunReference or None
        The run whose weights training started from.
    imported : ImportedConfig or None
        The origin of a model that was trained elsewhere; None for a run of this package.
    versions : dict
        Versions of the libraries and of this code, by name.
    created : str or None
        The date and time when the run was created, in ISO format.
    format : int
        The version of the layout of the run's folder.
    """

    class_path: str = Field(alias="class")
    settings: Settings
    training: dict[str, Any] = Field(default_factory=dict)
    recipe: str | None = None
    changes: Settings = Field(default_factory=dict)
    data: DataConfig | None = None
    tokenizer: RunReference | None = None
    latents: LatentsConfig | None = None
    start: RunReference | None = None
    imported: ImportedConfig | None = None
    versions: dict[str, Any] = Field(default_factory=dict)
    created: str | None = None
    format: StrictInt = FORMAT

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the settings of a tokenizer contain."""
        return self.settings["channels"], *ImageSize.of(self.settings["side"])

    @property
    def is_generator(self) -> bool:
        """True if the model was trained on latents or codes."""
        return self.tokenizer is not None or self.latents is not None

    @classmethod
    def from_dict(cls, sections: Mapping[str, Any]) -> "RunConfig":
        """Return the configuration with these sections.

        Raises
        ------
        RunError
            If a section is missing or of the wrong type.
        """
        try:
            return cls.model_validate(dict(sections))
        except ValidationError as error:
            raise RunError(f"The configuration of a run is not valid: {_faults(error)}.") from None

    @classmethod
    def read(cls, path: Path) -> "RunConfig":
        """Read a config.json of this or an earlier format.

        Raises
        ------
        RunError
            If the file is damaged or was written by a newer version of this package.
        FileNotFoundError
            If the file does not exist.
        """
        try:
            stored = parse_json(read_bytes(path))
        except DamagedError as error:
            raise _damaged(path, str(error)) from None
        if not isinstance(stored, dict) or not is_format(stored.get("format")):
            raise _damaged(path, "it has no format number")
        if stored["format"] > FORMAT:
            raise RunError(
                f"{path.parent} was written by a newer workbench (format {stored['format']}, "
                f"this one reads up to {FORMAT}). Upgrade this package."
            )
        missing = [name for name in REQUIRED if name not in stored]
        if missing:
            raise _damaged(path, f"it has no {' and no '.join(missing)}")
        if not isinstance(stored["class"], str):
            raise _damaged(path, "class: Input should be a valid string")
        try:
            config = cls.model_validate(migrate_config(stored))
        except ValidationError as error:
            raise _damaged(path, _faults(error)) from None
        except RecursionError:
            raise _damaged(path, "it is nested too deeply") from None
        if not is_count(config.training.get("steps", 0)):
            raise _damaged(path, "training.steps is not a whole number")
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the sections that were set, as config.json stores them."""
        sections = {"format": self.format} | self.model_dump(by_alias=True, exclude_unset=True)
        return json.loads(json.dumps(sections))


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        f"{printable(path)} is damaged ({reason}). Restore it from a copy; the checkpoints need it."
    )


def _faults(error: ValidationError) -> str:
    """Name the invalid sections and the reason for each."""
    faults = (
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
        for fault in error.errors()
    )
    return "; ".join(faults)
