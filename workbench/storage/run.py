"""A run is a folder a person can read without us; one process writes it, anyone reads it. Reading needs no torch.

config.json               class, settings, training, data fingerprint, versions: enough to build the model again
log.jsonl                 a line per logged step: the objective's terms by name
events.jsonl              a line per thing that happened: started, paused, saved, ...
status.json               how it stands now: state, step, seconds left, multipliers in force, who is writing
control.json              what a person asks of it (see control.py)
step-000500.safetensors   weights, their running average, and the optimiser, of one step
samples/*.npy             the pictures of one step
evidence/step-000500/     what the model did to held-out images (see evidence.py)
notes.md                  yours; never read, never written
"""

import importlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import RunError, UserError, unknown
from workbench.storage import control
from workbench.storage.atomic import (
    append_line,
    atomic_path,
    read_json,
    read_lines,
    read_tensors,
    write_tensors,
    write_text,
)
from workbench.storage.evidence import Evidence
from workbench.storage.migrations import FORMAT, migrate_config
from workbench.storage.process import current_process, is_alive

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor, nn

_CHECKPOINT = re.compile(r"step-(\d{6,})\.safetensors")
_NEEDED = {"class": str, "settings": dict}


class Run:
    """A training run on disk. `Run("runs/a")` opens one; `Run.create` starts one."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise _missing(self.folder)
        self.config = _read_config(self.folder / "config.json")

    @classmethod
    def create(cls, folder: str | Path, config: dict[str, Any]) -> "Run":
        """Make the folder and its config.json. Raises RunError where a run already is, or no folder can be."""
        folder = Path(folder)
        if (folder / "config.json").exists():
            raise RunError(
                f"{folder} already holds a run. Open it with Run('{folder}'), or choose another name."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{folder} cannot become a folder: {error.strerror or error}. Choose another place."
            ) from None
        write_text(folder / "config.json", json.dumps({"format": FORMAT, **config}, indent=1))
        return cls(folder)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def kind(self) -> str:
        """The class that was trained, without its module: SoftVQ, SiT."""
        return self.config["class"].rpartition(":")[2]

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        found = (_CHECKPOINT.fullmatch(p.name) for p in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def checkpoint(self, step: int | None = None) -> Path:
        """The checkpoint of a step (None: the last). Raises RunError if there is none."""
        steps = self.steps
        if not steps:
            raise RunError(
                f"{self.folder} has no step-*.safetensors yet. Train it, or wait for its first save."
            )
        if step is not None and step not in steps:
            raise RunError(
                f"{self.folder} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}."
            )
        return self.folder / f"step-{steps[-1] if step is None else step:06d}.safetensors"

    def load(
        self, step: int | None = None, *, averaged: bool = True, modules: Sequence[str] = ()
    ) -> "nn.Module":
        """The trained model, ready to use: its running average unless told otherwise.

        Only classes of this package, or of the modules you name, are imported.
        """
        model = self.build(modules)
        weights = read_tensors(self.checkpoint(step))["ema" if averaged else "model"]
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(
                f"{self.checkpoint(step)} does not fit {self.config['class']}: {reason}"
            ) from None
        return model.eval()

    def build(self, modules: Sequence[str] = ()) -> "nn.Module":
        """The model as it was before training."""
        module, _, name = self.config["class"].partition(":")
        settings = {
            k: tuple(v) if isinstance(v, list) else v for k, v in self.config["settings"].items()
        }
        if not (module.startswith("workbench.") or module in modules):
            allow = f"Run({str(self.folder)!r}).load(modules=[{module!r}])"
            raise RunError(
                f"{self.folder} was trained with {module}:{name}. To import that module, say {allow}."
            )
        try:
            made_of = getattr(importlib.import_module(module), name)
            return made_of(made_of.Config(**settings))
        except (ImportError, AttributeError, TypeError) as error:
            raise RunError(
                f"{self.folder} cannot be built from {module}:{name}: {error}."
            ) from None

    def history(self) -> "pd.DataFrame":
        """The log, a row per logged step. A last line that is still being written is left out."""
        import pandas as pd

        return pd.DataFrame(read_lines(self.folder / "log.jsonl"))

    def events(self) -> list[dict[str, Any]]:
        """What happened, oldest first."""
        return read_lines(self.folder / "events.jsonl")

    def status(self) -> dict[str, Any]:
        """How the run stands: state, step, steps, seconds_left. A writer that died without a word is `interrupted`."""
        status = {
            "state": "new",
            "step": 0,
            "steps": self.config.get("training", {}).get("steps", 0),
            "seconds_left": None,
        }
        status |= read_json(self.folder / "status.json", {})
        if status["state"] in ("running", "paused") and not is_alive(status):
            status["state"] = "interrupted"
        return status

    def evidence(self, step: int | None = None) -> Evidence:
        """What the model did to held-out images at a step (None: the last collected). Raises RunError."""
        collected = sorted(
            (self.folder / "evidence").glob("step-*"), key=lambda p: (len(p.name), p.name)
        )
        if step is not None:
            collected = [p for p in collected if p.name == f"step-{step:06d}"]
        if not collected:
            at = "" if step is None else f" of step {step}"
            raise RunError(
                f"{self.folder} has no evidence{at} yet. Make it with: workbench collect {self.folder}"
            )
        return Evidence.open(collected[-1])

    # -- what a person asks of it --------------------------------------------------------------------------------

    def ask(self, command: str, *, term: str | None = None, value: float | None = None) -> int:
        """Ask a running `fit` for one of control.COMMANDS; returns the number that its status's `answered` reaches.

        Raises UserError for what cannot be asked.
        """
        terms = self.status().get(
            "weights", {}
        )  # none before the first step: then `fit` refuses what it must
        return control.append_command(
            self.folder, control.make_command(command, terms, term=term, value=value)
        )

    def asked(self) -> list[dict[str, Any]]:
        """The latest requests, oldest first."""
        return control.read_commands(self.folder)

    # -- what the one writer does --------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the run's one writer. Raises RunError while another process is; a killed writer's claim ends with it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = self.status().get("pid", "unknown")
            raise RunError(
                f"{self.folder} is being trained by process {who}. Stop that one, or wait for it."
            ) from None
        except OSError as error:
            raise RunError(
                f"{self.folder} cannot be written to: {error.strerror or error}."
            ) from None
        try:
            for half in self.folder.glob(".step-*.safetensors.*"):
                half.unlink(missing_ok=True)  # what a killed writer was writing
            yield
        finally:
            lock.release()

    def log(self, step: int, **numbers: float) -> None:
        """Append one line to the log."""
        append_line(self.folder / "log.jsonl", {"step": step, **numbers})

    def event(self, name: str, step: int, **more: Any) -> None:
        """Append one line to the events."""
        append_line(
            self.folder / "events.jsonl", {"event": name, "step": step, "time": time.time(), **more}
        )

    def report(self, state: str, step: int, **more: Any) -> None:
        """Say how the run stands."""
        write_text(
            self.folder / "status.json",
            json.dumps({"state": state, "step": step, **more, **current_process()}),
        )

    def rewind(self, step: int) -> None:
        """Forget the log after a step: what a killed run had logged but not saved will be logged again."""
        kept = [
            line
            for line in read_lines(self.folder / "log.jsonl")
            if line.get("step", step + 1) <= step
        ]
        write_text(self.folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def save(self, step: int, tensors: "dict[str, Tensor]") -> Path:
        """Write the checkpoint of a step."""
        path = self.folder / f"step-{step:06d}.safetensors"
        write_tensors(path, tensors, step)
        return path

    def save_samples(self, step: int, pictures: "np.ndarray") -> Path:
        """Keep the pictures of a step, uint8 (n, h, w, c)."""
        import numpy as np

        path = self.folder / "samples" / f"step-{step:06d}.npy"
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as beside, beside.open("wb") as file:
            np.save(file, pictures, allow_pickle=False)
        return path

    @cached_property
    def tokenizer(self) -> "Run | None":
        """The tokenizer's run that a generator was trained on; None for a tokenizer. Raises RunError if it moved."""
        told = self.config.get("tokenizer")
        if not told:
            return None
        place = Path(os.path.normpath(self.folder / str(told.get("run"))))
        if not place.is_dir():
            where = f"write its place, seen from {self.folder}, into config.json there"
            raise RunError(
                f"{self.folder} needs the tokenizer {place}, which is gone. Move it back, or {where}."
            )
        return Run(place)

    def __repr__(self) -> str:
        status = self.status()
        return f"Run('{self.folder}'): {self.kind}, {status['state']} at step {status['step']} of {status['steps']}"


def find_runs(folder: str | Path) -> tuple[list[Run], list[str]]:
    """The runs in a folder (or the folder itself, if it is one), and a sentence for each that cannot be opened."""
    folder = Path(folder)
    if not folder.is_dir():
        raise _missing(folder)
    if (folder / "config.json").exists():
        return [Run(folder)], []
    runs, refused = [], []
    for path in sorted(p.parent for p in folder.glob("*/config.json")):
        try:
            run = Run(path)
            run.tokenizer  # noqa: B018  a generator without its tokenizer is refused here, not while it is shown
            runs.append(run)
        except UserError as error:
            refused.append(str(error))
    return runs, refused


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        fault = _fault(config)
    except FileNotFoundError:
        known = _names(path.parent)
        advice = (
            f"It holds the runs {', '.join(known)}; name one."
            if known
            else "Train one with: workbench train"
        )
        raise RunError(f"{path.parent} is not a run: it has no config.json. {advice}") from None
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", None) or str(error)
    if fault:
        raise RunError(
            f"{path} is damaged ({fault}). Restore it from a copy; the checkpoints need it."
        )
    if config["format"] > FORMAT:
        newer = f"a newer workbench (format {config['format']}, this one reads {FORMAT})"
        raise RunError(f"{path.parent} was written by {newer}. Upgrade.")
    return migrate_config(config)


def _fault(config: Any) -> str:
    """What a config.json lacks, in words; "" where it is sound, or too new to tell."""
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        return "it does not say its format"
    lacking = [name for name, kind in _NEEDED.items() if not isinstance(config.get(name), kind)]
    return f"it lacks {' and '.join(lacking)}" if lacking and config["format"] <= FORMAT else ""


def _names(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.glob("*/config.json"))


def _missing(folder: Path) -> RunError:
    if folder.exists():
        return RunError(f"{folder} is a file, and a run is a folder. Did you mean {folder.parent}?")
    if folder.parent.is_dir() and (known := _names(folder.parent)):
        return RunError(
            str(unknown("run", folder.name, known)).replace(
                "there is", f"in {folder.parent} there is", 1
            )
        )
    return RunError(
        f"{folder} does not exist. Train a run with: workbench train softvq-digits --out {folder}"
    )
