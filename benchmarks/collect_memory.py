"""Peak memory and time of collecting evidence, before and after a change.

    python benchmarks/collect_memory.py --side 256 --limit 250 --before REVISION

The benchmark writes noise of low frequency as image files, trains a SoftVQ-VAE on them for one
step, and collects its evidence in a process of its own, with the code of this checkout and with
that of a revision of git. It prints the peak resident memory and the CPU time of both.
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

CHECKOUT = Path(__file__).parent.parent
NUM_TRAIN, NUM_TEST = 500, 300
GRID = 8  # cells of the noise along a side
TRAIN = """
import sys
from workbench.launch.in_process import train
side = int(sys.argv[3])
train("softvq-photos", sys.argv[1], collect=False, data=sys.argv[2], side=side, patch=side // 8,
      steps=1, batch_size=16, save_every=1)
"""
COLLECT = """
import json, resource, sys
from workbench.collect import collect
from workbench.storage.run import Run
evidence = collect(Run(sys.argv[1]), limit=int(sys.argv[2]))
usage = resource.getrusage(resource.RUSAGE_SELF)
provenance = {name: evidence.provenance[name] for name in ("n", "of")}
print(json.dumps(provenance | {"kilobytes": usage.ru_maxrss, "seconds": usage.ru_utime}))
"""


def write_images(folder: Path, side: int) -> None:
    """Write training and test images."""
    random = np.random.default_rng(0)
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        (folder / split).mkdir(parents=True)
        for index in range(count):
            cells = random.integers(0, 256, (GRID, GRID, 3), np.uint8)
            image = Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)
            image.save(folder / split / f"{index:04}.jpg")


def run_script(code: str, checkout: Path, *arguments: str | Path) -> str:
    """Run a script with the package of a checkout, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=checkout, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def main() -> None:
    """Print one line per version of the code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--limit", type=int, default=250)
    parser.add_argument("--before", help="revision of git to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkouts = {"this checkout": CHECKOUT}
        if options.before:
            git = ["git", "-C", str(CHECKOUT), "worktree"]
            before = folder / "before"
            subprocess.run([*git, "add", "-q", "--detach", before, options.before], check=True)
            checkouts = {options.before: before} | checkouts
        try:
            write_images(folder / "images", options.side)
            side = str(options.side)
            run_script(TRAIN, CHECKOUT, folder / "run", folder / "images", side)
            for name, checkout in checkouts.items():
                text = run_script(COLLECT, checkout, folder / "run", str(options.limit))
                result = json.loads(text.splitlines()[-1])
                gigabytes = result["kilobytes"] * 1024 / 1e9
                print(
                    f"{name}: {result['n']} of {result['of']} images of {side} x {side} pixels, "
                    f"{gigabytes:.2f} GB, {result['seconds']:.0f} s of CPU time",
                    flush=True,
                )
        finally:
            if options.before:
                subprocess.run([*git, "remove", "--force", before], check=True)


if __name__ == "__main__":
    main()
