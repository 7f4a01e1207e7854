"""Runs that are made in a hidden folder next to their own, where they resume after a kill.

The run `runs/a` is made in `runs/.a.unfinished/a`, and moved when it is complete.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.core.errors import RunError
from workbench.core.progress import Cancelled
from workbench.storage.atomic import replace_folder
from workbench.storage.exclusive import exclusive
from workbench.storage.leftovers import remove_leftovers
from workbench.storage.run import Run
from workbench.storage.run_config import RunConfig


def unfinished_folder(folder: Path) -> Path:
    """Return the folder in which a run is made until it is complete.

    Examples
    --------
    >>> unfinished_folder(Path("runs/a")).as_posix()
    'runs/.a.unfinished/a'
    """
    return folder.with_name(f".{folder.name}.unfinished") / folder.name


@contextmanager
def unfinished_run(folder: Path, config: RunConfig) -> Iterator[Run]:
    """Make a run in its unfinished folder in the block, and move it to its own at the end.

    What an interrupted process has left there is kept, except for config.json. It is also kept if
    the block raises RunError, as on a full disk, or Cancelled, or is interrupted. After any other
    error it is removed.

    Parameters
    ----------
    folder : Path
        The folder of the run. A run in it is replaced as a whole.
    config : RunConfig
        The configuration.

    Yields
    ------
    Run
        The unfinished run.

    Raises
    ------
    RunError
        If another process makes the same run, or a file cannot be written.
    """
    target = unfinished_folder(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from None
    remove_leftovers(folder.parent)
    message = f"Another process is making {folder}. Wait until it has finished."
    with exclusive(target.parent / ".lock", lambda: message):
        try:
            (target / "config.json").unlink(missing_ok=True)
            yield Run.create(target, config)
            replace_folder(target, folder)
        except OSError as error:
            raise _not_written(folder, error) from None
        except (RunError, Cancelled):
            raise
        except Exception:
            _remove(target.parent)
            raise
        _remove(target.parent)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _not_written(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"{folder} could not be written: {error.strerror or error}. What is complete was kept; the"
        " same command resumes."
    )
