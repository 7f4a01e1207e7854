"""Reports of views of a dashboard, in their order: `workbench.report("views", views=[...])`."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.analysis.base import Result
from workbench.core.errors import RunError, UserError
from workbench.core.glossary import analysis_title
from workbench.core.progress import track
from workbench.hosts.reports.manifest import build_manifest, section_entries
from workbench.hosts.reports.own_text import markdown_html
from workbench.hosts.reports.rendering import render
from workbench.hosts.reports.sections import (
    CellOutput,
    ExecutedReport,
    SectionContent,
    read_sections,
    result_content,
    section_outputs,
    tab_section_content,
)
from workbench.launch.trainables import trusted_names
from workbench.workspace.selection import Selection, id_scopes
from workbench.workspace.tab_content import build_tab, selected_images
from workbench.workspace.tab_options import CURVES, live_options, overview_controls
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

INTERACTIVE_TABS = ("lens", "map", "codes")
MAX_NAMES = 2  # runs named in the title of a view
View = ViewState | str  # or the query of a dashboard's address


def views_report(
    out: str | Path | None = None,
    *,
    folder: str | Path = "runs",
    views: Sequence[View] | str = (),
    title: str = "",
    author: str = "",
    note: str = "",
    notes: Sequence[str] = (),
    conclusion: str = "",
    trust: Sequence[str] | str = (),
) -> ExecutedReport:
    """Compute a report of views.

    Parameters
    ----------
    out : str or Path, optional
        HTML file. By default it is written into `reports` in the folder.
    folder : str or Path
        Folder of runs.
    views : sequence of ViewState or str, or str
        At least one view, or the query of a dashboard's address; as a string, separated by commas.
    title : str
        Title of the page.
    author : str
        Author of the page.
    note : str
        Markdown above the views.
    notes : sequence of str
        Markdown above each view, in the order of the views; empty for a view without a note.
    conclusion : str
        Markdown below the views.
    trust : sequence of str, or str
        Modules and packages outside of this package that may be imported to load a run's model;
        as a string, separated by commas.

    Returns
    -------
    ExecutedReport
        The report, not yet written.

    Raises
    ------
    UserError
        If there is no view, or if a view names a run, tab or analysis that does not exist.
    """
    import nbformat

    start = time.perf_counter()
    workspace = Workspace(folder, trusted_names(trust))
    queries = views.split(",") if isinstance(views, str) else views
    if len(notes) > len(queries):
        raise UserError(
            f"There are {len(notes)} notes for {len(queries)} views; give at most one per view."
        )
    states = [_view_state(workspace, view) for view in queries]
    if not states:
        raise UserError(
            "A report of views needs at least one view: "
            "views=[...], each as in a dashboard's address."
        )
    cells = []
    shown_selections: list[tuple[tuple[str, ...], Selection | None]] = []
    padded_notes = [*notes, *[""] * (len(states) - len(notes))]
    for state, view_note in track(list(zip(states, padded_notes, strict=True))):
        cells += _cells(
            workspace,
            state,
            note=view_note,
            with_selection=_selection_key(state) not in shown_selections,
        )
        if state.tab in INTERACTIVE_TABS:
            shown_selections.append(_selection_key(state))
    notebook = nbformat.v4.new_notebook(cells=cells)
    sections = read_sections(notebook)
    created = datetime.now(UTC)
    page = Path(folder) / "reports" / f"views-{created:%Y%m%d-%H%M%S}.html"
    if out is not None:
        page = Path(out)
    parameters = {
        "folder": str(folder),
        "views": [state.to_query() for state in states],
        "title": title,
        "author": author,
        "note": note,
        "notes": list(notes),
        "conclusion": conclusion,
    }
    manifest = build_manifest(Path(__file__), parameters, _runs(workspace, states))
    manifest |= section_entries(sections)
    manifest |= {
        "template": "views",
        "page": page.name,
        "created": created.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return ExecutedReport(page=page, notebook=notebook, manifest=manifest, sections=sections)


def view_title(state: ViewState) -> str:
    """Return a title for a view: tab or analysis, runs, step and changed settings."""
    settings = dict(state.tab_options) if state.tab else dict(state.controls)
    if state.step is not None:
        settings["step"] = state.step
    title = f"{_heading(state)} of {', '.join(state.runs[:MAX_NAMES])}"
    if len(state.runs) > MAX_NAMES:
        title += f" and {len(state.runs) - MAX_NAMES} more"
    if settings:
        title += f" ({', '.join(f'{name} {value}' for name, value in settings.items())})"
    return title


def _heading(state: ViewState) -> str:
    return analysis_title(state.tab or state.analysis)


def _view_state(workspace: Workspace, view: View) -> ViewState:
    """Return a view whose runs exist; without runs, those that the workspace shows first."""
    state = ViewState.from_query(view) if isinstance(view, str) else view
    for name in state.runs:
        workspace.run(name)
    return state if state.runs else state.change(runs=workspace.default_view().runs)


def _selection_key(state: ViewState) -> tuple[tuple[str, ...], Selection | None]:
    """Return what the selected images of a view depend on: its primary run and its selection."""
    return state.runs[:1], state.selection


def _runs(workspace: Workspace, states: Sequence[ViewState]) -> list[dict[str, Any]]:
    """Return the runs of all views, each once, with the step of the first view that shows it."""
    steps: dict[str, int | None] = {}
    for state in states:
        for index, name in enumerate(state.runs):
            if workspace.collected(name):
                steps.setdefault(name, state.step if index == 0 else None)
    runs = []
    for name, step in steps.items():
        run = workspace.run(name)
        with suppress(RunError):  # the sections name runs that cannot be read
            runs.append({"folder": str(run.folder), "step": run.evidence(step).step})
    return runs


def _cells(workspace: Workspace, state: ViewState, *, note: str, with_selection: bool) -> list[Any]:
    """Return a heading and a cell with the sections of a view."""
    from nbformat import v4

    outputs = _view_outputs(workspace, state)
    if state.tab in INTERACTIVE_TABS and state.selection is not None and with_selection:
        outputs += section_outputs("selection", lambda: _selected_images(workspace, state), {})
    text = render("paragraph", text=view_title(state))
    if note:
        text = f'<div class="note">{markdown_html(note)}</div>{text}'
    title = CellOutput(data={"text/html": text}, record={})
    cell_outputs = [
        v4.new_output("display_data", data=output.data, metadata=output.metadata)
        for output in [title, *outputs]
    ]
    return [
        v4.new_markdown_cell(f"## {_heading(state)}"),
        v4.new_code_cell("", outputs=cell_outputs),
    ]


def _view_outputs(workspace: Workspace, state: ViewState) -> list[CellOutput]:
    """Return the sections of a view: analyses, training curves, or an interactive tab."""
    if state.tab in INTERACTIVE_TABS:
        return section_outputs(
            state.tab, lambda: tab_section_content(build_tab(workspace, state)), {}
        )
    run = workspace.run(state.runs[0])
    analyses = {state.analysis: dict(state.controls)}
    if state.tab == "live":
        compares, curve_controls = live_options(state.tab_options)
        analyses = {CURVES: curve_controls}
        if not compares:
            state = state.change(runs=state.runs[:1])
    if state.tab == "table":
        analyses = {"settings_comparison": {}, CURVES: {}}
    if state.tab == "overview":
        analyses = overview_controls(state.tab_options)
    scopes: dict[str, str] = {}
    with suppress(UserError):  # the analysis then gives the reason
        scopes = id_scopes(run.name, run.evidence(state.step))
    outputs = []
    for name, controls in analyses.items():
        analysis_state = state.change(tab="", tab_options={}, analysis=name, controls=controls)
        outputs += section_outputs(name, _analysis(workspace, analysis_state), scopes)
    return outputs


def _analysis(workspace: Workspace, state: ViewState) -> Callable[[], SectionContent]:
    return lambda: result_content(workspace.result(state))


def _selected_images(workspace: Workspace, state: ViewState) -> SectionContent:
    images: Result | None = selected_images(workspace, state)
    if images is None:
        raise UserError("No image is selected.")
    return result_content(images)
