"""Header and footer of a report's page: title, progress, compared runs and provenance."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.glossary import tooltip
from workbench.hosts.reports.own_text import TEXT_PARAMETERS, markdown_html
from workbench.hosts.reports.rendering import render
from workbench.storage.provenance_file import is_held_out

MAX_NAMES = 3  # runs named in a title
SHORT_FINGERPRINT = 16  # hexadecimal digits shown


def page_title(manifest: Mapping[str, Any]) -> str:
    """Return the title of a report: the one that was requested, or template and runs."""
    parameters = manifest["parameters"]
    if parameters.get("title"):
        return str(parameters["title"])
    names = [run["name"] for run in manifest["runs"]]
    if not names:
        names = [Path(parameters.get("run") or parameters.get("folder") or "").name]
    title = f"{manifest['template'].capitalize()}: {', '.join(names[:MAX_NAMES])}"
    if len(names) > MAX_NAMES:
        title += f" and {len(names) - MAX_NAMES} more"
    return title.removesuffix(": ")


def header_html(manifest: Mapping[str, Any]) -> str:
    """Return the header of a page: title, primary run, progress, failures, compared runs."""
    sections = manifest["sections"]
    progress = f"{manifest['done']} of {len(sections)} sections done"
    if manifest["not_applicable"]:
        count = f"{progress}, {manifest['not_applicable']} not applicable"
    else:
        count = progress
    created = manifest["created"].replace("T", " ")[:16]
    parameters = manifest["parameters"]
    facts = [str(parameters["author"])] if parameters.get("author") else []
    facts += _describe_runs(manifest["runs"])
    facts += [count, f"created {created} UTC in {manifest['seconds']:.0f} s"]
    failed = [
        section["name"].replace("_", " ") for section in sections if section["state"] == "failed"
    ]
    return render(
        "report_header",
        title=page_title(manifest),
        facts=facts,
        progress=progress,
        any_done=manifest["done"] > 0,
        failed=failed,
        not_run=manifest["not_run"],
        runs=manifest["runs"],
        note=markdown_html(str(parameters.get("note") or "")),
        images=_images_by_run(manifest["runs"]),
        tooltip=tooltip,
    )


def conclusion_html(manifest: Mapping[str, Any]) -> str:
    """Return the conclusion of a report's author; empty without one."""
    text = manifest["parameters"].get("conclusion")
    return render("report_conclusion", conclusion=markdown_html(str(text))) if text else ""


def footer_html(manifest: Mapping[str, Any]) -> str:
    """Return the footer of a page: everything that is needed to make the report again."""
    parameters = {
        name: value
        for name, value in manifest["parameters"].items()
        if value not in ("", 0, [], {}) and name not in TEXT_PARAMETERS
    }
    versions = [f"{name} {version}" for name, version in manifest["versions"].items()]
    provenance = {
        "template": manifest["template"],
        "parameters": json.dumps(parameters, ensure_ascii=False, default=str),
        "versions": ", ".join(versions),
    }
    git = manifest["git"]
    if git:
        provenance["git commit"] = git["commit"] + (" with changes" if git["changed"] else "")
    for run in manifest["runs"]:
        fingerprints = {
            "data": run["data"]["fingerprint"],
            "checkpoint": run["checkpoint"],
            "evidence": run["evidence"],
        }
        provenance[run["name"]] = ", ".join(
            f"{name} {value[:SHORT_FINGERPRINT]}" for name, value in fingerprints.items() if value
        )
    return render("report_footer", provenance=provenance)


def _images_by_run(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the names of the runs by their images; empty if all runs have the same images."""
    names: dict[str, list[str]] = {}
    data: dict[str, str] = {}
    for run in runs:
        images = str(run.get("images") or run["data"]["fingerprint"])
        names.setdefault(images, []).append(run["name"])
        data.setdefault(images, str(run["data"]["data"]))
    if len(names) < 2:
        return {}
    return {
        f"{data[images]} ({images[:SHORT_FINGERPRINT]})": group for images, group in names.items()
    }


def _describe_runs(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the runs are; of several, only what the table of runs does not have."""
    if not runs:
        return []
    facts = _describe_run(runs[0])
    return facts if len(runs) == 1 else [f"{len(runs)} runs", *facts[1:]]


def _describe_run(run: Mapping[str, Any]) -> list[str]:
    """Return the model of a run, its images and its seed."""
    data = run["data"]
    images = "samples of a generator for"
    if "of" in data:
        images = "held-out images of" if is_held_out(data) else "images of"
    described = f"{data['n']:,} {images} {data['data']}"
    tokenizer = run.get("tokenizer")
    source = ""
    if tokenizer:
        source = f" on {tokenizer['name']}{_origin(tokenizer)}"
    if run.get("imported"):
        return [f"{run['kind']}{_origin(run)}{source}", described]
    model = f"{run['kind']}, step {run['step']:,}{source}"
    return [model, described, f"seed {run['seed']}"]


def _origin(run: Mapping[str, Any]) -> str:
    """Return where a model was imported from; empty for a model that was trained here."""
    imported = run.get("imported")
    if not imported:
        return ""
    return f", imported from {imported.get('address') or 'Python objects'}"
