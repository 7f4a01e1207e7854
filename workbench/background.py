"""Training in a process of its own, so that a notebook stays free and a closed laptop loses nothing."""

import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.errors import RunError, UserError
from workbench.runs import Run


def start(recipe: str, out: str | Path, *, collect: bool = True, **changes: Any) -> Run:
    """Train as `train` does, with the same settings, but apart from this process; returns when training has begun.

    `watch(run)` follows it, `run.ask("stop")` ends it. What it says goes to train.log in the run's folder.
    Raises UserError with the sentence that `train` refuses with; nothing is left behind then.
    """
    out = Path(out)
    made = [place for place in (out, *out.parents) if not place.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "train.log").open("ab") as log:
            begun = log.tell()
            process = _detached(_command(recipe, out, collect, changes), log)
    except OSError as error:
        raise RunError(f"{out} cannot become a folder: {error.strerror or error}. Choose another place.") from None
    try:
        while not _training(out, process.pid):
            if process.poll() is not None:
                return _ended(out, process.returncode, begun, made)
            time.sleep(0.1)
    except KeyboardInterrupt:
        process.terminate()
        raise
    threading.Thread(target=process.wait, daemon=True).start()  # else it would seem alive when it has ended
    return Run(out)


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
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


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
        said = file.read().decode(errors="replace").strip().splitlines() or [f"it ended with code {code}"]
    if not (out / "config.json").exists():
        log.unlink()
        with suppress(OSError):  # not empty: somebody else's
            for place in made:
                place.rmdir()
    raise UserError(said[-1].removeprefix("workbench: ").removeprefix("Error: "))
