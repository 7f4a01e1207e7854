"""Parameter sweeps: one report for each set of parameters, run in parallel on Dask, resumable.

A sweep is a folder. `TRIAL/reports/TEMPLATE.html` is the report of one set of parameters, next to
the run it trained. `reports/comparison.html` compares all runs, and `index.html` is a gallery of
all reports. Calling the sweep again skips the trials that are complete.
"""

import hashlib
import itertools
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import UserError
from workbench.hosts.reports.gallery import gallery
from workbench.hosts.reports.manifest import fingerprint, read_manifest
from workbench.hosts.reports.memory_guard import memory_guard
from workbench.hosts.reports.report import check_parameters, find_template, parameters_of, report
from workbench.hosts.reports.template import split_at_commas
from workbench.launch.cluster import STOP_FILE, TaskOutcome, connect, run_tasks
from workbench.launch.parameter_list import read_parameter_list

if TYPE_CHECKING:
    from dask.distributed import Client

MAX_NAME_CHARACTERS = 80
HASH_CHARACTERS = 6


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of parameters: its folder's name and the parameters of its report."""

    name: str
    parameters: dict[str, Any]


def parameter_sets(grid: str | None, list_file: Path | None) -> list[dict[str, Any]]:
    """Return the parameter sets of a grid or of a file.

    Parameters
    ----------
    grid : str or None
        Values to combine, see `parse_grid`.
    list_file : Path or None
        File with one parameter set per row, see `read_parameter_list`.

    Raises
    ------
    UserError
        Unless exactly one of the two is given.
    """
    if grid is not None and list_file is None:
        return parse_grid(grid)
    if list_file is not None and grid is None:
        return read_parameter_list(list_file)
    raise UserError("Give the parameters of a sweep either as --grid or as --list.")


def parse_grid(text: str) -> list[dict[str, str]]:
    """Return every combination of some values.

    Parameters
    ----------
    text : str
        Names and values, such as `codebook_size=64,256; num_tokens=4,8`.

    Returns
    -------
    list of dict
        The last name changes fastest.

    Raises
    ------
    UserError
        If the text has another form or names a parameter twice.

    Examples
    --------
    >>> parse_grid("num_tokens=4,8")
    [{'num_tokens': '4'}, {'num_tokens': '8'}]
    """
    axes: dict[str, list[str]] = {}
    parts = [part.strip() for part in text.split(";") if part.strip()]
    for part in parts:
        name, separator, listed_values = part.partition("=")
        name = name.strip()
        values = split_at_commas(listed_values)
        is_valid = separator and name.isidentifier() and all(values)
        if not is_valid or name in axes:
            raise UserError(
                f"`{part}` is not a valid axis of a grid. "
                "Write name=value,value and separate the axes by ;"
            )
        axes[name] = list(dict.fromkeys(values))
    if not axes:
        raise UserError("The grid is empty. Write name=value,value and separate the axes by ;")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def sweep(
    template: str,
    parameter_sets: Sequence[Mapping[str, Any]],
    out: str | Path,
    *,
    workers: int | None = None,
    memory: str = "2GB",
    scheduler: str | None = None,
    **fixed: Any,
) -> Path:
    """Make a report for every parameter set, compare their runs and write a gallery.

    Complete reports are skipped, so that calling this again resumes an interrupted sweep.

    Parameters
    ----------
    template : str
        Name of a template, or path of a notebook.
    parameter_sets : sequence of mapping
        Parameters of each report.
    out : str or Path
        Folder of the sweep.
    workers : int, optional
        Number of simultaneous reports; by default one per core. Never more than memory allows.
    memory : str
        Memory limit of one report, such as `2GB`. A report that exceeds it is stopped.
    scheduler : str, optional
        Address of a Dask scheduler whose workers see the same folders. By default workers are
        started on this machine.
    **fixed
        Parameters of all reports.

    Returns
    -------
    Path
        Page of the gallery.

    Raises
    ------
    UserError
        If parameters are wrong; nothing is executed then. If reports failed; the others are
        written.
    """
    from dask.utils import parse_bytes

    source = find_template(template)
    folder = Path(out).absolute()
    trials = _trials(source, parameter_sets, fixed, folder)
    try:
        memory_bytes = parse_bytes(memory)
    except ValueError:
        raise UserError(f"memory must be a size such as 2GB, got `{memory}`.") from None
    pending = [trial for trial in trials if not _is_complete(source, folder, trial)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP_FILE).unlink(missing_ok=True)
    failures = []
    if pending:
        max_workers = min(workers or os.cpu_count() or 1, len(pending))
        with connect(scheduler, max_workers, memory_bytes) as client:
            outcomes = _run_trials(client, source, pending, folder, memory_bytes, len(trials))
        failures = [outcome for outcome in outcomes if outcome.error]
    return _conclude(source, trials, folder, failures)


def run_trial(
    template: str,
    parameters: dict[str, Any],
    page: str,
    memory_bytes: int,
    stop_file: str,
    working_folder: str,
) -> TaskOutcome:
    """Make the report of one trial in this process, whose children have a memory limit.

    Relative paths among the parameters begin at the working folder.
    """
    start = time.monotonic()
    name = Path(page).parents[1].name
    if Path(stop_file).exists():
        return TaskOutcome(name=name, error="stopped", seconds=0.0)
    message = ""
    with memory_guard(memory_bytes, Path(stop_file)) as guard:
        try:
            os.chdir(working_folder)
            report(template, page, progress=False, **parameters)
        except UserError as error:
            message = str(error)
        except Exception as error:  # a failed trial leaves the others intact
            message = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - start
    return TaskOutcome(name=name, error=guard.reason or message, seconds=seconds)


def _trials(
    source: Path,
    parameter_sets: Sequence[Mapping[str, Any]],
    fixed: Mapping[str, Any],
    folder: Path,
) -> list[Trial]:
    """Return trials with checked parameters. Raise UserError that names the trial."""
    trains = any(parameter.name == "folder" for parameter in parameters_of(source))
    trials: dict[str, Trial] = {}
    for parameters in parameter_sets:
        name = _trial_name(parameters)
        values = {**fixed, **parameters}
        if trains:
            values.setdefault("folder", str(folder / name))
        try:
            check_parameters(source, values)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if name in trials:
            raise UserError(f"{name} occurs twice in the list of parameters.")
        trials[name] = Trial(name=name, parameters=values)
    return list(trials.values())


def _trial_name(parameters: Mapping[str, Any]) -> str:
    """Return a folder name that identifies the parameters: codebook_size-64_num_tokens-4.

    It does not depend on the other trials. A hash is added if characters had to be replaced.
    """
    full = "_".join(f"{name}-{value}" for name, value in parameters.items()) or "all"
    short = "_".join(f"{name}-{Path(str(value)).name}" for name, value in parameters.items())
    safe = re.sub(r"[^\w.\-]+", "-", short or "all").strip(".-")
    if safe == full and len(safe) <= MAX_NAME_CHARACTERS:
        return safe
    digest = hashlib.sha256(full.encode()).hexdigest()
    return f"{safe[:MAX_NAME_CHARACTERS]}-{digest[:HASH_CHARACTERS]}"


def _page(source: Path, folder: Path, trial: Trial) -> Path:
    return folder / trial.name / "reports" / f"{source.stem}.html"


def _is_complete(source: Path, folder: Path, trial: Trial) -> bool:
    """Return True if a trial's report is complete and has the same parameters and template."""
    page = _page(source, folder, trial)
    manifest = read_manifest(page)
    return (
        page.exists()
        and manifest.get("failed") == 0
        and manifest.get("not_run") == 0
        and not manifest.get("left_out")
        and manifest.get("parameters") == check_parameters(source, trial.parameters)
        and manifest.get("template_fingerprint") == fingerprint([source])
    )


def _run_trials(
    client: "Client",
    source: Path,
    pending: Sequence[Trial],
    folder: Path,
    memory_bytes: int,
    num_trials: int,
) -> list[TaskOutcome]:
    stop_file = folder / STOP_FILE
    template = str(source) if source.suffix == ".ipynb" else source.stem
    tasks = {
        trial.name: (
            template,
            trial.parameters,
            str(_page(source, folder, trial)),
            memory_bytes,
            str(stop_file),
            str(Path.cwd()),
        )
        for trial in pending
    }
    return run_tasks(
        client,
        run_trial,
        tasks,
        stop_file,
        description=source.stem,
        unit="report",
        total=num_trials,
    )


def _conclude(
    source: Path, trials: Sequence[Trial], folder: Path, failures: Sequence[TaskOutcome]
) -> Path:
    """Compare the runs of all trials and write the gallery. Raise UserError if a report failed."""
    run_folders = []
    for trial in trials:
        runs = read_manifest(_page(source, folder, trial)).get("runs", ())
        run_folders += [run["folder"] for run in runs[:1]]
    unique_folders = list(dict.fromkeys(run_folders))
    errors = [f"{outcome.name}: {outcome.error}" for outcome in failures]
    if len(unique_folders) > 1:
        try:
            report(
                "comparison",
                folder / "reports" / "comparison.html",
                run=unique_folders[0],
                compare_with=unique_folders[1:],
                progress=False,
            )
        except UserError as error:
            errors.append(f"comparison: {error}")
    page = gallery(folder)
    if errors:
        message = f"{len(errors)} of {len(trials)} reports failed, see {page}: {errors[0]}"
        if len(errors) > 1:
            message += f"; and {len(errors) - 1} more"
        raise UserError(message)
    return page
