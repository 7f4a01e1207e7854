"""Time and peak memory of every codebook analysis on a large codebook.

    python benchmarks/codebook.py [codes tokens channels]

The default is 500,000 codes of 64 channels and 39,062 images of 16 x 16 tokens. Their codes follow
Zipf's law, and the arrays are read from disk. Each analysis runs in a process of its own. Memory is
the peak of that process (getrusage) minus its memory once the arrays are open; pages of the arrays
that are read count as well.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from workbench.analysis import get
from workbench.storage.evidence import Evidence

GRID_SIDE = 16  # tokens
CHURN_RATE = 0.1  # fraction of tokens whose code differs from that of the previous checkpoint
ANALYSES = (
    "codebook_usage",
    "code_distances",
    "code_dropping",
    "code_information",
    "code_prediction",
    "code_cooccurrence",
    "code_gallery",
    "code_churn",
    "cascade_displacement",
)


def write(folder: Path, codebook_size: int, num_tokens: int, dim: int) -> None:
    """Write evidence of a synthetic tokenizer whose codes follow Zipf's law."""
    random = np.random.default_rng(0)
    num_images = num_tokens // GRID_SIDE**2
    weights = np.cumsum(1 / np.arange(1, codebook_size + 1))
    quantiles = random.random((num_images, GRID_SIDE**2), np.float32) * weights[-1]
    ranks = np.searchsorted(weights, quantiles).clip(max=codebook_size - 1)
    codes = random.permutation(codebook_size).astype(np.int32)[ranks]
    has_changed = random.random(codes.shape, np.float32) < CHURN_RATE
    previous_codes = np.where(has_changed, np.roll(codes, 1), codes)
    codebook = random.standard_normal((1, codebook_size, dim), np.float32)
    displacement = np.float32(0.1) * random.standard_normal(codebook.shape, np.float32)
    Evidence(
        {"run": "synthetic", "step": 1, "grid": [GRID_SIDE, GRID_SIDE]},
        images=np.zeros((num_images, GRID_SIDE, GRID_SIDE, 1), np.uint8),
        codes=codes,
        previous_codes=previous_codes,
        codebook=codebook,
        cascade_start=codebook + displacement,
        labels=random.integers(0, 100, num_images),
    ).save(folder)


def measure(folder: Path, name: str) -> None:
    """Print seconds, megabytes, the size of the figure, and the summary of an analysis as JSON."""
    evidence, analysis = Evidence.open(folder), get(name)
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    result = analysis(**evidence.kwargs_for(analysis))
    seconds = time.perf_counter() - start
    peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory_mb = (peak_memory - memory_before) / 1024
    figure_mb = len(result.figure().to_json()) / 1e6
    print(json.dumps([seconds, memory_mb, figure_mb, result.summary()]))


def main(codebook_size: int = 500_000, num_tokens: int = 10_000_000, dim: int = 64) -> None:
    """Print one row per analysis."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/evidence"
        sizes = [str(codebook_size), str(num_tokens), str(dim)]
        # Written by another process, because a child process starts with the peak of its parent.
        subprocess.run([sys.executable, __file__, "write", folder, *sizes], check=True)
        print(
            f"{num_tokens:,} tokens, {codebook_size:,} codes of {dim} channels: "
            f"a codebook of {codebook_size * dim * 4 / 1e6:,.0f} MB\n"
        )
        print(f"{'analysis':<22}{'seconds':>9}{'MB':>8}{'figure MB':>11}")
        for name in ANALYSES:
            command = [sys.executable, __file__, "measure", folder, name]
            process = subprocess.run(command, capture_output=True)
            if process.returncode:
                sys.exit(process.stderr.decode())
            seconds, memory_mb, figure_mb, summary = json.loads(process.stdout)
            numbers = f"{seconds:>9.1f}{memory_mb:>8,.0f}{figure_mb:>11.2f}"
            print(f"{name:<22}{numbers}   {summary}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    elif sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), sys.argv[3])
    else:
        main(*map(int, sys.argv[1:]))
