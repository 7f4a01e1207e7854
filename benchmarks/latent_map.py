"""A latent map of 50,000 images with 512 numbers each: seconds, seconds of processor, and peak memory.

`python benchmarks/latent_map.py [n ...]`, by default 10000 and 50000. Latents are fifty clusters of Gaussians; the
library's compilation, once a process, is counted apart.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before numpy

import resource
import sys
import time

import numpy as np

from workbench.analysis.latents.projection import latent_map

TOKENS, DIM, CLUSTERS = 16, 32, 50


def latents(n: int) -> np.ndarray:
    """Clusters about as far apart as they are wide."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((CLUSTERS, TOKENS, DIM), np.float32)
    return centres[np.arange(n) % CLUSTERS] + random.standard_normal((n, TOKENS, DIM), np.float32)


def main(sizes: list[int]) -> None:
    """Print a row for each number of images."""
    begun = time.perf_counter()
    latent_map(latents(5000))  # what is compiled for 5,000 is what 50,000 need
    print(f"compiling and 5,000 images: {time.perf_counter() - begun:.0f} s\n")
    print(f"{'images':>8}{'numbers':>9}{'s':>8}{'cpu s':>8}{'peak MB':>9}{'trust':>7}{'cont.':>7}")
    for n in sizes:
        given, begun, spent = latents(n), time.perf_counter(), time.process_time()
        found = latent_map(given, points=n)
        seconds, spent = time.perf_counter() - begun, time.process_time() - spent
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        numbers = f"{n:>8}{TOKENS * DIM:>9}{seconds:>8.1f}{spent:>8.1f}{peak:>9.0f}"
        print(f"{numbers}{found.trust:>7.2f}{found.continuity:>7.2f}", flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [10_000, 50_000])
