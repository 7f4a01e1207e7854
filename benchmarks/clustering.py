"""Time, peak memory and held-out error of building a codebook, per codebook size and builder.

    python benchmarks/clustering.py --codes 1024,16384,65536,500000 --per-code 10 --dim 16

Features are drawn from a mixture of Gaussians whose weights follow Zipf's law, which is roughly the
distribution of patches of natural images. Each row is measured in a process of its own, so that its
peak memory is its own. `features` is the memory of the features themselves. `used` is the number of
codes that 20,000 held-out features use. Above 65,536 codes, two-level clustering ends without a
pass over all codes.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Two-level clustering ends with a pass of N K d products up to this codebook size.
MAX_CODES_OF_FINAL_PASS = 65_536
NUM_MODES = 2000
NUM_HELD_OUT = 20_000


def features(count: int, dim: int, seed: int) -> "torch.Tensor":
    """Draw features from Gaussians, the k-th of which has a weight proportional to 1 / k."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(NUM_MODES, dim, generator=torch.Generator().manual_seed(0))
    weights = 1 / torch.arange(1, NUM_MODES + 1).float()
    modes = torch.multinomial(weights, count, replacement=True, generator=generator)
    return means[modes] + torch.randn(count, dim, generator=generator)


def peak_memory_mb() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Build one codebook.

    Returns
    -------
    dict
        The case, seconds, memory in MB, the number of codes that held-out features use, and their
        error as a fraction of their variance.
    """
    import torch

    from workbench.quantizers.clustering import cluster
    from workbench.quantizers.nearest import nearest_code

    rows = features(case["codes"] * case["per_code"], case["dim"], case["seed"])
    features_mb = peak_memory_mb()
    start = time.perf_counter()
    codebook = cluster(
        rows,
        case["codes"],
        builder=case["builder"],
        rounds=5,
        passes=int(case["codes"] <= MAX_CODES_OF_FINAL_PASS),
        seed=case["seed"],
    )
    seconds = time.perf_counter() - start
    peak_mb = peak_memory_mb()
    held_out = features(NUM_HELD_OUT, case["dim"], case["seed"] + 1)
    codes = nearest_code(held_out, codebook)
    error = (held_out - codebook[codes]).square().sum()
    variance = (held_out - held_out.mean(dim=0)).square().sum()
    return case | {
        "seconds": seconds,
        "peak": peak_mb,
        "features": features_mb,
        "used": len(torch.unique(codes)),
        "error": (error / variance).item(),
    }


def main() -> None:
    """Measure every case in a process of its own, and print a table."""
    if sys.argv[1:2] == ["case"]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codes", default="1024,16384,65536", help="codebook sizes")
    parser.add_argument("--builders", default="two-level,flat,faiss")
    parser.add_argument(
        "--most-flat", type=int, default=16384, help="largest codebook that is clustered flat"
    )
    parser.add_argument("--per-code", type=int, default=20, help="features per code")
    parser.add_argument("--dim", type=int, default=16, help="channels of a feature")
    arguments = parser.parse_args()
    names = ("codes", "builder", "N", "seconds", "features, MB", "peak, MB", "error", "used")
    print("".join(f"{name:>14}" for name in names))
    for codes in map(int, arguments.codes.split(",")):
        for builder in arguments.builders.split(","):
            if builder in ("flat", "faiss") and codes > arguments.most_flat:
                continue
            case = {
                "codes": codes,
                "builder": builder,
                "per_code": arguments.per_code,
                "dim": arguments.dim,
                "seed": 0,
            }
            command = [sys.executable, __file__, "case", json.dumps(case)]
            process = subprocess.run(command, capture_output=True, text=True)
            if process.returncode:
                sys.exit(process.stderr)
            row = json.loads(process.stdout)
            print(
                f"{codes:>14}{builder:>14}{codes * arguments.per_code:>14}{row['seconds']:>14.1f}"
                f"{row['features']:>14.0f}{row['peak']:>14.0f}{row['error']:>14.4f}"
                f"{row['used']:>14}",
                flush=True,
            )


if __name__ == "__main__":
    main()
