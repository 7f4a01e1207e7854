"""Files that may be opened: reading a pipe or a device may block forever."""

import stat
from collections.abc import Iterable
from pathlib import Path

from workbench.core.errors import UserError


def check_regular(files: Iterable[Path]) -> None:
    """Refuse files that are not regular files, before they are opened.

    Parameters
    ----------
    files : iterable of Path
        The files, or links to them.

    Raises
    ------
    UserError
        If one is a pipe, a device or a folder, or does not exist.
    """
    for file in files:
        try:
            mode = file.stat().st_mode
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}).") from None
        if not stat.S_ISREG(mode):
            raise UserError(f"{file} is not a regular file. Remove or rename it.")
