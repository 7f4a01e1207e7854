"""Comparison with public implementations of the same work, in one run: time, memory, agreement.

    python -m benchmarks.side_by_side                            (make bench)
    python -m benchmarks.side_by_side --only quantizers --rounds 9 --out side_by_side.json

Both sides run in turns, so that other load on the machine affects both alike. A ratio is their
median time over ours; above 1 is in our favor. The quartiles of single rounds are shown next to it.
`matmul` is our arithmetic per second as a share of the best float32 matrix product, measured in the
same run. Memory is the peak beyond that at the start of a run. The column `agreement` states which
results of both sides were compared. If there is a GPU, everything except the analyses runs on it as
well.

Rows that need a missing package are left out: pip install diffusers vector-quantize-pytorch
"""

import argparse
import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

FAMILIES = ("tokenizers", "quantizers", "generators", "analyses")


def main() -> None:
    """Parse the command line, measure, print, and write JSON if a file is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        help="rounds of both sides; a row that takes over a minute stops after three",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of all libraries except umap-learn, which uses its default",
    )
    parser.add_argument("--only", default=",".join(FAMILIES), help="families of rows")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    families = arguments.only.split(",")
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        sys.exit(f"There is no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}.")
    # Set before torch, numpy and joblib are imported, so that all libraries use as many threads.
    threads = str(arguments.threads)
    os.environ |= {"OMP_NUM_THREADS": threads, "LOKY_MAX_CPU_COUNT": threads}
    # Libraries warn about their own settings between the lines of the table.
    warnings.simplefilter("ignore")
    results = run(families, arguments.rounds)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
        print(f"\n{arguments.out}")


def run(families: list[str], max_rounds: int) -> dict[str, Any]:
    """Measure every family on every device, and print each row when it is measured.

    Returns
    -------
    dict
        Rates of matrix products, settings, and all rows, as JSON stores them.
    """
    import torch

    from . import analyses, generators, quantizers, tokenizers
    from .measure import SLOWDOWN_TO_EXPLAIN, matmul_rate, measure, table_heading
    from .sizes import SIZES

    modules = {
        "tokenizers": tokenizers,
        "quantizers": quantizers,
        "generators": generators,
        "analyses": analyses,
    }
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = []
    rates = {}
    missing: Counter[str] = Counter()
    for device in devices:
        rates[device] = matmul_rate(device)
        hardware = f"{torch.get_num_threads()} threads"
        if device == "cuda":
            hardware = torch.cuda.get_device_name()
        matmul = f"float32 matmul {rates[device] / 1e9:,.0f} GFLOP/s"
        print(f"\n{device}, {hardware}, {matmul}, torch {torch.__version__}\n")
        print(table_heading())
        for family in families:
            for make in modules[family].comparisons(SIZES[device], device):
                torch.manual_seed(0)
                try:
                    comparison = make()
                except ModuleNotFoundError as error:
                    missing[str(error.name)] += 1
                    continue
                row = measure(comparison, device, max_rounds, rates[device])
                rows.append(row)
                print(row.table_row(), flush=True)
    print()
    for row in rows:
        if row.ratio < 1 / SLOWDOWN_TO_EXPLAIN:
            print(f"Slower: {row.work} ({row.device}). {row.slowdown_reason or 'Not explained.'}")
    for name, count in missing.items():
        package = name.replace("_", "-")
        print(f"Left out: {count} rows that compare with {name}: pip install {package}")
    return {
        "matmul": rates,
        "rounds": max_rounds,
        "threads": torch.get_num_threads(),
        "rows": [row.to_dict() for row in rows],
        "missing": missing,
    }


if __name__ == "__main__":
    main()
