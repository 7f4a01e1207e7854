"""Everything we claim to train, as one table: a name, `system-data`, to a class, its settings, and a plan.

`train("softvq-digits", "runs/a", tokens=8, steps=500)` trains one; the same call goes on with a run that was stopped.
"""

import dataclasses
import importlib
import signal
import sys
import threading
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from os.path import relpath
from pathlib import Path
from typing import Any

from workbench.errors import RunError, UserError, unknown
from workbench.runs import Run

SYSTEMS = {
    "ae": "workbench.tokenizers.ae:AE",
    "vqvae": "workbench.tokenizers.vqvae:VQVAE",
    "softvq": "workbench.tokenizers.softvq:SoftVQ",
    "sit": "workbench.generators.transformer:SiT",
}
SIZES = {  # of a tokenizer, by data
    "digits": {"side": 8, "channels": 1, "patch": 2, "tokens": 8, "dim": 8, "width": 64, "depth": 2, "heads": 4},
    "photos": {"side": 32, "channels": 3, "patch": 8, "tokens": 16, "dim": 16, "width": 96, "depth": 2, "heads": 4},
    "shapes": {"side": 32, "channels": 3, "patch": 8, "tokens": 16, "dim": 16, "width": 96, "depth": 2, "heads": 4},
}
SETTINGS = {  # of a system, whatever the data
    "ae": {},
    "vqvae": {"codes": 256},
    "softvq": {"codes": 256},
    "sit": {"width": 96, "depth": 4},
}
PLANS = {
    "ae": {"steps": 1000, "batch": 64, "lr": 2e-3},
    "vqvae": {"steps": 1000, "batch": 64, "lr": 2e-3},
    "softvq": {"steps": 1000, "batch": 64, "lr": 2e-3},
    "sit": {"steps": 2000, "batch": 128, "lr": 2e-3, "save_every": 500},
}
RECIPES = tuple(f"{system}-{data}" for system in SYSTEMS for data in SIZES)


@dataclasses.dataclass(frozen=True)
class Job:
    """All that `fit` needs to train one recipe."""

    model: Any  # nn.Module with an objective
    data: Any  # train.Data
    plan: Any  # train.Plan
    run: Run


def train(recipe: str, out: str | Path, *, collect: bool = True, **changes: Any) -> Run:
    """Train a recipe into a folder, with a progress bar, and collect its evidence; go on with a run that was stopped.

    `changes` replaces any setting of the model or the plan by name, and: `data` (a folder, a parquet file, hub:name),
    `limit` (images at most), `tokenizer` (a run; generators need one). Raises UserError for anything that does not fit.
    """
    from tqdm.auto import tqdm

    from workbench.collect import collect as collect_evidence
    from workbench.collect import previewer
    from workbench.train import fit

    job = prepare(recipe, out, **changes)
    run, steps = job.run, job.plan.steps
    preview, begun = previewer(run), max(run.steps, default=0)
    with tqdm(total=steps, initial=begun, desc=run.name, unit="step", disable=None) as bar, _stopping_gently(run):
        for record in fit(job.model, job.data, job.plan, run):
            bar.update(record.step - bar.n)
            bar.set_postfix({k: f"{v:.3g}" for k, v in record.terms.items()}, refresh=False)
            if record.sample:
                run.save_samples(record.step, preview(record.model))
    if collect and run.status()["state"] == "finished":
        with tqdm(desc=f"{run.name}: evidence", unit="image", disable=None) as bar:

            def tick(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            collect_evidence(run, tick=tick)
    return run


def prepare(recipe: str, out: str | Path, **changes: Any) -> Job:
    """Build what a recipe trains: afresh in an empty folder, or as the run in the folder was told."""
    import torch

    from workbench.train import Plan

    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    changes = {name: _plain(value) for name, value in changes.items() if value is not None}
    if (Path(out) / "config.json").exists():
        run = _as_before(Run(out), recipe, changes)
    else:
        run = Run.create(out, _configure(recipe, Path(out), changes))
    plan = Plan(**{k: tuple(v) if isinstance(v, list) else v for k, v in run.config["plan"].items()})
    torch.manual_seed(plan.seed)
    return Job(run.build(), _data_of(run), plan, run)


def _configure(recipe: str, out: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """A run's config.json: the recipe's settings, with changes."""
    from workbench.collect import versions
    from workbench.train import Plan

    system, data = recipe.split("-")
    made_of = _class(SYSTEMS[system])
    settings, plan = dict(SETTINGS[system]), dict(PLANS[system])
    if system != "sit":
        settings |= SIZES[data]
    others = {"data", "limit"} if system != "sit" else {"tokenizer"}
    hints = {name: typing.get_type_hints(kind) for name, kind in (("settings", made_of.Config), ("plan", Plan))}
    for name, value in changes.items():
        if name in hints["settings"]:
            settings[name] = _as(hints["settings"][name], name, value)
        elif name in hints["plan"]:
            plan[name] = _as(hints["plan"][name], name, value)
        elif name not in others:
            raise unknown("setting", name, {*hints["settings"], *hints["plan"], *others})
    told: dict[str, Any] = {"recipe": recipe, "changes": changes, "class": SYSTEMS[system]}
    if system == "sit":
        told |= _about_latents(recipe, out, changes.get("tokenizer"), settings)
    else:
        told |= _about_images(changes.get("data", data), made_of.Config(**settings), changes.get("limit"))
    plan = {k: _plain(v) for k, v in dataclasses.asdict(Plan(**plan)).items()}
    settings = dataclasses.asdict(made_of.Config(**settings, **told.pop("learned", {})))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**told, "settings": settings, "plan": plan, "versions": versions(), "created": now}


def _about_images(source: str, config: Any, limit: Any) -> dict[str, Any]:
    """What a tokenizer's run remembers of its images."""
    from workbench.data import load

    limit = None if limit is None else _as(int, "limit", limit)
    source = str(source)
    images = load(source, side=config.side, channels=config.channels, limit=limit)
    data = {"source": source, "side": config.side, "channels": config.channels, "limit": limit}
    data |= {
        "fingerprint": images.fingerprint,
        "names": list(images.names),
        "n": len(images),
        "skipped": images.skipped,
    }
    return {"data": data}


def _about_latents(recipe: str, out: Path, tokenizer: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What a generator's run remembers of its tokenizer, and what it has to know of the latents."""
    from workbench.collect import latents_of

    if tokenizer is None:
        example = f"workbench train {recipe} --tokenizer runs/softvq-{recipe.split('-')[1]} --out {out}"
        raise UserError(f"{recipe} learns from a trained tokenizer's latents; name its run: {example}")
    source = Run(tokenizer)
    if source.tokenizer is not None:
        raise UserError(f"{tokenizer} is a generator ({source.kind}); a generator learns from a tokenizer's run.")
    trained_on, asked_for = source.config["data"]["source"], recipe.split("-")[1]
    if source.config["recipe"].split("-")[1] != asked_for:
        raise UserError(
            f"{tokenizer} was trained on {trained_on}; use the recipe sit-{source.config['recipe'].split('-')[1]}."
        )
    step = source.steps[-1] if source.checkpoint() else 0
    found = latents_of(source, step)
    learned = {"tokens": found.latents.shape[1], "dim": found.latents.shape[2], "classes": int(found.labels.max()) + 1}
    learned |= {"mean": found.latents.mean().item(), "std": found.latents.std().item()}
    return {"tokenizer": {"run": relpath(source.folder, out), "step": step}, "learned": learned}


def _data_of(run: Run) -> Any:
    """The training data of a run: its images, or its tokenizer's latents of them."""
    from workbench.collect import held_out, latents_of

    return latents_of(run.tokenizer, run.config["tokenizer"]["step"]) if run.tokenizer else held_out(run, "train")


def _as_before(run: Run, recipe: str, changes: dict[str, Any]) -> Run:
    """The run, if it was started with the same recipe and changes. Raises RunError, naming a difference, if not."""
    told = {"recipe": run.config.get("recipe"), **run.config.get("changes", {})}
    asked = {"recipe": recipe, **changes}
    for name in sorted({*told, *asked}):
        if str(told.get(name)) != str(asked.get(name)):
            was, now = (f"{name}={d[name]}" if name in d else f"no {name}" for d in (told, asked))
            raise RunError(
                f"{run.folder} was started with {was}, and now you ask for {now}. "
                "Give the same settings to go on with it, or another folder to start afresh."
            )
    return run


def _class(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _as(kind: Any, name: str, value: Any) -> Any:
    """A setting in its declared type, from Python or from a command line's text."""
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]
        if typing.get_origin(kind) is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(float(part) for part in parts)
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        return int(float(value)) if kind is int else kind(value)
    except (ValueError, KeyError, TypeError, OverflowError):
        expected = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, str(kind))
        raise UserError(f"{name} takes {expected}; got `{value}`.") from None


def _plain(value: Any) -> Any:
    """A value as JSON keeps it."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


@contextmanager
def _stopping_gently(run: Run) -> Iterator[None]:
    """The first Ctrl-C (or a scheduler's SIGTERM) asks for a checkpoint and stops; the second stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        run.ask("stop")
        sys.stderr.write("\nStopping with a checkpoint; once more stops at once.\n")
        for one, handler in before.items():
            signal.signal(one, handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
