"""How fast a training step is here, beside what this machine's matrix products reach. `make bench`

For each recipe: items a second of the bare step (objective, backward, optimiser) and of the whole loop (`fit`: data,
log, average, checkpoints, requests), the loop's share of the bare step, and the arithmetic as a share of the best
float32 matmul rate measured in the same run. Ratios hold on other machines; seconds do not.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from workbench.jobs import prepare
from workbench.training import fit

RECIPES = ("ae-digits", "softvq-digits", "vqvae-digits", "softvq-photos", "sit-digits")
STEPS = 150


def matmul_rate(size: int = 1024, repeats: int = 20) -> float:
    """The best of several float32 matrix products, in floating-point operations a second."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def measure(recipe: str, folder: Path) -> dict[str, float]:
    """Items a second, bare and in the loop, and operations an item of one recipe."""
    more = {"steps": STEPS, "save_every": STEPS} | ({"tokenizer": folder / "softvq-digits"} if "sit" in recipe else {})
    job = prepare(recipe, folder / recipe, **more)
    model, batch = job.model.train(), job.data.batch(torch.arange(job.plan.batch))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        model.objective(*batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    begun = time.perf_counter()
    for _ in range(STEPS):
        step()
    bare = STEPS * job.plan.batch / (time.perf_counter() - begun)
    begun = time.perf_counter()
    for _ in fit(job.model, job.data, job.plan, job.run):
        pass
    loop = STEPS * job.plan.batch / (time.perf_counter() - begun)
    return {"bare": bare, "loop": loop, "operations": counter.get_total_flops() / job.plan.batch}


def main() -> None:
    """Measure every recipe, print a table, and write it as JSON where asked."""
    rate = matmul_rate()
    print(f"{torch.get_num_threads()} threads, float32 matmul {rate / 1e9:.0f} GFLOP/s, torch {torch.__version__}\n")
    print(f"{'recipe':<16}{'items/s bare':>14}{'items/s loop':>14}{'loop/bare':>11}{'MFLOP/item':>12}{'of matmul':>11}")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in RECIPES:
            row = rows[recipe] = measure(recipe, Path(folder))
            row |= {
                "share_of_matmul": row["loop"] * row["operations"] / rate,
                "loop_over_bare": row["loop"] / row["bare"],
            }
            print(
                f"{recipe:<16}{row['bare']:>14.0f}{row['loop']:>14.0f}{row['loop_over_bare']:>11.2f}"
                f"{row['operations'] / 1e6:>12.1f}{row['share_of_matmul']:>11.1%}"
            )
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps({"matmul": rate, "recipes": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
