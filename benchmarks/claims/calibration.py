"""The tokenizers of the stored claims as a table of the package, one row per generator."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workbench.analysis.runs.diagnostics import BY_NAME
from workbench.storage.atomic import write_text
from workbench.storage.calibration import CLAIM_COLUMNS, CLAIMS, SEPARATOR

from .comparison import variant_name
from .store import SETTING, STORED_RESULTS

# Claims whose arms are generators on different tokenizers; the second has arms of two lengths.
PREDICTION = "workbench-prediction"
TRANSFORMS = "transforms-reconstruction"
METRICS = (
    *BY_NAME,
    "rFD",
    "rFD free",
    "floor",
    "floor free",
    "class Gaussians",
    "class Gaussians free",
)


def write_calibration(path: Path = CLAIMS, root: Path = STORED_RESULTS) -> None:
    """Write the table from the stored results."""
    write_text(path, calibration_text(root))


def calibration_text(root: Path = STORED_RESULTS) -> str:
    """Return the table as text; columns that no row has are left out."""
    rows = [row for folder in sorted(root.glob("*/")) for row in _rows(folder)]
    names = [name for name in METRICS if any(name in row for row in rows)]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*CLAIM_COLUMNS, *names], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    setting = json.loads((folder / SETTING).read_text(encoding="utf-8"))
    for key in (PREDICTION, TRANSFORMS):
        path = folder / f"{key}.json"
        if not path.exists():
            continue
        for label, arm in json.loads(path.read_text(encoding="utf-8"))["arms"].items():
            yield _row(setting, key, label, arm)


def _row(setting: dict[str, Any], key: str, label: str, arm: dict[str, Any]) -> dict[str, Any]:
    family, _, tokenizer = label.partition(": ")
    if key == TRANSFORMS:
        family = "linear maps"
        tokenizer = label.rpartition(", ")[0]
    variant = variant_name(setting)
    numbers = arm["numbers"]
    row = {
        "scale": f"{setting['scale']}, {variant}" if variant else setting["scale"],
        "images": setting["data"],
        "family": family,
        "tokenizer": tokenizer,
        "steps": arm["changes"]["steps"],
        "seconds": _text(arm["seconds"]) if "seconds" in arm else "",
        "gfd": SEPARATOR.join(map(_text, numbers["gFD"])),
        "gfd_free": SEPARATOR.join(map(_text, numbers["gFD free"])),
    }
    present = {name: numbers[name] for name in METRICS if None not in numbers.get(name, [None])}
    return row | {name: _text(float(np.mean(values))) for name, values in present.items()}


def _text(value: float) -> str:
    return f"{value:.5g}"
