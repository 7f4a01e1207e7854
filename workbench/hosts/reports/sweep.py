"""Parameter sweeps: one report for each set of parameters, run in parallel on Dask, resumable.

A sweep is a folder. `TRIAL/reports/TEMPLATE.html` is the report of one set of parameters, next to
the run it trained. `reports/comparison.html` compares all runs, and `index.html` is a gallery of
all reports. Calling the sweep again skips the trials that are complete.
"""

import csv
import hashlib
import io
import itertools
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from workbench.core.errors import RunError, UserError
from workbench.hosts.reports.gallery import gallery
from workbench.hosts.reports.manifest import fingerprint, read_manifest
from workbench.hosts.reports.memory_guard import memory_guard
from workbench.hosts.reports.report import check_parameters, find_template, parameters_of, report
from workbench.hosts.reports.template import split_at_commas
from workbench.storage.files import parse_json, read_bytes

if TYPE_CHECKING:
    from dask.distributed import Client, LocalCluster

STOP_FILE = ".stop"  # in the sweep's folder; running trials end when it appears
SCHEDULER_TIMEOUT_S = 5
CLUSTER_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.worker.memory.terminate": False,
    # Pages of status and logs, which need no certificate.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
STOP_TIMEOUT_S = 10  # after Ctrl-C, until trials that still run are abandoned
POLL_INTERVAL_S = 0.5
MAX_NAME_CHARACTERS = 80
HASH_CHARACTERS = 6


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of parameters: its folder's name and the parameters of its report."""

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """Outcome of a trial. `error` is empty if every section of its report is done."""

    name: str
    error: str
    seconds: float


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


def read_parameter_list(path: Path) -> list[dict[str, Any]]:
    """Return the parameter sets in a file.

    Parameters
    ----------
    path : Path
        A `.csv` file with names in the first row, or a `.json` file with a list of objects. An
        empty cell leaves the parameter at its default.

    Raises
    ------
    UserError
        If the file cannot be read or holds no parameter set.
    """
    try:
        content = read_bytes(path)
        if path.suffix == ".json":
            rows = parse_json(content)
        else:
            lines = io.StringIO(content.decode("utf-8"), newline="")
            rows = list(csv.DictReader(lines, strict=True))
    except RunError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a list of parameters: {error}.") from None
    # csv.DictReader stores surplus cells under None.
    is_valid = isinstance(rows, list) and all(
        isinstance(row, dict) and None not in row for row in rows
    )
    if not is_valid or not rows:
        raise UserError(
            f"{path} is not a list of parameters. A .csv file needs names above values, a .json "
            "file [{...}, ...]."
        )
    return [{name: value for name, value in row.items() if value not in ("", None)} for row in rows]


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
        Number of reports at once; by default one per core. Never more than memory allows.
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
        with _client(scheduler, max_workers, memory_bytes) as client:
            outcomes = _run_trials(client, source, pending, folder, memory_bytes, len(trials))
        failures = [outcome for outcome in outcomes if outcome.error]
    return _conclude(source, trials, folder, failures)


def run_trial(
    template: str, parameters: dict[str, Any], page: str, memory_bytes: int, stop_file: str
) -> TrialOutcome:
    """Make the report of one trial in this process, whose children have a memory limit."""
    start = time.monotonic()
    name = Path(page).parents[1].name
    if Path(stop_file).exists():
        return TrialOutcome(name=name, error="stopped", seconds=0.0)
    message = ""
    with memory_guard(memory_bytes, Path(stop_file)) as guard:
        try:
            report(template, page, progress=False, **parameters)
        except UserError as error:
            message = str(error)
        except Exception as error:  # a failed trial leaves the others intact
            message = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - start
    return TrialOutcome(name=name, error=guard.reason or message, seconds=seconds)


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


@contextmanager
def _client(scheduler: str | None, max_workers: int, memory_bytes: int) -> "Iterator[Client]":
    """Connect to a scheduler, or start one with as many local workers as memory allows."""
    import psutil
    from dask.distributed import Client

    if scheduler:
        try:
            with Client(scheduler, timeout=SCHEDULER_TIMEOUT_S) as client:
                yield client
        except OSError as error:
            raise UserError(f"No Dask scheduler answers at {scheduler}: {error}.") from None
        return
    workers = max(1, min(max_workers, psutil.virtual_memory().available // memory_bytes))
    with local_cluster(workers) as cluster, Client(cluster) as client:
        yield client


@contextmanager
def local_cluster(workers: int) -> "Iterator[LocalCluster]":
    """Run single-threaded worker processes on this machine during the block.

    The processes connect over TCP with temporary certificates that exist in their memory only.
    Without them, any user of the machine could run code in the workers.

    Parameters
    ----------
    workers : int
        Number of processes.

    Yields
    ------
    LocalCluster
        The cluster.
    """
    import dask
    from dask.distributed import LocalCluster, Security

    threads = str(max(1, (os.cpu_count() or 1) // workers))
    thread_limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    with dask.config.set(CLUSTER_SETTINGS):
        with _ignore_interrupts():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                security=Security.temporary(),
                dashboard_address=None,
                memory_limit=0,  # memory_guard enforces the limit
                silence_logs=logging.CRITICAL,
                env={name: os.environ.get(name, threads) for name in thread_limits},
            )
        with cluster:
            yield cluster


@contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all of them.

    This process decides when they end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous_handler)


def _run_trials(
    client: "Client",
    source: Path,
    pending: list[Trial],
    folder: Path,
    memory_bytes: int,
    num_trials: int,
) -> list[TrialOutcome]:
    """Run trials as workers become free, with a progress bar; after Ctrl-C wait until they end."""
    from dask.distributed import wait
    from tqdm import tqdm

    stop_file = folder / STOP_FILE
    template = str(source) if source.suffix == ".ipynb" else source.stem
    trials = {
        client.submit(
            run_trial,
            template,
            trial.parameters,
            str(_page(source, folder, trial)),
            memory_bytes,
            str(stop_file),
            pure=False,
        ): trial
        for trial in pending
    }
    unfinished = set(trials)
    outcomes: list[TrialOutcome] = []
    bar = tqdm(
        total=num_trials,
        initial=num_trials - len(pending),
        desc=source.stem,
        unit="report",
        disable=None,
    )
    with _stop_on_interrupt(stop_file) as interrupts, closing(bar):
        while unfinished:
            if interrupts and time.monotonic() > interrupts[0] + STOP_TIMEOUT_S:
                break  # the trials end with their workers
            # CancelledError means that the scheduler is gone.
            with suppress(TimeoutError, CancelledError):
                wait(list(unfinished), timeout=POLL_INTERVAL_S, return_when="FIRST_COMPLETED")
            for future in [future for future in unfinished if future.done()]:
                unfinished.remove(future)
                if future.status == "finished":
                    outcome = future.result()
                else:
                    outcome = TrialOutcome(
                        name=trials[future].name, error="its worker was lost", seconds=0.0
                    )
                outcomes.append(outcome)
                bar.update()
                bar.write(f"{outcome.name}  {outcome.seconds:.0f} s  {outcome.error or 'done'}")
    if interrupts:
        raise KeyboardInterrupt
    return outcomes


@contextmanager
def _stop_on_interrupt(stop_file: Path) -> Iterator[list[float]]:
    """Create the stop file on the first Ctrl-C, and interrupt on the second.

    Raising at once could interrupt Dask's client anywhere and leave one of its locks taken.

    Yields
    ------
    list of float
        Empty until the first Ctrl-C; then its time.
    """
    interrupts: list[float] = []
    previous_handler = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not callable(previous_handler):  # or interrupts are ignored
        yield interrupts
        return

    def handle(signal_number: int, frame: FrameType | None) -> None:
        stop_file.touch()
        interrupts.append(time.monotonic())
        signal.signal(signal.SIGINT, previous_handler)

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, previous_handler)


def _conclude(
    source: Path, trials: Sequence[Trial], folder: Path, failures: Sequence[TrialOutcome]
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
