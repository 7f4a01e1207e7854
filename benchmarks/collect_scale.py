"""Resident memory and speed of collecting evidence, for growing numbers of images.

    python benchmarks/collect_scale.py --counts 2000 8000                  # a few minutes
    python benchmarks/collect_scale.py --counts 5000 50000 --only encoding features noise

The images are JPEG files of 256 x 256 pixels, read from a folder as a user's are. A small
autoencoder encodes them in a process of its own for each number of images. Printed is the peak of
the resident memory beyond the process with the loaded model, which must not grow with the number of
images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256
GRID = 16  # cells of the noise along a side
NUM_FILES = 250  # different images; the others are links to them
NUM_TRAIN = 64
TRAIN = """
import sys
from workbench.launch.in_process import train
train("klvae-photos", sys.argv[1], collect=False, data=sys.argv[2], side=256, patch=16, width=32,
      depth=1, steps=1, batch_size=8, save_every=1, warmup_steps=1)
"""
COLLECT = """
import json, resource, sys, time
import psutil
from workbench.collect import collect
from workbench.collect.models import load_models
from workbench.storage.run import Run
run, limit = Run(sys.argv[1]), int(sys.argv[2])
load_models(run)
loaded = psutil.Process().memory_info().rss
start = time.perf_counter()
evidence = collect(run, limit=limit, pictures=int(sys.argv[3]), only=sys.argv[4:])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"n": evidence.num_images, "pictures": evidence.num_pictures, "seconds": seconds,
                  "beyond": peak - loaded, "loaded": loaded}))
"""


def write_images(folder: Path, count: int) -> None:
    """Write training images, and test images of which most are links."""
    random = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    for index in range(NUM_TRAIN + NUM_FILES):
        cells = random.integers(0, 256, (GRID, GRID, 3), np.uint8)
        image = Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        split, number = ("train", index) if index < NUM_TRAIN else ("test", index - NUM_TRAIN)
        image.save(folder / split / f"{number:06}.jpg")
    for index in range(NUM_FILES, count):
        original = folder / "test" / f"{index % NUM_FILES:06}.jpg"
        os.link(original, folder / "test" / f"{index:06}.jpg")


def run_script(code: str, *arguments: str | Path) -> str:
    """Run a script in a process of its own, and return what it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def main() -> None:
    """Print one line per number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=["encoding"], help="names of collectors")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_images(folder / "images", max(options.counts))
        run_script(TRAIN, folder / "run", folder / "images")
        for count in options.counts:
            text = run_script(COLLECT, folder / "run", str(count), options.pictures, *options.only)
            result = json.loads(text.splitlines()[-1])
            print(
                f"{result['n']:,} images of {SIDE} x {SIDE} pixels ({result['pictures']:,}"
                f" pictures): {result['beyond'] / 1e9:.2f} GB beyond the model"
                f" ({result['loaded'] / 1e9:.2f} GB), {result['seconds']:.0f} s,"
                f" {result['n'] / result['seconds']:.0f} images per second",
                flush=True,
            )


if __name__ == "__main__":
    main()
