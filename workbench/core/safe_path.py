"""New Python processes that import no module from the current folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "PYTHONSAFEPATH"


@contextmanager
def ignore_current_folder() -> Iterator[None]:
    """Keep the Python processes that start in the block from importing files of the current folder.

    A command may be called in a folder of someone else's files. `multiprocessing` starts processes
    with `python -c`, which searches the current folder first: a file `multiprocessing.py` there
    would be executed.
    """
    previous = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if previous is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = previous
