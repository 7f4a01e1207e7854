"""Time and peak memory of every analysis on synthetic evidence of 50,000 images.

    python benchmarks/analyses_scale.py                # 50,000 images, 262,144 codes
    python benchmarks/analyses_scale.py --scale 0.1    # 5,000 images, 26,214 codes
    python benchmarks/analyses_scale.py --scale 0.1 --only codebook_usage probes

Each analysis runs with its default controls in a process of its own. The memory is what it needs
beyond the process that has imported the package, including the pages of the arrays that it reads.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from workbench.analysis import analyses
from workbench.storage.evidence import ARRAYS
from workbench.storage.evidence_writer import EvidenceWriter

NUM_IMAGES, NUM_CODES, NUM_CLASSES = 50_000, 262_144, 1000
BATCH_ROWS = 500
TIMEOUT_S = 600
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
}
# Arrays that only some tokenizers have, and that would exclude analyses of all others.
EXCLUDED = {
    "active",
    "requested",
    "reached",
    "spent",
    "cascade_start",
    "reference_mean",
    "reference_covariance",
}
MEASURE = """
import json, resource, sys, time
from pathlib import Path
from workbench.analysis import get
from workbench.core.errors import UserError
from workbench.storage.evidence import Evidence, array_names, kwargs_for
import plotly.graph_objects, pandas, scipy.stats
function = get(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evidences = [Evidence.open(Path(folder), array_names(function)) for folder in sys.argv[3:]]
start = time.perf_counter()
try:
    summary = function(**kwargs_for(function, evidences)).summary()
except UserError as error:
    summary = f"not applicable: {error}"
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "bytes": (peak - before) * 1024, "summary": summary}))
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
    if name == "prefixes":
        return (2 ** np.arange(shape[0])).astype(dtype)
    if name == "noise_levels":
        return np.array([0.1, 0.2, 0.4, 0.8], dtype)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    if dtype.kind == "i":
        return random.integers(0, NUM_CLASSES, shape).astype(dtype)
    if name == "posterior":
        return random.uniform([1, 0.1], [9, 0.9], shape).astype(dtype)
    if "latents" in name or "features" in name or name == "codebook":
        return random.standard_normal(shape, np.float32).astype(dtype)
    return random.uniform(0.01, 0.1, shape).astype(dtype)


def write_evidence(target: Path, scale: float, run: str) -> None:
    """Write synthetic evidence in batches."""
    lengths = axis_lengths(scale)
    unfinished = target.with_name(f".{target.name}.unfinished")
    EvidenceWriter.start(unfinished, {"scale": scale})
    writer = EvidenceWriter(unfinished, lengths)
    for index, (name, spec) in enumerate(ARRAYS.items()):
        if name in EXCLUDED or not lengths.keys() >= set(spec.axes):
            continue
        shape = tuple(lengths[axis] for axis in spec.axes)
        axis = next((a for a in ("image", "picture", "sample") if a in spec.axes), None)
        if axis is None:
            writer.write({name: values(name, shape, lengths, index)})
            continue
        for start in range(0, lengths[axis], BATCH_ROWS):
            stop = min(start + BATCH_ROWS, lengths[axis])
            rows = tuple(
                stop - start if a == axis else n for a, n in zip(spec.axes, shape, strict=True)
            )
            batch = values(name, rows, lengths, index + 1000 * start)
            writer.write({name: batch}, slice(start, stop))
    provenance = {
        "run": run,
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
    writer.publish(target, provenance)


def measure(name: str, folders: list[Path], timeout: float) -> str:
    """Run an analysis in a process of its own, and describe its time and memory."""
    command = [sys.executable, "-c", MEASURE, "-", name, *map(str, folders)]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {timeout:.0f} s"
    if done.returncode:
        return f"failed: {(done.stderr.splitlines() or ['killed'])[-1]}"
    result = json.loads(done.stdout.splitlines()[-1])
    note = result["summary"] if result["summary"].startswith("not applicable") else ""
    return f"{result['seconds']:8.1f} s {result['bytes'] / 1e9:7.2f} GB  {note[:120]}"


def main() -> None:
    """Print one line per analysis."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=[], help="names of analyses")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds per analysis")
    parser.add_argument("--folder", type=Path, help="where to keep the evidence for the next call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folders = [folder / name / "evidence" / "step-000001" for name in ("a", "b")]
        start = time.perf_counter()
        for target in folders:
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                write_evidence(target, options.scale, target.parent.parent.name)
        lengths = axis_lengths(options.scale)
        print(
            f"{lengths['image']:,} images, {lengths['code']:,} codes, 2 runs, written in"
            f" {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        for name in options.only or sorted(analyses()):
            print(f"{name:24}", measure(name, folders, options.timeout), flush=True)


if __name__ == "__main__":
    main()
