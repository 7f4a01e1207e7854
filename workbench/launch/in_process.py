"""Training of a recipe or of a class in this process.

`train("softvq-digits", "runs/a", num_tokens=8, steps=500)` trains a recipe; the same call resumes a
run that was stopped.
"""

import dataclasses
import os
import signal
import sys
import threading
import typing
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import RunError, UserError
from workbench.core.progress import progress_listener
from workbench.core.progress_bar import (
    collecting_bar,
    count_on,
    percentage_on,
    progress_bar,
)
from workbench.launch.settings import (
    DATA_SETTINGS,
    LATENT_SETTINGS,
    START,
    coerce_changes,
)
from workbench.launch.setup import (
    attach_features,
    imported_settings,
    load_held_out,
    load_training_data,
    print_summary,
    resolve_images,
    resolve_init,
    resolve_latents,
    save_initial_checkpoint,
)
from workbench.launch.trainables import Trainable, find_trainable, load_class, parse_target
from workbench.storage.run import Run
from workbench.storage.run_config import RunConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from workbench.core.types import Dataset
    from workbench.training import TrainConfig

# Settings that may differ when a run is resumed, because its weights do not depend on them.
RESUMABLE_SETTINGS = ("num_workers",)
RUN_SETTINGS = tuple(setting.name for setting in (START, *LATENT_SETTINGS, *DATA_SETTINGS))
GENTLE_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """The arguments of `fit` for one run.

    Attributes
    ----------
    model : Module
        The model, with the weights it starts from.
    data : Dataset
        The training data.
    train_config : TrainConfig
        The training settings.
    run : Run
        The run that stores checkpoints and logs.
    trust : tuple of str
        Modules outside of this package that may be imported.
    """

    model: "nn.Module"
    data: "Dataset"
    train_config: "TrainConfig"
    run: Run
    trust: tuple[str, ...] = ()


def train(
    target: Any,
    out: str | Path,
    *,
    trust: Sequence[str] | str = (),
    collect: bool = True,
    **settings: Any,
) -> Run:
    """Train a recipe or a class into a folder with a progress bar, and collect its evidence.

    A run that was stopped is resumed. A finished run is trained longer if `steps` is larger than
    before. From there on, schedules are those of the larger number of steps: the learning rate
    rises to where a run of that length would be, and decays again. The first Ctrl-C writes a
    checkpoint and stops training; the second stops it at once.

    Parameters
    ----------
    target : str, type or Config
        A recipe, such as softvq-digits; or a class outside of the package as `module:Class`, as
        the class itself, or as its Config.
    out : str or Path
        The folder of the run.
    trust : sequence of str or str
        Modules and packages outside of this package that may be imported. The module of a class
        that is passed itself is trusted.
    collect : bool
        Whether to collect evidence after training. A finished run keeps the evidence that it has.
    **settings
        Settings of the model and of training by name, and:

        - data: a folder, a parquet file, `hub:owner/name`, or the name of a bundled dataset
        - limit: the largest number of training images
        - value_range: the values of black and white of images with more than 8 bits
        - cache: a folder for the features of alignment teachers
        - tokenizer: the run of a trained tokenizer, on whose latents a generator is trained
        - latents: a folder of latents or codes in place of the tokenizer's own; without a
          tokenizer, samples cannot be decoded
        - start: a run whose weights training starts from; settings that are not given are those of
          an imported run of the same class

    Returns
    -------
    Run
        The run.

    Raises
    ------
    UserError
        If a setting does not exist or does not fit.
    """
    _shorten_spinning()
    from tqdm.auto import tqdm

    from workbench.collect import collect as collect_evidence
    from workbench.training import Rank, fit

    process = Rank.current()
    job = prepare_training(target, out, trust=trust, **settings)
    run = job.run
    first_step = max(run.steps, default=0)
    is_finished = first_step >= job.train_config.steps and run.status()["state"] == "finished"
    has_evidence = is_finished and first_step in run.evidence_steps
    if not process.is_main:
        # A launcher sends its signals to all processes. The main one tells when to stop.
        with _on_first_signal(lambda: None):
            if not is_finished:
                deque(fit(job.model, job.data, job.train_config, run), maxlen=0)
        return run
    print_summary(run.config, (run.tokenizer or run).config.data)
    if not is_finished:
        _follow(job, first_step)
    if collect and run.is_generator and run.tokenizer is None:
        tqdm.write(f"{run.name} has no tokenizer, so that no evidence is collected.", sys.stderr)
    elif collect and not has_evidence and run.status()["state"] == "finished":
        with collecting_bar(run.name):
            collect_evidence(run, trust=job.trust)
    return run


def prepare_training(
    target: Any, out: str | Path, *, trust: Sequence[str] | str = (), **settings: Any
) -> TrainingJob:
    """Build what is trained, for a new run or for the run that the folder holds.

    Parameters
    ----------
    target, out, trust, **settings
        As for `train`.

    Returns
    -------
    TrainingJob
        The arguments of `fit`.

    Raises
    ------
    UserError
        If the target cannot be trained with these settings. Nothing is written then.
    """
    _shorten_spinning()
    import torch

    from workbench.training import Rank, TrainConfig

    process = Rank.current()
    parsed = parse_target(target, trust)
    trainable = find_trainable(parsed.name, parsed.trust)
    specified = {name: value for name, value in settings.items() if value is not None}
    for name in specified:
        if name in parsed.settings:
            raise UserError(f"{name} is set by the Config; set it there only.")
    changes = coerce_changes(trainable, parsed.settings | specified)
    is_new = not (Path(out) / "config.json").exists()
    is_longer = not is_new and _is_longer(Run(out), changes)
    process.wait_for_all()  # otherwise a late process would see what the main one has written
    if not is_new:
        run = Run(out)
        ignored = (*RESUMABLE_SETTINGS, "steps") if is_longer else RESUMABLE_SETTINGS
        _check_same_settings(run, trainable, changes, ignored)
        if is_longer:
            with process.main_process_first():
                if process.is_main:
                    run.extend(changes["steps"])
            run = Run(out)
        data = load_training_data(run, parsed.trust)
        _warn_about_versions(run)
    else:
        with _errors_of_settings(trainable.name, changes):
            config, data = configure(trainable, Path(out), changes, parsed.trust)
            _rehearse(config, data, parsed.trust)
        with process.main_process_first():
            run = Run.create(out, config) if process.is_main else Run(out)
    resumable = {name: changes[name] for name in RESUMABLE_SETTINGS if name in changes}
    train_config = TrainConfig.from_dict(run.config.training | resumable)
    torch.manual_seed(train_config.seed)
    model = run.build(parsed.trust)
    cache = run.config.changes.get("cache")
    if cache:
        data = attach_features(model, data, cache)
    if run.config.start is not None:
        is_first = not run.steps
        process.wait_for_all()
        with process.main_process_first():
            if process.is_main and is_first:
                _start_from_another_run(run, model, train_config, data, parsed.trust)
    return TrainingJob(
        model=model, data=data, train_config=train_config, run=run, trust=parsed.trust
    )


def _follow(job: TrainingJob, first_step: int) -> None:
    """Train with a progress bar; write samples and collect evidence on command."""
    from workbench.training import Rank, fit

    run = job.run
    is_alone = Rank.current().world_size == 1
    steps = job.train_config.steps
    can_decode = not run.is_generator or run.tokenizer is not None
    draw_preview = _previewer(run, job.trust) if can_decode else None
    held_out = load_held_out(run, job.trust)
    with (
        progress_bar(total=steps, initial=first_step, desc=run.name, unit="step") as bar,
        _on_first_signal(partial(_request_stop, run)) as signals,
        progress_listener(percentage_on(bar, "preparing the model")),
        closing(fit(job.model, job.data, job.train_config, run, held_out)) as records,
    ):
        for record in records:
            bar.update(record.step - bar.n)
            terms = {name: f"{value:.3g}" for name, value in record.terms.items()}
            bar.set_postfix(terms, refresh=False)
            if record.sample and draw_preview is not None:
                run.save_samples(record.step, draw_preview(record.model))
            if record.evaluate:
                with progress_listener(percentage_on(bar, "collecting evidence")):
                    _evaluate(run, record.step, job.trust)
            if signals and record.step < steps:
                # The signal may have arrived before `fit` listened for commands.
                if is_alone:
                    break
                run.ask("stop")  # in all processes


def _previewer(run: Run, trust: Sequence[str]) -> "Callable[[nn.Module], np.ndarray] | None":
    """Return what draws the preview images; None if a tokenizer has no held-out images."""
    from workbench.collect import previewer

    try:
        return previewer(run, trust=trust)
    except UserError:
        if run.is_generator:
            raise
        return None


def _evaluate(run: Run, step: int, trust: Sequence[str]) -> None:
    """Collect evidence while training; log an error as an event and resume training."""
    from workbench.collect import collect

    try:
        collect(run, step=step, trust=trust)
        run.event("evaluated", step)
    except UserError as error:
        run.event("not evaluated", step, why=str(error))


def _start_from_another_run(
    run: Run,
    model: "nn.Module",
    train_config: "TrainConfig",
    data: "Dataset",
    trust: Sequence[str],
) -> None:
    bar = progress_bar(desc=f"{run.name}: preparing the model", delay=1)
    with bar, progress_listener(count_on(bar)):
        save_initial_checkpoint(run, model, train_config, data, trust)


def coerce_settings(
    name: str, settings: dict[str, Any], trust: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the settings of a recipe or class in their declared types, as JSON stores them.

    Parameters
    ----------
    name : str
        The recipe, or `module:Class`.
    settings : dict
        Values by name, as text or as Python objects.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Raises
    ------
    UserError
        If a setting does not exist, does not fit its type, or is decided by the tokenizer.
    """
    return coerce_changes(find_trainable(name, trust), settings)


def configure(
    trainable: Trainable, out: Path, changes: dict[str, Any], trust: Sequence[str] = ()
) -> tuple[RunConfig, "Dataset"]:
    """Return the configuration of a new run (the defaults with the changes), and its data.

    Parameters
    ----------
    trainable : Trainable
        What is trained.
    out : Path
        The folder of the run; nothing is written.
    changes : dict
        Settings by name, in their declared types; see `coerce_settings`.
    trust : sequence of str
        Modules outside of this package that may be imported.
    """
    from workbench.collect import versions
    from workbench.training import TrainConfig

    model_class: Any = trainable.model_class
    model_names = typing.get_type_hints(model_class.Config).keys()
    model_changes = {name: value for name, value in changes.items() if name in model_names}
    training_changes = {
        name: value
        for name, value in changes.items()
        if name not in model_names and name not in RUN_SETTINGS
    }
    train_config = TrainConfig.from_dict(trainable.training | training_changes)
    settings = trainable.settings | model_changes
    if "start" in changes:
        inherited = imported_settings(Run(changes["start"]), model_class)
        settings = trainable.settings | inherited | model_changes
    sections: dict[str, Any] = {}
    data: Dataset
    if trainable.is_generator:
        latent_sections, data, derived = resolve_latents(
            trainable, out, changes, settings, flip=train_config.flip > 0, trust=trust
        )
        sections |= latent_sections
        model_config = model_class.Config(**(settings | derived))
    else:
        model_config = model_class.Config(**settings)
        source = changes.get("data", trainable.source)
        if source is None:
            raise UserError(
                f"{trainable.name} needs images: add data, such as --data digits or --data FOLDER."
            )
        sections["data"], data = resolve_images(
            source,
            side=model_config.side,
            channels=model_config.channels,
            limit=changes.get("limit"),
            value_range=changes.get("value_range"),
        )
    if "start" in changes:
        sections["start"] = resolve_init(
            Run(changes["start"]), model_class(model_config), out, trust=trust
        )
    if trainable.is_recipe:
        sections["recipe"] = trainable.name
    sections |= {
        "changes": changes,
        "class": trainable.class_path,
        "settings": dataclasses.asdict(model_config),
        "training": train_config.to_dict(),
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return RunConfig.from_dict(sections), data


def _rehearse(config: RunConfig, data: "Dataset", trust: Sequence[str]) -> None:
    """Compute the loss of a few items with a temporary model.

    Some settings are only refused by the arithmetic, others by the memory that a step needs.
    """
    import torch

    from workbench.core.types import StreamDataset
    from workbench.launch.step_cost import check_step
    from workbench.training import Rank, TrainConfig, TrainState
    from workbench.training.dataloading import with_augmentation

    train_config = TrainConfig.from_dict(config.training)
    with_augmentation(data, train_config.augmentation)
    if config.changes.get("cache") and train_config.augmentation.is_active:
        raise UserError(
            "cache stores the features of images that are neither cropped nor flipped; add"
            " crop=center, flip=0 and reduced_decoding=false, or leave out cache."
        )
    model_class = load_class(config.class_path, trust)
    torch.manual_seed(train_config.seed)
    model = model_class(model_class.Config(**config.settings))
    TrainState(model, train_config)

    def read(count: int) -> tuple[torch.Tensor, ...]:
        if isinstance(data, StreamDataset):
            return (data.take(count),)
        return data.batch(torch.arange(min(count, len(data))))

    items = train_config.batch_size // train_config.accumulation_steps // Rank.current().world_size
    check_step(
        model,
        lambda batch: model.objective(*batch),
        read,
        items=items,
        mixed_precision=train_config.precision != "no",
    )


@contextmanager
def _errors_of_settings(name: str, changes: dict[str, Any]) -> Iterator[None]:
    """Turn an error in the block into a UserError that names the settings."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        listed = ", ".join(f"{setting}={value}" for setting, value in changes.items())
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name} cannot be trained with {listed or 'its own settings'}: {reason}"
        ) from error


def _is_longer(run: Run, changes: dict[str, Any]) -> bool:
    """Return True if a finished run is to be trained for more steps."""
    steps = changes.get("steps", 0)
    is_finished = run.status()["state"] == "finished"
    return is_finished and steps > run.config.training.get("steps", 0)


def _check_same_settings(
    run: Run, trainable: Trainable, changes: dict[str, Any], ignored: Sequence[str] = ()
) -> None:
    """Refuse to resume a run of another recipe or class, or with other settings than it has.

    Raises
    ------
    RunError
        If a setting differs, or the run was imported.
    """
    if run.config.imported is not None:
        raise RunError(
            f"{run.folder} was imported and is not trained. Give another folder for a training,"
            f" which may begin with its weights (start={run.folder})."
        )
    recipe = run.config.recipe
    origin = {"class": run.config.class_path} if recipe is None else {"recipe": recipe}
    started = origin | run.config.changes
    requested = {"recipe" if trainable.is_recipe else "class": trainable.name} | changes
    if "tokenizer" in requested and _is_same_folder(run.tokenizer, requested["tokenizer"]):
        started["tokenizer"] = requested["tokenizer"]  # the path may be written differently
    for name in sorted({*started, *requested} - {*ignored}):
        if str(started.get(name)) != str(requested.get(name)):
            raise RunError(
                f"{run.folder} was started with {_assignment(name, started)}, "
                f"got {_assignment(name, requested)}. "
                "Give the same settings to resume it, or another folder to start a new run."
            )


def _is_same_folder(run: Run | None, folder: str) -> bool:
    return run is not None and run.folder.resolve() == Path(folder).resolve()


def _assignment(name: str, settings: dict[str, Any]) -> str:
    return f"{name}={settings[name]}" if name in settings else f"no {name}"


def _warn_about_versions(run: Run) -> None:
    """Warn, and log an event, if the code or a library changed since an unfinished run started."""
    from workbench.collect import versions

    before = run.config.versions
    current = versions()
    changed = [
        f"{name} {before[name]}, now {version}"
        for name, version in current.items()
        if before.get(name, version) != version
    ]
    if changed and run.status()["state"] != "finished":
        step = max(run.steps, default=0)
        run.event("versions changed", step, before=before, now=current)
        warnings.warn(
            f"{run.folder} was started with {'; '.join(changed)}. Training resumes, but the result "
            "may differ from that of a single version. The change is logged in events.jsonl.",
            stacklevel=4,
        )


def _shorten_spinning() -> None:
    """Let torch's threads release their cores soon while they wait for each other.

    By default they spin for so long that training on a busy machine is about fifty times slower
    than on one thread. Call this before torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _request_stop(run: Run) -> None:
    run.ask("stop")
    sys.stderr.write("\nStopping with a checkpoint. Interrupt again to stop at once.\n")


@contextmanager
def _on_first_signal(action: Callable[[], None]) -> Iterator[list[int]]:
    """Call an action on the first Ctrl-C or SIGTERM; the second one ends the process as usual.

    Yields the list of signals received so far.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        action()
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {number: signal.signal(number, stop) for number in GENTLE_SIGNALS}
    try:
        yield received
    finally:
        restore()
