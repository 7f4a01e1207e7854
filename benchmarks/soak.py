"""Random kills of every command, and many dashboard sessions. `make soak MINUTES=60`

    python -m benchmarks.soak --minutes 60 --sessions 200 [--seed 0]

One system after another is trained, collected, reported and swept by processes that are killed
(SIGKILL) at random moments. After every kill the files must be readable: evidence and reports are
the complete previous version or the complete new one. A training that was killed and resumed must
end with the weights and the log of an undisturbed one. The sessions of one dashboard must not make
its processes grow, and its compute process must end with it. The exit status is 1 if a check fails.
"""

import argparse
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

from workbench.hosts.reports.manifest import manifest_path, read_manifest
from workbench.launch.recipes import GENERATORS, SYSTEMS
from workbench.storage.checkpoint import read_tensors
from workbench.storage.evidence import verify_evidence
from workbench.storage.run import Run

TRAIN = """
import sys
from workbench.launch.in_process import train
recipe, folder, tokenizer = sys.argv[1:]
settings = {"tokenizer": tokenizer} if tokenizer else {"limit": 64}
train(recipe, folder, collect=False, batch_size=8, steps=20, save_every=5, log_every=5,
      warmup_steps=5, **settings)
"""
KILLS_PER_COMMAND = 3
MAX_DELAY_S = 8.0  # before a kill
NUM_WARM_UP_SESSIONS = 10
MAX_GROWTH = 0.15  # of the dashboard's memory after the warm-up
ORPHAN_TIMEOUT_S = 15.0


@dataclass
class Soak:
    """The state of a soak: its folder, the end of its time, and its figures."""

    folder: Path
    seed: int
    deadline_s: float
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.deadline_s

    def check(self, name: str, holds: Callable[[], object]) -> None:
        """Count a check, and record it if it does not hold or raises an exception."""
        self.counts[f"check: {name}"] += 1
        try:
            if not holds():
                self.failures.append(name)
        except Exception:
            self.failures.append(f"{name}: {traceback.format_exc()}")

    def survive(self, name: str, command: Sequence[str], look: Callable[[], None]) -> None:
        """Kill a command at random moments, look at its files each time, and let it end."""
        for _ in range(KILLS_PER_COMMAND):
            if self.is_over:
                break
            if kill_after(command, self.chance.uniform(0.2, MAX_DELAY_S)):
                self.counts[f"kills: {name}"] += 1
            look()
        code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        self.check(f"{name} ends well", lambda: code == 0)
        look()


def workbench(*arguments: str) -> list[str]:
    """Return the command that runs the workbench with arguments."""
    return [sys.executable, "-m", "workbench", *arguments]


def kill_after(command: Sequence[str], seconds: float) -> bool:
    """Start a command and kill it after a time; False if it ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


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


def soak_training(soak: Soak, system: str, tokenizer: Path) -> Run:
    """Train a system undisturbed and killed, compare both, and return the killed run."""
    folders = [soak.folder / f"{system}-{kind}" for kind in ("whole", "killed")]
    source = str(tokenizer) if system in GENERATORS else ""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    commands = [
        [sys.executable, "-c", TRAIN, f"{system}-digits", str(folder), source] for folder in folders
    ]
    subprocess.run(commands[0], stdout=subprocess.DEVNULL, check=True)

    def look() -> None:
        if (folders[1] / "config.json").exists():
            run = Run(folders[1])
            paths = [run.checkpoint(step) for step in run.steps]
            soak.check("run is readable", lambda: run.status() and run.events() is not None)
            soak.check(
                "checkpoints are complete", lambda: [read_tensors(path) for path in paths] or 1
            )

    soak.survive("train", commands[1], look)
    whole, killed = map(Run, folders)
    soak.check("weights and log are equal", lambda: same_training(whole, killed))
    soak.check("training leaves no temporary file", lambda: not leftovers(killed.folder))
    return killed


def soak_collect(soak: Soak, run: Run) -> None:
    """Kill collecting: the evidence is the previous one, the new one or none."""

    def look() -> None:
        for step in run.evidence_steps:
            folder = run.evidence_folder(step)
            soak.check(
                "evidence is complete", lambda folder=folder: verify_evidence(folder) is None
            )

    soak.survive("collect", workbench("collect", str(run.folder), "--limit", "32"), look)
    soak.counts["leftovers: collect"] += len(leftovers(run.folder))
    soak.check("few leftovers", lambda: len(leftovers(run.folder)) <= KILLS_PER_COMMAND)


def soak_report(soak: Soak, run: Run) -> None:
    """Kill a report: a manifest exists only next to a complete page."""
    page = run.folder / "reports" / "tokenizer.html"

    def look() -> None:
        if manifest_path(page).exists():
            soak.check("report is complete", lambda: page.exists() and read_manifest(page))

    command = workbench("report", "tokenizer", "--run", str(run.folder), "--out", str(page))
    soak.survive("report", command, look)
    soak.counts["leftovers: report"] += len(leftovers(page.parent))


def soak_sweep(soak: Soak) -> None:
    """Kill a sweep: it resumes with the trials that are missing, and leaves no process."""
    folder = soak.folder / "sweep"
    command = workbench(
        *("sweep", "training", "--grid", "num_tokens=2,4", "--out", str(folder)),
        *("--workers", "1", "--recipe", "ae-digits", "--steps", "10"),
    )
    soak.survive("sweep", command, lambda: None)
    soak.check("sweep has a gallery", (folder / "index.html").exists)


def soak_dashboard(soak: Soak, num_sessions: int) -> None:
    """Open many sessions of one dashboard, measure its memory, and kill it."""
    command = workbench("dashboard", str(soak.folder), "--port", "0", "--no-browser", "--no-token")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        parent = psutil.Process(server.pid)
        link = read_link(server)
        memory_mb = []
        for _ in range(NUM_WARM_UP_SESSIONS + num_sessions):
            open_session(link)
            family = [parent, *parent.children(recursive=True)]
            memory_mb.append(sum(process.memory_info().rss for process in family) / 2**20)
            if soak.is_over and len(memory_mb) > NUM_WARM_UP_SESSIONS:
                break
        children = parent.children(recursive=True)
    finally:
        server.kill()
        server.wait()
    start = memory_mb[min(NUM_WARM_UP_SESSIONS, len(memory_mb) - 1)]
    soak.counts["kills: dashboard"] += 1
    soak.counts["dashboard: sessions"] = len(memory_mb)
    soak.counts["dashboard: MB after the warm-up"] = round(start)
    soak.counts["dashboard: MB at the end"] = round(memory_mb[-1])
    soak.check("memory is flat", lambda: memory_mb[-1] <= start * (1 + MAX_GROWTH))
    _, alive = psutil.wait_procs(children, timeout=ORPHAN_TIMEOUT_S)
    soak.check("worker ends with the dashboard", lambda: not alive)


def read_link(server: subprocess.Popen) -> str:
    """Wait until a dashboard has printed its link."""
    assert server.stdout is not None
    for line in server.stdout:
        for word in line.split():
            if word.startswith("http"):
                return word.rstrip(".")
    raise RuntimeError("The dashboard did not start.")


def open_session(link: str) -> None:
    """Open a session of a dashboard, wait for an answer, and close it."""
    from bokeh.client import ClientSession
    from bokeh.util.token import generate_session_id

    address = link.replace("http", "ws", 1).rstrip("/") + "/ws"
    session = ClientSession(generate_session_id(), websocket_url=address)
    session.connect()
    session.request_server_info()
    session.close()


def soak_all(soak: Soak, systems: Sequence[str], num_sessions: int) -> None:
    """Open the sessions, and then kill the commands of one system after another."""
    tokenizer = soak.folder / "tokenizer"
    command = [sys.executable, "-c", TRAIN, "vqvae-digits", str(tokenizer), ""]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    if num_sessions:
        soak_dashboard(soak, num_sessions)
    number = 0
    while number == 0 or not soak.is_over:
        system = systems[number % len(systems)]
        run = soak_training(soak, system, tokenizer)
        soak.counts["trainings"] += 1
        if not soak.is_over:
            soak_collect(soak, run)
        if not soak.is_over and system not in GENERATORS:
            soak_report(soak, run)
        if not soak.is_over:
            soak_sweep(soak)
        number += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak, print its figures and return the exit status."""
    parser = argparse.ArgumentParser(description="Kill every command at random moments.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=200, help="sessions of the dashboard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--systems", default=",".join(dict.fromkeys([*SYSTEMS, *GENERATORS])))
    options = parser.parse_args(arguments)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="workbench-soak-") as folder:
        soak = Soak(Path(folder), options.seed, started_s + 60 * options.minutes)
        soak_all(soak, options.systems.split(","), options.sessions)
    for name, count in sorted(soak.counts.items()):
        print(f"{count:8,}  {name}")
    for failure in soak.failures:
        print(f"FAILED: {failure}")
    minutes = (time.monotonic() - started_s) / 60
    print(f"{len(soak.failures)} failures in {minutes:.1f} minutes (seed {options.seed})")
    return int(bool(soak.failures))


if __name__ == "__main__":
    sys.exit(main())
