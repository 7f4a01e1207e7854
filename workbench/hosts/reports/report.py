"""Reports: execute a papermill template and write one HTML file that needs no network.

`NAME.manifest.json` (how the report was made) and `NAME.results.parquet` (all its numbers) are
written next to `NAME.html`.
"""

import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError
from workbench.hosts.reports.from_views import views_report
from workbench.hosts.reports.header import (
    conclusion_html,
    footer_html,
    header_html,
    page_title,
)
from workbench.hosts.reports.manifest import (
    build_manifest,
    manifest_path,
    results_table,
    section_entries,
    thumbnail_path,
    unique_left_out,
    write_manifest,
)
from workbench.hosts.reports.own_text import split_text
from workbench.hosts.reports.page import thumbnail, to_html
from workbench.hosts.reports.sections import (
    ExecutedReport,
    ReportWriter,
    cell_records,
    read_sections,
)
from workbench.hosts.reports.template import check_parameters, find_template, parameters_of
from workbench.storage.atomic import atomic_path, write_text
from workbench.storage.leftovers import scratch_folder

__all__ = [
    "ReportWriter",
    "check_parameters",
    "default_page",
    "find_template",
    "parameters_of",
    "report",
]

# A kernel that is shut down may log an interrupt, or a traceback of a reply to a closed socket.
# What fails in a cell is in the notebook, and a kernel that dies is noticed.
KERNEL_ARGUMENTS = (
    "--IPKernelApp.log_level=50",
    "--IPKernelApp.exec_lines=import logging; logging.getLogger('tornado.general').setLevel(50)",
)


def report(
    template: str, out: str | Path | None = None, *, progress: bool = True, **parameters: Any
) -> Path:
    """Execute a template and write its page, results and manifest.

    Parameters are checked, and the runs they name are opened, before anything is executed.

    Parameters
    ----------
    template : str
        Name of a template, such as `tokenizer`, or path of a notebook. `views` reports on the
        views of a dashboard; its parameters are those of `views_report`.
    out : str or Path, optional
        HTML file. By default it is written into the run.
    progress : bool
        Show a progress bar over the cells.
    **parameters
        Parameters that the template declares, and the text of its author: `title`, `author`, and
        `note` and `conclusion`, which are Markdown.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    UserError
        If a parameter is wrong; nothing is executed then. If a section failed or a run could not
        be read; the file with everything else is written.
    """
    if template == "views":
        return _write(views_report(out, **parameters))
    import papermill  # noqa: F401  a missing package is reported before anything else

    start = time.perf_counter()
    source = find_template(template)
    text, parameters = split_text(parameters)
    values = check_parameters(source, parameters)
    page = default_page(source, values) if out is None else Path(out)
    _create_folder(page)
    notebook = _execute(source, values, progress=progress)
    sections = read_sections(notebook)
    records = [record for cell in notebook.cells for record in cell_records(cell)]
    runs = [run for record in records for run in record.get("runs", ())]
    left_out = [run for record in records if "runs" in record for run in record.get("left_out", ())]
    manifest = build_manifest(source, values | text, runs) | section_entries(sections)
    manifest |= {
        "left_out": unique_left_out(sections, left_out),
        "page": page.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return _write(
        ExecutedReport(page=page, notebook=notebook, manifest=manifest, sections=sections)
    )


def default_page(template: Path, values: dict[str, Any]) -> Path:
    """Return the path of a report whose caller gives none: a file in the run's folder."""
    folder = values.get("run") or values.get("folder") or "."
    return Path(folder) / "reports" / f"{template.stem}.html"


def _execute(source: Path, values: dict[str, Any], *, progress: bool) -> Any:
    """Execute a template and return its notebook, complete up to the first failure."""
    import nbformat
    import papermill

    from workbench.hosts.reports.engine import ENGINE
    from workbench.hosts.reports.kernel import IsolatedKernelManager

    # papermill warns of parameters whose type it does not support.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with scratch_folder("workbench-report") as folder:
        executed = folder / source.name
        try:
            return papermill.execute_notebook(
                str(source),
                str(executed),
                values,
                engine_name=ENGINE,
                request_save_on_cell_execute=False,
                progress_bar=False,
                shows_progress=progress,
                kernel_name="python3",
                language="python",
                extra_arguments=list(KERNEL_ARGUMENTS),
                kernel_manager_class=IsolatedKernelManager,
            )
        except papermill.PapermillExecutionError:
            return nbformat.read(executed, as_version=4)  # with the error


def _create_folder(page: Path) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(page.parent, os.W_OK):
        raise UserError(f"{page.parent} is not writable. Give --out a path in a writable folder.")


def _write(executed: ExecutedReport) -> Path:
    """Write a report and return its page. Raise UserError if a section failed."""
    manifest, page = executed.manifest, executed.page
    _create_folder(page)
    picture = thumbnail(executed.notebook)
    text = to_html(
        executed.notebook,
        title=page_title(manifest),
        header=header_html(manifest),
        footer=conclusion_html(manifest) + footer_html(manifest),
        template=manifest["template"],
    )
    # Without a manifest the report counts as incomplete while its files are replaced.
    manifest_path(page).unlink(missing_ok=True)
    write_text(page, text)
    if picture is not None:
        with atomic_path(thumbnail_path(page)) as path:
            path.write_bytes(picture)
    results = results_table(executed.sections)
    write_manifest(page, manifest | {"bytes": page.stat().st_size}, results)
    failed = [section for section in executed.sections if section.state == "failed"]
    if failed:
        progress = f"{manifest['done']} of {len(executed.sections)} sections"
        raise UserError(
            f"{progress} of {manifest['template']} are done, in {page}; "
            f"{failed[0].name} failed: {failed[0].summary}"
        )
    left_out = manifest["left_out"]
    if left_out:
        names = ", ".join(record["run"] for record in left_out)
        raise UserError(
            f"The report in {page} is incomplete. It lacks {names}: {left_out[0]['reason']}"
        )
    return page
