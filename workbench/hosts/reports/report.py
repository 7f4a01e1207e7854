"""Reports: a papermill template, checked parameters, one HTML file that draws every figure without a network.

Beside `NAME.html` lie `NAME.manifest.json`, how it was made, and `NAME.results.parquet`, all its numbers.
"""

import html
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError
from workbench.hosts.reports import manifest as manifests
from workbench.hosts.reports.from_views import views_report
from workbench.hosts.reports.page import thumbnail, to_html
from workbench.hosts.reports.sections import STATES, ReportWriter, Section, records, sections_of
from workbench.hosts.reports.template import check_parameters, find_template, parameters_of
from workbench.storage.atomic import atomic_path, write_text

__all__ = ["ReportWriter", "check_parameters", "find_template", "parameters_of", "report"]


def report(
    template: str, out: str | Path | None = None, *, progress: bool = True, **parameters: Any
) -> Path:
    """Execute a template with parameters and write its page, results and manifest; returns the page's path.

    The template `views` is no notebook: it takes `views`, addresses of the dashboard's views of the runs in `folder`.
    Parameters are checked by name and type, and the runs they name are opened, before anything runs. Raises UserError:
    before, for a wrong parameter; after, where a section failed, and then the files with the others are there.
    """
    if template == "views":
        out, notebook, manifest, sections = views_report(out, **parameters)
        return _finish(out, notebook, manifest, sections)
    import papermill  # noqa: F401  a missing one is told before anything else

    began = time.perf_counter()
    source = find_template(template)
    values = check_parameters(source, parameters)
    out = page_of(source, values) if out is None else Path(out)
    _make_room(out)
    notebook = _execute(source, values, progress)
    sections = sections_of(notebook)
    runs = [
        run for cell in notebook.cells for told in records(cell) for run in told.get("runs", ())
    ]
    manifest = manifests.made_of(source, values, runs) | manifests.counted(sections)
    manifest |= {
        "page": out.name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - began, 1),
    }
    return _finish(out, notebook, manifest, sections)


def page_of(template: Path, values: dict[str, Any]) -> Path:
    """Where a report goes if nobody says: into the run."""
    return (
        Path(values.get("run") or values.get("folder") or ".") / "reports" / f"{template.stem}.html"
    )


def _execute(source: Path, values: dict[str, Any], progress: bool) -> Any:
    """The template's notebook with what its cells put out, as far as they came."""
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(
        logging.ERROR
    )  # it warns of parameters whose kind it does not know
    with tempfile.TemporaryDirectory(prefix="workbench-report-") as folder:
        executed, how = Path(folder) / source.name, {"kernel_name": "python3", "language": "python"}
        how["extra_arguments"] = [
            "--IPKernelApp.log_level=40"
        ]  # it warns of talking to itself over TCP
        died = False
        try:
            papermill.execute_notebook(
                str(source), str(executed), values, progress_bar=progress, **how
            )
        except papermill.PapermillExecutionError:
            pass  # the notebook tells what became of each cell
        except RuntimeError:  # its process ended
            died = True
        notebook = nbformat.read(executed, as_version=4)
    begun = [cell for cell in notebook.cells if cell.get("execution_count")]
    for cell in notebook.cells if died else ():  # papermill takes all of them for completed
        if cell not in begun[:-1]:
            cell.metadata.papermill["status"] = "failed"
    return notebook


def _make_room(out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise UserError(
            f"{out.parent} cannot be written to; give --out a path in a folder that can."
        )


def _finish(
    out: Path, notebook: Any, manifest: dict[str, Any], sections: Sequence[Section]
) -> Path:
    """Write all, then say what failed."""
    _make_room(out)
    _write(out, notebook, manifest, sections)
    if failed := [s for s in sections if s.state == "failed"]:
        of = f"{manifest['done']} of {len(sections)} sections of {manifest['template']} are done"
        raise UserError(f"{of}, in {out}; {failed[0].name} failed: {failed[0].said}")
    return out


def _write(out: Path, notebook: Any, manifest: dict[str, Any], sections: Sequence[Section]) -> None:
    picture = thumbnail(notebook)
    page = to_html(notebook, _head(manifest), _foot(manifest), _title(manifest))
    told, _, small = manifests.beside(out)
    told.unlink(missing_ok=True)  # from here on what was there before is no longer whole
    write_text(out, page)
    if picture is not None:
        with atomic_path(small) as place:
            place.write_bytes(picture)
    manifests.write(out, manifest | {"bytes": out.stat().st_size}, manifests.results(sections))


def _title(manifest: dict[str, Any]) -> str:
    asked = manifest["parameters"]
    if asked.get("title"):
        return str(asked["title"])
    names = [run["name"] for run in manifest["runs"]] or [
        Path(asked.get("run") or asked.get("folder") or "").name
    ]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{manifest['template'].capitalize()}: {', '.join(names[:3])}{more}".removesuffix(": ")


def _head(manifest: dict[str, Any]) -> str:
    """The page's heading: of what, how much of it is done, when."""
    done, absent, failed, missed = (manifest[state] for state in STATES)
    of = f"{done} of {len(manifest['sections'])} sections done"
    lines = [_about(run) for run in manifest["runs"][:1]] + [
        of + (f", {absent} not applicable" if absent else "")
    ]
    lines += [f"made {manifest['made'].replace('T', ' ')[:16]} UTC in {manifest['seconds']:.0f} s"]
    banner = ""
    if failed:
        names = ", ".join(
            s["name"].replace("_", " ") for s in manifest["sections"] if s["state"] == "failed"
        )
        banner = f"<strong>{of}.</strong> {'What they show is valid. ' if done else ''}Failed: {html.escape(names)}."
        banner = f'<p class="failed" role="alert">{banner}{f" Not reached: {missed}." if missed else ""}</p>'
    return f"<h1>{html.escape(_title(manifest))}</h1><p>{' · '.join(lines)}</p>{banner}{_runs(manifest)}"


def _about(run: dict[str, Any]) -> str:
    data = run["data"]
    what = "images held out of" if data.get("of") else "samples after"
    said = f"{run['kind']}, step {run['step']:,} · {data['n']:,} {what} {data['data']} · seed {run['seed']}"
    return html.escape(said)


def _runs(manifest: dict[str, Any]) -> str:
    """A table of the runs, where there are several."""
    if len(manifest["runs"]) < 2:
        return ""
    names = {"name": "run", "kind": "kind", "tokens": "tokens", "step": "step", "psnr": "PSNR, dB"}
    rows = [names.values(), *([run[name] for name in names] for run in manifest["runs"])]
    cells = (
        "".join(f"<td>{html.escape('' if one is None else str(one))}</td>" for one in row)
        for row in rows
    )
    first, *others = (f"<tr>{row}</tr>" for row in cells)
    return f"<table><thead>{first.replace('td>', 'th>')}</thead><tbody>{''.join(others)}</tbody></table>"


def _foot(manifest: dict[str, Any]) -> str:
    """How the report was made, so that it can be made again."""
    asked = {
        name: value
        for name, value in manifest["parameters"].items()
        if value not in ("", 0, [], {})
    }
    git = manifest["git"]
    rows = {
        "report": f"{manifest['template']}, with {json.dumps(asked, ensure_ascii=False, default=str)}",
        "versions": ", ".join(
            f"{name} {version}" for name, version in manifest["versions"].items()
        ),
        "git": git and git["commit"] + (" with changes" if git["changed"] else ""),
    }
    for run in manifest["runs"]:
        kept = {
            "data": run["data"]["fingerprint"],
            "checkpoint": run["checkpoint"],
            "evidence": run["evidence"],
        }
        rows[run["name"]] = ", ".join(f"{what} {told[:16]}" for what, told in kept.items() if told)
    lines = "".join(
        f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in rows.items() if v
    )
    return f'<footer><h3>How this was made</h3><table class="made">{lines}</table></footer>'
