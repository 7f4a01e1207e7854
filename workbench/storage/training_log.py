"""The numbers that were logged while a run was trained, read from its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.errors import RunError
from workbench.storage.atomic import read_json
from workbench.storage.jsonl import Record, is_event, is_log_record, read_records
from workbench.storage.run_folders import run_name

NOT_TERMS = ("step", "lr", "gradient", "time")  # columns of the log that are no terms of the loss
HELD_OUT_PREFIX = "held_out_"
LOG_FILES = ("log.jsonl", "statistics.jsonl", "events.jsonl")
MAX_INTERVAL_RATIO = 20  # of a time between two records to the median; a longer one is a pause


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """The log of a run.

    Attributes
    ----------
    run : str
        The name of the run.
    records : tuple of dict
        One per logged step: `step`, the weighted terms of the loss, `lr`, `gradient` and `time`.
    statistics : tuple of dict
        One per logged step: use of the codebook, held-out loss, memory. Empty for older runs.
    events : tuple of dict
        The events of the run, oldest first.
    training : dict
        The settings of training.

    Examples
    --------
    >>> log = TrainingLog(run="a", records=({"step": 10, "pixel": 0.5},))
    >>> log.terms
    ('pixel',)
    >>> log.series("pixel")
    (array([10.]), array([0.5]))
    """

    run: str
    records: Sequence[Record] = ()
    statistics: Sequence[Record] = ()
    events: Sequence[Record] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, max_step: int | None = None) -> "TrainingLog":
        """Read the log of a run.

        Parameters
        ----------
        folder : Path
            The folder of the run.
        max_step : int, optional
            Leave out everything after this step.

        Raises
        ------
        RunError
            If a file exists and cannot be read.
        """
        checks = (is_log_record, is_log_record, is_event)
        parts = []
        for name, is_valid in zip(LOG_FILES, checks, strict=True):
            records = read_records(folder / name, is_valid)
            parts.append(tuple(r for r in records if max_step is None or r["step"] <= max_step))
        config: Any = read_json(folder / "config.json", {})
        training = config.get("training", {}) if isinstance(config, dict) else {}
        return cls(
            run=run_name(folder),
            records=parts[0],
            statistics=parts[1],
            events=parts[2],
            training=training if isinstance(training, dict) else {},
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms of the loss."""
        names = dict.fromkeys(name for record in self.records for name in record)
        return tuple(name for name in names if name not in NOT_TERMS)

    @property
    def held_out_terms(self) -> tuple[str, ...]:
        """The names of the terms that were also computed on held-out items."""
        names = dict.fromkeys(name for record in self.statistics for name in record)
        return tuple(
            name.removeprefix(HELD_OUT_PREFIX) for name in names if name.startswith(HELD_OUT_PREFIX)
        )

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps and the values of a logged number; both are empty if it is not logged.

        Parameters
        ----------
        name : str
            A column of the records or of the statistics.

        Returns
        -------
        steps, values : ndarray of float, shape (n,)
        """
        records = [r for r in (*self.records, *self.statistics) if name in r]
        steps = np.array([record["step"] for record in records], float)
        return steps, np.array([record[name] for record in records], float)

    def held_out(self, term: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps and the values of a term on held-out items."""
        return self.series(f"{HELD_OUT_PREFIX}{term}")

    def multipliers(self, term: str, steps: np.ndarray) -> np.ndarray:
        """Return the multiplier of a term that a person set during training, at each step.

        Parameters
        ----------
        term : str
            Name of a term of the loss.
        steps : ndarray of float, shape (n,)
            Training steps.

        Returns
        -------
        ndarray of float, shape (n,)
            1 without a command.
        """
        values = np.ones(len(steps))
        for event in self.events:
            if event.get("term") == term and event.get("value") is not None:
                values[steps > event["step"]] = event["value"]
        return values

    def seconds(self, steps: np.ndarray) -> np.ndarray:
        """Return the seconds of training until each step, without pauses.

        Parameters
        ----------
        steps : ndarray of float, shape (n,)
            Training steps.

        Returns
        -------
        ndarray of float, shape (n,)
            0 at the first record; NaN if times were not logged.
        """
        logged, times = self.series("time")
        if len(logged) < 2:
            return np.full(len(steps), np.nan)
        intervals = np.maximum(np.diff(times), 0)
        median = float(np.median(intervals))
        is_pause = intervals > MAX_INTERVAL_RATIO * median
        elapsed = np.concatenate([[0.0], np.cumsum(np.where(is_pause, median, intervals))])
        return np.interp(steps, logged, elapsed)


def log_key(folder: Path) -> tuple[int, ...]:
    """Return sizes and times of the files of a log, which change whenever it does."""
    numbers: list[int] = []
    for name in LOG_FILES:
        try:
            status = (folder / name).stat()
        except OSError:
            numbers += (0, 0)
        else:
            numbers += (status.st_size, status.st_mtime_ns)
    return tuple(numbers)


def try_read_log(folder: Path, max_step: int | None = None) -> TrainingLog | None:
    """Return the log of a run; None if nothing was logged or the log cannot be read."""
    try:
        log = TrainingLog.read(folder, max_step)
    except RunError:
        return None
    return log if log.records else None
