"""A report of views, `workbench.report("views", ...)`: what was put into a basket, in its order, as one HTML page."""

import html
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import workbench.hosts.displays  # noqa: F401  (makes the pages of maps, codes and lenses)
from workbench.analysis.base import Result
from workbench.core.errors import UserError
from workbench.core.progress import track
from workbench.hosts.reports import manifest as manifests
from workbench.hosts.reports.sections import KEY, Section, outputs, sections_of
from workbench.workspace.losses import losses
from workbench.workspace.selection import id_scopes
from workbench.workspace.tab_content import build_tab, selected_images
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

EXPLORED = ("lens", "map", "codes")
View = ViewState | str  # or the query of a dashboard's address


def views_report(
    out: str | Path | None = None,
    *,
    folder: str | Path = "runs",
    views: Sequence[View] | str = (),
    title: str = "",
) -> tuple[Path, Any, dict[str, Any], list[Section]]:
    """The page's place, its notebook, manifest and sections; views of a folder's runs, at least one.

    Raises UserError where a view names what is not there.
    """
    import nbformat

    began, bench = time.perf_counter(), Workspace(folder)
    states = [
        _state(bench, view) for view in (views.split(",") if isinstance(views, str) else views)
    ]
    if not states:
        raise UserError(
            "A report of views needs at least one; give views=[...], each as in a dashboard's address."
        )
    asked = [
        (state.runs[:1], state.selection) if state.tab in EXPLORED else None for state in states
    ]
    parts = enumerate(track(states))
    cells = [
        cell for i, state in parts for cell in _cells(bench, state, again=asked[i] in asked[:i])
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    sections = sections_of(notebook)
    given = {"folder": str(folder), "views": [state.to_query() for state in states], "title": title}
    manifest = manifests.made_of(Path(__file__), given, _runs(bench, states)) | manifests.counted(
        sections
    )
    made = datetime.now(UTC)
    page = (
        Path(folder) / "reports" / f"views-{made:%Y%m%d-%H%M%S}.html" if out is None else Path(out)
    )
    manifest |= {"template": "views", "page": page.name, "made": made.isoformat(timespec="seconds")}
    manifest |= {"seconds": round(time.perf_counter() - began, 1)}
    return page, notebook, manifest, sections


def named(state: ViewState) -> str:
    """What a view is called in a list: what it shows, of which runs, at which step, how it is set."""
    what = (state.tab or state.analysis).replace("_", " ").capitalize()
    told = {**state.looks} if state.tab else {**state.controls}
    told |= {"step": state.step} if state.step is not None else {}
    how = ", ".join(f"{name} {value}" for name, value in told.items())
    more = f" and {len(state.runs) - 2} more" if len(state.runs) > 2 else ""
    return f"{what} of {', '.join(state.runs[:2])}{more}" + (f" ({how})" if how else "")


def _state(bench: Workspace, view: View) -> ViewState:
    state = ViewState.from_query(view) if isinstance(view, str) else view
    for name in state.runs:
        bench.run(name)
    return state if state.runs else state.change(runs=bench.default_view().runs)


def _runs(bench: Workspace, states: Sequence[ViewState]) -> list[dict[str, Any]]:
    """The runs of all views, each once, at the step that is looked at first."""
    found: dict[str, int | None] = {}
    for state in states:
        for i, name in enumerate(state.runs):
            if bench.collected(name):
                found.setdefault(name, state.step if i == 0 else None)
    return [
        {"folder": str(bench.run(n).folder), "step": bench.run(n).evidence(at).step}
        for n, at in found.items()
    ]


def _cells(bench: Workspace, state: ViewState, *, again: bool) -> list[Any]:
    """A heading, and what the view shows, with what is selected unless that was shown before."""
    from nbformat import v4

    told = _told(bench, state)
    if state.tab in EXPLORED and state.selection is not None and not again:
        told += outputs("selection", lambda: _selected(bench, state), {})
    said = v4.new_output("display_data", data={"text/html": f"<p>{html.escape(named(state))}</p>"})
    shown = [
        v4.new_output("display_data", data=data, metadata={KEY: record} if record else {})
        for data, record in told
    ]
    heading = f"## {(state.tab or state.analysis).replace('_', ' ').capitalize()}"
    return [v4.new_markdown_cell(heading), v4.new_code_cell("", outputs=[said, *shown])]


def _told(bench: Workspace, state: ViewState) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What a view puts out: an analysis or two, a run's log, or a module."""
    if state.tab in EXPLORED:
        return outputs(state.tab, lambda: build_tab(bench, state), {})
    if state.tab == "live":
        return outputs("losses", lambda: losses(bench.run(state.runs[0])), {})
    asked = {state.analysis: state.controls}
    if state.tab == "overview":
        asked = {"token_budget": state.looks, "checks": {}}
    plain, leading = {"tab": "", "looks": {}}, bench.run(state.runs[0])
    of: dict[str, str] = {}
    with suppress(UserError):  # the analysis then says why not
        of = id_scopes(leading.name, leading.evidence(state.step))
    return [
        one
        for name, controls in asked.items()
        for one in outputs(
            name,
            lambda n=name, c=controls: bench.result(
                state.change(analysis=n, controls=dict(c), **plain)
            ),
            of,
        )
    ]


def _selected(bench: Workspace, state: ViewState) -> Result:
    found = selected_images(bench, state)
    if found is None:
        raise UserError("Nothing is selected.")
    return found
