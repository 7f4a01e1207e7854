"""Re-run the papers' claims and decide their verdicts by the rule in claim.py.

    python -m benchmarks.claims laptop --cifar data/cifar10
    python -m benchmarks.claims photos
    python -m benchmarks.claims digits
    python -m benchmarks.claims gpu --cifar data/cifar10
    python -m benchmarks.claims --tables

`make claims` runs the first one where CIFAR-10 is given, and the next two otherwise, in 33 minutes
on two cores; `make claims-full` is the fourth, which has not been run yet. The last one writes
docs/claims.md from the stored results.

Runs and results are stored in --out, and the same command resumes. It writes one file per claim,
and from them claims.html. With --keep, the results also become part of the repository, and
docs/claims.md and the README's summary are written from them. `--only maetok,karl-target` runs the
claims of those systems, or those claims; `families` and `transforms` run only by name, and
`--arms 6` trains the first six tokenizers of each family. `--longer 4` trains four times the steps,
`--wider 2` uses models of twice the width, `--full` runs every arm of the GPU scale, and
`--released` uses the networks of the released SoftVQ-VAE, MAETok, VA-VAE and SiT. Each of these is
a variant with a folder of its own, which the pages of the scale show next to it.
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
    """Read the command line, run the claims and write the results."""
    arguments = _parse_arguments()
    from .calibration import write_calibration
    from .page import write_page
    from .store import STORED_RESULTS, read_results, write_results
    from .tables import write_tables

    try:
        if arguments.scale is not None:
            out = arguments.out or Path("claims") / _variant_folder(arguments)
            _run(arguments, out)
            write_page(out)
            print(out / "claims.html")
            if arguments.keep:
                write_results(STORED_RESULTS / out.name, read_results(out / "results", []))
        if arguments.keep or arguments.tables:
            write_tables()
            write_calibration()
    except UserError as error:
        sys.exit(str(error))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scale", nargs="?", choices=list(SCALES))
    parser.add_argument(
        "--cifar",
        type=Path,
        default=os.environ.get("CIFAR10"),
        help="folder of CIFAR-10; default: $CIFAR10",
    )
    parser.add_argument("--out", type=Path, help="runs and results; default: claims/SCALE")
    parser.add_argument("--longer", type=int, default=1, help="multiple of the steps")
    parser.add_argument("--wider", type=int, default=1, help="multiple of the width of the models")
    parser.add_argument("--full", action="store_true", help="every arm of the GPU scale")
    parser.add_argument(
        "--released",
        action="store_true",
        help="the networks of the released SoftVQ-VAE, MAETok, VA-VAE and SiT",
    )
    parser.add_argument("--only", default="", help="names of systems or keys of claims")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", type=int, help="first tokenizers of each family (families)")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--keep", action="store_true", help="keep the results in the repository")
    parser.add_argument("--tables", action="store_true", help="write the tables of stored results")
    arguments = parser.parse_args()
    if arguments.scale is None and not arguments.tables:
        parser.error("name a scale, or use --tables")
    if arguments.keep and arguments.arms:
        parser.error("--keep stores whole claims; leave --arms away")
    if arguments.keep and arguments.out:
        parser.error("--keep stores results under the scale's name; leave --out away")
    return arguments


def _variant_folder(arguments: argparse.Namespace) -> str:
    name = arguments.scale
    if arguments.longer > 1:
        name += f"-{arguments.longer}x"
    if arguments.wider > 1:
        name += f"-{arguments.wider}w"
    if arguments.released:
        name += "-released"
    return f"{name}-full" if arguments.full else name


def _run(arguments: argparse.Namespace, out: Path) -> None:
    """Train and measure what is missing, then write the results."""
    from .results import summarize
    from .scales import prepared
    from .store import write_results
    from .work import Step, select_claims, work

    out.mkdir(parents=True, exist_ok=True)
    scale: Scale = SCALES[arguments.scale].stretched(arguments.longer).widened(arguments.wider)
    scale = replace(scale, full=scale.full or arguments.full, released=arguments.released)
    # A variant uses the images and the feature extractor of its scale.
    is_variant = scale != SCALES[scale.name]
    shared = out.with_name(scale.name) if is_variant else out
    scale = replace(prepared(scale, shared, arguments.cifar), max_arms=arguments.arms)
    names = arguments.only.split(",") if arguments.only else []
    claims = [claim for claim in select_claims(names) if claim.arms(scale)]
    steps = [
        Step(arm, seed, claim.key)
        for claim in claims
        for arm in claim.arms(scale).values()
        for seed in range(arguments.seeds)
    ]
    work(steps, scale, out, arguments.workers)
    write_results(out / "results", summarize(out, scale, claims, arguments.seeds))


if __name__ == "__main__":
    main()
