"""Re-run the papers' claims, judge them by the rule in claim.py, and write what came of it.

    python -m benchmarks.claims laptop --cifar data/cifar10        (make claims: about 40 minutes on 2 cores)
    python -m benchmarks.claims gpu --cifar data/cifar10           (make claims-full: sized for a GPU hour; not run yet)
    python -m benchmarks.claims photos                             (make claims where CIFAR-10 is not at hand: this,
    python -m benchmarks.claims digits                              and this)

Everything is kept in --out; the same command goes on where it was stopped. It writes claims.json and from it alone
claims.html; with --readme, the results are kept in benchmarks/claims/found too, of which the README's tables are made.
`--only maetok,karl-target` runs those systems' claims, or those claims. `--longer 4` trains everything for four times
the steps, `--wider 2` models of twice the width, `--full` every arm that the GPU's scale has, each in a folder beside,
which the pages without it then show as well.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from workbench.core.errors import UserError

from .arms import Scale
from .scales import SCALES


def main() -> None:
    """Read the command line; run; write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scale", choices=list(SCALES))
    parser.add_argument(
        "--cifar", type=Path, default=os.environ.get("CIFAR10"), help="a folder; or CIFAR10=FOLDER"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="runs and results; claims/SCALE if not said"
    )
    parser.add_argument("--longer", type=int, default=1, help="times the steps")
    parser.add_argument("--wider", type=int, default=1, help="times the width of every model")
    parser.add_argument(
        "--full", action="store_true", help="every arm, also those that a laptop's table leaves out"
    )
    parser.add_argument(
        "--only",
        default="",
        help="systems, by the names of their modules, or claims, by their keys",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--workers", type=int, default=2, help="processes side by side, of one thread each"
    )
    parser.add_argument(
        "--readme", type=Path, help="keep the results with the code, and fill this file's tables"
    )
    asked = parser.parse_args()
    if asked.readme and asked.out:
        sys.exit(
            "--readme keeps results under the scale's name; leave --out away, or write that folder's page alone."
        )
    more = (
        (asked.longer > 1, f"-{asked.longer}x"),
        (asked.wider > 1, f"-{asked.wider}w"),
        (asked.full, "-full"),
    )
    beside = "".join(name for is_asked, name in more if is_asked)
    out = asked.out or Path("claims") / f"{asked.scale}{beside}"
    try:
        scale = SCALES[asked.scale].stretched(asked.longer).widened(asked.wider)
        scale = replace(scale, full=scale.full or asked.full)
        run(
            scale,
            out,
            asked.cifar,
            asked.only.split(",") if asked.only else [],
            asked.seeds,
            asked.workers,
        )
    except UserError as error:
        sys.exit(str(error))
    from .page import write

    write(out, asked.readme)
    print(f"{out / 'claims.json'}\n{out / 'claims.html'}")


def run(
    scale: Scale, out: Path, cifar: Path | None, only: list[str], seeds: int, workers: int
) -> None:
    """Train and measure whatever is not there yet, then write claims.json."""
    from .results import save
    from .scales import prepared
    from .work import Step, claims, work

    out.mkdir(parents=True, exist_ok=True)
    varied = (
        scale != SCALES[scale.name]
    )  # has the data and the feature extractor of what it is a variation of
    scale = prepared(scale, out.with_name(scale.name) if varied else out, cifar)
    chosen = [claim for claim in claims(only) if claim.arms(scale)]
    steps = [
        Step(arm, seed, claim.key)
        for claim in chosen
        for arm in claim.arms(scale).values()
        for seed in range(seeds)
    ]
    work(steps, scale, out, workers)
    save(out, scale, chosen, seeds)


if __name__ == "__main__":
    main()
