"""Random kills of every command, and many dashboard sessions. `make soak MINUTES=60`

    python -m benchmarks.soak --minutes 60 --sessions 200 [--seed 0] [--commands train,collect]

Each command is run for one system after another by processes that are killed (SIGKILL) at random
moments. After every kill the files must be readable: evidence and reports are the complete previous
version or the complete new one. A training that was killed and resumed must end with the weights
and the log of an undisturbed one. Processes that a killed one has started must end by themselves.
The sessions of one dashboard must not make its processes grow.

A round runs every command for every system. The first round is always completed; further rounds
start until the time is over. The exit status is 1 if a check fails.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.dashboard_sessions import growth_per_100_sessions, memory_over_sessions, visit
from workbench.analysis import groups
from workbench.hosts.dashboard.explore_tabs import MODULES
from workbench.hosts.reports.manifest import manifest_path, read_manifest
from workbench.launch.recipes import GENERATORS, SYSTEMS
from workbench.storage.checkpoint import read_tensors
from workbench.storage.evidence import verify_evidence
from workbench.storage.run import Run

# Commands are children of a process that has imported these: a kill then hits their own work.
PRELOADED = ("torch", "workbench.cli", "workbench.launch.in_process", "workbench.hosts.reports")
TRAINING = {"batch_size": 8, "steps": 12, "save_every": 4, "log_every": 3, "warmup_steps": 3}
MIN_DELAY_S = 0.1  # before a kill
MAX_GROWTH = 0.02  # of the server's memory per 100 sessions, over the second half of them
ORPHAN_TIMEOUT_S = 60.0  # a process that is still importing ends afterwards
CHECKED_COMMANDS = ("train", "collect", "dashboard", "report", "sweep")
NEED_TRAINING = {"collect", "dashboard", "report"}  # of the same system, before

forkserver = multiprocessing.get_context("forkserver")


@dataclass
class Soak:
    """The state of a soak: its folder, its systems, and its figures."""

    folder: Path
    systems: Sequence[str]
    seed: int
    kills: int  # of each command of each system
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    duration_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CHECKED_COMMANDS, 9))

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    @property
    def tokenizer(self) -> Path:
        """The run of the tokenizer of all generators."""
        return self.folder / "vqvae"

    def run(self, system: str) -> Run:
        """Return the run of a system that was killed while it was trained."""
        return Run(self.folder / system)

    def check(self, name: str, holds: Callable[[], object]) -> None:
        """Count a check, and record it if it does not hold or raises an exception."""
        self.counts[f"check: {name}"] += 1
        try:
            if not holds():
                self.failures.append(name)
        except Exception:
            self.failures.append(f"{name}: {traceback.format_exc()}")

    def check_leftovers(self, command: str, folder: Path, limit: int) -> None:
        """Check that at most `limit` temporary files and folders are left in a folder."""
        paths = leftovers(folder)
        self.counts[f"leftovers: {command}"] = max(self.counts[f"leftovers: {command}"], len(paths))
        names = f": {', '.join(map(str, paths))}" if len(paths) > limit else ""
        self.check(f"few leftovers of {command}{names}", lambda: not names)

    def kill(self, command: str, arguments: Sequence[str], look: Callable[[], None]) -> None:
        """Kill a command at random moments and look at its files each time."""
        for _ in range(self.kills):
            process = start(arguments)
            delay_s = self.chance.uniform(MIN_DELAY_S, max(MIN_DELAY_S, self.duration_s[command]))
            process.join(delay_s)
            children = psutil.Process(process.pid).children(True) if process.is_alive() else []
            self.counts[f"kills: {command}"] += process.is_alive()
            process.kill()
            process.join()
            _, alive = psutil.wait_procs(children, timeout=ORPHAN_TIMEOUT_S)
            self.check(f"{command} leaves no process", lambda alive=alive: not alive)
            look()

    def complete(self, command: str, arguments: Sequence[str], look: Callable[[], None]) -> None:
        """Let a command end and look at its files; later kills come within its duration."""
        started_s = time.monotonic()
        process = start(arguments)
        process.join()
        self.duration_s[command] = time.monotonic() - started_s
        self.check(f"{command} ends well", lambda: process.exitcode == 0)
        look()


def start(arguments: Sequence[str]) -> multiprocessing.process.BaseProcess:
    """Start the command line in a process of its own."""
    process = forkserver.Process(target=run_command_line, args=(list(arguments),))
    process.start()
    return process


def run_command_line(arguments: list[str]) -> None:
    """Run the command line silently in this process."""
    from workbench.cli import main

    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silence, descriptor)
    sys.argv = ["workbench", *arguments]
    main()


def options(**values: object) -> list[str]:
    """Return options of the command line."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files and folders that killed writers have left."""
    return [
        path
        for path in folder.rglob(".*")
        if not path.name.endswith(".lock") and ".results" not in path.parts
    ]


def same_training(first: Run, second: Run) -> bool:
    """Whether two runs have equal weights, optimizer states and logs."""
    expected, tensors = (read_tensors(run.checkpoint()) for run in (first, second))
    for group, values in expected.items():
        if values.keys() != tensors[group].keys():
            return False
        if not all(value.equal(tensors[group][name]) for name, value in values.items()):
            return False
    logs = [run.history().drop(columns="time", errors="ignore") for run in (first, second)]
    return logs[0].equals(logs[1])


def soak_train(soak: Soak, system: str) -> None:
    """Train a system undisturbed and killed, and compare both."""
    folder = soak.folder / system
    undisturbed = soak.folder / f".undisturbed-{system}"
    source = {"tokenizer": soak.tokenizer} if system in GENERATORS else {"limit": 64}
    settings = options(**source, **TRAINING)

    def command(out: Path) -> list[str]:
        return ["train", f"{system}-digits", "--no-collect", *options(out=out), *settings]

    def look() -> None:
        if (folder / "config.json").exists():
            run = Run(folder)
            paths = [run.checkpoint(step) for step in run.steps]
            soak.check("run is readable", lambda: run.status() and run.events() is not None)
            soak.check("checkpoints are complete", lambda: all(map(read_tensors, paths)))

    shutil.rmtree(folder, ignore_errors=True)
    soak.complete("train", command(undisturbed), lambda: None)
    soak.kill("train", command(folder), look)
    soak.complete("train", command(folder), look)
    soak.check("weights and log are equal", lambda: same_training(Run(undisturbed), Run(folder)))
    soak.check_leftovers("train", folder, 0)
    shutil.rmtree(undisturbed, ignore_errors=True)


def soak_collect(soak: Soak, system: str) -> None:
    """Kill collecting: the evidence is the previous one, the new one or none."""
    run = soak.run(system)

    def look() -> None:
        for step in run.evidence_steps:
            evidence = run.evidence_folder(step)
            soak.check("evidence is complete", lambda path=evidence: verify_evidence(path) is None)
        soak.check_leftovers("collect", run.folder, soak.kills + 1)

    command = ["collect", str(run.folder), *options(limit=32)]
    soak.kill("collect", command, look)
    soak.complete("collect", command, look)


def soak_report(soak: Soak, system: str) -> None:
    """Kill a report: a manifest exists only next to a complete page."""
    run = soak.run(system)
    template = "generator" if system in GENERATORS else "tokenizer"
    page = run.folder / "reports" / f"{template}.html"

    def look() -> None:
        if manifest_path(page).exists():
            soak.check("report is complete", lambda: page.exists() and read_manifest(page))

    command = ["report", template, *options(run=run.folder, out=page)]
    soak.kill("report", command, look)
    soak.complete("report", command, look)
    soak.check("report has a manifest", lambda: read_manifest(page))
    soak.check_leftovers("report", page.parent, soak.kills)


def soak_sweep(soak: Soak, system: str) -> None:
    """Kill a sweep of trainings: it resumes with what is missing, and leaves no process."""
    folder = soak.folder / "sweeps" / system
    shutil.rmtree(folder, ignore_errors=True)
    source = {"tokenizer": soak.tokenizer} if system in GENERATORS else {"limit": 64}
    command = ["sweep", "training", *options(grid="seed=0", out=folder, workers=1)]
    command += options(recipe=f"{system}-digits", **source, **TRAINING)
    soak.kill("sweep", command, lambda: None)
    soak.complete("sweep", command, lambda: None)
    soak.check("sweep has a gallery", (folder / "index.html").exists)
    pages = list(folder.glob("*/reports/training.html"))
    soak.check("sweep has its report", lambda: len(pages) == 1 and read_manifest(pages[0]))


class Dashboard:
    """A dashboard of the soak's folder in a process of its own, ended by SIGKILL."""

    def __init__(self, folder: Path) -> None:
        command = ["dashboard", str(folder), "--port", "0", "--no-browser", "--no-token"]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "workbench", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.process = psutil.Process(self._server.pid)
        self.link = self._read_link()

    def _read_link(self) -> str:
        """Wait until the dashboard has printed its link."""
        assert self._server.stdout is not None
        for line in self._server.stdout:
            for word in line.split():
                if word.startswith("http"):
                    return word.rstrip(".")
        raise RuntimeError("The dashboard did not start.")

    def kill(self) -> list[psutil.Process]:
        """End the server, and return the processes that did not end with it."""
        children = self.process.children(recursive=True)
        self._server.kill()
        self._server.wait()
        _, alive = psutil.wait_procs(children, timeout=ORPHAN_TIMEOUT_S)
        return list(alive)


def queries_of(systems: Sequence[str]) -> list[str]:
    """Return a query for every tab and one analysis of each group, each of the next system."""
    views = ["tab=overview", "tab=table", "tab=live", *(f"tab={tab}" for tab in MODULES)]
    views += [f"analysis={names[0]}" for names in groups().values()]
    rounds = len(views) * len(systems)
    return [
        f"?run={systems[number % len(systems)]}&{views[number % len(views)]}"
        for number in range(rounds)
    ]


def soak_dashboard(soak: Soak, system: str) -> None:
    """Kill a dashboard while the analyses of a system are computed for a session."""
    dashboard = Dashboard(soak.folder)
    try:
        visit(dashboard.link, f"?run={system}", limit_s=soak.chance.uniform(0.1, 5))
    finally:
        alive = dashboard.kill()
    soak.counts["kills: dashboard"] += 1
    soak.check("dashboard leaves no process", lambda: not alive)
    soak.check_leftovers("dashboard", soak.run(system).folder, 2)


def soak_sessions(soak: Soak, num_sessions: int) -> None:
    """Open many sessions of one dashboard and measure its memory."""
    dashboard = Dashboard(soak.folder)
    memory_mb: list[float] = []
    worker_mb: list[float] = []
    queries = queries_of(soak.systems)
    try:
        for server, worker in memory_over_sessions(
            dashboard.link, dashboard.process, queries, num_sessions
        ):
            memory_mb.append(server)
            worker_mb.append(worker)
    finally:
        dashboard.kill()
    growth = growth_per_100_sessions(memory_mb)
    soak.counts["dashboard: sessions"] += len(memory_mb)
    for name, number in (("first", 0), ("middle", len(memory_mb) // 2), ("last", -1)):
        soak.counts[f"dashboard: MB of the server after the {name} session"] = round(
            memory_mb[number]
        )
    half = len(worker_mb) // 2
    soak.counts["dashboard: largest MB of the worker, first half"] = round(
        max(worker_mb[:half], default=0)
    )
    soak.counts["dashboard: largest MB of the worker, second half"] = round(max(worker_mb[half:]))
    soak.counts["dashboard: MB of the server per 100 sessions, second half"] = round(growth)
    if num_sessions >= 100:
        soak.check("memory is flat", lambda: growth <= MAX_GROWTH * memory_mb[-1])


COMMANDS: dict[str, Callable[[Soak, str], None]] = {
    "train": soak_train,
    "collect": soak_collect,
    "dashboard": soak_dashboard,
    "report": soak_report,
    "sweep": soak_sweep,
}


def soak_all(soak: Soak, commands: Sequence[str], num_sessions: int, deadline_s: float) -> None:
    """Kill each command for each system, open the sessions, and repeat until the time is over."""
    soak.complete(
        "train",
        ["train", "vqvae-digits", *options(out=soak.tokenizer, limit=64, **TRAINING)],
        lambda: None,
    )
    while True:
        for command in commands:
            for system in soak.systems:
                COMMANDS[command](soak, system)
                soak.counts[f"systems: {command}"] += 1
                print(f"{command} {system}: {len(soak.failures)} failures", file=sys.stderr)
        if num_sessions and not soak.counts["dashboard: sessions"]:
            soak_sessions(soak, num_sessions)
        if time.monotonic() > deadline_s:
            break


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak, print its figures and return the exit status."""
    parser = argparse.ArgumentParser(description="Kill every command at random moments.")
    parser.add_argument("--minutes", type=float, default=10.0, help="at least one round is made")
    parser.add_argument("--sessions", type=int, default=200, help="sessions of the dashboard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=1, help="of each command of each system")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--commands", default=",".join(COMMANDS))
    chosen = parser.parse_args(arguments)
    commands = chosen.commands.split(",")
    if NEED_TRAINING & {*commands} and commands[0] != "train":
        parser.error(f"{', '.join(sorted(NEED_TRAINING))} use the runs of train: name it first.")
    started_s = time.monotonic()
    forkserver.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory(prefix="workbench-soak-") as folder:
        soak = Soak(Path(folder), chosen.systems.split(","), chosen.seed, chosen.kills)
        deadline_s = started_s + 60 * chosen.minutes
        soak_all(soak, commands, chosen.sessions, deadline_s)
    for name, count in sorted(soak.counts.items()):
        print(f"{count:8,}  {name}")
    for failure in soak.failures:
        print(f"FAILED: {failure}")
    minutes = (time.monotonic() - started_s) / 60
    print(f"{len(soak.failures)} failures in {minutes:.1f} minutes (seed {chosen.seed})")
    return int(bool(soak.failures))


if __name__ == "__main__":
    sys.exit(main())
