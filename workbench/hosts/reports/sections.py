"""Sections of a report: the calls in a template's cells, and the records they leave."""

import base64
import io
import json
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from html import escape
from inspect import getdoc, signature
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from workbench import analysis
from workbench.analysis.base import LeftOutRun, Result, mime_bundle
from workbench.analysis.diagnosis.checks import Checks
from workbench.analysis.runs.decision import Decision
from workbench.core.errors import NotApplicable, RunError, UserError
from workbench.core.glossary import analysis_title
from workbench.core.progress import Cancelled
from workbench.hosts.reports.rendering import render
from workbench.storage.run import Run
from workbench.workspace.codebook import Codebook
from workbench.workspace.display import to_html as display_html
from workbench.workspace.latent_map import Map
from workbench.workspace.lens import Lens
from workbench.workspace.selection import id_scopes
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace, is_of_one_run

State = Literal["done", "not_applicable", "failed", "not_run"]
STATES: tuple[State, ...] = get_args(State)
METADATA_KEY = "workbench"  # key in the metadata of a cell output that holds its record
EXPECTED_ERRORS = ("UserError", "RunError", "NotApplicable")  # their message needs no traceback
BRIEF_HEIGHT_PX = 330  # of a figure
BRIEF_LEGEND_Y = -0.34  # of the height of its plotting area, below the title of the axis
MAX_CAVEATS = 5
ANSI_COLOR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of a report.

    Attributes
    ----------
    name : str
        Name of the analysis or tab, followed by its controls if the analysis occurs twice.
    state : {"done", "not_applicable", "failed", "not_run"}
        `not_applicable` if the run lacks what the analysis reads, `not_run` if an earlier cell
        stopped the notebook.
    summary : str
        Summary of the result, or the reason why there is none.
    seconds : float
        Time that the section took.
    left_out : tuple of dict
        `run` and `reason` of each selected run that is missing in the result.
    table : DataFrame or None
        Numbers behind the figure.
    """

    name: str
    state: State
    summary: str
    seconds: float = 0.0
    left_out: tuple[dict[str, str], ...] = ()
    table: pd.DataFrame | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class SectionContent:
    """Content of a finished section: HTML below the optional figure, summary and table."""

    html: str
    summary: str
    table: pd.DataFrame | None = None
    figure: dict[str, Any] | None = None  # Jupyter mime bundle
    has_cards: bool = False  # the HTML has cards of images, which share the selection
    left_out: Sequence[LeftOutRun] = ()


@dataclass(frozen=True, kw_only=True)
class CellOutput:
    """One output of a notebook cell: a mime bundle, and a record for the report or nothing."""

    data: dict[str, Any]
    record: dict[str, Any]

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the output in the notebook."""
        return {METADATA_KEY: self.record} if self.record else {}


@dataclass(frozen=True, kw_only=True)
class ExecutedReport:
    """A report before it is written: path of its page, executed notebook, manifest, sections."""

    page: Path
    notebook: Any
    manifest: dict[str, Any]
    sections: Sequence[Section]


class ReportWriter:
    """Interface of a template's cells: `show("codebook_usage")` adds a figure and its summary.

    Parameters
    ----------
    run : str
        Folder of the primary run.
    compare_with : sequence of str
        Folders of further runs.
    step : int
        Step of the primary run's evidence. 0 takes the last one.
    trust : sequence of str
        Modules and packages outside of this package that may be imported to load a run's model.
    seed : int
        Seed of every analysis that draws random numbers.
    """

    def __init__(
        self,
        run: str,
        compare_with: Sequence[str] = (),
        step: int = 0,
        trust: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        from IPython.display import display

        runs = [Run(folder) for folder in (run, *compare_with)]
        primary, *other_runs = runs
        evidence = primary.evidence(step or None)
        self.workspace = Workspace(primary.folder.parent, trust)
        self.workspace.runs |= {run.name: run for run in runs}
        self.state = ViewState(runs=tuple(run.name for run in runs), step=step or None)
        self.id_scopes = id_scopes(primary.name, evidence)
        self.seed = seed
        self.analyses_done: set[str] = set()
        records = [{"folder": str(primary.folder), "step": evidence.step}]
        left_out = []
        for other in other_runs:
            try:
                records.append({"folder": str(other.folder), "step": other.evidence().step})
            except RunError as error:
                left_out.append({"run": other.name, "reason": str(error)})
        record = {"runs": records, "left_out": left_out}
        display({"text/html": ""}, raw=True, metadata={METADATA_KEY: record})

    def show(self, name: str, *, side_by_side: bool = False, **controls: Any) -> None:
        """Add an analysis: figure, summary and table, or the reason why it does not apply.

        Parameters
        ----------
        name : str
            Name of the analysis, such as `codebook_usage`.
        side_by_side : bool
            Whether an analysis of one run is shown for all runs of the report, in one figure.
        **controls
            Keyword arguments of the analysis. Its seed is that of the report by default.
        """
        title = name
        if name in self.analyses_done:
            title += "".join(f", {control}={value}" for control, value in controls.items())
        self.analyses_done.add(name)

        def compute() -> SectionContent:
            state = self._analysis(name, **controls).change(side_by_side=side_by_side)
            return result_content(self.workspace.result(state))

        self._add(title, compute)

    def brief(self, *names: str, count: int = 3, goal: str = "") -> None:
        """Add the first analyses that apply as small figures, and the caveats of the runs.

        Parameters
        ----------
        *names : str
            Names of analyses, in the order of preference.
        count : int
            Number of figures.
        goal : str
            The goal of the decision. Analyses of one run show the run that is recommended for it;
            the primary run without a goal.
        """
        recommended = self._recommended_run(goal)
        other_runs = [run for run in self.state.runs if run != recommended]
        num_added = 0
        for name in names:
            if num_added == count:
                break
            state = self._analysis(name)
            if is_of_one_run(name) and recommended != self.state.runs[0]:
                state = state.change(runs=(recommended, *other_runs), step=None)
            try:
                result = self.workspace.result(state)
            except NotApplicable:
                continue
            run = recommended if is_of_one_run(name) and other_runs else ""
            self._add(name, partial(brief_content, result, run))
            num_added += 1
        checks = self.state.change(analysis="checks", controls={})
        self._add("checks", lambda: caveats_content(self.workspace.result(checks)))

    def _recommended_run(self, goal: str) -> str:
        """Return the run that a decision recommends; the primary run if there is no decision."""
        primary = self.state.runs[0]
        if not goal:
            return primary
        try:
            decision = self.workspace.result(self._analysis("decision", goal=goal))
        except UserError:
            return primary
        assert isinstance(decision, Decision)
        run = decision.recommended.run
        return run if run in self.state.runs else primary

    def remaining(self, *evidence: str) -> None:
        """Add every analysis that has not been shown yet, under a heading.

        Analyses that do not apply are one line each under a heading at the end.

        Parameters
        ----------
        *evidence : str
            Names of evidence arrays: only analyses that read at least one of them are added.
        """
        from IPython.display import Markdown, display

        reasons: dict[str, NotApplicable] = {}
        group_of = {name: group for group, names in analysis.groups().items() for name in names}
        for name, function in analysis.analyses().items():
            if name in self.analyses_done:
                continue
            if evidence and not set(evidence) & signature(function).parameters.keys():
                continue
            reason = self._reason_against(name)
            if reason is not None:
                reasons[name] = reason
                continue
            lead = str(getdoc(function)).partition("\n")[0]
            heading = Markdown(f"## {analysis_title(name)}\n\n{lead}")
            display(heading, metadata={METADATA_KEY: {"group": group_of[name]}})
            self.show(name)
        if reasons:
            lead = "Analyses that need what these runs do not have."
            heading = Markdown(f"## Not applicable\n\n{lead}")
            display(heading, metadata={METADATA_KEY: {"group": ""}})
        for name, reason in reasons.items():
            title = analysis_title(name)
            prefix = "" if str(reason).startswith(title) else f"{title}: "
            self._add(name, partial(_raise, reason), prefix)

    def _reason_against(self, name: str) -> NotApplicable | None:
        """Return why an analysis does not apply; None if it applies, or fails in another way."""
        try:
            self.workspace.result(self._analysis(name))
        except NotApplicable as error:
            return error
        except Cancelled:
            raise
        except Exception:  # its section shows the failure
            return None
        return None

    def _analysis(self, name: str, **controls: Any) -> ViewState:
        """Return the view of an analysis, with the seed of the report if it has one."""
        if "seed" in signature(analysis.get(name)).parameters:
            controls = {"seed": self.seed, **controls}
        return self.state.change(analysis=name, controls=controls)

    def explore(self, tab: str, **options: Any) -> None:
        """Add the interactive lens, map or codebook of the primary run.

        Parameters
        ----------
        tab : {"lens", "map", "codes"}
            Tab of the dashboard.
        **options
            Settings of the tab.
        """
        from workbench.workspace.tab_content import build_tab

        state = self.state.change(tab=tab, tab_options=options)
        self._add(tab, lambda: tab_section_content(build_tab(self.workspace, state)))

    def losses(self) -> None:
        """Add the training curves of the primary run: every logged number by step."""
        state = self.state.change(runs=self.state.runs[:1], analysis="training_curves", controls={})
        self._add("losses", lambda: result_content(self.workspace.result(state)))

    def _add(self, name: str, compute: Callable[[], SectionContent], prefix: str = "") -> None:
        from IPython.display import display

        for output in section_outputs(name, compute, self.id_scopes, prefix):
            display(output.data, raw=True, metadata=output.metadata)


def result_content(result: Result) -> SectionContent:
    """Return the section of an analysis result."""
    return SectionContent(
        html=result._repr_html_(),
        summary=result.full_summary(),
        table=result.table(),
        figure=None if result.replaces_figure else mime_bundle(result.figure()),
        has_cards=bool(result.figure_html()),
        left_out=result.left_out,
    )


def brief_content(result: Result, run: str = "") -> SectionContent:
    """Return a result as a small figure without text and table, titled with its run if given."""
    figure = result.figure()
    title = figure.layout.title.text or ""
    figure.update_layout(
        height=BRIEF_HEIGHT_PX,
        font_size=11,
        title={
            "text": f"{escape(run)}: {title}" if run else title,
            "font": {"size": 14},
            "subtitle": {"text": ""},
        },
        margin={"t": 44, "b": 40, "l": 50, "r": 10},
    )
    if figure.layout.legend.orientation == "h":
        # The figure is lower than usual, and the title of its axis as high.
        figure.update_layout(legend={"y": BRIEF_LEGEND_Y, "yref": "paper", "yanchor": "top"})
    return SectionContent(
        html="",
        summary=result.full_summary(),
        table=result.table(),
        figure=mime_bundle(figure),
        left_out=result.left_out,
    )


def caveats_content(result: Result) -> SectionContent:
    """Return the findings of the checks as a short list."""
    assert isinstance(result, Checks)
    caveats = [
        (group.run_text, group.check.finding.observation)
        for group in result.groups[:MAX_CAVEATS]
        if group.check.finding is not None
    ]
    return SectionContent(
        html=render("caveats", caveats=caveats, more=len(result.groups) - len(caveats)),
        summary=result.full_summary(),
        table=result.table(),
    )


def tab_section_content(tab: Lens | Map | Codebook) -> SectionContent:
    """Return the section of an interactive view, whose HTML needs neither kernel nor network."""
    import workbench.hosts.displays  # noqa: F401  registers the HTML of interactive views

    return SectionContent(html=display_html(tab) or "", summary=repr(tab), table=tab.table)


def section_outputs(
    name: str,
    compute: Callable[[], SectionContent],
    scopes: Mapping[str, str],
    prefix: str = "",
) -> list[CellOutput]:
    """Compute a section and return its cell outputs.

    An error becomes the section's content, so that one failure leaves the others intact.

    Parameters
    ----------
    name : str
        Name of the section.
    compute : callable
        Returns the content. It may raise `NotApplicable` or any other exception.
    scopes : mapping of str to str
        Scope of each kind of id in the figure. Figures with equal scopes share their selection.
    prefix : str
        Text before the reason of a section that does not apply.

    Returns
    -------
    list of CellOutput
        The figure if there is one, and the HTML with the section's record.

    Raises
    ------
    Cancelled
        If the user stopped the report.
    """
    start = time.perf_counter()
    outputs = []
    table = None
    left_out: Sequence[LeftOutRun] = ()
    state: State
    try:
        content = compute()
        left_out = content.left_out
        state = "done"
        summary = content.summary
        html = content.html
        table = content.table
        if content.figure is not None:
            outputs.append(CellOutput(data=content.figure, record={"id_scopes": dict(scopes)}))
        if content.has_cards and scopes:
            html = render("cards", id_scopes=json.dumps(dict(scopes)), content=html)
    except NotApplicable as error:
        state, summary = "not_applicable", str(error)
        html = render("notice", message=f"{prefix}{summary}")
    except Cancelled:
        raise
    except Exception as error:
        state, summary = "failed", _message(error)
        expected = isinstance(error, UserError)
        html = failure_html(summary, "" if expected else traceback.format_exc())
    record = {
        "section": name,
        "state": state,
        "summary": summary,
        "seconds": round(time.perf_counter() - start, 3),
        "left_out": [asdict(run) for run in left_out],
        "table": None if table is None else _encode_table(table),
    }
    return [*outputs, CellOutput(data={"text/html": html}, record=record)]


def _raise(error: Exception) -> SectionContent:
    raise error


def read_sections(notebook: Any) -> list[Section]:
    """Return the sections of an executed notebook.

    If a cell stopped the notebook, that section has failed and later ones have not run; a message
    replaces their outputs in the notebook.

    Parameters
    ----------
    notebook : NotebookNode
        Executed notebook. It is changed in place.

    Returns
    -------
    list of Section
        In the order of the notebook.
    """
    sections: list[Section] = []
    heading = ""
    stop = _stopping_cell(notebook)
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            headings = headings_in(cell.source)
            heading = headings[-1] if headings else heading
            continue
        sections += [_decode(record) for record in cell_records(cell) if "section" in record]
        if index < stop or not cell.source.strip():
            continue
        name = heading.lower().replace(" ", "_") or "beginning"
        if index == stop:
            message, details = _stop_reason(cell)
            html = failure_html(message, details)
            sections.append(Section(name=name, state="failed", summary=message))
        else:
            message = "Not run: an earlier section stopped the report."
            html = render("notice", message=message)
            sections.append(Section(name=name, state="not_run", summary=message))
        other_outputs = [output for output in cell.outputs if output.output_type != "error"]
        notice = type(cell)(output_type="display_data", data={"text/html": html}, metadata={})
        cell.outputs = [*other_outputs, notice]
    return sections


def headings_in(markdown: str) -> list[str]:
    """Return the second-level headings of a Markdown text."""
    lines = markdown.splitlines()
    return [line.removeprefix("## ").strip() for line in lines if line.startswith("## ")]


def cell_records(cell: Any) -> list[dict[str, Any]]:
    """Return the records that `ReportWriter` stored in the outputs of a cell."""
    outputs = cell.get("outputs", [])
    return [
        output.metadata[METADATA_KEY]
        for output in outputs
        if METADATA_KEY in output.get("metadata", {})
    ]


def failure_html(message: str, details: str = "") -> str:
    """Return an HTML fragment with an error message and a folded traceback."""
    return render("failure", message=message, traceback=details)


def _stopping_cell(notebook: Any) -> int:
    """Return the index of the cell that stopped the notebook; the number of cells if none did.

    If the kernel died, no cell has an error output, and papermill may mark the cell before it as
    failed too. The cell that was running is then the last one with a start time.
    """
    unfinished = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if any(output.output_type == "error" for output in cell.outputs):
            return index
        execution = cell.metadata.get("papermill", {})
        if execution.get("status", "completed") != "completed" and execution.get("start_time"):
            unfinished.append(index)
    return max(unfinished, default=len(notebook.cells))


def _stop_reason(cell: Any) -> tuple[str, str]:
    """Return the reason why a cell stopped, as a sentence and as a traceback."""
    for output in cell.outputs:
        if output.output_type != "error":
            continue
        if output.ename in EXPECTED_ERRORS:
            return output.evalue, ""
        details = ANSI_COLOR.sub("", "\n".join(output.traceback))
        return f"{output.ename}: {output.evalue}", details
    return "The kernel died: it ran out of memory or was killed.", ""


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _encode_table(table: pd.DataFrame) -> str:
    """Return a table as text. Parquet keeps every dtype, which JSON does not."""
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def _decode(record: dict[str, Any]) -> Section:
    encoded = record.get("table")
    table = None if encoded is None else pd.read_parquet(io.BytesIO(base64.b64decode(encoded)))
    return Section(
        name=record["section"],
        state=record["state"],
        summary=record["summary"],
        seconds=record["seconds"],
        left_out=tuple(record["left_out"]),
        table=table,
    )
