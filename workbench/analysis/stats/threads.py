"""The number of threads of linear algebra."""

from contextlib import AbstractContextManager


def one_thread() -> AbstractContextManager:
    """Limit BLAS to one thread: synchronizing threads costs more than a small matrix product."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)
