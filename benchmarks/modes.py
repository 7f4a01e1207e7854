"""Counting modes: is the answer right?

`python benchmarks/modes.py` counts mixtures of 1, 5 and 12 modes in 16 dimensions, twenty seeds each (n = 1,000), among
1 to 16: how often the 90 % range covers the truth, and how often the Gaussian null answers 1. It takes four minutes on
one core. How fast the sweep is beside scikit-learn: python -m benchmarks.side_by_side --only analyses.
"""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # ours runs a thread for each core, each with one of its own

import time

import numpy as np

from workbench.analysis.latents.modes import mixture_modes

SEEDS, DIM = 20, 16
MOST = 16  # modes that are tried where 12 are the truth


def mixture(modes: int, seed: int, n: int = 1000) -> np.ndarray:
    """Equal spherical modes in 16 dimensions, about eight standard deviations apart, (n, 1, 16)."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(modes, DIM)) * 8 / np.sqrt(2 * DIM)
    return (means[random.integers(0, modes, n)] + random.normal(size=(n, DIM)))[:, None]


def right() -> None:
    """Print how often the range covers the truth."""
    begun, spent = time.perf_counter(), time.process_time()
    print(f"{'modes':>6}{'covered':>9}{'null 1':>8}{'best is right':>15}{'widest range':>14}")
    for modes in (1, 5, 12):
        found = [
            mixture_modes(mixture(modes, seed), max_modes=MOST, seed=seed) for seed in range(SEEDS)
        ]
        covered = sum(one.low <= modes <= one.high for one in found)
        null, best = (
            sum(one.null_best == 1 for one in found),
            sum(one.best == modes for one in found),
        )
        widest = max(one.high - one.low for one in found) + 1
        print(
            f"{modes:>6}{covered:>6}/{SEEDS}{null:>5}/{SEEDS}{best:>12}/{SEEDS}{widest:>14}",
            flush=True,
        )
    print(f"{time.perf_counter() - begun:.0f} s, {time.process_time() - spent:.0f} s of processor")


if __name__ == "__main__":
    right()
