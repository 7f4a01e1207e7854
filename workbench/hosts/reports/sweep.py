"""Sweeps: one report for each of many sets of parameters, on Dask, one process each; what is finished is kept.

A sweep is a folder: `POINT/reports/TEMPLATE.html` for every set, with the run it trained beside it, then
`reports/comparison.html` over all runs and `index.html`, a gallery of everything. The same call goes on with it.
"""

import csv
import hashlib
import itertools
import json
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
from typing import TYPE_CHECKING, Any

from workbench.core.errors import UserError
from workbench.hosts.reports import manifest as manifests
from workbench.hosts.reports.gallery import gallery
from workbench.hosts.reports.memory_guard import memory_guard
from workbench.hosts.reports.report import check_parameters, find_template, report

if TYPE_CHECKING:
    from dask.distributed import Client

STOP = ".stop"  # a file in the sweep's folder: what still runs ends when it appears
ANSWER, PATIENCE = 5, 10  # seconds that a scheduler is given to answer, workers to end
GLANCE = 0.5  # seconds between looks at what has ended
LONGEST = 80  # characters of a point's name


@dataclass(frozen=True)
class Point:
    """One set of parameters: its name in the folder, and what its report is given."""

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """What became of a point: `said` is empty where every section of its report is done."""

    name: str
    said: str
    seconds: float


def points_of(text: str | None, path: Path | None) -> list[dict[str, Any]]:
    """The sets of parameters of a grid's text, or of a file. Raises UserError unless there is one of the two."""
    if (text is None) == (path is None):
        raise UserError("A sweep takes its parameters from --grid or from --list, one of them.")
    return grid(text or "") if path is None else listed(path)


def grid(text: str) -> list[dict[str, str]]:
    """Every combination of `codebook_size=64,256;num_tokens=4,8`, the last name changing fastest. Raises UserError."""
    axes = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = part.partition("=")
        found = [value.strip() for value in values.split(",")]
        if not equals or not name.strip().isidentifier() or not all(found) or name.strip() in axes:
            raise UserError(
                f"`{part}` is no axis of a grid; write name=value,value and ; between the axes."
            )
        axes[name.strip()] = list(dict.fromkeys(found))
    if not axes:
        raise UserError("The grid is empty; write name=value,value and ; between the axes.")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def listed(path: Path) -> list[dict[str, Any]]:
    """The sets of parameters in a file: the rows of a .csv (an empty cell is not given), the objects of a .json list.

    Raises UserError where it holds none.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = (
                json.load(file)
                if path.suffix == ".json"
                else list(csv.DictReader(file, strict=True))
            )
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a list of parameters: {error}.") from None
    sound = isinstance(found, list) and all(
        isinstance(one, dict) and None not in one for one in found
    )
    if not sound or not found:
        raise UserError(
            f"{path} holds no list of parameters; a .csv has names above values, a .json is [{{...}}, ...]."
        )
    return [
        {name: value for name, value in one.items() if value not in ("", None)} for one in found
    ]


def sweep(
    template: str,
    points: Sequence[Mapping[str, Any]],
    out: str | Path,
    *,
    workers: int | None = None,
    memory: str = "2GB",
    scheduler: str | None = None,
    **fixed: Any,
) -> Path:
    """Make a report for every point (`fixed` is given to all), then compare them; returns the gallery's page.

    Finished reports are skipped. At most `workers` run at once (None: one a core), no more than have room with `memory`
    each; one that takes more is ended. `scheduler` is the address of a Dask scheduler whose workers see the same
    folders. Raises UserError: before anything runs, for parameters that do not fit; at the end, where reports failed.
    """
    from dask.utils import parse_bytes

    source, out = find_template(template), Path(out).absolute()
    todo = _named(source, points, fixed, out)
    try:
        most = parse_bytes(memory)
    except ValueError:
        raise UserError(f"memory takes a size such as 2GB; got `{memory}`.") from None
    left = [point for point in todo if not _finished(source, out, point)]
    out.mkdir(parents=True, exist_ok=True)
    (out / STOP).unlink(missing_ok=True)
    failed = []
    if left:
        with _client(scheduler, min(workers or os.cpu_count() or 1, len(left)), most) as client:
            failed = [
                ended for ended in _run(client, source, left, out, most, len(todo)) if ended.said
            ]
    return _conclude(source, todo, out, failed)


def make(template: str, parameters: dict[str, Any], page: str, memory: int, stop: str) -> Ended:
    """One point's report, in this process; its notebook is a process of its own, which is watched."""
    began, said, name = time.monotonic(), "", Path(page).parents[1].name
    if Path(stop).exists():
        return Ended(name, "stopped", 0.0)
    with memory_guard(memory, Path(stop)) as watch:
        try:
            report(template, page, progress=False, **parameters)
        except Exception as error:  # a point's fault is no reason to lose the others
            said = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
    return Ended(name, watch.reason or said, time.monotonic() - began)


def _named(
    source: Path, sets: Sequence[Mapping[str, Any]], fixed: Mapping[str, Any], out: Path
) -> list[Point]:
    """Points with names of their own, every one of them checked. Raises UserError, with the point it is about."""
    points: dict[str, Point] = {}
    for given in sets:
        name = _name(given)
        own = (
            {"folder": str(out / name)}
            if _trains(source) and "folder" not in {**fixed, **given}
            else {}
        )
        try:
            point = Point(name, {**fixed, **given, **own})
            check_parameters(source, point.parameters)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if name in points:
            raise UserError(f"{name} is asked for twice.")
        points[name] = point
    return list(points.values())


def _name(given: Mapping[str, Any]) -> str:
    """A folder's name that tells the parameters apart, the same whatever else is asked for: codes-64_tokens-4."""
    told = "_".join(f"{name}-{value}" for name, value in given.items()) or "all"
    short = "_".join(f"{name}-{Path(str(value)).name}" for name, value in given.items()) or "all"
    safe = re.sub(r"[^\w.\-]+", "-", short).strip(".-")
    if safe == told and len(safe) <= LONGEST:
        return safe
    return f"{safe[:LONGEST]}-{hashlib.sha256(told.encode()).hexdigest()[:6]}"


def _trains(source: Path) -> bool:
    from workbench.hosts.reports.report import parameters_of

    return any(parameter.name == "folder" for parameter in parameters_of(source))


def _page(source: Path, out: Path, point: Point) -> Path:
    return out / point.name / "reports" / f"{source.stem}.html"


def _finished(source: Path, out: Path, point: Point) -> bool:
    """Whether all of a point's report is there, made with the same parameters by the same template."""
    page = _page(source, out, point)
    told = manifests.read(page)
    same = told.get("parameters") == check_parameters(source, point.parameters)
    whole = told.get("failed") == 0 and told.get("missed") == 0 and page.exists()
    return same and whole and told.get("template_fingerprint") == manifests.fingerprint([source])


@contextmanager
def _client(scheduler: str | None, workers: int, memory: int) -> "Iterator[Client]":
    """A scheduler's client: the one at an address, or one of this machine's own, with as many workers as have room."""
    import dask
    import psutil
    from dask.distributed import Client, LocalCluster

    quiet = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.memory.terminate": False,
    }
    if scheduler:
        try:
            with Client(scheduler, timeout=ANSWER) as client:
                yield client
        except OSError as error:
            raise UserError(f"No Dask scheduler answers at {scheduler}: {error}.") from None
        return
    workers = max(1, min(workers, psutil.virtual_memory().available // memory))
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    env = {name: os.environ.get(name, threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    how = {
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": None,
        "memory_limit": 0,
        "env": env,
    }
    with dask.config.set(quiet):
        with _deaf():
            cluster = LocalCluster(n_workers=workers, host="127.0.0.1", silence_logs=50, **how)
        with cluster, Client(cluster) as client:
            yield client


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes begun within do not hear Ctrl-C, which a terminal sends to all: this one tells them when to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(
    client: "Client", source: Path, left: list[Point], out: Path, memory: int, of: int
) -> list[Ended]:
    """Make what is left, as workers come free, with progress and time left; on Ctrl-C all of it ends first."""
    from dask.distributed import wait
    from tqdm import tqdm

    stop, template = out / STOP, str(source) if source.suffix == ".ipynb" else source.stem
    futures = {
        client.submit(
            make, template, p.parameters, str(_page(source, out, p)), memory, str(stop), pure=False
        ): p
        for p in left
    }
    waited = set(futures)
    ended, bar = (
        [],
        tqdm(total=of, initial=of - len(left), desc=source.stem, unit="report", disable=None),
    )
    with _asking_to_stop(stop) as asked, closing(bar):
        while waited and not (
            asked and time.monotonic() > asked[0] + PATIENCE
        ):  # what still runs ends with its worker
            with suppress(TimeoutError, CancelledError):  # cancelled: the scheduler is gone
                wait(list(waited), timeout=GLANCE, return_when="FIRST_COMPLETED")
            for future in [one for one in waited if one.done()]:
                waited.remove(future)
                lost = future.status != "finished"
                one = (
                    Ended(futures[future].name, "its worker was lost", 0.0)
                    if lost
                    else future.result()
                )
                ended.append(one)
                bar.update()
                bar.write(f"{one.name}  {one.seconds:.0f} s  {one.said or 'done'}")
    if asked:
        raise KeyboardInterrupt
    return ended


@contextmanager
def _asking_to_stop(stop: Path) -> Iterator[list[float]]:
    """The first Ctrl-C writes the file, the second interrupts. Yields a list that is empty until the first, then when.

    An interrupt may come anywhere in the client's code, leave a lock of it taken for good, or be lost.
    """
    asked: list[float] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(
        before
    ):  # or nobody listens to it
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        stop.touch()
        asked.append(time.monotonic())
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _conclude(source: Path, points: Sequence[Point], out: Path, failed: Sequence[Ended]) -> Path:
    """Compare all runs that were reported on, and make the gallery. Raises UserError where reports failed."""
    told = [manifests.read(_page(source, out, point)) for point in points]
    runs = list(dict.fromkeys(run["folder"] for one in told for run in one.get("runs", ())[:1]))
    said = [f"{one.name}: {one.said}" for one in failed]
    if len(runs) > 1:
        try:
            report(
                "comparison",
                out / "reports" / "comparison.html",
                run=runs[0],
                others=runs[1:],
                progress=False,
            )
        except UserError as error:
            said.append(f"comparison: {error}")
    page = gallery(out)
    if said:
        others = f"; and {len(said) - 1} more" if len(said) > 1 else ""
        raise UserError(
            f"{len(said)} of {len(points)} reports failed, see {page}: {said[0]}{others}"
        )
    return page
