"""Where a job's data and first weights come from: images, a tokenizer's latents of them, another run.

Each `about_` says what a run remembers of a source; the others read it again.
"""

import importlib
from os.path import relpath
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from workbench.core.errors import UserError
from workbench.storage.run import Run

if TYPE_CHECKING:
    from workbench.generators.base import Generator
    from workbench.launch.latent_dataset import LatentDataset


def resolve_images(source: str, config: Any, limit: int | None) -> tuple[dict[str, Any], Any]:
    """What a tokenizer's run remembers of its images, and the images."""
    from workbench.data import BUNDLED, load

    if source.startswith("stream:"):
        return _about_stream(source, config)
    images = load(source, side=config.side, channels=config.channels, limit=limit)
    if source not in BUNDLED and not source.startswith("hub:"):
        source = str(
            Path(source).expanduser().resolve()
        )  # so that the run can be read from any folder
    data = {"source": source, "side": config.side, "channels": config.channels, "limit": limit}
    data |= {"fingerprint": images.fingerprint, "names": list(images.names), "n": len(images)}
    return {"data": data | {"skipped": images.skipped}}, images


def _about_stream(source: str, config: Any) -> tuple[dict[str, Any], Any]:
    from workbench.data.stream import ImageStream

    name = source.removeprefix("stream:")
    if Path(name).expanduser().exists():
        name = str(Path(name).expanduser().resolve())
    images = ImageStream(name, config.side, config.channels)
    data = {
        "source": images.source,
        "side": config.side,
        "channels": config.channels,
        "limit": None,
    }
    return {
        "data": data | {"fingerprint": images.fingerprint, "names": [], "n": None, "skipped": []}
    }, images


def model_class(path: str) -> Any:
    """Import the class of a model from `module:Class`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def resolve_latents(
    recipe: str,
    out: Path,
    tokenizer: str | None,
    generator: "type[Generator]",
    settings: dict[str, Any],
) -> tuple[dict[str, Any], "LatentDataset", dict[str, Any]]:
    """Load a generator's training data from a tokenizer's run.

    Returns
    -------
    section : dict
        The part of config.json that refers to the tokenizer.
    data : LatentDataset
        The latents or codes that the generator consumes.
    learned : dict
        The generator's settings that the tokenizer decides.
    """
    from workbench.launch.latent_dataset import load_encoded

    asked_for = recipe.split("-")[1]
    if tokenizer is None:
        example = f"workbench train {recipe} --tokenizer runs/softvq-{asked_for} --out {out}"
        raise UserError(
            f"{recipe} learns from a trained tokenizer's latents; name its run: {example}"
        )
    source = Run(tokenizer)
    if source.tokenizer is not None:
        raise UserError(
            f"{tokenizer} is a generator ({source.kind}); a generator learns from a tokenizer's run."
        )
    trained_on = source.config.get("recipe", recipe).split("-")[1]
    if trained_on != asked_for:
        raise UserError(
            f"{tokenizer} was trained on {trained_on}; use the recipe {recipe.split('-')[0]}-{trained_on}."
        )
    source.checkpoint()
    step = source.steps[-1]
    data = load_encoded(source, step, generator.consumes)
    section = {"tokenizer": {"run": relpath(source.folder, out), "step": step}}
    return section, data, generator.settings_from(data, settings)


def resolve_init(source: Run, model: Any, out: Path) -> dict[str, Any]:
    """What a run remembers of the one whose weights it begins with. Raises UserError where nothing of it fits."""
    if not _shared(source, model):
        raise UserError(
            f"{source.folder} ({source.kind}) has no weights that this {type(model).__name__} could take."
        )
    return {"start": {"run": relpath(source.folder, out), "step": source.steps[-1]}}


def _shared(source: Run, model: Any) -> dict[str, Any]:
    """The averaged weights of a run that fit a model by name and shape."""
    from workbench.storage.checkpoint import read_tensors

    mine = model.state_dict()
    found = read_tensors(source.checkpoint())["ema"]
    return {
        name: value
        for name, value in found.items()
        if name in mine and value.shape == mine[name].shape
    }


def save_initial_checkpoint(
    run: Run,
    model: Any,
    train_config: Any,
    data: Any,
) -> None:
    """Begin with another run's weights: as the checkpoint of step 0, so that the run can do without the other.

    Where those do not have all that `prepare` fills, as a codebook of this size, the model looks at the data as well.
    """
    from workbench.training import TrainState

    taken = _shared(Run(run.folder / run.config["start"]["run"]), model)
    model.load_state_dict(model.state_dict() | taken)
    left = sorted(model.state_dict().keys() - taken.keys())
    if any(name.startswith(getattr(model, "prepares", ())) for name in left):
        model.prepare(data, train_config.seed)
    run.save(0, TrainState(model, train_config).state_dict())
    run.event("started from", 0, run=run.config["start"]["run"], taken=len(taken), new=left)


def attach_features(model: Any, images: Any, folder: str) -> Any:
    """Images together with what the model's teachers say of them, computed once and kept in a folder."""
    from workbench.features.cache import WithFeatures, features_of

    if not model.teachers:
        raise UserError(
            f"cache={folder} keeps teachers' features, and this {type(model).__name__} has no teacher."
        )
    return WithFeatures(
        images, tuple(features_of(images, one, model.cells, folder) for one in model.teachers)
    )


def load_training_data(run: Run) -> Any:
    """The training data of a run: its images, or its tokenizer's latents or codes of them."""
    from workbench.collect import load_images
    from workbench.launch.latent_dataset import load_encoded

    if run.tokenizer is None:
        told = run.config.get("data", {})
        if str(told.get("source")).startswith("stream:"):
            return _about_stream(
                told["source"], SimpleNamespace(side=told["side"], channels=told["channels"])
            )[1]
        return load_images(run, "train")
    consumes = model_class(run.config["class"]).consumes
    return load_encoded(run.tokenizer, run.config["tokenizer"]["step"], consumes)
