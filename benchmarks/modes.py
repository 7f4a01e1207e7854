"""Counting modes: is the answer right, and how fast is the sweep beside a plain loop over scikit-learn?

`python benchmarks/modes.py right` counts mixtures of 1, 5 and 12 modes in 16 dimensions, twenty seeds each (n = 1,000),
among 1 to 16: how often the 90 % range covers the truth, and how often the Gaussian null answers 1. It takes four
minutes on one core.
`python benchmarks/modes.py fast [evidence folder ...]` times cross-validated sweeps over 1 to 24 modes, ours and
`GaussianMixture(k, n_init=r)` in a loop for r = 1, 3, 10, as means over three seeds. The ratio is to the fastest loop
whose held-out likelihood, averaged over numbers of modes, is at least ours less 0.01 nats an image; where none is, to
the slowest, and the ratio is a lower bound. Both see the same floor under variances. Without a word: both parts.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ours runs a thread for each core, each with one of its own

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold

from workbench.analysis.latents.held_out import FOLDS, grid, held_out
from workbench.analysis.latents.mixtures import FLOOR
from workbench.analysis.latents.modes import mixture_modes
from workbench.analysis.latents.reductions import reduced
from workbench.evidence import Evidence

SEEDS, DIM, NEAR = 20, 16, 0.01
MOST = 16  # modes that are tried where 12 are the truth
STARTS, REPEATS = (1, 3, 10), 3


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
        found = [mixture_modes(mixture(modes, seed), most=MOST, seed=seed) for seed in range(SEEDS)]
        covered = sum(one.low <= modes <= one.high for one in found)
        null, best = sum(one.null_best == 1 for one in found), sum(one.best == modes for one in found)
        widest = max(one.high - one.low for one in found) + 1
        print(f"{modes:>6}{covered:>6}/{SEEDS}{null:>5}/{SEEDS}{best:>12}/{SEEDS}{widest:>14}", flush=True)
    print(f"{time.perf_counter() - begun:.0f} s, {time.process_time() - spent:.0f} s of processor")


def fast(folders: list[Path]) -> None:
    """Print the seconds of each sweep and its mean held-out likelihood."""
    clouds = {"12 known modes": mixture(12, 0)}
    clouds |= {folder.parent.parent.name: np.asarray(Evidence.open(folder).latents) for folder in folders}
    print(f"\n{'latents':<18}{'n':>6}{'sweep':>12}{'s':>8}{'cpu s':>8}{'nats':>10}")
    for name, latents in clouds.items():
        points, _ = reduced(latents.reshape(len(latents), -1).astype(float), "ours", DIM, 0)
        modes = grid(24)
        held_out([points], modes[:2], "diag", 0)  # imports do not count
        sweeps = {"ours": lambda seed, p=points, m=modes: held_out([p], m, "diag", seed)[0][0].likelihood.mean()}
        sweeps |= {f"n_init={r}": lambda seed, p=points, m=modes, r=r: plain(p, m, r, seed) for r in STARTS}
        rows = {label: _timed(work) for label, work in sweeps.items()}
        for label, (seconds, spent, nats) in rows.items():
            print(f"{name:<18}{len(points):>6}{label:>12}{seconds:>8.2f}{spent:>8.2f}{nats:>10.3f}", flush=True)
        equal = [label for label in rows if label != "ours" and rows[label][2] >= rows["ours"][2] - NEAR]
        beside = min(equal or [f"n_init={STARTS[-1]}"], key=lambda label: rows[label][0] if equal else 0)
        wall, cpu = (rows[beside][i] / rows["ours"][i] for i in (0, 1))
        print(
            f"{'':<24}{'' if equal else 'over '}{wall:.1f} times as fast as {beside}; {cpu:.1f} in cpu s\n", flush=True
        )


def plain(points: np.ndarray, modes: np.ndarray, starts: int, seed: int) -> float:
    """The mean held-out likelihood by scikit-learn, one fit after the other; with one of all points, as ours."""
    scores = np.empty((len(points), len(modes)))
    whole = (np.arange(len(points)), np.arange(0))
    for rest, out in (*KFold(FOLDS, shuffle=True, random_state=seed).split(points), whole):
        for j, k in enumerate(modes):
            found = GaussianMixture(k, covariance_type="diag", n_init=starts, reg_covar=FLOOR, random_state=seed)
            found.fit(points[rest])
            if len(out):
                scores[out, j] = found.score_samples(points[out])
    return float(scores.mean())


def _timed(work: Callable[[int], float]) -> tuple[float, float, float]:
    """Seconds, seconds of processor, and what comes out: means over seeds."""
    begun, spent = time.perf_counter(), time.process_time()
    nats = float(np.mean([work(seed) for seed in range(REPEATS)]))
    return (time.perf_counter() - begun) / REPEATS, (time.process_time() - spent) / REPEATS, nats


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)
    if sys.argv[1:2] != ["fast"]:
        right()
    if sys.argv[1:2] != ["right"]:
        fast([Path(folder) for folder in sys.argv[2:]])
