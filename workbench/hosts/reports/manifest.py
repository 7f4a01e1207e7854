"""What lies beside a report: `NAME.manifest.json`, how it was made, and `NAME.results.parquet`, all its numbers.

The results are one long table, a row a number: section, row, column, and `value`, or `text` where it is none.

    long = pd.read_parquet("tokenizer.results.parquet")
    long[long.section == "codebook_usage"].pivot(index="row", columns="column", values="value")
"""

import hashlib
import importlib.metadata as metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.hosts.reports.sections import STATES, Section
from workbench.storage.atomic import atomic_path, read_json, write_text
from workbench.storage.run import Run
from workbench.workspace.workspace import Workspace

FORMAT = 1
PACKAGES = (
    "workbench",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "umap-learn",
    "plotly",
    "papermill",
    "torch",
)
COLUMNS = ("section", "row", "column", "value", "text")


def beside(page: Path) -> tuple[Path, Path, Path]:
    """Where a report's manifest, results and picture lie."""
    return tuple(
        page.with_name(page.stem + end) for end in (".manifest.json", ".results.parquet", ".png")
    )


def made_of(
    template: Path, parameters: dict[str, Any], runs: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """All that a report's numbers depend on: parameters, versions, fingerprints of template, data and checkpoints."""
    return {
        "format": FORMAT,
        "template": template.stem,
        "template_fingerprint": fingerprint([template]),
        "parameters": parameters,
        "seed": parameters.get("seed"),
        "runs": [_about(Run(told["folder"]), told["step"]) for told in runs],
        "versions": {"python": platform.python_version()} | _versions(),
        "git": _git(),
    }


def counted(sections: Sequence[Section]) -> dict[str, Any]:
    """The sections as a manifest keeps them, and how many became what."""
    told = [{name: value for name, value in asdict(s).items() if name != "table"} for s in sections]
    states = [s.state for s in sections]
    return {"sections": told, **{state: states.count(state) for state in STATES}}


def results(sections: Iterable[Section]) -> pd.DataFrame:
    """The tables of all sections as one long table."""
    parts = [_long(s.name, s.table) for s in sections if s.table is not None and s.table.size]
    if not parts:
        return pd.DataFrame(
            {name: pd.Series(dtype=kind) for name, kind in zip(COLUMNS, KINDS, strict=True)}
        )
    return pd.concat(parts, ignore_index=True)


def write(page: Path, manifest: dict[str, Any], numbers: pd.DataFrame) -> None:
    """Put both beside a report; the manifest last, which says that all is there."""
    told, table, _ = beside(page)
    with atomic_path(table) as place:
        numbers.to_parquet(place, index=False)
    write_text(told, json.dumps(manifest, indent=1, default=str) + "\n")


def read(page: Path) -> dict[str, Any]:
    """A report's manifest; empty where there is none, or a damaged or newer one."""
    told = read_json(beside(page)[0], {})
    return told if isinstance(told.get("format"), int) and told["format"] <= FORMAT else {}


KINDS = ("str", "int64", "str", "float64", "str")


def _long(name: str, table: pd.DataFrame) -> pd.DataFrame:
    columns = []
    for column in table:
        kept = table[column]
        plain = pd.api.types.is_numeric_dtype(kept) and not pd.api.types.is_complex_dtype(kept)
        value = kept.astype(float) if plain else np.full(len(kept), np.nan)
        text = [None] * len(kept) if plain else [None if one is None else str(one) for one in kept]
        columns.append((np.arange(len(kept)), [str(column)] * len(kept), value, text))
    rows, names, values, texts = (
        np.concatenate([np.asarray(c[i], object) for c in columns]) for i in range(4)
    )
    long = pd.DataFrame(
        dict(zip(COLUMNS, ([name] * len(rows), rows, names, values, texts), strict=True))
    )
    return long.astype(dict(zip(COLUMNS, KINDS, strict=True))).sort_values(
        ["row"], kind="stable", ignore_index=True
    )


def _about(run: Run, step: int) -> dict[str, Any]:
    evidence = run.evidence(step)
    told, row = evidence.provenance, Workspace(run.folder).table().iloc[0]
    checkpoint = run.folder / f"step-{step:06d}.safetensors"
    arrays = sorted((run.folder / "evidence" / f"step-{step:06d}").glob("*.npy"))
    psnr = row["PSNR (dB)"]
    images = told.get("fingerprint") or (run.tokenizer or run).config.get("data", {}).get(
        "fingerprint"
    )
    return {
        "name": run.name,
        "folder": str(run.folder),
        "kind": run.kind,
        "step": step,
        "tokens": run.config["settings"].get("num_tokens"),
        "psnr": None if np.isnan(psnr) else round(float(psnr), 3),
        "seed": run.config.get("training", {}).get("seed"),
        "data": {name: told.get(name) for name in ("data", "split", "n", "of")}
        | {"fingerprint": images},
        "checkpoint": fingerprint([checkpoint]) if checkpoint.exists() else None,
        "evidence": fingerprint(arrays),
        "versions": told.get("versions", {}),
    }


def fingerprint(paths: Sequence[Path]) -> str:
    """The first half of a SHA-256 of files, with their names."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.name.encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:32]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any] | None:
    """The commit of the folder we are in, and whether files differ from it; None outside of a checkout."""
    try:
        asked = [["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"]]
        sha, changed = (
            subprocess.run(a, capture_output=True, text=True, timeout=10, check=True).stdout
            for a in asked
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": sha.strip(), "changed": bool(changed.strip())}
