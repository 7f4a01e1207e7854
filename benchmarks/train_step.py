"""How fast a training step is here, beside what this machine's matrix products reach. `make bench`

    python -m benchmarks.train_step [JSON file [recipe ...]]

For each system on images of two sizes (or the recipes named after the JSON file): items a second of the bare step
(objective, backward, optimiser) and of the whole loop (`fit`: data, log, average, checkpoints, requests), the loop's
share of the bare step, and the arithmetic as a share of the best float32 matmul rate measured in the same run. Ratios
hold on other machines; seconds do not.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from workbench.launch.in_process import prepare_training, train
from workbench.launch.recipes import GENERATORS, SYSTEMS
from workbench.training import TrainState, fit

from .side_by_side.measure import matmul_rate

SIZES = ("digits", "shapes")  # 8 x 8 grey and 32 x 32 RGB
STEPS = 40


def measure(recipe: str, folder: Path) -> dict[str, float]:
    """Items a second, bare and in the loop, and operations an item of one recipe."""
    system, data = recipe.split("-")
    more = {
        "steps": STEPS,
        "save_every": STEPS,
        "limit": None if system in GENERATORS else 1000,
    }
    job = prepare_training(
        recipe,
        folder / recipe,
        tokenizer=folder / data if system in GENERATORS else None,
        **more,
    )
    model, batch = job.model.train(), job.data.batch(torch.arange(job.train_config.batch_size))
    if hasattr(model, "prepare"):
        model.prepare(job.data, 0)
    optimizers = TrainState(model, job.train_config).optimizers

    def step() -> None:
        model.objective(*batch).total.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    begun = time.perf_counter()
    for _ in range(STEPS):
        step()
    bare = STEPS * job.train_config.batch_size / (time.perf_counter() - begun)
    begun = time.perf_counter()
    for _ in fit(job.model, job.data, job.train_config, job.run):
        pass
    loop = STEPS * job.train_config.batch_size / (time.perf_counter() - begun)
    return {
        "bare": bare,
        "loop": loop,
        "operations": counter.get_total_flops() / job.train_config.batch_size,
    }


def main() -> None:
    """Measure every recipe, print a table, and write it as JSON where asked."""
    rate = matmul_rate()
    print(
        f"{torch.get_num_threads()} threads, float32 matmul {rate / 1e9:.0f} GFLOP/s, torch {torch.__version__}\n"
    )
    print(
        f"{'recipe':<22}{'items/s bare':>14}{'items/s loop':>14}{'loop/bare':>11}{'MFLOP/item':>12}{'of matmul':>11}"
    )
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for data in SIZES:  # what generators learn from
            quick = {"steps": 5, "batch_size": 8, "save_every": 5, "limit": 1000, "collect": False}
            train(f"vqvae-{data}", Path(folder) / data, **quick)
        for recipe in sys.argv[2:] or [f"{system}-{data}" for system in SYSTEMS for data in SIZES]:
            row = rows[recipe] = measure(recipe, Path(folder))
            row |= {
                "share_of_matmul": row["loop"] * row["operations"] / rate,
                "loop_over_bare": row["loop"] / row["bare"],
            }
            print(
                f"{recipe:<22}{row['bare']:>14.0f}{row['loop']:>14.0f}{row['loop_over_bare']:>11.2f}"
                f"{row['operations'] / 1e6:>12.1f}{row['share_of_matmul']:>11.1%}"
            )
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(
            json.dumps({"matmul": rate, "recipes": rows}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
