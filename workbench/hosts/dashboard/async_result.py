"""In the dashboard: what a tab shows from when it is asked for until it is there, or the sentence that says why not."""

import html
import re
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import CancelledError, wait
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui

from workbench.analysis import analyses
from workbench.core.errors import NotApplicable, UserError
from workbench.workspace.compute import ComputeJob
from workbench.workspace.controls import Value
from workbench.workspace.view_state import ViewState

if TYPE_CHECKING:
    from workbench.hosts.dashboard.app import Session

CODE = re.compile("`([^`]+)`")
KINDS = {"info": ("ℹ", "#0072b2"), "warning": ("⚠", "#d55e00"), "error": ("✖", "#d55e00")}
QUICK = 0.1  # seconds: what takes less is shown without a word; everybody waits meanwhile


class AsyncResult:
    """What one tab shows, computed by the session's jobs, or here where it has none; `draw` shows it in `place`.

    `key` tells what is asked for from all else, `compute` makes it: an analysis's result, where they are not given.
    """

    def __init__(
        self,
        session: "Session",
        name: str,
        place: pn.Column,
        draw: Callable[[Any], None],
        *,
        key: Callable[[ViewState], Hashable] | None = None,
        compute: Callable[[ViewState], Any] | None = None,
    ) -> None:
        self.session, self.name, self.place, self.draw = session, name, place, draw
        self.key_of, self.compute = key or session.bench.key, compute or session.bench.result
        # Empty where there is nothing to say: one that is made visible while a page builds it is an error there.
        self.sentence = pn.pane.HTML("", margin=0)
        self.again = pmui.Button(label="compute", variant="outlined", size="small", visible=False)
        self.again.on_click(lambda _: self.show(self.state))
        place.visible = False
        self.body = pn.Column(self.sentence, self.again, place, sizing_mode="stretch_width")
        self.state = ViewState()
        self.key: Hashable = None  # of what is shown, or being computed
        self.job: ComputeJob | None = None
        self.found: Any = None

    def ask(self, state: ViewState, told: Mapping[str, Value]) -> None:
        """Show the analysis of a state's runs and step under these controls."""
        self.show(ViewState(state.runs, state.step, self.name, told))

    def show(self, state: ViewState) -> None:
        """Show what a state asks for, unless it is shown or being computed already."""
        self.state = state
        try:
            key = self.key_of(state)
        except UserError as error:
            self._leave()
            self._refuse(error)
            return
        if key == self.key:
            return
        self._leave()
        self.key = key
        if self.session.jobs is None:
            self._take(lambda: self.compute(state))
        else:
            self._wait(self.session.jobs.ask(key, state, self.session.me))

    def _wait(self, job: ComputeJob) -> None:
        self.job = job
        if wait([job.future], QUICK).done:
            self._end(job)
            return
        self._say(
            f"Computing {self.name.replace('_', ' ')} of {job.state.runs[0]} …",
            hide=self.found is None,
        )
        self.place.loading = True
        self.session.when_loaded(self.session.card.watch)
        job.future.add_done_callback(lambda _: self.session.later(lambda: self._end(job)))

    def _end(self, job: ComputeJob) -> None:
        if job is self.job:  # else something else has been asked for since
            self.job, self.place.loading = None, False
            self._take(job.future.result)

    def _leave(self) -> None:
        """What was asked for before is no longer waited for."""
        job, self.job = self.job, None
        if job is not None:
            self.session.jobs.leave(job, self.session.me)
            self.place.loading = False

    def _take(self, compute: Callable[[], Any]) -> None:
        try:
            self.found = compute()
            self.draw(self.found)
            self.place.visible, self.sentence.object, self.again.visible = True, "", False
        except CancelledError:
            self.key = None
            self._say("Stopped before it was finished.")
            self.again.visible = True
        except UserError as error:
            self._refuse(error)
        except Exception as error:
            self.key, what = (
                None,
                f"{type(error).__name__}: {error}" if self.session.jobs is None else str(error),
            )
            self._say(f"{self.name} failed: {what}. The server's log says where.", "error")
            if self.session.jobs is None:
                raise

    def _refuse(self, error: UserError) -> None:
        self.key, said = None, str(error)
        if isinstance(error, NotApplicable):
            other = self.session.bench.applicable(self.name) if self.name in analyses() else None
            said += f" It applies to {other}: make that the leading run." if other else ""
        self._say(said, "info" if isinstance(error, NotApplicable) else "warning")

    def _say(self, sentence: str, kind: str = "info", *, hide: bool = True) -> None:
        symbol, colour = KINDS[kind]
        style = f"border: 1px solid {colour}; border-left-width: 4px; border-radius: 4px"
        style += "; padding: 10px 16px; margin: 5px 10px"
        said = f"<span aria-label='{kind}' style='color: {colour}'>{symbol}</span>&ensp;{marked(sentence)}"
        self.sentence.object = f"<div role='status' style='{style}'>{said}</div>"
        self.again.visible = False
        if hide:
            self.found, self.place.visible = None, False


def marked(text: str) -> str:
    """A sentence as HTML: all of it escaped, what stands in backticks as code."""
    return CODE.sub(r"<code>\1</code>", html.escape(text))
