"""Building a codebook from N features: time, peak memory and held-out error by number of codes and builder.

    python benchmarks/clustering.py --codes 1024,16384,65536,500000 --per-code 10 --dim 16

Features are a mixture of Gaussians whose weights follow Zipf's law, as patches of natural images do roughly. Each row
is a process of its own, so that its peak memory is its own; `features` is what the features themselves take; `used`
counts the codes of 20,000 held-out features. Beyond 65,536 codes two levels end without a pass over all codes.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

ONE_PASS = 65536  # codes up to which two levels end with a pass of all features over all codes: N K d products
CASE = ("codes", "builder", "per_code", "dim", "seed")


def features(count: int, dim: int, seed: int) -> "torch.Tensor":
    """`count` draws from 2,000 Gaussians, the k-th as probable as 1 / k."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(2000, dim, generator=torch.Generator().manual_seed(0))
    which = torch.multinomial(
        1 / torch.arange(1, 2001).float(), count, replacement=True, generator=generator
    )
    return means[which] + torch.randn(count, dim, generator=generator)


def measure(case: dict) -> dict:
    """One codebook: seconds, peak memory in MB, codes used by held-out tokens, and their error beside the variance."""
    import torch

    from workbench.quantizers.clustering import cluster
    from workbench.quantizers.nearest import nearest_code

    rows = features(case["codes"] * case["per_code"], case["dim"], case["seed"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begun = time.perf_counter()
    passes = int(case["codes"] <= ONE_PASS)
    codebook = cluster(
        rows, case["codes"], builder=case["builder"], rounds=5, passes=passes, seed=case["seed"]
    )
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fresh = features(20_000, case["dim"], case["seed"] + 1)
    chosen = nearest_code(fresh, codebook)
    error = (fresh - codebook[chosen]).square().sum() / (fresh - fresh.mean(dim=0)).square().sum()
    told = {
        "seconds": seconds,
        "peak": peak,
        "features": before,
        "used": len(torch.unique(chosen)),
        "error": error.item(),
    }
    return case | told


def main() -> None:
    """Run every case in a process of its own and print a table."""
    if sys.argv[1] == "case":
        print(json.dumps(measure(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codes", default="1024,16384,65536")
    parser.add_argument("--builders", default="two-level,flat,faiss")
    parser.add_argument(
        "--most-flat", type=int, default=16384, help="more codes than these are not clustered flat"
    )
    parser.add_argument("--per-code", type=int, default=20)
    parser.add_argument("--dim", type=int, default=16)
    asked = parser.parse_args()
    names = ("codes", "builder", "N", "seconds", "features, MB", "peak, MB", "error", "used")
    print("".join(f"{name:>14}" for name in names))
    for codes in map(int, asked.codes.split(",")):
        for builder in asked.builders.split(","):
            if builder in ("flat", "faiss") and codes > asked.most_flat:
                continue
            case = dict(zip(CASE, (codes, builder, asked.per_code, asked.dim, 0), strict=True))
            said = subprocess.run(
                [sys.executable, __file__, "case", json.dumps(case)], capture_output=True, text=True
            )
            if said.returncode:
                sys.exit(said.stderr)
            row = json.loads(said.stdout)
            print(
                f"{codes:>14}{builder:>14}{codes * asked.per_code:>14}{row['seconds']:>14.1f}{row['features']:>14.0f}"
                f"{row['peak']:>14.0f}{row['error']:>14.4f}{row['used']:>14}",
                flush=True,
            )


if __name__ == "__main__":
    main()
