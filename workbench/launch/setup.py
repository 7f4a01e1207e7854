"""The data and the initial weights of a run: images, a tokenizer's latents, or another run.

`resolve_*` functions load a source and return the section of config.json that describes it.
`load_training_data` loads the source that a config.json describes.
"""

import sys
import typing
import warnings
from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import RunError, UserError
from workbench.core.image_size import AnySide, ImageSize
from workbench.core.printable import escape_controls
from workbench.launch.trainables import Trainable, load_class, recipes_for, split_recipe
from workbench.storage.run import Run
from workbench.storage.run_config import DataConfig, LatentsConfig, RunConfig, RunReference

if TYPE_CHECKING:
    from torch import Tensor, nn

    from workbench.core.types import Dataset
    from workbench.data import ImageSet
    from workbench.data.stream import ImageStream
    from workbench.features.cache import WithFeatures
    from workbench.generators.base import Generator
    from workbench.launch.latent_dataset import LatentDataset
    from workbench.training import TrainConfig

STREAM = "stream:"
MAX_HELD_OUT = 64  # items whose loss is logged during training
MAX_LISTED = 3  # names of weights in a warning
UNCONDITIONAL = (
    "The images have no classes, so that the generator is unconditional. One folder per class "
    "would make it class-conditional."
)


def resolve_images(
    source: str,
    *,
    side: AnySide,
    channels: int,
    limit: int | None = None,
    value_range: Sequence[float] | None = None,
) -> tuple[DataConfig, "ImageSet | ImageStream"]:
    """Load the training images of a tokenizer.

    Parameters
    ----------
    source : str
        The name of a dataset, a path, `hub:owner/name` or `stream:...`.
    side : int, str or pair of int
        The height and width of the images in pixels; see `ImageSize.of`.
    channels : int
        Their number of color channels.
    limit : int or None
        The largest number of images; None for all. A stream is not limited.
    value_range : sequence of two floats, optional
        The values of black and white of images with more than 8 bits per channel.

    Returns
    -------
    section : DataConfig
        The section `data` of config.json.
    images : ImageSet or ImageStream
        The images.
    """
    from workbench.data import load

    size = ImageSize.of(side)
    limits = None if value_range is None else (value_range[0], value_range[1])
    range_field: dict[str, Any] = {} if limits is None else {"value_range": limits}
    if source.startswith(STREAM):
        stream = _open_stream(source, size, channels, limits)
        section = DataConfig(
            source=stream.source,
            side=size.side,
            channels=channels,
            limit=None,
            fingerprint=stream.fingerprint,
            names=(),
            n=None,
            skipped=(),
            **range_field,
        )
        return section, stream
    images = load(source, side=size, channels=channels, limit=limit, value_range=limits)
    section = DataConfig(
        source=absolute_source(source),
        side=size.side,
        channels=channels,
        limit=limit,
        fingerprint=images.fingerprint,
        names=images.names,
        n=len(images),
        skipped=images.skipped,
        **range_field,
        **layout_fields(images),
    )
    return section, images


def layout_fields(images: "ImageSet") -> dict[str, Any]:
    """Return the fields of `DataConfig` for the layout of a source; none if it is not known."""
    layout = images.layout
    if layout is None:
        return {}
    return {
        "layout": layout.name,
        "splits": layout.splits,
        "ignored": layout.ignored,
        "notes": layout.notes,
    }


def print_summary(run_config: RunConfig, data: DataConfig | None) -> None:
    """Print how the files of a run's images were understood, and whether they have classes."""
    from tqdm.auto import tqdm

    sentences = [None if data is None else data.summary]
    if run_config.is_generator and run_config.settings.get("classes") == 1:
        sentences.append(UNCONDITIONAL)
    for sentence in filter(None, sentences):
        tqdm.write(escape_controls(sentence), file=sys.stderr)


def resolve_latents(
    trainable: Trainable,
    out: Path,
    sources: Mapping[str, Any],
    settings: dict[str, Any],
    *,
    flip: bool = False,
    trust: Sequence[str] = (),
) -> tuple[dict[str, Any], "LatentDataset", dict[str, Any]]:
    """Load the training data of a generator from a tokenizer's run, or from files of latents.

    Parameters
    ----------
    trainable : Trainable
        The generator.
    out : Path
        The folder of the generator's run.
    sources : mapping
        `tokenizer`, the folder of the tokenizer's run, and `latents`, a folder of latents or codes
        that replace the tokenizer's own; at least one of them.
    settings : dict
        The generator's settings that are known so far.
    flip : bool
        Whether the generator is trained on mirrored images as well.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Returns
    -------
    sections : dict
        The sections `tokenizer` and `latents` of config.json, as far as there are.
    data : LatentDataset
        The latents or codes that the generator consumes.
    derived : dict
        The generator's settings that the data decides.

    Raises
    ------
    UserError
        If both are missing, a source is not valid, or they do not fit each other.
    """
    from workbench.launch.latent_dataset import load_encoded, load_files

    tokenizer, latents = sources.get("tokenizer"), sources.get("latents")
    generator: Any = trainable.model_class
    if tokenizer is None and latents is None:
        raise _needs_tokenizer(trainable, out)
    sections: dict[str, Any] = {}
    source: Run | None = None
    if tokenizer is not None:
        source = _source_tokenizer(trainable, tokenizer)
        step = source.find_step()
        sections["tokenizer"] = RunReference(run=relpath(source.folder, out), step=step)
    if latents is not None:
        folder = _absolute(latents)
        data = load_files(folder, generator.consumes, flip=flip, tokenizer=source, trust=trust)
        sections["latents"] = LatentsConfig(folder=folder, n=len(data))
    else:
        assert source is not None  # one of them is given
        data = load_encoded(source, step, generator.consumes, flip=flip, trust=trust)
    return sections, data, generator.settings_from(data, settings)


def _needs_tokenizer(trainable: Trainable, out: Path) -> UserError:
    name = trainable.name
    model = name if trainable.is_recipe else f"--class {name}"
    example = f"workbench train {model} --tokenizer runs/softvq-{trainable.data_name} --out {out}"
    return UserError(
        f"{name} is trained on the latents of a tokenizer; name its run: {example} (or a folder"
        " with latents: --latents FOLDER)"
    )


def _source_tokenizer(trainable: Trainable, folder: str) -> Run:
    """Return the run of a tokenizer on which a generator can be trained."""
    source = Run(folder)
    if source.is_generator:
        raise UserError(
            f"{folder} is a generator ({source.kind}); tokenizer must be the run of a tokenizer."
        )
    imported = source.config.imported
    if imported is not None and imported.kind == "arrays":
        path = (imported.address or "arrays:FOLDER").removeprefix("arrays:")
        raise UserError(
            f"{folder} has arrays and no tokenizer. Train on its files with --latents {path} in"
            " place of --tokenizer; samples can then not be decoded."
        )
    if trainable.is_recipe and source.config.recipe is not None:
        _, data_name = split_recipe(source.config.recipe)
        if data_name != trainable.data_name:
            raise UserError(
                f"{folder} was trained on {data_name}; use {_generators_for(trainable, data_name)}."
            )
    return source


def _generators_for(trainable: Trainable, data_name: str) -> str:
    """Return what can be trained instead of a generator's recipe for another dataset."""
    system, _ = split_recipe(trainable.name)
    recipes = recipes_for(system, data_name)
    if not recipes:
        return f"--class {trainable.class_path}"
    return f"the recipe {' or '.join(recipes)}"


def imported_settings(source: Run, model_class: Any) -> dict[str, Any]:
    """Return the settings of an imported model, as defaults of a training that starts from it.

    A recipe has sizes of its own, which would fit few of the weights of a published model.

    Parameters
    ----------
    source : Run
        The run that training starts from.
    model_class : type
        The class to be trained, which has a `Config`.

    Returns
    -------
    dict
        Empty if the run was trained here, or holds a model of another class.
    """
    class_path = f"{model_class.__module__}:{model_class.__qualname__}"
    if source.config.imported is None or source.config.class_path != class_path:
        return {}
    names = typing.get_type_hints(model_class.Config).keys()
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in source.config.settings.items()
        if name in names
    }


def resolve_init(
    source: Run, model: "nn.Module", out: Path, *, trust: Sequence[str] = ()
) -> RunReference:
    """Return the section `start` of config.json for a run whose weights training starts from.

    Raises
    ------
    UserError
        If no weight of that run fits the model by name and shape.
    """
    if not _matching_weights(source, model, trust):
        raise UserError(
            f"{source.folder} ({source.kind}) has no weights that fit {type(model).__name__}."
        )
    return RunReference(run=relpath(source.folder, out), step=source.steps[-1])


def save_initial_checkpoint(
    run: Run,
    model: "nn.Module",
    train_config: "TrainConfig",
    data: "Dataset",
    trust: Sequence[str] = (),
) -> None:
    """Write the weights of another run as the checkpoint of step 0.

    Afterwards the run does not need the other run. If a part of the state that the model prepares
    from the data is not among those weights, such as a codebook of another size, it is prepared.
    """
    from workbench.core.types import NeedsPreparation
    from workbench.training import TrainState

    start = run.config.start
    assert start is not None
    source = Run(run.related_folder(start.run))
    weights = _matching_weights(source, model, trust)
    model.load_state_dict(model.state_dict() | weights)
    missing = sorted(model.state_dict().keys() - weights.keys())
    if missing:
        warnings.warn(_partial_start(run, source, len(weights), missing), stacklevel=2)
    if isinstance(model, NeedsPreparation) and any(
        name.startswith(model.prepared_state) for name in missing
    ):
        model.prepare(data, train_config.seed)
    run.save(0, TrainState(model, train_config).state_dict())
    run.event("started from", 0, run=start.run, taken=len(weights), new=missing)


def _partial_start(run: Run, source: Run, num_taken: int, missing: Sequence[str]) -> str:
    """Return the warning that a run starts with some of the weights of another run."""
    names = ", ".join(missing[:MAX_LISTED])
    remainder = f" and {len(missing) - MAX_LISTED:,} more" if len(missing) > MAX_LISTED else ""
    return (
        f"{run.name} starts with {num_taken:,} of {num_taken + len(missing):,} arrays of weights "
        f"of {source.name}, and with new ones for those that it does not have in this shape: "
        f"{names}{remainder}."
    )


def attach_features(model: "nn.Module", images: "Dataset", folder: str) -> "WithFeatures":
    """Return the images with the features of the model's teachers, computed once into a folder.

    Raises
    ------
    UserError
        If the model has no teacher, or the images cannot be indexed.
    """
    from workbench.features.cache import FingerprintedImages, WithFeatures, cached_features
    from workbench.tokenizers.base import TrainableTokenizer

    if not isinstance(images, FingerprintedImages):
        raise UserError(f"cache={folder} needs images that can be indexed, and a stream cannot.")
    if not isinstance(model, TrainableTokenizer) or not model.teachers:
        raise UserError(
            f"cache={folder} stores features of teachers, and {type(model).__name__} has no"
            " teacher."
        )
    grid = model.feature_grid
    features = [cached_features(images, teacher, grid, folder) for teacher in model.teachers]
    return WithFeatures(images, tuple(features))


def load_training_data(run: Run, trust: Sequence[str] = ()) -> "Dataset":
    """Load the training data of a run: its images, or its tokenizer's latents or codes.

    Parameters
    ----------
    run : Run
        The run to be trained.
    trust : sequence of str
        Modules outside of this package that may be imported.
    """
    from workbench.collect import load_images
    from workbench.launch.latent_dataset import load_encoded, load_files

    if run.is_generator:
        generator: type[Generator] = load_class(run.config.class_path, trust)
        flip = run.config.training.get("flip", 0.0) > 0
        if run.config.latents is not None:
            folder = run.config.latents.folder
            return load_files(
                folder, generator.consumes, flip=flip, tokenizer=run.tokenizer, trust=trust
            )
        assert run.tokenizer is not None  # a generator has one of them
        return load_encoded(
            run.tokenizer, run.tokenizer_step, generator.consumes, flip=flip, trust=trust
        )
    data = run.config.data
    if data is None or data.source is None:
        raise RunError(f"{run.folder} has no data.source in its config.json.")
    if data.source.startswith(STREAM):
        channels, height, width = run.config.image_shape
        return _open_stream(data.source, ImageSize(height, width), channels, data.value_range)
    return load_images(run, "train")


def load_held_out(run: Run, trust: Sequence[str] = ()) -> "tuple[Tensor, ...] | None":
    """Load one batch of held-out items of a run, as its objective takes them.

    Parameters
    ----------
    run : Run
        The run to be trained.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Returns
    -------
    tuple of Tensor or None
        At most `MAX_HELD_OUT` items. None if the images have no held-out part, or none of the
        classes of the generator.
    """
    import numpy as np

    from workbench.collect import load_images
    from workbench.launch.latent_dataset import encode_held_out

    if run.is_generator and run.tokenizer is None:
        return None
    source = run.tokenizer or run
    try:
        images = load_images(source, "test", MAX_HELD_OUT)
    except UserError:
        return None  # training itself does not need them
    if not len(images):
        return None
    if run.tokenizer is None:
        return (images.images(),)
    generator: type[Generator] = load_class(run.config.class_path, trust)
    classes = run.config.settings["classes"]
    if images.labels is not None:  # rare classes may be among the held-out images only
        images = images.select(np.flatnonzero(images.labels < classes))
    if not len(images) or (images.labels is None and classes > 1):
        return None
    return encode_held_out(source, run.tokenizer_step, generator.consumes, images, classes, trust)


def _open_stream(
    source: str, size: ImageSize, channels: int, value_range: tuple[float, float] | None = None
) -> "ImageStream":
    from workbench.data.stream import ImageStream

    name = source.removeprefix(STREAM)
    if Path(name).expanduser().exists():
        name = _absolute(name)
    return ImageStream(name, size, channels, value_range=value_range)


def absolute_source(source: str) -> str:
    """Return the name of a dataset with an absolute path, if it is a path."""
    from workbench.data import BUNDLED

    prefix = STREAM if source.startswith(STREAM) else ""
    name = source.removeprefix(STREAM)
    is_name = name in BUNDLED or name.startswith("hub:")
    if is_name or not Path(name).expanduser().exists():
        return source
    return prefix + _absolute(name)


def _absolute(path: str) -> str:
    """Return an absolute path, so that the run can be read from any working directory."""
    return str(Path(path).expanduser().resolve())


def _matching_weights(source: Run, model: "nn.Module", trust: Sequence[str]) -> "dict[str, Tensor]":
    """Return the averaged weights of a run that fit a model by name and shape."""
    from workbench.storage.checkpoint import read_tensors

    state = model.state_dict()
    if source.config.imported is None:
        stored = read_tensors(source.checkpoint())["ema"]
    else:
        stored = source.load(trust=trust).state_dict()
    return {
        name: value
        for name, value in stored.items()
        if name in state and value.shape == state[name].shape
    }
