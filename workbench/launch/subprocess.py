"""Training in a process of its own, so that a notebook stays free and a closed laptop loses nothing."""

import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.core.errors import RunError, UserError
from workbench.storage.run import Run

GLANCE = 0.2  # seconds between looks at how far a training is


def train(recipe: str, out: str | Path, *, collect: bool = True, **changes: Any) -> Run:
    """Train a recipe into a folder, with a progress bar, and collect its evidence; go on with a run that was stopped.

    In a notebook this happens in a process of its own, whose end the cell waits for; an interrupt stops it with a
    checkpoint. `changes` and what is raised are those of `workbench.launch.in_process.train`.
    """
    if not _in_a_notebook():
        from workbench.launch import in_process as jobs

        return jobs.train(recipe, out, collect=collect, **changes)
    import tqdm.auto  # noqa: F401  now: an interrupt while it is imported would be lost on it

    run, process, begun = _begin(recipe, out, collect, changes)
    if process is not None:
        _follow(run, process, begun)
    return run


def start(recipe: str, out: str | Path, *, collect: bool = True, **changes: Any) -> Run:
    """Train as `train` does, with the same settings, but apart from this process; returns when training has begun.

    `watch(run)` follows it, `run.ask("stop")` ends it. What it says goes to train.log in the run's folder.
    Raises UserError with the sentence that `train` refuses with; nothing is left behind then.
    """
    run, process, _ = _begin(recipe, out, collect, changes)
    if process is not None:
        threading.Thread(
            target=process.wait, daemon=True
        ).start()  # else it would seem alive when it has ended
    return run


def _begin(
    recipe: str, out: str | Path, collect: bool, changes: dict[str, Any]
) -> tuple[Run, subprocess.Popen | None, int]:
    """The run, its process or None where that has ended already, and where in train.log it began to speak."""
    out = Path(out)
    made = [place for place in (out, *out.parents) if not place.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "train.log").open("ab") as log:
            begun = log.tell()
            process = _detached(_command(recipe, out, collect, changes), log)
    except OSError as error:
        raise RunError(
            f"{out} cannot become a folder: {error.strerror or error}. Choose another place."
        ) from None
    try:
        while not _training(out, process.pid):
            if process.poll() is not None:
                return _ended(out, process.returncode, begun, made), None, begun
            time.sleep(0.1)
    except KeyboardInterrupt:
        process.terminate()
        raise
    return Run(out), process, begun


def _follow(run: Run, process: subprocess.Popen, begun: int) -> None:
    """A progress bar until the process ends. Raises UserError with its sentence, if it failed."""
    from tqdm.auto import tqdm

    bar, stopping = None, False
    while True:
        try:
            if bar is None:
                bar = tqdm(desc=run.name, unit="step", dynamic_ncols=True)
            if process.poll() is not None:
                break
            _glance(run, bar)
            time.sleep(GLANCE)
        except KeyboardInterrupt:  # wherever it came
            if stopping:
                process.terminate()
                raise
            stopping = True
            run.ask("stop")
            if bar is not None:
                bar.set_postfix_str("stopping with a checkpoint; interrupt again to end it at once")
    bar.set_postfix_str("")
    bar.update(run.status()["step"] - bar.n)
    bar.close()
    if process.returncode and not stopping:
        _ended(run.folder, process.returncode, begun, [])


def _glance(run: Run, bar: Any) -> None:
    status = run.status()
    if bar.total != status["steps"]:
        bar.reset(status["steps"])  # in a notebook this is what gives the bar its width
        bar.initial = bar.n = status[
            "step"
        ]  # of a run that goes on: steps done before took no time now
    bar.update(status["step"] - bar.n)
    if status["state"] == "finished":
        bar.set_postfix_str("collecting evidence")


def _in_a_notebook() -> bool:
    """Whether a Jupyter kernel runs us."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _command(recipe: str, out: Path, collect: bool, changes: dict[str, Any]) -> list[str]:
    """What a person would type."""
    told = {name: value for name, value in changes.items() if value is not None}
    words = [f"--{name.replace('_', '-')}={_word(value)}" for name, value in told.items()]
    return [
        sys.executable,
        "-m",
        "workbench",
        "train",
        recipe,
        f"--out={out}",
        *words,
        *["--no-collect"] * (not collect),
    ]


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _detached(command: list[str], log: Any) -> subprocess.Popen:
    """A session of its own: neither a kernel's interrupt nor its end, nor a terminal's, reaches it."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def _training(out: Path, pid: int) -> bool:
    """Whether the process has begun to train: it says so itself."""
    return (out / "config.json").exists() and Run(out).status().get("pid") == pid


def _ended(out: Path, code: int, begun: int, made: list[Path]) -> Run:
    """The run of a process that ended before anybody saw it train. Raises UserError with its sentence, if it failed."""
    if code == 0:
        return Run(out)
    log = out / "train.log"
    with log.open("rb") as file:
        file.seek(begun)
        said = file.read().decode(errors="replace").strip().splitlines() or [
            f"it ended with code {code}"
        ]
    if not (out / "config.json").exists():
        log.unlink()
        with suppress(OSError):  # not empty: somebody else's
            for place in made:
                place.rmdir()
    raise UserError(said[-1].removeprefix("workbench: ").removeprefix("Error: "))
