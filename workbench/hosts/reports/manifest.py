"""Files next to a report: its manifest, its numbers and its thumbnail.

`NAME.manifest.json` records how the report was made. `NAME.results.parquet` holds all its numbers
as one long table with the columns section, row, column, and `value`, or `text` if the entry is not
a number:

    long = pd.read_parquet("tokenizer.results.parquet")
    long[long.section == "codebook_usage"].pivot(index="row", columns="column", values="value")
"""

import hashlib
import importlib.metadata as metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import workbench
from workbench.core.errors import RunError
from workbench.hosts.reports.images import images_of
from workbench.hosts.reports.sections import STATES, Section
from workbench.storage.atomic import atomic_path, read_json, write_text
from workbench.storage.evidence import Evidence, verify_evidence
from workbench.storage.files import is_int, is_number
from workbench.storage.run import Run
from workbench.workspace.workspace import Workspace

FORMAT = 2
# Names that format 1 used.
RENAMED_KEYS = {"absent": "not_applicable", "missed": "not_run", "made": "created"}
RENAMED_RUN_KEYS = {"tokens": "num_tokens"}
RENAMED_SECTION_KEYS = {"said": "summary"}
FINGERPRINT_LENGTH = 32  # hexadecimal digits
GIT_TIMEOUT_S = 10
CHECKOUT = Path(__file__).resolve().parents[3]  # the folder that contains the package
PACKAGES = (
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "umap-learn",
    "plotly",
    "papermill",
    "torch",
)
DTYPES = {"section": "str", "row": "int64", "column": "str", "value": "float64", "text": "str"}


def manifest_path(page: Path) -> Path:
    """Return the path of a report's manifest."""
    return page.with_name(f"{page.stem}.manifest.json")


def results_path(page: Path) -> Path:
    """Return the path of a report's numbers."""
    return page.with_name(f"{page.stem}.results.parquet")


def thumbnail_path(page: Path) -> Path:
    """Return the path of a report's thumbnail."""
    return page.with_name(f"{page.stem}.png")


def build_manifest(
    template: Path, parameters: dict[str, Any], runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return everything that the numbers of a report depend on.

    Parameters
    ----------
    template : Path
        Notebook, or the module of a report without a notebook.
    parameters : dict
        Parameters of the report.
    runs : sequence of mapping
        `folder` and `step` of each run.

    Returns
    -------
    dict
        Parameters, package versions, git commit of the package, and fingerprints of template, data,
        checkpoints and evidence, as JSON stores it.
    """
    return {
        "format": FORMAT,
        "template": template.stem,
        "template_fingerprint": fingerprint([template]),
        "parameters": parameters,
        "seed": parameters.get("seed"),
        "runs": [_describe_run(Run(run["folder"]), run["step"]) for run in runs],
        "versions": {"python": platform.python_version()} | _package_versions(),
        "git": _git_state(),
    }


def section_entries(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the manifest's entries about sections: the list, and the number in each state."""
    states = [section.state for section in sections]
    entries = []
    for section in sections:
        entry = asdict(section)
        del entry["table"]
        entries.append(entry)
    counts = {state: states.count(state) for state in STATES}
    return {"sections": entries, "left_out": unique_left_out(sections)} | counts


def unique_left_out(
    sections: Iterable[Section], more_records: Iterable[dict[str, str]] = ()
) -> list[dict[str, str]]:
    """Return `run` and `reason` of every run that is missing in a section, each run once."""
    records = [*more_records, *(record for section in sections for record in section.left_out)]
    by_run = {record["run"]: record for record in reversed(records)}
    return sorted(by_run.values(), key=lambda record: record["run"])


def results_table(sections: Iterable[Section]) -> pd.DataFrame:
    """Return the tables of all sections as one long table."""
    parts = [
        _long_table(section.name, section.table)
        for section in sections
        if section.table is not None and section.table.size
    ]
    if not parts:
        return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in DTYPES.items()})
    return pd.concat(parts, ignore_index=True)


def write_manifest(page: Path, manifest: dict[str, Any], results: pd.DataFrame) -> None:
    """Write numbers and manifest next to a report.

    The manifest is written last: if it exists, the report is complete.
    """
    with atomic_path(results_path(page)) as path:
        results.to_parquet(path, index=False)
    write_text(manifest_path(page), json.dumps(manifest, indent=1, default=str) + "\n")


def read_manifest(page: Path) -> dict[str, Any]:
    """Return a report's manifest; empty if it is missing, damaged or of a newer format."""
    try:
        manifest: dict[str, Any] = read_json(manifest_path(page), {})
    except RunError:
        return {}
    version = manifest.get("format", math.inf)
    if not is_int(version) or version > FORMAT or not _has_valid_types(manifest):
        return {}
    return _migrated(manifest) if version < FORMAT else manifest


def fingerprint(paths: Sequence[Path]) -> str:
    """Return the first half of the SHA-256 of some files and their names, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


def _has_valid_types(manifest: Mapping[str, Any]) -> bool:
    """Return True if the entries that the gallery and sweeps read have the right types."""
    parameters = manifest.get("parameters", {})
    runs = manifest.get("runs", [])
    sections = manifest.get("sections", [])
    lists = (runs, sections, manifest.get("left_out", []))
    if not isinstance(parameters, dict) or not all(isinstance(entry, list) for entry in lists):
        return False
    if not all(isinstance(entry, dict) for entries in lists for entry in entries):
        return False
    if not isinstance(manifest.get("template"), str):
        return False
    return all(isinstance(section.get("state"), str) for section in sections) and all(
        isinstance(run.get("folder", ""), str) and _is_optional_number(run.get("psnr"))
        for run in runs
    )


def _is_optional_number(value: Any) -> bool:
    return value is None or is_number(value)


def _migrated(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of format 1 with the names of format 2."""
    states = {"absent": "not_applicable", "missed": "not_run"}
    current = _renamed(manifest, RENAMED_KEYS)
    current["runs"] = [_renamed(run, RENAMED_RUN_KEYS) for run in manifest.get("runs", ())]
    current["sections"] = []
    for section in manifest.get("sections", ()):
        entry = _renamed(section, RENAMED_SECTION_KEYS)
        entry["state"] = states.get(entry["state"], entry["state"])
        current["sections"].append(entry)
    return current


def _renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in record.items()}


def _long_table(section: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return a section's table in long form, row by row."""
    parts = []
    for name in table:
        column = table[name]
        is_number = pd.api.types.is_numeric_dtype(column)
        is_real = is_number and not pd.api.types.is_complex_dtype(column)
        texts = [None if value is None else str(value) for value in column]
        part = {
            "section": section,
            "row": np.arange(len(column)),
            "column": str(name),
            "value": column.astype(float).to_numpy() if is_real else np.nan,
            "text": None if is_real else np.array(texts, dtype=object),
        }
        parts.append(pd.DataFrame(part).astype(object))
    long = pd.concat(parts, ignore_index=True).astype(DTYPES)
    return long.sort_values("row", kind="stable", ignore_index=True)


def _describe_run(run: Run, step: int) -> dict[str, Any]:
    verify_evidence(run.evidence_folder(step))
    provenance = Evidence.open(run.evidence_folder(step), only=()).provenance
    psnr = Workspace(run.folder).table().iloc[0]["PSNR (dB)"]
    checkpoint = run.folder / f"step-{step:06d}.safetensors"
    arrays = sorted((run.folder / "evidence" / f"step-{step:06d}").glob("*.npy"))
    image_fingerprint = provenance.get("fingerprint")
    training_data = (run.tokenizer or run).config.data
    if not image_fingerprint and training_data is not None:
        image_fingerprint = training_data.fingerprint
    data = {name: provenance.get(name) for name in ("data", "split", "n")}
    if "of" in provenance:  # samples of a generator have no total
        data["of"] = provenance["of"]
    return {
        "name": run.name,
        "folder": str(run.folder),
        "kind": run.kind,
        "step": step,
        "num_tokens": run.config.settings.get("num_tokens"),
        "psnr": None if np.isnan(psnr) else round(float(psnr), 3),
        "seed": run.config.training.get("seed"),
        "data": data | {"fingerprint": image_fingerprint},
        "images": images_of(run),
        "checkpoint": fingerprint([checkpoint]) if checkpoint.exists() else None,
        "imported": provenance.get("imported"),  # the address and the digests of its files
        "tokenizer": _describe_tokenizer(run),
        "evidence": fingerprint(arrays),
        "versions": provenance.get("versions", {}),
    }


def _describe_tokenizer(run: Run) -> dict[str, Any] | None:
    """Return the name and the origin of a generator's tokenizer; None without one."""
    if run.tokenizer is None:
        return None
    imported = run.tokenizer.config.imported
    return {
        "name": run.tokenizer.name,
        "imported": None if imported is None else imported.model_dump(mode="json"),
    }


def _package_versions() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on, without missing ones."""
    versions = {"workbench": workbench.__version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_state() -> dict[str, Any] | None:
    """Return the commit of this package's checkout and whether files differ from it.

    None if the package is not in a checkout. Git is not run elsewhere, as the configuration of a
    repository may name programs that git starts.
    """
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed": bool(changes.strip())}


def _git(*arguments: str) -> str:
    options = ["-c", "core.fsmonitor=", "-c", "core.hooksPath=/dev/null", "--no-optional-locks"]
    command = ["git", *options, "-C", str(CHECKOUT), *arguments]
    # Variables such as GIT_DIR, which a hook sets, name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=GIT_TIMEOUT_S,
        check=True,
        env=environment,
    ).stdout
