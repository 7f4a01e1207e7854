"""From runs to claims.json: what was measured of every arm and seed, the effects, the verdicts, and what it took."""

import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.collect import versions
from workbench.storage.atomic import write_text
from workbench.storage.run import Run

from .arms import Arm, Scale
from .claim import Claim, Numbers, judged, least
from .lab import Lab
from .scales import SCALES


def measured(claim: Claim, arm: Arm, seed: int, scale: Scale, out: Path) -> Numbers:
    """What a claim measures of an arm's run, once."""
    run, lab = Run(arm.folder(out, seed)), Lab(scale, out)
    path = run.folder / "claims" / f"{claim.key}.json"
    if not path.exists():
        found = lab.measure(run) | (claim.measure(run, lab) if claim.measure else {})
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(found, indent=1))
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def timed(run: Path, what: str) -> Iterator[None]:
    """Add the seconds that something takes to what is known of a run: of this core's work, or beside a GPU of time."""
    import torch

    clock = (
        time.monotonic if torch.cuda.is_available() else time.process_time
    )  # others' work on this core is not ours
    begun = clock()
    yield
    path = run / "claims" / "seconds.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    spent = clock() - begun
    if spent > 1:  # else it was there already
        write_text(path, json.dumps(known | {what: known.get(what, 0) + spent}))


def save(out: Path, scale: Scale, claims: Sequence[Claim], seeds: int) -> None:
    """Write claims.json: all that the page and the README's table say."""
    longer, wider, full = (
        scale.longer > 1,
        scale.wider > 1,
        scale.full and not SCALES[scale.name].full,
    )
    told = {
        "scale": scale.name,
        "data": f"{scale.data}, {scale.images['side']} x {scale.images['side']} pixels",
        "images": scale.images.get("limit"),
        "drawn": scale.drawn,
        "feature_extractor": Path(scale.feature_extractor).name,
        "teacher": scale.teacher.removeprefix("standardised:").split(":")[
            -2 if scale.data == "cifar10" else -1
        ],
        "seeds": seeds,
        "longer": scale.longer,
        "wider": scale.wider,
        "full": full,
        "command": "CIFAR10=FOLDER " * (scale.data == "cifar10")
        + f"python -m benchmarks.claims {scale.name}"
        + f" --longer {scale.longer}" * longer
        + f" --wider {scale.wider}" * wider
        + " --full" * full,
        "machine": machine(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "minutes": _minutes(
            [arm for claim in claims for arm in claim.arms(scale).values()], out, seeds
        ),
        "claims": [_told(claim, scale, out, seeds) for claim in claims],
    }
    write_text(out / "claims.json", json.dumps(_defined(told), indent=1, allow_nan=False))


def _defined(told: Any) -> Any:
    """The same with None for what is undefined, such as a correlation with a constant: JSON has no NaN."""
    if isinstance(told, dict):
        return {key: _defined(value) for key, value in told.items()}
    if isinstance(told, list):
        return [_defined(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


def machine() -> str:
    """What kind it is."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{os.cpu_count()} {platform.machine()} cores, {sys.platform}"


def _told(claim: Claim, scale: Scale, out: Path, seeds: int) -> dict[str, Any]:
    arms = claim.arms(scale)
    rows = [
        {label: measured(claim, arm, seed, scale, out) for label, arm in arms.items()}
        for seed in range(seeds)
    ]
    per_seed = [claim.effects(of) for of in rows]
    effects = {name: [found[name] for found in per_seed] for name in per_seed[0]}
    verdicts = {name: judged(values) for name, values in effects.items()}
    details = [claim.details(of) for of in rows] if claim.details else []
    return {
        "key": claim.key,
        "system": claim.system,
        "says": claim.says,
        "source": claim.source,
        "rule": claim.rule,
        "verdict": least(list(verdicts.values())),
        "effects": [{"name": n, "values": v, "verdict": verdicts[n]} for n, v in effects.items()],
        "arms": {
            label: {
                "recipe": arm.recipe,
                "changes": json.loads(arm.told),
                "runs": [arm.folder(out, seed).name for seed in range(seeds)],
                "numbers": {
                    name: [of[label].get(name) for of in rows] for name in sorted({*rows[0][label]})
                },
            }
            for label, arm in arms.items()
        },
        "shows": list(claim.shows),
        "details": {name: [of.get(name) for of in details] for name in details[0]}
        if details
        else {},
        "note": claim.note,
        "minutes": _minutes(arms.values(), out, seeds),
    }


def _minutes(arms: Any, out: Path, seeds: int) -> float:
    """Of one process: training and measuring the arms and what they need, each once, however many share it."""
    seen = dict.fromkeys(one for arm in arms for one in arm.chain)
    paths = [
        arm.folder(out, seed) / "claims" / "seconds.json" for arm in seen for seed in range(seeds)
    ]
    return (
        sum(
            sum(json.loads(path.read_text(encoding="utf-8")).values())
            for path in paths
            if path.exists()
        )
        / 60
    )
