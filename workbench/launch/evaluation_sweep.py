"""Evaluations of many models on Dask, resumable.

A sweep is a folder of runs. `.sweep/NAME.json` has the arguments of each run.
Calling the sweep again skips these, and resumes those that were interrupted.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.core.coerce import coerce, to_json
from workbench.core.errors import UserError
from workbench.core.image_size import Side
from workbench.core.progress import Cancelled, progress_listener
from workbench.launch.cluster import STOP_FILE, TaskOutcome, connect, run_tasks
from workbench.launch.evaluate import evaluate
from workbench.storage.atomic import read_json, write_text
from workbench.storage.run import Run

RECORD_FOLDER = ".sweep"
WORKER_BYTES = 4 * 10**9  # of memory, for one evaluation
# Types of arguments; the others are text, or options of a family.
ARGUMENT_TYPES: Mapping[str, Any] = {
    "side": Side | None,
    "limit": int,
    "pictures": int,
    "samples": int,
    "seed": int,
    "guidance": float,
    "only": list[str],
    "skip": list[str],
    "also": list[str],
    "trust": list[str],
    "overwrite": bool,
}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation: the name of its run, and the arguments of `evaluate` without `out`."""

    name: str
    arguments: dict[str, Any]


def evaluate_sweep(
    entries: Sequence[Mapping[str, Any]],
    out: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    **shared: Any,
) -> list[Run]:
    """Evaluate many models, each as a run of one folder.

    Complete runs are skipped and interrupted ones are resumed, so that calling this again continues
    a sweep.

    Parameters
    ----------
    entries : sequence of mapping
        The arguments of `workbench.launch.evaluate.evaluate` for each model: `model`, an address,
        and others. `out` is the name of its run, by default the last part of the address.
    out : str or Path
        The folder of the runs.
    workers : int, optional
        Number of simultaneous evaluations; by default one per core, and never more than memory
        allows.
    scheduler : str, optional
        Address of a Dask scheduler whose workers see the same files under the same paths. By
        default workers are started on this machine.
    **shared
        Arguments of all evaluations; those of an entry precede.

    Returns
    -------
    list of Run
        The runs, in the order of the entries.

    Raises
    ------
    UserError
        If an entry is not valid, or a run of the folder has other arguments; nothing is evaluated
        then. If evaluations failed; the others are complete.
    """
    folder = Path(out).absolute()
    evaluations = _evaluations(entries, shared)
    pending = [item for item in evaluations if not _is_complete(folder, item)]
    folder.mkdir(parents=True, exist_ok=True)
    stop_file = folder / STOP_FILE
    stop_file.unlink(missing_ok=True)
    outcomes: list[TaskOutcome] = []
    if pending:
        max_workers = min(workers or os.cpu_count() or 1, len(pending))
        tasks = {item.name: (item, str(folder), str(Path.cwd())) for item in pending}
        with connect(scheduler, max_workers, WORKER_BYTES) as client:
            outcomes = run_tasks(
                client,
                run_evaluation,
                tasks,
                stop_file,
                description=folder.name,
                unit="model",
                total=len(evaluations),
            )
    errors = [f"{outcome.name}: {outcome.error}" for outcome in outcomes if outcome.error]
    if errors:
        more = f"; and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise UserError(
            f"{len(errors)} of {len(evaluations)} evaluations did not succeed, and the same command"
            f" continues them: {errors[0]}{more}"
        )
    return [Run(folder / item.name) for item in evaluations]


def run_evaluation(item: Evaluation, folder: str, working_folder: str) -> TaskOutcome:
    """Evaluate one model in this process, until the stop file of the sweep appears.

    Parameters
    ----------
    item : Evaluation
        The evaluation.
    folder : str
        The folder of the sweep.
    working_folder : str
        The folder to which paths are relative.

    Returns
    -------
    TaskOutcome
        Its outcome.
    """
    start = time.monotonic()
    stop_file = Path(folder) / STOP_FILE

    def stop_when_told(done: int, total: int) -> None:
        if stop_file.exists():
            raise Cancelled("stopped")

    message = ""
    try:
        os.chdir(working_folder)
        stop_when_told(0, 1)
        _evaluate(item, Path(folder), stop_when_told)
    except UserError as error:
        message = str(error)
    except Exception as error:  # a failed evaluation leaves the others intact
        message = f"{type(error).__name__}: {error}"
    return TaskOutcome(name=item.name, error=message, seconds=time.monotonic() - start)


def _evaluate(item: Evaluation, folder: Path, listener: Callable[[int, int], None]) -> None:
    """Evaluate one model, and record its arguments."""
    out = folder / item.name
    record = _record(folder, item)
    record.parent.mkdir(exist_ok=True)
    text = json.dumps(item.arguments, indent=1)
    if out.exists():  # it is going to be replaced
        record.unlink(missing_ok=True)
    else:
        write_text(record, text)
    with progress_listener(listener):
        evaluate(**item.arguments, out=out, progress=False)
    write_text(record, text)


def _evaluations(
    entries: Sequence[Mapping[str, Any]], shared: Mapping[str, Any]
) -> list[Evaluation]:
    """Return evaluations with checked arguments. Raise UserError that names the entry."""
    evaluations: dict[str, Evaluation] = {}
    for number, entry in enumerate(entries, 1):
        arguments = dict(shared) | {str(name).replace("-", "_"): v for name, v in entry.items()}
        model = arguments.get("model")
        if not isinstance(model, str):
            raise UserError(
                f"Entry {number} of the list has no model; give an address, as in model:"
                " softvq:SoftVQVAE/softvq-l-64."
            )
        for name in ("processes", "progress"):
            if name in arguments:
                raise UserError(f"Entry {number} of the list has `{name}`; leave it out.")
        name = str(arguments.pop("out", None) or _default_name(model))
        if Path(name).name != name or name.startswith("."):
            raise UserError(
                f"out of entry {number} of the list must be the name of a run in the folder of the"
                f" sweep, got `{name}`."
            )
        if name in evaluations:
            raise UserError(f"Two entries of the list have the run {name}; name one by `out`.")
        for key in arguments.keys() & ARGUMENT_TYPES.keys():
            arguments[key] = coerce(ARGUMENT_TYPES[key], key, arguments[key])
        arguments = {key: to_json(value) for key, value in arguments.items()}
        evaluations[name] = Evaluation(name=name, arguments=arguments)
    return list(evaluations.values())


def _default_name(model: str) -> str:
    """Return a name for a run from the last part of an address.

    Examples
    --------
    >>> _default_name("softvq:SoftVQVAE/softvq-l-64"), _default_name("ldm:models/a.ckpt")
    ('softvq-l-64', 'a')
    >>> _default_name("python:my_package.my_module:make_tokenizer")
    'make_tokenizer'
    """
    family, _, location_text = model.partition(":")
    if family == "python":
        return location_text.rpartition(":")[2]
    location = Path(location_text)
    return location.stem if location.suffix in (".ckpt", ".pt", ".safetensors") else location.name


def _record(folder: Path, item: Evaluation) -> Path:
    return folder / RECORD_FOLDER / f"{item.name}.json"


def _is_complete(folder: Path, item: Evaluation) -> bool:
    """Return True if the run exists, with these arguments.

    Raises
    ------
    UserError
        If it has other arguments and may not be replaced.
    """
    run_folder = folder / item.name
    if not (run_folder / "config.json").exists():
        return False
    stored: dict[str, Any] = read_json(_record(folder, item), {})
    current = json.loads(json.dumps(item.arguments, default=str))
    if stored == current and Run(run_folder).evidence_steps:
        return True
    if item.arguments.get("overwrite"):
        return False
    names = sorted(n for n in {*stored, *current} if stored.get(n) != current.get(n))
    reason = f"with other values of {', '.join(names)}" if stored else "outside of this sweep"
    raise UserError(
        f"{run_folder} was evaluated {reason}. Choose another name by `out`, or set overwrite to"
        " true."
    )
