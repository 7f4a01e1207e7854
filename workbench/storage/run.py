"""A training run as a folder of readable files.

The run of a model that was trained elsewhere has only config.json and evidence; its checkpoint is
step 0, which is loaded from the model's address.

One process writes it, and any number of processes read it.

========================= ========================================================================
config.json               the class, its settings, training settings, data, versions (`RunConfig`)
log.jsonl                 one line per logged step: the terms of the loss by name
statistics.jsonl          one line per logged step: use of the codebook, held-out loss, memory
events.jsonl              one line per event: started, paused, saved, ...
status.json               the state, step, seconds left, multipliers, and the writing process
control/000001.json       a command from a host (see `workbench.storage.control`)
step-000500.safetensors   weights, their moving average and the optimizer state of one step
samples/*.npy             sample images of one step
evidence/step-000500/     outputs of the model on held-out images (see `storage.evidence`)
notes.md                  notes of the user; never read and never written
========================= ========================================================================

Reading a run does not import torch.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import RunError, missing_extra
from workbench.storage import control
from workbench.storage.atomic import atomic_path, check_new_folder, write_text
from workbench.storage.checkpoint import read_tensors, write_tensors
from workbench.storage.evidence import Evidence
from workbench.storage.exclusive import exclusive
from workbench.storage.files import STEP_NAME, open_regular, steps_in, unreadable
from workbench.storage.imported import load_imported
from workbench.storage.jsonl import append_record, is_event, is_log_record, read_records
from workbench.storage.leftovers import restore_moved_folders
from workbench.storage.migrations import FORMAT
from workbench.storage.process import is_alive
from workbench.storage.run_config import RunConfig
from workbench.storage.run_folders import missing_run, not_a_run, run_name
from workbench.storage.run_model import (
    build_model,
    class_module,
    is_trusted_class,
    load_model,
    untrusted_class,
)
from workbench.storage.run_status import read_status, write_status

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor, nn

ACTIVE_STATES = ("running", "paused")
IMPORTED_STEP = 0  # of the evidence of a model that was trained elsewhere
_CHECKPOINT = re.compile(r"step-([0-9]{6,18})\.safetensors")


class Run:
    """A training run on disk.

    Parameters
    ----------
    folder : str or Path
        The run's folder. `Run.create` makes a new one.

    Attributes
    ----------
    folder : Path
        The run's folder.
    config : RunConfig
        The configuration that the run was trained with.

    Raises
    ------
    RunError
        If the folder does not exist, is not a run, is damaged, or was written by a newer version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise missing_run(self.folder)
        try:
            self.config = RunConfig.read(self.folder / "config.json")
        except FileNotFoundError:
            raise not_a_run(self.folder) from None

    @classmethod
    def create(cls, folder: str | Path, config: RunConfig | Mapping[str, Any]) -> "Run":
        """Create the folder of a new run and its config.json.

        Parameters
        ----------
        folder : str or Path
            The new folder.
        config : RunConfig or mapping
            The configuration, or its sections as config.json stores them (`class`, `settings`,
            `training`, ...).

        Raises
        ------
        RunError
            If the folder already holds a run or cannot be created, or if the configuration is not
            valid.
        """
        folder = Path(folder)
        if (folder / "config.json").exists():
            raise RunError(
                f"{folder} already holds a run. Open it with Run('{folder}'), "
                "or choose another name."
            )
        if not isinstance(config, RunConfig):
            config = RunConfig.from_dict(config)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise RunError(
                f"{folder} cannot be created as a folder: {reason}. Choose another path."
            ) from None
        sections = {"format": FORMAT} | config.to_dict()
        write_text(folder / "config.json", json.dumps(sections, indent=1))
        return cls(folder)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return run_name(self.folder)

    @property
    def kind(self) -> str:
        """The name of the model's class, such as SoftVQ or SiT."""
        return self.config.class_path.rpartition(":")[2]

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending; step 0 of an imported run."""
        if self.config.imported is not None:
            return [IMPORTED_STEP]
        try:
            with os.scandir(self.folder) as entries:
                matches = [_CHECKPOINT.fullmatch(entry.name) for entry in entries]
        except FileNotFoundError:
            raise missing_run(self.folder) from None
        except OSError as error:
            raise unreadable(self.folder, error) from None
        return sorted(int(match[1]) for match in matches if match)

    def find_step(self, step: int | None = None) -> int:
        """Return the step of a checkpoint that exists.

        Parameters
        ----------
        step : int, optional
            The training step; by default the last that has a checkpoint.

        Raises
        ------
        RunError
            If there is no such checkpoint.
        """
        steps = self.steps
        if not steps:
            raise RunError(
                f"{self.folder} has no checkpoint (step-*.safetensors) yet. "
                "Train it, or wait for its first checkpoint."
            )
        if step is not None and step not in steps:
            available = ", ".join(map(str, steps))
            raise RunError(f"{self.folder} has no checkpoint of step {step}; it has {available}.")
        return steps[-1] if step is None else step

    def checkpoint(self, step: int | None = None) -> Path:
        """Return the path of the file that determines the model: its checkpoint, or config.json of
        an imported run.

        Parameters
        ----------
        step : int, optional
            The training step; by default the last that has a checkpoint.

        Raises
        ------
        RunError
            If there is no such checkpoint.
        """
        number = self.find_step(step)
        if self.config.imported is not None:
            return self.folder / "config.json"
        return self.folder / f"step-{number:06d}.safetensors"

    def load(
        self, step: int | None = None, *, averaged: bool = True, trust: Sequence[str] = ()
    ) -> "nn.Module":
        """Return the trained model in evaluation mode.

        Parameters
        ----------
        step : int, optional
            The training step of the checkpoint; by default the last.
        averaged : bool
            Whether to load the moving average of the weights or the weights themselves.
        trust : sequence of str
            Modules and packages outside of this package that may be imported.

        Raises
        ------
        UserError
            If PyTorch is not installed.
        RunError
            If there is no such checkpoint, it is damaged, or it does not fit the class; or if the
            files of an imported model were moved or have changed.
        """
        if find_spec("torch") is None:
            raise missing_extra("torch", "train", "Loading a model")
        if self.config.imported is not None:
            self.find_step(step)
            return load_imported(self.folder, self.config.imported, trust)
        checkpoint = self.checkpoint(step)
        weights = read_tensors(checkpoint)["ema" if averaged else "model"]
        self.check_trust(trust)
        return load_model(self.folder, self.config, weights, checkpoint, trust)

    def build(self, trust: Sequence[str] = ()) -> "nn.Module":
        """Return the model as it was before training.

        Parameters
        ----------
        trust : sequence of str
            Modules and packages outside of this package that may be imported.

        Raises
        ------
        RunError
            If the class may not be imported, does not exist, or does not accept the settings; or if
            the run is imported, as its model before training is not known.
        """
        if self.config.imported is not None:
            raise RunError(
                f"{self.folder} is an imported run; its model before training is not known."
            )
        self.check_trust(trust)
        return build_model(self.folder, self.config, trust)

    @property
    def module(self) -> str:
        """The module of the model's class."""
        return class_module(self.config)

    def is_trusted(self, trust: Sequence[str] = ()) -> bool:
        """True if the class of the model belongs to this package or to a trusted module."""
        return is_trusted_class(self.config, trust)

    def check_trust(self, trust: Sequence[str] = ()) -> None:
        """Refuse a run whose class may not be imported.

        Raises
        ------
        RunError
            If its module is neither of this package nor trusted.
        """
        if not self.is_trusted(trust):
            raise untrusted_class(self.folder, self.config)

    def history(self) -> "pd.DataFrame":
        """Return the log, one row per logged step, without a line that is still being written.

        `time` is in UTC. The log of a run of an older version may not have it.
        """
        import pandas as pd

        table = pd.DataFrame(read_records(self.folder / "log.jsonl", is_log_record))
        if "time" in table:
            times = pd.to_datetime(table["time"], unit="s", utc=True, errors="coerce")
            table["time"] = times.dt.floor("ms")
        return table

    def statistics(self) -> "pd.DataFrame":
        """Return the statistics of training, one row per logged step; empty for older runs.

        Columns are `codes_used` and `perplexity` of a codebook since the record before,
        `memory_bytes`, and `held_out_` followed by the name of a term of the loss.
        """
        import pandas as pd

        return pd.DataFrame(read_records(self.folder / "statistics.jsonl", is_log_record))

    def events(self) -> list[dict[str, Any]]:
        """Return the events, oldest first."""
        return read_records(self.folder / "events.jsonl", is_event)

    def status(self) -> dict[str, Any]:
        """Return the current status.

        Returns
        -------
        dict
            `state` (new, running, paused, stopped, finished, failed, interrupted or imported),
            `step`, `steps`, `seconds_left` and, once training has started, the multipliers in force
            and the writing process. If the training process has exited without recording a final
            state, the state is `interrupted`.

        Raises
        ------
        RunError
            If status.json cannot be read, or a value in it has the wrong type.
        """
        defaults = {
            "state": "new" if self.config.imported is None else "imported",
            "step": 0,
            "steps": self.config.training.get("steps", 0),
            "seconds_left": None,
        }
        status = read_status(self.folder, defaults)
        if status["state"] in ACTIVE_STATES and not is_alive(status):
            status["state"] = "interrupted"
        return status

    def evidence(self, step: int | None = None) -> Evidence:
        """Open the evidence of a checkpoint: the outputs of the model on held-out images.

        Parameters
        ----------
        step : int, optional
            The training step; by default the last that has evidence.

        Raises
        ------
        RunError
            If there is no such evidence, or it is damaged.
        """
        steps = self.evidence_steps
        if step is not None:
            steps = [number for number in steps if number == step]
        if not steps:
            which = "" if step is None else f" of step {step}"
            raise RunError(
                f"{self.folder} has no evidence{which} yet. "
                f"Collect it with: workbench collect {self.folder}"
            )
        return Evidence.open(self.evidence_folder(steps[-1]))

    @property
    def evidence_steps(self) -> list[int]:
        """The steps that have evidence, ascending, with those that are being replaced."""
        folder = self.folder / "evidence"
        steps = {*steps_in(folder)}
        replaced = (STEP_NAME.fullmatch(name) for name in restore_moved_folders(folder))
        steps |= {int(match[1]) for match in replaced if match}
        # A folder whose replacement ended between the two listings is in neither of them.
        return sorted({*steps, *steps_in(folder)})

    def evidence_folder(self, step: int) -> Path:
        """Return the folder of the evidence of a step, whether or not it exists."""
        return self.folder / "evidence" / f"step-{step:06d}"

    def check_files(self) -> None:
        """Raise RunError if a file that describes the state of the run cannot be read.

        The contents of the logs are not read.
        """
        if not self.folder.is_dir():
            raise missing_run(self.folder)
        for name in ("log.jsonl", "events.jsonl"):
            with suppress(FileNotFoundError):
                open_regular(self.folder / name).close()
        self.status()

    # Control by a host

    def ask(self, command: str, *, term: str | None = None, value: float | None = None) -> int:
        """Send a command to the process that trains this run.

        Parameters
        ----------
        command : str
            pause, resume, stop, sample, evaluate, weight or lr.
        term : str, optional
            The term of the loss, for `weight`.
        value : float, optional
            The multiplier of the term's weight or of the learning rate, for `weight` and `lr`.

        Returns
        -------
        int
            The number of the command. `status()["answered"]` reaches it once the command was
            received.

        Raises
        ------
        UserError
            If the command or the term does not exist, or an argument does not fit.
        RunError
            If the run was imported.
        """
        if self.config.imported is not None:
            raise RunError(f"{self.folder} was imported, so that no process trains it.")
        # Before the first step the terms are not known; then `fit` refuses an unknown term.
        terms = self.status().get("weights", {})
        checked = control.make_command(command, terms, term=term, value=value)
        return control.append_command(self.folder, checked)

    def commands(self) -> list[dict[str, Any]]:
        """Return the commands since the training started, oldest first."""
        return control.read_commands(self.folder)

    # Writing, for the one training process

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of the run's one writer during the block.

        The lock of a killed writer ends with its process.

        Raises
        ------
        RunError
            If another process is training the run, or the folder is not writable.
        """
        with exclusive(self.folder / ".lock", self._writer_message):
            for unfinished in self.folder.glob(".step-*.safetensors.*"):
                unfinished.unlink(missing_ok=True)  # left by a killed writer
            yield

    @contextmanager
    def collecting(self, step: int) -> Iterator[None]:
        """Hold the lock of the one process that collects the evidence of a step.

        Raises
        ------
        RunError
            If another process collects it, or the folder is not writable.
        """
        path = self.folder / f".collect-{step:06d}.lock"
        message = (
            f"Another process is collecting the evidence of {self.folder} at step {step}. "
            "Wait until it has finished."
        )
        with exclusive(path, lambda: message):
            yield

    def _writer_message(self) -> str:
        pid = self.status().get("pid", "unknown")
        return (
            f"{self.folder} is being trained by process {pid}. Stop that process, or wait for it."
        )

    def extend(self, steps: int) -> None:
        """Raise the number of training steps of a finished run, in config.json.

        Raises
        ------
        RunError
            If the run is not finished, another process is training it, or the number is not larger
            than before.
        """
        before = self.config.training.get("steps", 0)
        with self.writing():
            if self.status()["state"] != "finished" or steps <= before:
                raise RunError(
                    f"{self.folder} can be trained longer once it has finished its {before:,} "
                    f"steps, to more steps than that; got steps={steps}."
                )
            changed = {
                "training": self.config.training | {"steps": steps},
                "changes": self.config.changes | {"steps": steps},
            }
            self.config = self.config.model_copy(update=changed)
            write_text(self.folder / "config.json", json.dumps(self.config.to_dict(), indent=1))
            self.event("extended", self.find_step(), steps=steps, before=before)

    def log(self, step: int, **values: float) -> None:
        """Append one line to the log."""
        append_record(self.folder / "log.jsonl", {"step": step, **values})

    def log_statistics(self, step: int, **values: float) -> None:
        """Append one line to the statistics of training."""
        append_record(self.folder / "statistics.jsonl", {"step": step, **values})

    def event(self, name: str, step: int, **details: Any) -> None:
        """Append one line to the events."""
        record = {"event": name, "step": step, "time": time.time(), **details}
        append_record(self.folder / "events.jsonl", record)

    def report(self, state: str, step: int, **details: Any) -> None:
        """Write the status."""
        write_status(self.folder, {"state": state, "step": step, **details})

    def rewind(self, step: int) -> None:
        """Remove the log and the statistics after a step.

        Steps that a killed run logged but did not save are logged again.
        """
        for name in ("log.jsonl", "statistics.jsonl"):
            records = [
                record
                for record in read_records(self.folder / name, is_log_record)
                if record["step"] <= step
            ]
            lines = (json.dumps(record) + "\n" for record in records)
            write_text(self.folder / name, "".join(lines))

    def save(self, step: int, tensors: "dict[str, Tensor]") -> Path:
        """Write the checkpoint of a step and return its path."""
        path = self.folder / f"step-{step:06d}.safetensors"
        write_tensors(path, tensors, step)
        return path

    def save_samples(self, step: int, images: "np.ndarray") -> Path:
        """Write the sample images of a step, uint8 of shape (n, height, width, channels), and
        return their path.
        """
        import numpy as np

        path = self.folder / "samples" / f"step-{step:06d}.npy"
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, images, allow_pickle=False)
        return path

    def related_folder(self, path: str) -> Path:
        """Return the folder of a run that config.json names relative to this one.

        The path of a linked run begins at the run itself: next to the link, there may be another
        run of the same name.
        """
        folder = self.folder.resolve() if self.folder.is_symlink() else self.folder
        return Path(os.path.normpath(folder / path))

    @cached_property
    def tokenizer(self) -> "Run | None":
        """The run of the tokenizer that decodes a generator's samples; None if there is none.

        Raises
        ------
        RunError
            If the tokenizer's folder does not exist.
        """
        reference = self.config.tokenizer
        if reference is None:
            return None
        folder = self.related_folder(reference.run)
        if not folder.is_dir():
            raise RunError(
                f"{self.folder} needs the tokenizer {folder}, which does not exist. Move it back, "
                f"or write its path, relative to {self.folder}, into config.json there."
            )
        return Run(folder)

    @property
    def is_generator(self) -> bool:
        """True for a generator; its `tokenizer` is None if it was trained on files of latents."""
        return self.config.is_generator

    @property
    def tokenizer_step(self) -> int | None:
        """The checkpoint of its tokenizer that a generator was trained on; None for the last."""
        reference = self.config.tokenizer
        return None if reference is None else reference.step

    def __repr__(self) -> str:
        imported = self.config.imported
        if imported is not None:
            return f"Run('{self.folder}'): {self.kind}, imported from {imported.origin}"
        status = self.status()
        progress = f"{status['state']} at step {status['step']} of {status['steps']}"
        return f"Run('{self.folder}'): {self.kind}, {progress}"


def check_new_run(folder: Path, *, overwrite: bool = False) -> None:
    """Raise RunError if a folder holds anything but an imported run that may be replaced."""
    if not (folder / "config.json").exists():
        check_new_folder(folder)
        return
    is_imported = Run(folder).config.imported is not None
    if is_imported and overwrite:
        return
    advice = ", or replace it with overwrite=True (--overwrite)" if is_imported else ""
    raise RunError(f"{folder} already holds a run. Choose another folder{advice}.")
