"""Time and peak memory of every analysis on synthetic evidence of 50,000 images.

    python benchmarks/analyses_scale.py                # 50,000 images, 262,144 codes
    python benchmarks/analyses_scale.py --scale 0.1    # 5,000 images, 26,214 codes
    python benchmarks/analyses_scale.py --scale 0.1 --only codebook_usage probes

Each analysis runs with its default controls in a process of its own, on one thread. The time is
that of the processor, so that other processes of the machine do not change it. The memory is what
the analysis allocates beyond the process that has imported the package. Next to it are the largest
resident pages of the memory-mapped arrays that it reads, and the largest resident memory of the
whole process: the interpreter, the libraries, what is allocated and what is mapped.

Analyses that need arrays of some systems only, or several runs, read evidence of their own:
`systems` lists it.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from workbench.analysis import analyses
from workbench.storage.evidence import ARRAYS
from workbench.storage.evidence_writer import EvidenceWriter

NUM_IMAGES, NUM_CODES, NUM_CLASSES = 50_000, 262_144, 1000
BATCH_ROWS = 500
TIMEOUT_S = 600
POLL_INTERVAL_S = 0.01
MAX_NOTE_LENGTH = 120
HEADER = """
| analysis | time, s | memory, GB | mapped, GB | process, GB | computed on |
| --- | ---: | ---: | ---: | ---: | --- |"""
# The other axes; those that grow with the number of images or codes are set in `axis_lengths`.
LENGTHS = {
    "picture": 2000,
    "token": 256,
    "channel": 32,
    "height": 64,
    "width": 64,
    "color": 3,
    "codebook": 1,
    "feature": 768,
    "prefix": 9,
    "first_prefix": 1,
    "patch": 16,
    "teacher_feature": 384,
    "noise_level": 4,
    "request": 6,
    "statistic": 2,
    "time": 20,
    "one": 1,
    "train_image": 2000,
    "gaussian_draw": 2000,
    "midpoint": 2000,
    "transform": 3,
    "transformed_image": 500,
    "centering": 2,
    "perturbation": 4,
    "budget": 16,
    "noised_image": 500,
    "noise_share": 3,
}
RUN_NAMES = ("a", "b")
SWEEP_NAMES = ("s1", "s2", "s3", "s4")
NUM_LOGGED_STEPS = 5000
PUBLISHED_ADDRESS = "softvq:SoftVQVAE/softvq-l-64"
# Arrays that only some tokenizers have, and that would exclude analyses of all others.
SYSTEM_ARRAYS = {"active", "cascade_start", "reference_mean", "reference_covariance"}
GENERATOR_ARRAYS = {"sample_features", "train_features", "loss_times", "loss_by_time"}
# The evidence of analyses that do not read that of `RUN_NAMES`.
RUNS_OF_ANALYSES = {
    "token_complexity": ("adaptive",),
    "level_usage": ("levels",),
    "cascade_displacement": ("cascade",),
    "published_figures": ("published",),
    "metric_comparison": SWEEP_NAMES,
    "training_curves": SWEEP_NAMES,
    "settings_comparison": SWEEP_NAMES,
    "setting_effects": SWEEP_NAMES,
    "generation_predictors": (*SWEEP_NAMES, *(f"{name}-generator" for name in SWEEP_NAMES)),
    "generation_prediction": (*SWEEP_NAMES, *(f"{name}-generator" for name in SWEEP_NAMES)),
}
MEASURE = """
import json, resource, sys, time
from pathlib import Path
from workbench.analysis import get
from workbench.core.errors import UserError
from workbench.storage.analysis_arguments import array_names, kwargs_for
from workbench.storage.evidence import Evidence
import plotly.graph_objects, pandas, scipy.stats
function = get(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1]) + 5))
evidences = [Evidence.open(Path(folder), array_names(function)) for folder in sys.argv[3:]]
print("ready", flush=True)
start = time.process_time()
try:
    result = function(**kwargs_for(function, evidences))
    outcome = {"subset": "" if result.subset is None else str(result.subset)}
except UserError as error:
    outcome = {"reason": str(error)}
outcome["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
print(json.dumps({"seconds": time.process_time() - start, **outcome}))
"""


def axis_lengths(scale: float) -> dict[str, int]:
    """Return the length of every axis."""
    count = round(NUM_IMAGES * scale)
    grown = {"image": count, "sample": count, "code": round(NUM_CODES * scale)}
    return {axis: min(length, count) for axis, length in LENGTHS.items()} | grown


def values(name: str, shape: tuple[int, ...], lengths: dict[str, int], seed: int) -> np.ndarray:
    """Draw the values of some rows of an array, in the range of the array."""
    random = np.random.default_rng(seed)
    dtype = np.dtype(ARRAYS[name].dtype)
    if name in ("codes", "previous_codes"):
        # As uneven as codes are: the frequency falls with the rank.
        ranks = lengths["code"] ** random.random(shape) - 1
        return ranks.astype(dtype)
    if name == "codebook" and shape[1] == 2 ** shape[2]:  # all combinations of two levels
        bits = np.arange(shape[1])[:, None] >> np.arange(shape[2]) & 1
        return np.broadcast_to(2 * bits - 1, shape).astype(dtype)
    if name == "active":
        return np.arange(shape[1]) < random.integers(1, shape[1] + 1, (shape[0], 1))
    if name == "spent":
        return random.integers(1, lengths["token"] + 1, shape).astype(dtype)
    if name == "prefixes":
        return (2 ** np.arange(shape[0])).astype(dtype)
    if name == "budgets":
        return np.arange(1, shape[0] + 1, dtype=dtype)
    if name == "noise_levels":
        return np.array([0.1, 0.2, 0.4, 0.8], dtype)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    if dtype.kind == "i":
        return random.integers(0, NUM_CLASSES, shape).astype(dtype)
    if name == "posterior":
        return random.uniform([1, 0.1], [9, 0.9], shape).astype(dtype)
    if "latents" in name or "features" in name or name in ("codebook", "cascade_start"):
        return random.standard_normal(shape, np.float32).astype(dtype)
    return random.uniform(0.01, 0.1, shape).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class System:
    """One run with synthetic evidence.

    Attributes
    ----------
    run : str
        The name of the run.
    arrays : frozenset of str
        The arrays that are drawn.
    linked : frozenset of str
        The arrays that are those of the first run.
    lengths : dict of str to int
        The lengths of axes that differ from those of other runs.
    provenance : dict
        Further entries of the provenance.
    """

    run: str
    arrays: frozenset[str]
    linked: frozenset[str] = frozenset()
    lengths: dict[str, int] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def systems(scale: float) -> Iterator[System]:
    """Yield the runs, the first one first."""
    common = frozenset(ARRAYS.keys() - SYSTEM_ARRAYS)
    for name in RUN_NAMES:
        yield System(run=name, arrays=common)
    codes = frozenset({"codes", "codebook"})
    adaptive = {"images", "active", "requested", "reached", "spent", "budgets", "budget_l1"}
    yield System(run="adaptive", arrays=codes | adaptive | {"complexity"})
    num_bits = int(math.log2(axis_lengths(scale)["code"]))
    levels = {"code": 2**num_bits, "channel": num_bits}
    yield System(run="levels", arrays=codes, lengths=levels)
    yield System(run="cascade", arrays=codes | {"cascade_start"})
    imported = {"imported": {"kind": "adapter", "address": PUBLISHED_ADDRESS}}
    yield System(run="published", arrays=frozenset(), linked=common, provenance=imported)
    errors = frozenset({"mse", "l1"})
    for index, name in enumerate(SWEEP_NAMES):
        settings = {"settings": {"width": 64 * (index + 1)}}
        yield System(run=name, arrays=errors, linked=common - errors, provenance=settings)
        tokenizer = {"tokenizer": {"run": name, "step": 1}}
        yield System(
            run=f"{name}-generator",
            arrays=frozenset(GENERATOR_ARRAYS),
            provenance=tokenizer,
        )


def write_evidence(folder: Path, system: System, scale: float) -> None:
    """Write synthetic evidence in batches, and a log of training."""
    target = evidence_folder(folder, system.run)
    lengths = axis_lengths(scale) | system.lengths
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    EvidenceWriter.start(unfinished, {"scale": scale})
    writer = EvidenceWriter(unfinished, lengths)
    for index, (name, spec) in enumerate(ARRAYS.items()):
        if not lengths.keys() >= set(spec.axes):
            continue
        if name in system.linked:
            file = f"{name}.npy"
            (unfinished / file).hardlink_to(evidence_folder(folder, RUN_NAMES[0]) / file)
        elif name in system.arrays:
            write_array(writer, name, lengths, zlib.crc32(system.run.encode()) + index)
    provenance = {
        "run": system.run,
        "step": 1,
        "fingerprint": "f",
        "n": lengths["image"],
        "pictures": lengths["picture"],
        "grid": [16, 16],
        "class": "m:Synthetic",
        "discrete": True,
        "feature_extractor": "dinov2",
        "teacher": "hog",
    }
    writer.publish(target, provenance | system.provenance)
    records = ({"step": 1, "time": i, "pixel": 1 / (i + 1)} for i in range(NUM_LOGGED_STEPS))
    log = target.parent.parent / "log.jsonl"
    log.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def write_array(writer: EvidenceWriter, name: str, lengths: dict[str, int], seed: int) -> None:
    """Draw an array and write it, in batches if it is large."""
    axes = ARRAYS[name].axes
    shape = tuple(lengths[axis] for axis in axes)
    axis = next((a for a in ("image", "picture", "sample") if a in axes), None)
    if axis is None:
        writer.write({name: values(name, shape, lengths, seed)})
        return
    for start in range(0, lengths[axis], BATCH_ROWS):
        stop = min(start + BATCH_ROWS, lengths[axis])
        rows = tuple(stop - start if a == axis else n for a, n in zip(axes, shape, strict=True))
        writer.write({name: values(name, rows, lengths, seed + 1000 * start)}, slice(start, stop))


def evidence_folder(folder: Path, run: str) -> Path:
    """Return the folder of the evidence of a run."""
    return folder / run / "evidence" / "step-000001"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Time and memory of an analysis.

    Attributes
    ----------
    name : str
    seconds : float
        Time of the processor; NaN if the analysis did not end.
    private, mapped : float
        Largest memory beyond the process that has imported the package, in GB: allocated memory,
        and resident pages of memory-mapped arrays.
    process : float
        Largest resident memory of the process as a whole, in GB.
    note : str
        The declared subset, or the reason for which there is no result.
    """

    name: str
    seconds: float
    private: float
    mapped: float
    process: float
    note: str

    def row(self) -> str:
        """Return a row of a Markdown table."""
        cells = [self.name, "", "", "", "", self.note]
        if not math.isnan(self.seconds):
            gigabytes = (self.private, self.mapped, self.process)
            cells[1:5] = [f"{self.seconds:.1f}", *(f"{value:.2f}" for value in gigabytes)]
        return f"| {' | '.join(cells)} |"


def measure(name: str, folders: list[Path], timeout: float) -> Measurement:
    """Run an analysis in a process of its own, and return its time and memory."""
    command = [sys.executable, "-c", MEASURE, str(round(timeout)), name, *map(str, folders)]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        is_ready = process.stdout.readline() == "ready\n"
        peaks = peak_memory(process) if is_ready else (0.0, 0.0)
        output, _ = process.communicate()
        errors.seek(0)
        lines = errors.read().splitlines()
    seconds = math.nan
    resident = math.nan
    if process.returncode == -signal.SIGXCPU:
        note = f"stopped after {timeout:.0f} s"
    elif process.returncode:
        note = f"failed: {(lines or ['killed'])[-1]}"
    else:
        outcome = json.loads(output.splitlines()[-1])
        note = outcome.get("subset", "")
        if "reason" in outcome:
            note = f"not applicable: {outcome['reason']}"
        else:
            seconds = outcome["seconds"]
            resident = outcome["process"]
    return Measurement(
        name=name,
        seconds=seconds,
        private=peaks[0],
        mapped=peaks[1],
        process=resident,
        note=note[:MAX_NOTE_LENGTH],
    )


def peak_memory(process: subprocess.Popen) -> tuple[float, float]:
    """Wait for a process; return the growth of its allocated memory and mapped pages, in GB."""
    first = np.array(memory(process.pid))
    peak = first
    while process.poll() is None:
        peak = np.maximum(peak, memory(process.pid))
        time.sleep(POLL_INTERVAL_S)
    private, mapped = (peak - first) / 1e9
    return float(private), float(mapped)


def memory(pid: int) -> tuple[int, int]:
    """Return the allocated memory and the mapped pages of a process, in bytes."""
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:  # it has ended
        return 0, 0
    return info.rss - info.shared, info.shared


def main() -> None:
    """Print one line per analysis."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=[], help="names of analyses")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, help="seconds of the processor per analysis"
    )
    parser.add_argument("--folder", type=Path, help="where to keep the evidence for the next call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        start = time.perf_counter()
        runs = list(systems(options.scale))
        for system in runs:
            if not evidence_folder(folder, system.run).exists():
                write_evidence(folder, system, options.scale)
        lengths = axis_lengths(options.scale)
        print(
            f"{lengths['image']:,} images, {lengths['code']:,} codes, {len(runs)} runs, written"
            f" in {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        print(HEADER, flush=True)
        for name in options.only or sorted(analyses()):
            names = RUNS_OF_ANALYSES.get(name, RUN_NAMES)
            folders = [evidence_folder(folder, run) for run in names]
            print(measure(name, folders, options.timeout).row(), flush=True)


if __name__ == "__main__":
    main()
