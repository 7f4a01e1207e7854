"""Correctness of counting the modes of latents.

    python benchmarks/modes.py

The benchmark counts the modes of mixtures of 1, 5 and 12 Gaussians in 16 dimensions, with twenty
seeds each (n = 1,000) and candidates from 1 to 16. It prints how often the 90 % range covers the
true number, and how often the Gaussian null gives 1. It takes four minutes on one core.
`python -m benchmarks.side_by_side --only analyses` compares the speed with scikit-learn.
"""

import os

# The sweep runs one thread per core, and each of them must not start threads of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import numpy as np

from workbench.analysis.latents.modes import mixture_modes

NUM_SEEDS, DIM = 20, 16
TRUE_MODES = (1, 5, 12)
MAX_MODES = 16


def mixture(modes: int, seed: int, n: int = 1000) -> np.ndarray:
    """Draw from equal spherical modes, about eight standard deviations apart, shape (n, 1, 16)."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(modes, DIM)) * 8 / np.sqrt(2 * DIM)
    return (means[random.integers(0, modes, n)] + random.normal(size=(n, DIM)))[:, None]


def main() -> None:
    """Print how often the range covers the true number of modes."""
    start, cpu_start = time.perf_counter(), time.process_time()
    print(f"{'modes':>6}{'covered':>9}{'null 1':>8}{'best is right':>15}{'widest range':>14}")
    for modes in TRUE_MODES:
        results = [
            mixture_modes(mixture(modes, seed), max_modes=MAX_MODES, seed=seed)
            for seed in range(NUM_SEEDS)
        ]
        covered = sum(result.low <= modes <= result.high for result in results)
        null = sum(result.null_best == 1 for result in results)
        best = sum(result.best == modes for result in results)
        widest = max(result.high - result.low for result in results) + 1
        counts = f"{covered:>6}/{NUM_SEEDS}{null:>5}/{NUM_SEEDS}{best:>12}/{NUM_SEEDS}"
        print(f"{modes:>6}{counts}{widest:>14}", flush=True)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    print(f"{seconds:.0f} s, {cpu_seconds:.0f} s of CPU time")


if __name__ == "__main__":
    main()
