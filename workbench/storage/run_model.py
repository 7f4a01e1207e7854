"""The model of a run: building its class, and loading the weights of a checkpoint."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import RunError, UserError
from workbench.core.trusted import MAIN, PACKAGE, import_trusted, is_trusted
from workbench.storage.run_config import RunConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_REASON_LENGTH = 200
MAX_SMALL_SIZE = 512  # settings up to this size do not exhaust the memory of a machine


def build_model(folder: Path, config: RunConfig, trust: Sequence[str] = ()) -> "nn.Module":
    """Return the model of a run as it was before training.

    Parameters
    ----------
    folder : Path
        The folder of the run, for messages.
    config : RunConfig
        Its configuration.
    trust : sequence of str
        Modules and packages outside of this package that may be imported.

    Raises
    ------
    RunError
        If the class may not be imported, does not exist, or does not accept the settings.
    """
    path = config.class_path
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config.settings.items()
    }
    try:
        model_class = import_trusted(path, (PACKAGE, *trust))
        return model_class(model_class.Config(**settings))
    except (UserError, ImportError, AttributeError, TypeError) as error:
        reason = str(error).rstrip(".")
        raise RunError(f"{folder} cannot be built from {path}: {reason}.") from None


def load_model(
    folder: Path,
    config: RunConfig,
    weights: "Mapping[str, Tensor]",
    checkpoint: Path,
    trust: Sequence[str] = (),
) -> "nn.Module":
    """Return the model of a run with the weights of a checkpoint, in evaluation mode.

    Parameters
    ----------
    folder : Path
        The folder of the run, for messages.
    config : RunConfig
        Its configuration.
    weights : mapping of str to Tensor
        The weights by their names in the model.
    checkpoint : Path
        The file of the weights, for messages.
    trust : sequence of str
        Modules and packages outside of this package that may be imported.

    Raises
    ------
    RunError
        If the model cannot be built, or the weights do not fit it.
    """
    _check_shapes(folder, config, weights, checkpoint)
    model = build_model(folder, config, trust)
    _load_weights(model, config, weights, checkpoint)
    return model.eval()


def class_module(config: RunConfig) -> str:
    """Return the module of the model's class."""
    return config.class_path.partition(":")[0]


def is_trusted_class(config: RunConfig, trust: Sequence[str] = ()) -> bool:
    """Return True if the class of a run belongs to this package or to a trusted module.

    A run of arrays has no code that would have to be trusted.
    """
    if config.imported is not None and config.imported.kind == "arrays":
        return True
    return is_trusted(class_module(config), (PACKAGE, *trust))


def untrusted_class(folder: Path, config: RunConfig) -> RunError:
    """Return the error for a run whose class may not be imported."""
    path = config.class_path
    module = class_module(config)
    if module == MAIN:
        return RunError(
            f"{folder} was trained with a class of a notebook or script ({path}). Only"
            " there can its model be loaded, with trust=['__main__']; its evidence can be"
            " viewed everywhere."
        )
    package = module.partition(".")[0]
    return RunError(
        f"{folder} was trained with {path}, code outside of this package. If you trust it,"
        f" add --trust {package} (in Python: trust=['{package}'])."
    )


def _check_shapes(
    folder: Path, config: RunConfig, weights: "Mapping[str, Tensor]", checkpoint: Path
) -> None:
    """Compare sizes before memory is allocated: settings may require any amount of it."""
    import torch

    if not is_trusted_class(config):
        return  # a class from elsewhere may need real tensors
    if _largest_size(config.settings) <= MAX_SMALL_SIZE:
        return  # building it without memory imports the compiler, which takes a second
    with torch.device("meta"):
        model = build_model(folder, config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*meta parameter.*")
        _load_weights(model, config, weights, checkpoint)


def _load_weights(
    model: "nn.Module", config: RunConfig, weights: "Mapping[str, Tensor]", checkpoint: Path
) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
        raise RunError(f"{checkpoint} does not fit {config.class_path}: {reason}") from None


def _largest_size(settings: Any) -> float:
    """Return the largest number, or number of entries, in nested settings."""
    if isinstance(settings, dict):
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        return max([len(settings), *map(_largest_size, settings)])
    return settings if isinstance(settings, int | float) else 0
