"""Speed of a training step, compared with the matrix products of this machine. `make bench`

    python -m benchmarks.train_step [JSON file [recipe ...]]

The benchmark covers each system on images of two sizes, or the recipes named after the JSON file.
It measures images per second of the bare step (objective, backward, optimizer) and of the whole
loop (`fit`: data, log, EMA, checkpoints, commands), the ratio of the two, and the arithmetic as a
share of the best float32 matmul rate measured in the same run. Ratios carry over to other machines;
seconds do not.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from workbench.core.types import NeedsPreparation
from workbench.launch.in_process import prepare_training, train
from workbench.launch.recipes import GENERATORS, SYSTEMS
from workbench.training import TrainState, fit

from .side_by_side.measure import matmul_rate

DATA_SETS = ("digits", "shapes")  # 8 x 8 gray and 32 x 32 RGB
STEPS = 40
MAX_IMAGES = 1000


def measure(recipe: str, folder: Path) -> dict[str, float]:
    """Measure images per second of the step and of the loop, and operations per image."""
    system, data = recipe.split("-")
    is_generator = system in GENERATORS
    job = prepare_training(
        recipe,
        folder / recipe,
        tokenizer=folder / data if is_generator else None,
        limit=None if is_generator else MAX_IMAGES,
        steps=STEPS,
        save_every=STEPS,
    )
    batch_size = job.train_config.batch_size
    model = job.model.train()
    batch = job.data.batch(torch.arange(batch_size))
    if isinstance(model, NeedsPreparation):
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
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    step_seconds = time.perf_counter() - start
    start = time.perf_counter()
    for _ in fit(job.model, job.data, job.train_config, job.run):
        pass
    loop_seconds = time.perf_counter() - start
    return {
        "bare": STEPS * batch_size / step_seconds,
        "loop": STEPS * batch_size / loop_seconds,
        "operations": counter.get_total_flops() / batch_size,
    }


def main() -> None:
    """Measure every recipe, print a table, and write it as JSON if a file is given."""
    rate = matmul_rate()
    matmul = f"float32 matmul {rate / 1e9:.0f} GFLOP/s"
    print(f"{torch.get_num_threads()} threads, {matmul}, torch {torch.__version__}\n")
    print(
        f"{'recipe':<22}{'images/s step':>14}{'images/s loop':>14}{'loop/step':>11}"
        f"{'MFLOP/image':>12}{'of matmul':>11}"
    )
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for data in DATA_SETS:  # the tokenizers of the generators
            train(
                f"vqvae-{data}",
                Path(folder) / data,
                steps=5,
                batch_size=8,
                save_every=5,
                limit=MAX_IMAGES,
                collect=False,
            )
        every_recipe = [f"{system}-{data}" for system in SYSTEMS for data in DATA_SETS]
        for recipe in sys.argv[2:] or every_recipe:
            row = measure(recipe, Path(folder))
            row["share_of_matmul"] = row["loop"] * row["operations"] / rate
            row["loop_over_bare"] = row["loop"] / row["bare"]
            rows[recipe] = row
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
