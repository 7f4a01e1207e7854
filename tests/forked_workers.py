"""Dask workers of this machine, forked instead of started anew.

Every new worker would import torch and the package, which takes longer than its tasks in these
tests. What a worker imports is tested with real workers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from distributed import nanny, process
from forked_python import fork_server


@contextmanager
def forked_workers() -> Iterator[None]:
    """Let the Dask workers that this process starts be forked."""
    with (
        mock.patch.object(nanny, "get_mp_context", fork_server),
        mock.patch.object(process, "get_mp_context", fork_server),
    ):
        yield
