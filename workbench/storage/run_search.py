"""All runs of a folder, and the reasons why others cannot be opened."""

from pathlib import Path

from workbench.core.errors import RunError, UserError
from workbench.core.printable import printable
from workbench.storage.run import Run
from workbench.storage.run_folders import missing_run, run_folders


def find_runs(folder: str | Path) -> tuple[list[Run], list[str]]:
    """Open every run in a folder.

    Parameters
    ----------
    folder : str or Path
        A folder of runs, or a run.

    Returns
    -------
    runs : list of Run
        The runs that can be opened, by name.
    refused : list of str
        One sentence for each run that cannot be opened.

    Raises
    ------
    RunError
        If the folder does not exist, or is a run whose name has characters that cannot be shown.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise missing_run(folder)
    if (folder / "config.json").exists():
        _check_name(folder)
        return [Run(folder)], []
    runs = []
    refused = []
    for path in run_folders(folder):
        try:
            runs.append(_open_checked(path))
        except UserError as error:
            refused.append(str(error))
        except Exception as error:  # one damaged run must never hide the others
            refused.append(f"{printable(path)} cannot be opened: {error}.")
    return runs, refused


def _open_checked(path: Path) -> Run:
    """Open a run of which everything that a list of runs shows can be read."""
    _check_name(path)
    run = Run(path)
    # A generator whose tokenizer is missing is refused here, not while it is displayed.
    run.tokenizer  # noqa: B018
    run.check_files()
    run.evidence_steps  # noqa: B018
    return run


def _check_name(path: Path) -> None:
    name = path.absolute().name  # the folders above do not appear in lists
    if printable(name) != name:
        raise RunError(
            f"The name of {printable(path)} has characters that cannot be shown. Rename the folder."
        )
