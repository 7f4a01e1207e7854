"""Training in a separate process, so that a notebook stays responsive and may be closed."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from workbench.core.errors import RunError, UserError, missing_extra
from workbench.core.progress_bar import progress_bar
from workbench.launch.trainables import Target, parse_target
from workbench.storage.run import Run

if TYPE_CHECKING:
    from tqdm.auto import tqdm as ProgressBar

STATUS_POLL_S = 0.2  # seconds between two reads of the status while a notebook follows a training
LOG_NAME = "train.log"  # of a process, in the folder of its run
START_POLL_S = 0.1  # seconds between two checks whether a training has started


def train(
    target: Any,
    out: str | Path,
    *,
    trust: Sequence[str] | str = (),
    collect: bool = True,
    **settings: Any,
) -> Run:
    """Train a recipe or a class into a folder with a progress bar, and collect its evidence.

    A run that was stopped is resumed. In a notebook, training takes place in a separate process
    that the cell waits for, unless the class is defined in the notebook; an interrupt writes a
    checkpoint and stops it.

    Parameters
    ----------
    target : str, type or Config
        A recipe, that is a system and its data, such as softvq-digits. Or a class outside of the
        package: `module:Class`, the class itself, or its Config.
    out : str or Path
        The folder of the run.
    trust : sequence of str or str
        Modules and packages outside of this package that may be imported. The module of a class
        that is passed itself is trusted.
    collect : bool
        Whether to collect evidence after training.
    **settings
        Settings of the model and of training by name, and `data`, `limit`, `cache`, `tokenizer`
        and `start` (see `workbench.launch.in_process.train`).

    Returns
    -------
    Run
        The run.

    Raises
    ------
    UserError
        If a setting does not exist or does not fit.

    Examples
    --------
    >>> run = train("softvq-digits", "runs/a", num_tokens=8, steps=500)  # doctest: +SKIP
    >>> run = train(MyTokenizer.Config(dim=8), "runs/b", data="digits")  # doctest: +SKIP
    """
    _check_torch()
    parsed = parse_target(target, trust)
    if not _is_in_a_notebook() or parsed.is_of_this_process:
        from workbench.launch import in_process

        return in_process.train(target, out, trust=trust, collect=collect, **settings)
    import tqdm.auto  # noqa: F401  an interrupt during a later import would be lost

    launched = launch(parsed, out, collect=collect, settings=settings)
    if launched.process is not None:
        _follow(launched.run, launched.process, launched.log_start)
    return launched.run


def _check_torch() -> None:
    """Refuse to train with a sentence if only the viewer is installed."""
    if importlib.util.find_spec("torch") is None:
        raise missing_extra("torch", "train", "Training")


def start(
    target: Any,
    out: str | Path,
    *,
    trust: Sequence[str] | str = (),
    collect: bool = True,
    **settings: Any,
) -> Run:
    """Start a training in a separate process, and return when it has begun.

    `watch(run)` follows it, and `run.ask("stop")` stops it. Its output is written to train.log in
    the folder of the run.

    Parameters
    ----------
    target : str, type or Config
        As for `train`. A class must be defined in a module that can be imported.
    out : str or Path
        The folder of the run.
    trust : sequence of str or str
        As for `train`.
    collect : bool
        Whether to collect evidence after training.
    **settings
        Settings as for `train`.

    Returns
    -------
    Run
        The run.

    Raises
    ------
    UserError
        If the process refuses to train; then it leaves no files.
    """
    parsed = parse_target(target, trust)
    if parsed.is_of_this_process:
        raise UserError(
            f"{parsed.name} is defined in this notebook or script, where another process cannot"
            " import it. Move the class into a module, or use wb.train."
        )
    launched = launch(parsed, out, collect=collect, settings=settings)
    if launched.process is not None:
        # A process whose exit status is not read would look alive.
        threading.Thread(target=launched.process.wait, daemon=True).start()
    return launched.run


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A training in a process of its own.

    Attributes
    ----------
    run : Run
        The run that the process trains.
    process : Popen or None
        The process; None if it has ended already.
    log_start : int
        The position in train.log where the output of this process begins.
    """

    run: Run
    process: subprocess.Popen[bytes] | None
    log_start: int


def launch(
    target: Target, out: str | Path, *, collect: bool = True, settings: dict[str, Any]
) -> Launched:
    """Start a process and wait until it trains or has ended.

    Parameters
    ----------
    target : Target
        What is trained.
    out : str or Path
        The folder of the run.
    collect : bool
        Whether to collect evidence after training.
    settings : dict
        Settings by name, as for `train`.

    Raises
    ------
    UserError
        If the process refuses to train; then it leaves no files.
    """
    out = Path(out)
    new_folders = [path for path in (out, *out.parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / LOG_NAME).open("ab") as log:
            log_start = log.tell()
            process = _detached(_command(target, out, collect, settings), log)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"{out} cannot be created as a folder: {reason}. Choose another path."
        ) from None
    try:
        while not _has_started(out, process.pid):
            if process.poll() is not None:
                _check_exit(out, process.returncode, log_start, new_folders)
                return Launched(run=Run(out), process=None, log_start=log_start)
            time.sleep(START_POLL_S)
    except KeyboardInterrupt:
        process.terminate()
        raise
    return Launched(run=Run(out), process=process, log_start=log_start)


def _follow(run: Run, process: subprocess.Popen[bytes], log_start: int) -> None:
    """Show a progress bar until the process ends.

    The first interrupt stops training with a checkpoint; the second ends the process at once.
    """
    bar: ProgressBar | None = None
    stopping = False
    while True:
        try:
            if bar is None:
                bar = progress_bar(desc=run.name, unit="step")
            if process.poll() is not None:
                break
            _update(bar, run)
            time.sleep(STATUS_POLL_S)
        except KeyboardInterrupt:  # it may arrive at any line above
            if stopping:
                process.terminate()
                raise
            stopping = True
            run.ask("stop")
            if bar is not None:
                bar.set_postfix_str("stopping with a checkpoint; interrupt again to stop at once")
    bar.set_postfix_str("")
    bar.update(run.status()["step"] - bar.n)
    bar.close()
    if not stopping:
        _check_exit(run.folder, process.returncode, log_start, [])


def _update(bar: "ProgressBar", run: Run) -> None:
    status = run.status()
    if bar.total != status["steps"]:
        bar.reset(status["steps"])  # sets the width of the bar in a notebook
        bar.initial = bar.n = status["step"]  # steps before a resume took no time now
    bar.update(status["step"] - bar.n)
    if status["state"] == "finished":
        bar.set_postfix_str("collecting evidence")


def _is_in_a_notebook() -> bool:
    """Return True in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _command(target: Target, out: Path, collect: bool, settings: dict[str, Any]) -> list[str]:
    """Return the command line of a training."""
    settings = target.settings | settings
    options = [
        f"--{name.replace('_', '-')}={_text(value)}"
        for name, value in settings.items()
        if value is not None
    ]
    if not collect:
        options.append("--no-collect")
    options += [f"--trust={module}" for module in target.trust]
    model = [f"--class={target.name}"] if ":" in target.name else [target.name]
    # Without -P, a file of the current folder could replace an installed module. A trusted module
    # of that folder is found by `import_trusted`.
    command = [sys.executable, "-P", "-m", "workbench", "train"]
    return [*command, *model, f"--out={out}", *options]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _detached(command: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, which no signal of a kernel or terminal reaches.

    It finds the same modules as this process.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _has_started(out: Path, pid: int) -> bool:
    """Return True once the process has written its status."""
    return (out / "config.json").exists() and Run(out).status().get("pid") == pid


def _check_exit(out: Path, code: int, log_start: int, new_folders: list[Path]) -> None:
    """Raise the error that an ended process printed last, and remove the folders it left empty."""
    if code == 0:
        return
    log = out / LOG_NAME
    with log.open("rb") as file:
        file.seek(log_start)
        lines = file.read().decode(errors="replace").strip().splitlines()
    if not (out / "config.json").exists():
        log.unlink()
        with suppress(OSError):  # a folder that is not empty is kept
            for folder in new_folders:
                folder.rmdir()
    message = lines[-1] if lines else f"The process ended with code {code}."
    raise UserError(message.removeprefix("workbench: ").removeprefix("Error: "))
