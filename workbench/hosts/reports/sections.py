"""What a template's cells call, and what comes back of it: a report's sections, and what became of each."""

import base64
import html
import io
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pandas as pd

from workbench import analysis
from workbench.analysis.base import Result, mime_bundle
from workbench.core.errors import NotApplicable, UserError
from workbench.core.progress import Cancelled
from workbench.storage.run import Run
from workbench.workspace.selection import id_scopes
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

State = Literal[
    "done", "absent", "failed", "missed"
]  # absent: does not apply to this run; missed: not reached
STATES = get_args(State)
KEY = "workbench"  # of an output's metadata: how a section's record leaves the kernel


@dataclass(frozen=True)
class Section:
    """One analysis of a report: what became of it, what it says, and its table."""

    name: str
    state: State
    said: str  # its summary, or why there is none
    seconds: float = 0.0
    table: pd.DataFrame | None = field(default=None, repr=False)


class ReportWriter:
    """What a template's cells call: `show("codebook_usage")` puts the result, and what it says."""

    def __init__(self, run: str, others: Sequence[str] = (), step: int = 0) -> None:
        from IPython.display import display

        opened = [Run(folder) for folder in (run, *others)]
        self.bench = Workspace(opened[0].folder.parent)
        self.bench.runs |= {one.name: one for one in opened}
        self.state = ViewState(runs=tuple(one.name for one in opened), step=step or None)
        self.shown: set[str] = set()
        told = [{"folder": str(one.folder), "step": one.evidence().step} for one in opened]
        leading = opened[0].evidence(step or None)
        told[0]["step"], self.of = leading.step, id_scopes(opened[0].name, leading)
        display({"text/html": ""}, raw=True, metadata={KEY: {"runs": told}})

    def show(self, name: str, **controls: Any) -> None:
        """One analysis: its figure, summary and table, or the sentence that says why there is none."""
        again = (
            "".join(f", {control}={value}" for control, value in controls.items())
            if name in self.shown
            else ""
        )
        self.shown.add(name)
        self._section(
            name + again,
            lambda: self.bench.result(self.state.change(analysis=name, controls=controls)),
        )

    def rest(self, *evidence: str) -> None:
        """Every analysis that has not been shown yet, under its name: a new one appears here by existing.

        With `evidence`, those that read at least one of these fields.
        """
        from inspect import getmodule, signature

        from IPython.display import Markdown, display

        for name, function in analysis.analyses().items():
            asked = not evidence or set(evidence) & signature(function).parameters.keys()
            if asked and name not in self.shown:
                lead = str(getmodule(function).__doc__).partition("\n")[0]
                display(Markdown(f"## {name.replace('_', ' ').capitalize()}\n\n{lead}"))
                self.show(name)

    def explore(self, tab: str, **looks: Any) -> None:
        """The leading run's map, codes or lens, whose points and pictures answer to a pointer."""
        # `displays` makes the page of a map, of codes or of a lens.
        import workbench.hosts.displays  # noqa: F401
        from workbench.workspace.tab_content import build_tab

        self._section(tab, lambda: build_tab(self.bench, self.state.change(tab=tab, looks=looks)))

    def losses(self) -> None:
        """The leading run's log: every term of its objective by step."""
        from workbench.workspace.losses import losses

        self._section("losses", lambda: losses(self.bench.run(self.state.runs[0])))

    def _section(self, name: str, compute: Callable[[], Any]) -> None:
        from IPython.display import display

        for data, record in outputs(name, compute, self.of):
            display(data, raw=True, metadata={KEY: record} if record else {})


def outputs(
    name: str, compute: Callable[[], Any], of: Mapping[str, str]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What a section puts out, each with its record or none: a Result's figure and what it says, or the sentence
    that says why there is none. Of anything else that is shown, such as a map, its page.

    `of` says what ids of images and codes count in a figure, so that its page can tell which it shares with others."""
    began, table, found = time.perf_counter(), None, []
    try:
        shown = compute()
        words, table = shown._repr_html_(), getattr(shown, "table", None)
        if isinstance(shown, Result):
            found, table = [(mime_bundle(shown.figure()), {"of": dict(of)})], shown.table()
        state, said = "done", shown.summary() if isinstance(shown, Result) else repr(shown)
    except NotApplicable as error:
        state, said, words = (
            "absent",
            str(error),
            f'<p class="absent">{html.escape(str(error))}</p>',
        )
    except Cancelled:
        raise
    except Exception as error:  # one section's fault is no reason to lose the others
        state, said = "failed", _sentence(error)
        words = failure(said, "" if isinstance(error, UserError) else traceback.format_exc())
    record = {
        "section": name,
        "state": state,
        "said": said,
        "seconds": round(time.perf_counter() - began, 3),
    }
    record["table"] = None if table is None else _packed(table)
    return [*found, ({"text/html": words}, record)]


def sections_of(notebook: Any) -> list[Section]:
    """The sections of an executed notebook; where a cell stopped it, that one failed and the later ones are missed.

    Their outputs are replaced by a sentence.
    """
    found, heading, stop = [], "", _stop(notebook)
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            headings = [
                line[3:].strip() for line in cell.source.splitlines() if line.startswith("## ")
            ]
            heading = headings[-1] if headings else heading
            continue
        found += [_unpacked(told) for told in records(cell) if "section" in told]
        if place < stop or not cell.source.strip():
            continue
        name, said = (
            heading.lower().replace(" ", "_") or "beginning",
            "Not reached: a section before it stopped.",
        )
        words = f'<p class="absent">{said}</p>'
        if place == stop:
            said, more = _reason(cell)
            words = failure(said, more)
        found.append(Section(name, "failed" if place == stop else "missed", said))
        kept = [output for output in cell.outputs if output.output_type != "error"]
        cell.outputs = [
            *kept,
            type(cell)(output_type="display_data", data={"text/html": words}, metadata={}),
        ]
    return found


def _stop(notebook: Any) -> int:
    """The place of the cell that stopped the notebook; past the end if none did.

    Where the kernel died no cell has an error, papermill may call the cell before it failed too, and the cell that was
    running is the last that began.
    """
    cells = [(place, cell) for place, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    raised = [
        place
        for place, cell in cells
        if any(output.output_type == "error" for output in cell.outputs)
    ]
    told = [(place, cell.metadata.get("papermill", {})) for place, cell in cells]
    died = [
        place
        for place, one in told
        if one.get("status", "completed") != "completed" and one.get("start_time")
    ]
    return raised[0] if raised else max(died, default=len(notebook.cells))


def records(cell: Any) -> list[dict[str, Any]]:
    """What `ReportWriter` told beside the outputs of a cell."""
    return [
        output.metadata[KEY]
        for output in cell.get("outputs", [])
        if KEY in output.get("metadata", {})
    ]


def failure(said: str, more: str = "") -> str:
    """A fragment of HTML that says what went wrong, the rest of it folded."""
    folded = (
        f"<details><summary>traceback</summary><pre>{html.escape(more)}</pre></details>"
        if more
        else ""
    )
    return f'<div class="failed"><p><strong>This section failed.</strong> {html.escape(said)}</p>{folded}</div>'


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _reason(cell: Any) -> tuple[str, str]:
    """Why a cell stopped: in a sentence, and in full."""
    import re

    for output in cell.outputs:
        if output.output_type == "error":
            ours = output.ename in ("UserError", "RunError", "NotApplicable")
            more = "" if ours else re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
            return output.evalue if ours else f"{output.ename}: {output.evalue}", more
    return "Its process ended: out of memory, or stopped from outside.", ""


def _packed(table: pd.DataFrame) -> str:
    """A table as text: parquet keeps every number and its kind, which JSON does not."""
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def _unpacked(told: dict[str, Any]) -> Section:
    packed = told.get("table")
    table = None if packed is None else pd.read_parquet(io.BytesIO(base64.b64decode(packed)))
    return Section(told["section"], told["state"], told["said"], told["seconds"], table)
