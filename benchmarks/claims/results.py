"""From trained runs to results: measurements, effects, verdicts and times."""

import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.collect import versions
from workbench.storage.atomic import write_text
from workbench.storage.run import Run

from .arms import Arm, Scale
from .claim import Claim, Numbers, judge_effect, worst_verdict
from .lab import Lab
from .scales import SCALES


def measured(claim: Claim, arm: Arm, seed: int, scale: Scale, out: Path) -> Numbers:
    """Measure what a claim needs of an arm's run, or read it if it was measured before."""
    run, lab = Run(arm.folder(out, seed)), Lab(scale, out)
    path = run.folder / "claims" / f"{claim.key}.json"
    if not path.exists():
        numbers = lab.measure(run)
        if claim.measure is not None:
            numbers = numbers | claim.measure(run, lab)
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(numbers, indent=1))
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def timed(run: Path, activity: str) -> Iterator[None]:
    """Add the seconds of an activity to those of a run: CPU time, or elapsed time on a GPU."""
    import torch

    # CPU time leaves out the work of other processes on the same core.
    clock = time.monotonic if torch.cuda.is_available() else time.process_time
    start = clock()
    yield
    path = run / "claims" / "seconds.json"
    path.parent.mkdir(exist_ok=True)
    seconds = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    elapsed = clock() - start
    if elapsed > 1:  # less means that the result was read, not computed
        seconds[activity] = seconds.get(activity, 0) + elapsed
        write_text(path, json.dumps(seconds))


def summarize(out: Path, scale: Scale, claims: Sequence[Claim], seeds: int) -> dict[str, Any]:
    """Return the setting of a scale and the results of its claims, as JSON values.

    Parameters
    ----------
    out : Path
        Folder with the runs.
    scale : Scale
        The scale at which they were trained.
    claims : sequence of Claim
        The claims to summarize.
    seeds : int
        Number of seeds.
    """
    arms = [arm for claim in claims for arm in claim.arms(scale).values()]
    teacher = scale.teacher.removeprefix("standardised:").split(":")
    results = {
        "scale": scale.name,
        "data": f"{scale.data}, {scale.images['side']} x {scale.images['side']} pixels",
        "images": scale.images.get("limit"),
        "samples": scale.num_samples,
        "teacher": teacher[-2] if scale.data == "cifar10" else teacher[-1],
        "seeds": seeds,
        "longer": scale.longer,
        "wider": scale.wider,
        "released": scale.released,
        "full": scale.full and not SCALES[scale.name].full,
        "command": _command(scale),
        "machine": _machine(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "minutes": _minutes(arms, out, seeds),
        "claims": [_summarize_claim(claim, scale, out, seeds) for claim in claims],
    }
    return _without_nan(results)


def _command(scale: Scale) -> str:
    words = ["CIFAR10=FOLDER"] if scale.data == "cifar10" else []
    words += ["python", "-m", "benchmarks.claims", scale.name]
    if scale.longer > 1:
        words += ["--longer", str(scale.longer)]
    if scale.wider > 1:
        words += ["--wider", str(scale.wider)]
    if scale.full and not SCALES[scale.name].full:
        words += ["--full"]
    if scale.released:
        words += ["--released"]
    return " ".join(words)


def _machine() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{os.cpu_count()} {platform.machine()} cores, {sys.platform}"


def _summarize_claim(claim: Claim, scale: Scale, out: Path, seeds: int) -> dict[str, Any]:
    arms = claim.arms(scale)
    rows = [
        {label: measured(claim, arm, seed, scale, out) for label, arm in arms.items()}
        for seed in range(seeds)
    ]
    per_seed = [claim.effects(row) for row in rows]
    effects = {name: [numbers[name] for numbers in per_seed] for name in per_seed[0]}
    verdicts = {name: judge_effect(values) for name, values in effects.items()}
    details = [claim.details(row) for row in rows] if claim.details else [{}]
    return {
        "key": claim.key,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "verdict": worst_verdict(list(verdicts.values())),
        "effects": [
            {"name": name, "values": values, "verdict": verdicts[name]}
            for name, values in effects.items()
        ],
        "arms": {
            label: {
                "recipe": arm.recipe,
                "changes": json.loads(arm.changes_without_folders),
                "seconds": 60 * _minutes_of([arm], out, seeds) / seeds,
                "numbers": {
                    name: [row[label].get(name) for row in rows] for name in sorted(rows[0][label])
                },
            }
            for label, arm in arms.items()
        },
        "details": {
            name: [row.get(name) for row in details]
            for name in dict.fromkeys(name for row in details for name in row)
        },
        "minutes": _minutes(arms.values(), out, seeds),
    }


def _minutes(arms: Iterable[Arm], out: Path, seeds: int) -> float:
    """Return the minutes of one process to train and measure arms and what they need, each once."""
    return _minutes_of(dict.fromkeys(link for arm in arms for link in arm.chain), out, seeds)


def _minutes_of(arms: Iterable[Arm], out: Path, seeds: int) -> float:
    """Return the minutes of one process for arms alone, without what they need."""
    folders = [arm.folder(out, seed) / "claims" for arm in arms for seed in range(seeds)]
    paths = [folder / "seconds.json" for folder in folders]
    seconds = [
        sum(json.loads(path.read_text(encoding="utf-8")).values())
        for path in paths
        if path.exists()
    ]
    return sum(seconds) / 60


def _without_nan(value: Any) -> Any:
    """Replace undefined numbers, such as a correlation with a constant, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
