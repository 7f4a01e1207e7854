"""From a recipe's name to a trained run: what to build, what to train it on, and going on with what was stopped.

`train("softvq-digits", "runs/a", num_tokens=8, steps=500)` trains one; the same call goes on with a run that was stopped.
"""

import dataclasses
import os
import signal
import sys
import threading
import typing
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from workbench.core.coerce import coerce, to_json
from workbench.core.errors import RunError, UserError, unknown
from workbench.core.progress import progress_listener
from workbench.launch.recipes import (
    GENERATORS,
    RECIPES,
    SOURCES,
    SYSTEMS,
    recipe_settings,
    recipe_train_config,
)
from workbench.launch.setup import (
    attach_features,
    load_training_data,
    model_class,
    resolve_images,
    resolve_init,
    resolve_latents,
    save_initial_checkpoint,
)
from workbench.storage.run import Run

OF_JOBS = {
    "tokenizer",
    "data",
    "limit",
    "cache",
    "start",
}  # changes that are neither the model's nor of training


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """All that `fit` needs to train one recipe."""

    model: Any  # nn.Module with an objective
    data: Any  # train.Data
    train_config: Any  # TrainConfig
    run: Run


def train(recipe: str, out: str | Path, *, collect: bool = True, **changes: Any) -> Run:
    """Train a recipe into a folder, with a progress bar, and collect its evidence; go on with a run that was stopped.

    `changes` replaces any setting of the model or of training by name, and: `data` (a folder, a parquet file, hub:name),
    `limit` (images at most), `cache` (a folder for teachers' features), `tokenizer` (a run; generators need one),
    `start` (a run whose weights to begin with). Raises UserError for anything that does not fit.
    """
    _wait_patiently()
    from tqdm.auto import tqdm

    from workbench.collect import collect as collect_evidence
    from workbench.training import Rank, fit

    rank = Rank.current()
    job = prepare_training(recipe, out, **changes)
    run, begun = job.run, max(job.run.steps, default=0)
    over = (
        begun >= job.train_config.steps and run.status()["state"] == "finished"
    )  # it is only opened
    if not rank.is_main:
        deque([] if over else fit(job.model, job.data, job.train_config, run), maxlen=0)
        return run
    look = {
        "disable": None,
        "dynamic_ncols": True,
    }  # a narrow notebook wraps the line instead of losing the bar
    if not over:
        _follow(job, begun, look)
    if collect and run.status()["state"] == "finished":
        with tqdm(desc=f"{run.name}: evidence", unit="part", **look) as bar:
            with progress_listener(partial(_counting, bar)):
                collect_evidence(run)
    return run


def _follow(job: TrainingJob, begun: int, look: dict[str, Any]) -> None:
    """Train from a step on, with a progress bar, doing what is asked on the way."""
    from tqdm.auto import tqdm

    from workbench.collect import previewer
    from workbench.training import fit

    run, steps, preview = job.run, job.train_config.steps, previewer(job.run)
    with (
        tqdm(total=steps, initial=begun, desc=run.name, unit="step", **look) as bar,
        _stopping_gently(run) as stopping,
        progress_listener(partial(_preparing, bar)),
        closing(fit(job.model, job.data, job.train_config, run)) as records,
    ):
        for record in records:
            bar.update(record.step - bar.n)
            bar.set_postfix({k: f"{v:.3g}" for k, v in record.terms.items()}, refresh=False)
            if record.sample:
                run.save_samples(record.step, preview(record.model))
            if record.evaluate:
                _evaluate(run, record.step)
            if stopping and record.step < steps:
                break  # asked for while `fit` was not listening yet


def _counting(bar: Any, done: int, total: int) -> None:
    """Say on a bar how far something is."""
    if bar.total != total:
        bar.reset(total)  # in a notebook this is what gives the bar its width
    bar.update(done - bar.n)


def _preparing(bar: Any, done: int, total: int) -> None:
    """Say on the bar of steps, which stands still meanwhile, how far the model is with looking at its data."""
    bar.set_postfix_str(f"looking at the data, {done / max(total, 1):.0%}" if done < total else "")


def _evaluate(run: Run, step: int) -> None:
    """Collect evidence on the way. What keeps it from that is noted in the events; the training goes on."""
    from workbench.collect import collect

    try:
        collect(run, step=step)
        run.event("evaluated", step)
    except UserError as error:
        run.event("not evaluated", step, why=str(error))


def prepare_training(recipe: str, out: str | Path, **changes: Any) -> TrainingJob:
    """Build what a recipe trains: afresh in an empty folder, or as the run in the folder was told.

    What cannot be trained raises UserError before anything is written.
    """
    _wait_patiently()
    import torch
    from tqdm.auto import tqdm

    from workbench.training import Rank

    rank = Rank.current()
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    changes = _typed(recipe, {name: value for name, value in changes.items() if value is not None})
    if (Path(out) / "config.json").exists():
        run = _as_before(Run(out), recipe, changes)
        data = load_training_data(run)
        _tell_of_changes(run)
    else:
        with _in_a_sentence(recipe, changes):
            config, data = _configure(recipe, Path(out), changes)
            _rehearse(config, data)
        with rank.main_process_first():
            run = Run.create(out, config) if rank.is_main else Run(out)
    train_config = _train_config(run.config.get("training", {}))
    torch.manual_seed(train_config.seed)
    model = run.build()
    if cache := run.config.get("changes", {}).get("cache"):
        data = attach_features(model, data, cache)
    if "start" in run.config and not run.steps:
        with tqdm(desc=f"{run.name}: looking at the data", disable=None, delay=1) as bar:
            with rank.main_process_first():
                if rank.is_main:
                    with progress_listener(partial(_counting, bar)):
                        save_initial_checkpoint(run, model, train_config, data)
    return TrainingJob(model, data, train_config, run)


def _typed(recipe: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes in the types their settings declare, as JSON keeps them. Raises UserError for an unknown name."""
    from workbench.training import TrainConfig

    system, _ = recipe.split("-")
    kinds = typing.get_type_hints(TrainConfig) | typing.get_type_hints(
        model_class(SYSTEMS[system]).Config
    )
    learned = model_class(SYSTEMS[system]).set_by_tokenizer if system in GENERATORS else ()
    if learned:
        kinds = {name: kind for name, kind in kinds.items() if name not in learned} | {
            "tokenizer": str
        }
    else:
        kinds |= {"data": str, "limit": int, "cache": str}
    kinds |= {"start": str}
    for name in changes:
        if name in learned:
            raise UserError(
                f"{recipe} takes {', '.join(learned)} from its tokenizer; leave {name} out."
            )
        if name not in kinds:
            raise unknown("setting", name, kinds)
    return {name: to_json(coerce(kinds[name], name, value)) for name, value in changes.items()}


def _configure(recipe: str, out: Path, changes: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """A run's config.json, which is the recipe's settings with changes; and the data to train on."""
    from workbench.collect import versions

    system, source = recipe.split("-")
    made_of = model_class(SYSTEMS[system])
    mine = {
        name: value
        for name, value in changes.items()
        if name in typing.get_type_hints(made_of.Config)
    }
    others = {name: changes[name] for name in changes.keys() - mine.keys() - OF_JOBS}
    train_config = _train_config(recipe_train_config(system, source) | others)
    settings = recipe_settings(system, source) | mine
    if system in GENERATORS:
        told, data, learned = resolve_latents(
            recipe, out, changes.get("tokenizer"), made_of, settings
        )
        config = made_of.Config(**(settings | learned))
    else:
        config = made_of.Config(**settings)
        told, data = resolve_images(
            changes.get("data", SOURCES[source]), config, changes.get("limit")
        )
    if "start" in changes:
        told |= resolve_init(Run(changes["start"]), made_of(config), out)
    return {
        "recipe": recipe,
        "changes": changes,
        "class": SYSTEMS[system],
        **told,
        "settings": dataclasses.asdict(config),
        "training": {
            name: to_json(value) for name, value in dataclasses.asdict(train_config).items()
        },
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }, data


def _rehearse(config: dict[str, Any], data: Any) -> None:
    """Build the model on the side and show it two items: some settings are only refused by arithmetic."""
    import torch

    from workbench.training import TrainState

    train_config, made_of = _train_config(config["training"]), model_class(config["class"])
    torch.manual_seed(train_config.seed)
    model = made_of(made_of.Config(**config["settings"]))
    TrainState(model, train_config)
    model.objective(
        *(
            data.batch(torch.arange(min(2, len(data))))
            if hasattr(data, "batch")
            else (data.take(2),)
        )
    )


@contextmanager
def _in_a_sentence(recipe: str, changes: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        asked = (
            ", ".join(f"{name}={value}" for name, value in changes.items()) or "its own settings"
        )
        raise UserError(
            f"{recipe} cannot be trained with {asked}: {str(error).splitlines()[0]}"
        ) from error


def _train_config(told: dict[str, Any]) -> Any:
    """A TrainConfig from what JSON keeps of it."""
    from workbench.training import TrainConfig

    return TrainConfig(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    )


def _as_before(run: Run, recipe: str, changes: dict[str, Any]) -> Run:
    """The run, if it was started with the same recipe and changes. Raises RunError, naming a difference, if not."""
    told = {"recipe": run.config.get("recipe"), **run.config.get("changes", {})}
    asked = {"recipe": recipe, **changes}
    if (
        run.tokenizer
        and "tokenizer" in asked
        and run.tokenizer.folder.resolve() == Path(asked["tokenizer"]).resolve()
    ):
        told["tokenizer"] = asked["tokenizer"]  # the same folder, by another path
    for name in sorted({*told, *asked}):
        if str(told.get(name)) != str(asked.get(name)):
            was, now = (f"{name}={d[name]}" if name in d else f"no {name}" for d in (told, asked))
            raise RunError(
                f"{run.folder} was started with {was}, and now you ask for {now}. "
                "Give the same settings to go on with it, or another folder to start afresh."
            )
    return run


def _tell_of_changes(run: Run) -> None:
    """Warn, and note in the run's events, where the code or a library is another than that which the run began with."""
    from workbench.collect import versions

    began, now = run.config.get("versions", {}), versions()
    differ = [
        f"{name} {began[name]}, now {now[name]}"
        for name in now
        if began.get(name, now[name]) != now[name]
    ]
    if differ and run.status()["state"] != "finished":
        run.event("versions changed", max(run.steps, default=0), before=began, now=now)
        warnings.warn(
            f"{run.folder} began with {'; '.join(differ)}. It goes on, as noted in its events, "
            "but its two parts may not be what one version alone would have given.",
            stacklevel=4,
        )


def _wait_patiently() -> None:
    """Before torch is imported: its threads, waiting for each other, shall give their cores away soon.

    By default they spin so long that training on a busy machine is some fifty times slower than on one thread.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@contextmanager
def _stopping_gently(run: Run) -> Iterator[list[int]]:
    """The first Ctrl-C (or a scheduler's SIGTERM) asks for a checkpoint and stops; the second stops at once.

    Yields a list that is empty until then.
    """
    stopping: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def ask(number: int, frame: Any) -> None:
        stopping.append(number)
        run.ask("stop")
        sys.stderr.write("\nStopping with a checkpoint; once more stops at once.\n")
        for one, handler in before.items():
            signal.signal(one, handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
