"""Time and peak memory of a latent map of 50,000 images with 512 latent values each.

    python benchmarks/latent_map.py [n ...]

The default is 10,000 and 50,000 images. Latents are drawn from fifty Gaussian clusters. numba
compiles umap-learn once per process, and that time is printed separately.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before numpy is imported

import resource
import sys
import time

import numpy as np

from workbench.analysis.latents.projection import latent_map

NUM_TOKENS, DIM, NUM_CLUSTERS = 16, 32, 50
NUM_WARMUP_IMAGES = 5000  # larger maps use the same compiled functions


def latents(n: int) -> np.ndarray:
    """Draw clusters whose centers are about as far apart as the clusters are wide."""
    random = np.random.default_rng(0)
    shape = (NUM_TOKENS, DIM)
    centers = random.standard_normal((NUM_CLUSTERS, *shape), np.float32)
    noise = random.standard_normal((n, *shape), np.float32)
    return centers[np.arange(n) % NUM_CLUSTERS] + noise


def main(sizes: list[int]) -> None:
    """Print one row per number of images."""
    start = time.perf_counter()
    latent_map(latents(NUM_WARMUP_IMAGES))
    print(f"compiling and 5,000 images: {time.perf_counter() - start:.0f} s\n")
    print(f"{'images':>8}{'values':>9}{'s':>8}{'cpu s':>8}{'peak MB':>9}{'trust':>7}{'cont.':>7}")
    for n in sizes:
        rows = latents(n)
        start, cpu_start = time.perf_counter(), time.process_time()
        result = latent_map(rows, points=n)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        numbers = f"{n:>8}{NUM_TOKENS * DIM:>9}{seconds:>8.1f}{cpu_seconds:>8.1f}{peak_mb:>9.0f}"
        print(f"{numbers}{result.trust:>7.2f}{result.continuity:>7.2f}", flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [10_000, 50_000])
