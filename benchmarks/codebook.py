"""Every analysis of a codebook on ten million tokens of half a million codes: seconds and peak memory.

`python benchmarks/codebook.py [K tokens d]`, by default 500,000 codes of 64 channels and 39,062 images of 16 x 16
tokens, whose codes follow Zipf's law and whose arrays are read from disk. Each analysis runs in a process of its own;
memory is the most that process ever held (getrusage), less what it held once the arrays were open, and counts their
pages too.
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

SIDE = 16  # tokens
ANALYSES = (
    "codebook_usage",
    "code_distances",
    "code_dropping",
    "code_information",
    "code_prediction",
)
ANALYSES += ("code_cooccurrence", "code_gallery", "code_churn", "cascade_displacement")


def write(folder: Path, codes: int, tokens: int, dim: int) -> None:
    """Evidence of a made-up tokenizer: codes by Zipf's law, a tenth of them others at the checkpoint before."""
    random, images = np.random.default_rng(0), tokens // SIDE**2
    weights = np.cumsum(1 / np.arange(1, codes + 1))
    drawn = np.searchsorted(
        weights, random.random((images, SIDE**2), np.float32) * weights[-1]
    ).clip(max=codes - 1)
    chosen = random.permutation(codes).astype(np.int32)[drawn]
    before = np.where(random.random(chosen.shape, np.float32) < 0.1, np.roll(chosen, 1), chosen)
    book = random.standard_normal((1, codes, dim), np.float32)
    Evidence(
        {"run": "made-up", "step": 1, "grid": [SIDE, SIDE]},
        images=np.zeros((images, SIDE, SIDE, 1), np.uint8),
        codes=chosen,
        previous_codes=before,
        codebook=book,
        cascade_start=book + np.float32(0.1) * random.standard_normal(book.shape, np.float32),
        labels=random.integers(0, 100, images),
    ).save(folder)


def measure(folder: Path, name: str) -> None:
    """Print seconds, megabytes and what one analysis says, as JSON."""
    evidence, analysis = Evidence.open(folder), get(name)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    result = analysis(**evidence.kwargs_for(analysis))
    seconds = time.perf_counter() - begun
    held = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    figure = len(result.figure().to_json()) / 1e6
    print(json.dumps([seconds, held, figure, result.summary()]))


def main(codes: int = 500_000, tokens: int = 10_000_000, dim: int = 64) -> None:
    """Print a row for each analysis."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            __file__,
            "write",
            f"{folder}/evidence",
            str(codes),
            str(tokens),
            str(dim),
        ]
        subprocess.run(
            command, check=True
        )  # in its own process: a child starts with its parent's peak
        print(
            f"{tokens:,} tokens, {codes:,} codes of {dim} channels: a codebook of {codes * dim * 4 / 1e6:,.0f} MB\n"
        )
        print(f"{'analysis':<22}{'seconds':>9}{'MB':>8}{'figure MB':>11}")
        for name in ANALYSES:
            ended = subprocess.run(
                [sys.executable, __file__, "measure", f"{folder}/evidence", name],
                capture_output=True,
            )
            if ended.returncode:
                sys.exit(ended.stderr.decode())
            seconds, held, figure, said = json.loads(ended.stdout)
            print(f"{name:<22}{seconds:>9.1f}{held:>8,.0f}{figure:>11.2f}   {said}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    elif sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), sys.argv[3])
    else:
        main(*map(int, sys.argv[1:]))
