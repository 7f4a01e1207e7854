"""Folders that look like runs, and the errors for those that are none."""

import os
from pathlib import Path

from workbench.core.errors import RunError, unknown
from workbench.core.printable import printable
from workbench.storage.files import is_folder, unreadable


def run_folders(folder: Path) -> list[Path]:
    """Return the folders with a config.json, and those that cannot be looked into, by name."""
    try:
        with os.scandir(folder) as entries:
            subfolders = sorted(folder / entry.name for entry in entries if is_folder(entry))
    except OSError as error:
        raise unreadable(folder, error) from None
    return [path for path in subfolders if _may_be_run(path)]


def _may_be_run(folder: Path) -> bool:
    try:
        (folder / "config.json").lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # opening it gives the reason
    return True


def run_name(folder: Path) -> str:
    """Return the name of a run: that of its folder or, if it is a link, of the link.

    The names in a folder of runs are therefore different, also if links lead to runs of one name.
    """
    return folder.resolve().name if folder.name in ("", "..") else folder.name


def run_names(folder: Path) -> list[str]:
    """Return the names of the folders that look like runs, without opening them."""
    return [printable(path.name) for path in run_folders(folder)]


def not_a_run(folder: Path) -> RunError:
    """Return the error for a folder without config.json."""
    names = run_names(folder)
    advice = "Train a run with: workbench train"
    if names:
        advice = f"It contains the runs {', '.join(names)}; name one of them"
    return RunError(f"{folder} is not a run: it has no config.json. {advice}")


def missing_run(folder: Path) -> RunError:
    """Return the error for a run that does not exist; it suggests a run of a similar name."""
    if folder.exists():
        return RunError(f"{folder} is a file, and a run is a folder. Did you mean {folder.parent}?")
    names = run_names(folder.parent) if folder.parent.is_dir() else []
    if names:
        return RunError(str(unknown("run", folder.name, names, within=f"in {folder.parent}")))
    return RunError(
        f"{folder} does not exist. Train a run with: workbench train softvq-digits --out {folder}"
    )
