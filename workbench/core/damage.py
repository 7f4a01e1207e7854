"""Sentences about damaged images that are found while training reads a large set.

Batches are decoded in threads and worker processes, and the sentences must reach the process that
writes the run from all of them.
"""

from collections import deque
from collections.abc import Iterable

MAX_WAITING = 1000  # sentences that nobody takes, as when images are read without training

_waiting: deque[str] = deque(maxlen=MAX_WAITING)


def report_damage(sentences: Iterable[str]) -> None:
    """Keep sentences about damaged images until they are taken.

    Parameters
    ----------
    sentences : iterable of str
        What is damaged, and what is used instead.
    """
    _waiting.extend(sentences)


def take_damage_reports() -> list[str]:
    """Return the sentences since the last call, oldest first.

    Examples
    --------
    >>> report_damage(["7.png is empty."])
    >>> take_damage_reports(), take_damage_reports()
    (['7.png is empty.'], [])
    """
    return [_waiting.popleft() for _ in range(len(_waiting))]
