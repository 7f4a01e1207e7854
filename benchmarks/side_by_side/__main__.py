"""What we compute and others compute too, beside them, in one run: ratios, memory, and whether both agree.

    python -m benchmarks.side_by_side                            (make bench)
    python -m benchmarks.side_by_side --only quantizers --rounds 9 --out side_by_side.json

Sides run in turns, so that whatever else the machine does hits both alike. A ratio is their median time over ours,
above 1 in our favour, with the quartiles of single rounds beside it. `of matmul` is our arithmetic a second beside the
best float32 matrix product's, measured in this run. Memory is what a run holds beyond what it finds. The last column
tells what of both sides' results was compared. Where there is a GPU, all but the analyses run on it too.

A public package that is not there leaves its rows out: pip install diffusers vector-quantize-pytorch.
"""

import argparse
import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path

FAMILIES = ("tokenizers", "quantizers", "generators", "analyses")


def main() -> None:
    """Read the command line; measure; print, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="of both sides; a row of over a minute stops at three"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of all libraries but umap-learn, which comes as it is",
    )
    parser.add_argument("--only", default=",".join(FAMILIES), help="families of rows")
    parser.add_argument("--out", type=Path, help="a JSON file")
    asked = parser.parse_args()
    if unknown := set(asked.only.split(",")) - set(FAMILIES):
        sys.exit(f"There is no {', '.join(sorted(unknown))}; families are {', '.join(FAMILIES)}.")
    # Before torch, numpy and joblib: on equal terms.
    os.environ |= {"OMP_NUM_THREADS": str(asked.threads), "LOKY_MAX_CPU_COUNT": str(asked.threads)}
    warnings.simplefilter(
        "ignore"
    )  # of libraries about their own settings, between the table's lines
    told = run(asked.only.split(","), asked.rounds)
    if asked.out:
        asked.out.write_text(json.dumps(told, indent=1), encoding="utf-8")
        print(f"\n{asked.out}")


def run(only: list[str], rounds: int) -> dict:
    """Measure family by family on every device, and print each row as soon as it is known; all of it, to be stored."""
    import torch

    from . import analyses, generators, quantizers, tokenizers
    from .measure import SLOWER, heading, matmul_rate, measure
    from .sizes import SIZES

    families = {
        "tokenizers": tokenizers,
        "quantizers": quantizers,
        "generators": generators,
        "analyses": analyses,
    }
    rows, rates, missing = [], {}, Counter()
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        rate = rates[device] = matmul_rate(device)
        named = (
            torch.cuda.get_device_name()
            if device == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        print(
            f"\n{device}, {named}, float32 matmul {rate / 1e9:,.0f} GFLOP/s, torch {torch.__version__}\n"
        )
        print(heading())
        for make in (make for name in only for make in families[name].pairs(SIZES[device], device)):
            torch.manual_seed(0)
            try:
                pair = make()
            except ModuleNotFoundError as error:
                missing[error.name] += 1
                continue
            rows.append(measure(pair, device, rounds, rate))
            print(rows[-1].cells(), flush=True)
    print()
    for row in rows:
        if row.ratio < 1 / SLOWER:
            print(f"Slower: {row.work} ({row.device}). {row.slower or 'Not explained.'}")
    for name, count in missing.items():
        print(
            f"Left out: {count} rows that compare with {name}: pip install {name.replace('_', '-')}"
        )
    stored = [row.stored() for row in rows]
    return {
        "matmul": rates,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "rows": stored,
        "missing": missing,
    }


if __name__ == "__main__":
    main()
