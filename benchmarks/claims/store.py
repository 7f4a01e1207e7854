"""Results as small files: `setting.json` describes a scale, and each claim has one file.

A list of numbers, one per seed, is one line, so that a new result is a readable diff.
"""

import json
import re
from pathlib import Path
from typing import Any

from workbench.storage.atomic import write_text

STORED_RESULTS = Path(__file__).parent / "results"  # the results that are part of the repository
SIGNIFICANT_DIGITS = 6
SETTING = "setting.json"
RUN_ENTRIES = ("date", "machine", "versions")  # of a setting, which differ between runs
_NUMBER = r"(?:-?[\d.]+(?:e[-+]?\d+)?|null)"
NUMBERS = re.compile(rf"\[\s*{_NUMBER}(?:,\s*{_NUMBER})*\s*\]")


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write a setting and its claims into a folder; files of other claims in it stay.

    If there are other claims, the setting keeps their date, machine and versions; each claim has
    its own date.

    Parameters
    ----------
    folder : Path
        For example `claims/laptop/results`. It is created if necessary.
    results : dict
        The setting, and under `claims` a list of claims with their keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    setting = {name: value for name, value in results.items() if name != "claims"}
    stored = {path.stem for path in folder.glob("*.json")} - {Path(SETTING).stem}
    if stored - {claim["key"] for claim in results["claims"]}:
        # The minutes are those of some claims. Claims share runs, so minutes cannot be added.
        setting["minutes"] = None
        if (folder / SETTING).exists():
            earlier = _read(folder / SETTING)
            setting |= {name: earlier[name] for name in RUN_ENTRIES if name in earlier}
    for claim in results["claims"]:
        write_text(folder / f"{claim['key']}.json", _to_text(claim))
    write_text(folder / SETTING, _to_text(setting))


def read_results(folder: Path, order: list[str]) -> dict[str, Any]:
    """Read what `write_results` wrote, with the claims in a given order of keys.

    Claims whose keys are not in the order follow at the end.
    """
    results = _read(folder / SETTING)
    claims = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    del claims[Path(SETTING).stem]
    keys = [key for key in order if key in claims]
    keys += [key for key in claims if key not in keys]
    return {**results, "claims": [claims[key] for key in keys]}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _to_text(value: Any) -> str:
    text = json.dumps(_rounded(value), indent=1, ensure_ascii=False, allow_nan=False)
    return NUMBERS.sub(lambda match: " ".join(match[0].split()), text) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value
