"""Minimal adaptation (UniCode2's claim 5): a decoder trained on continuous features is fed cluster centres instead.

For each number of codes: the held-out PSNR of the decoder on the features themselves, on their centres as it is, after
training a linear adapter alone, and on centres whose rows were shuffled, which must fail. One decoder a seed, frozen.

    python benchmarks/adaptation.py digits --seeds 3 --codes 64,256,1024 --steps 800 --out adaptation.json
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from workbench.collect import held_out
from workbench.jobs import train
from workbench.runs import Run
from workbench.types import Tokens

COLUMNS = ("continuous", "centres", "adapter", "shuffled")


@torch.no_grad()
def psnr(run: Run, *, shuffle: bool = False) -> float:
    """Mean PSNR in dB over a tokenizer's held-out images; `shuffle` gives each code another's vector."""
    model, images = run.load(), held_out(run).images()
    tokens = model.encode(images)
    if shuffle:
        words = model.codebook[0][torch.randperm(model.codebook.shape[1], generator=torch.Generator().manual_seed(0))]
        tokens = Tokens(words[tokens.codes], tokens.codes, grid=tokens.grid)
    error = ((model.decode(tokens).clamp(-1, 1) - images) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.clamp(min=1e-10).log10()).mean())


def measure(data: str, codes: int, seed: int, folder: Path, **plan: int | str) -> dict[str, float]:
    """One row: a decoder on continuous features, and what centres make of it."""
    told = {"seed": seed, "codes": codes, "collect": False} | plan
    first = train(f"unicode2-{data}", folder / "continuous", role="continuous", **told)
    steps = max(1, int(plan["steps"]) // 4)
    told["adapter"] = True
    # It begins as the identity, so a run of one step that learns nothing is the decoder as it is.
    still = told | {"steps": 1, "lr": 1e-12, "save_every": 1}
    fed = train(f"unicode2-{data}", folder / "fed", role="frozen", start=first.folder, train="adapter", **still)
    adapted = told | {"steps": steps, "save_every": steps}
    tuned = train(f"unicode2-{data}", folder / "tuned", role="frozen", start=first.folder, train="adapter", **adapted)
    return dict(zip(COLUMNS, (psnr(first), psnr(fed), psnr(tuned), psnr(tuned, shuffle=True)), strict=True))


def main() -> None:
    """Measure every number of codes with every seed, print means and deviations, and write all rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["digits", "photos", "shapes"])
    parser.add_argument("--codes", default="64,256,1024")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--teacher", default="hog")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    plan = {"steps": asked.steps, "save_every": asked.steps, "teacher": asked.teacher}
    rows = []
    print(
        f"{asked.data}, PSNR in dB, {asked.seeds} seeds, mean (deviation)\n{'codes':>8}"
        + "".join(f"{c:>18}" for c in COLUMNS)
    )
    for codes in map(int, asked.codes.split(",")):
        for seed in range(asked.seeds):
            with tempfile.TemporaryDirectory() as folder:
                row = measure(asked.data, codes, seed, Path(folder), **plan)
            rows.append({"codes": codes, "seed": seed, **row})
        found = np.array([[row[c] for c in COLUMNS] for row in rows if row["codes"] == codes])
        told = (
            f"{m:.2f} ({s:.2f})"
            for m, s in zip(found.mean(axis=0), found.std(axis=0, ddof=len(found) > 1), strict=True)
        )
        print(f"{codes:>8}" + "".join(f"{text:>18}" for text in told))
    if asked.out:
        asked.out.write_text(json.dumps({"data": asked.data, "plan": plan, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
