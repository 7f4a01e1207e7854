"""Metrics of runs for the table of runs: from evidence, and from the log of training."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from cachetools import LRUCache, cached

from workbench.analysis.generation.fidelity import feature_distance
from workbench.analysis.runs.training_curves import held_out_loss, total_loss
from workbench.core.errors import RunError, UserError
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.storage.training_log import TrainingLog, log_key

MAX_CACHED_RUNS = 4096
MAX_FEATURES = 512  # a Fréchet distance of more features takes seconds, and has its own tab
BYTES_PER_GB = 1e9
FEATURE_ARRAYS = ("features", "reconstruction_features", "train_features", "sample_features")
Numbers = dict[str, float]


@dataclass(frozen=True)
class MetricColumn:
    """A column of the table of runs.

    Attributes
    ----------
    name : str
        The title; it is also the key of the glossary.
    digits : int
        Decimals on the screen.
    """

    name: str
    digits: int


METRIC_COLUMNS = (
    MetricColumn("PSNR (dB)", 1),
    MetricColumn("rFD", 3),
    MetricColumn("gFD", 3),
    MetricColumn("loss", 4),
    MetricColumn("held-out loss", 4),
    MetricColumn("codes in use", 0),
    MetricColumn("perplexity", 1),
    MetricColumn("minutes", 1),
    MetricColumn("images per second", 0),
    MetricColumn("peak memory (GB)", 2),
)


def metrics_of(run: Run) -> Numbers:
    """Return the metrics of a run that are cheap to compute, by the names of their columns.

    Parameters
    ----------
    run : Run
        Run whose evidence and log are read.

    Returns
    -------
    dict of str to float
        Without those that the run does not have. PSNR is in `Workspace.table`.
    """
    numbers = dict(_log_numbers(run.folder, log_key(run.folder)))
    steps = run.evidence_steps
    if steps:
        folder = run.evidence_folder(steps[-1])
        try:
            written = (folder / "provenance.json").stat().st_mtime_ns
        except OSError:
            written = 0
        numbers |= _distances(folder, written)
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


@cached(LRUCache(maxsize=MAX_CACHED_RUNS), lock=Lock())
def _log_numbers(folder: Path, key: tuple[int, ...]) -> Mapping[str, float]:
    """Return the last values of the log of a run; `key` changes whenever the log does."""
    try:
        log = TrainingLog.read(folder)
    except RunError:
        return {}
    series: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        "loss": lambda: total_loss(log),
        "held-out loss": lambda: held_out_loss(log),
        "codes in use": lambda: log.series("codes_used"),
        "perplexity": lambda: log.series("perplexity"),
    }
    numbers: Numbers = {}
    for name, read in series.items():
        _, values = read()
        if len(values):
            numbers[name] = float(values[-1])
    steps, memory = log.series("memory_bytes")
    if len(memory):
        numbers["peak memory (GB)"] = float(memory.max()) / BYTES_PER_GB
    steps, _ = log.series("time")
    if len(steps) > 1:
        seconds = float(log.seconds(steps)[-1])
        numbers["minutes"] = seconds / 60
        images = float(log.training.get("batch_size", 1)) * float(steps[-1] - steps[0])
        numbers["images per second"] = images / seconds if seconds else math.nan
    return numbers


@cached(LRUCache(maxsize=MAX_CACHED_RUNS), lock=Lock())
def _distances(folder: Path, written: int) -> Mapping[str, float]:
    """Return the Fréchet distances of some evidence; `written` changes when it is replaced."""
    numbers: Numbers = {}
    try:
        evidence = Evidence.open(folder, only=FEATURE_ARRAYS)
    except RunError:
        return numbers
    pairs: dict[str, dict[str, np.ndarray | None]] = {
        "rFD": {
            "held_out": evidence.features,
            "reconstructions": evidence.reconstruction_features,
        },
        "gFD": {"training": evidence.train_features, "samples": evidence.sample_features},
    }
    for name, pair in pairs.items():
        sets = {kind: features for kind, features in pair.items() if features is not None}
        if len(sets) < 2 or any(features.shape[1] > MAX_FEATURES for features in sets.values()):
            continue
        try:
            numbers[name] = feature_distance(0, **sets)
        except UserError:
            continue  # too few images for a distance
    return numbers
