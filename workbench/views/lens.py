"""`workbench.lens(run)`: one slider over what a trained model makes of images, beside what they should be.

Along tokens, errors asked for, checkpoints, codes, modes, guidance. What is seen can be had in code: `.state`,
`.images`, `.selected`, `.frames`, `.table`, `.figure`, `.code()`.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.images.reconstruction import errors
from workbench.analysis.style import MAGNITUDE, themed
from workbench.errors import UserError, unknown
from workbench.explore.frames import Frames, compared
from workbench.runs import Run
from workbench.views.esm import png, static

ORDERS = ("first", "worst", "best")
GROWING = ("tokens", "step", "guidance", "interval", "modes")  # axes whose end is what one wants to see first
LARGEST = 24_000_000  # numbers in all pictures of one lens, so that a page stays small
HEIGHT = 620  # pixels of a lens in a page


@dataclass(frozen=True)
class LensState:
    """What a lens looks at, and what was picked in it; JSON by `to_json`."""

    over: str  # what the slider changes: an axis of the leading run, or "run"
    show: int = 8  # rows: images, or labels of a generator
    order: str = "first"  # of the images: as collected, or by their error
    step: int | None = None  # checkpoint; None: the last
    token: int = 0  # whose code the axis "code" changes
    seed: int = 0  # whose noise a generator starts from
    row: int = 0  # picked
    stop: int = -1  # picked; -1: the last of what grows, the first of what merely differs

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise unknown("order", str(self.order), ORDERS)
        if self.show < 1:
            raise UserError(f"A lens shows at least 1 row; got show={self.show}.")

    def to_json(self) -> str:
        """The state as JSON."""
        return json.dumps(asdict(self))


def lens(*runs: Run | str | Path, over: str | None = None, modules: Sequence[str] = (), **state: Any) -> "Lens":
    """Look through a lens at one run, or at several beside each other on the same images.

    `over` is what the slider changes (None: the first that the run knows; of several runs, the run), `modules` are
    those beside ours from which its class may come. `state` sets any other field of LensState. Raises UserError.
    """
    if not runs:
        raise UserError("A lens looks at a run; name one: wb.lens('runs/a').")
    return Lens([run if isinstance(run, Run) else Run(run) for run in runs], over, modules, state)


class Lens:
    """Rows of images, one axis, and what was picked of both."""

    def __init__(self, runs: Sequence[Run], over: str | None, modules: Sequence[str], state: dict[str, Any]) -> None:
        self.runs, self._modules = list(runs), tuple(modules)
        self._subjects: dict[int | None, Any] = {}
        self._frames: tuple[Any, Frames] | None = None
        known = [name for name in LensState.__dataclass_fields__ if name != "over"]
        for name in state:
            if name not in known:
                raise unknown("setting of a lens", name, known)
        self.state = LensState(over or self.axes[0], **state)
        if self.state.over not in self.axes:
            raise unknown("axis", self.state.over, self.axes)

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """What the slider can change; without torch or a checkpoint, only the run."""
        subject = self._subject(None)
        told = () if subject is None else subject.axes
        several = len(self.runs) > 1 or not told
        return (*(["run"] if several else []), *told)

    @property
    def frames(self) -> Frames:
        """All the pictures, computed once. Raises UserError where there are none to show."""
        told = replace(self.state, row=0, stop=0)
        if self._frames is None or self._frames[0] != told:
            self._frames = told, self._asked(told)
        return self._frames[1]

    @property
    def picked(self) -> tuple[int, int]:
        """The row and the stop that were picked, within what there is."""
        n, m = self.frames.shown.shape[:2]
        grows = self.state.over in GROWING and not self.frames.against.startswith("step")  # else the last is that one
        stop = (m - 1 if grows else 0) if self.state.stop < 0 else self.state.stop
        return min(self.state.row, n - 1), min(stop, m - 1)

    @property
    def images(self) -> dict[str, np.ndarray]:
        """What is on the screen: `reference` and `shown`, uint8 (h, w, c), and `difference` (h, w) in [0, 1]."""
        row, stop = self.picked
        frames = self.frames
        difference = frames.error_map(row, stop)
        return {"reference": frames.reference[row], "shown": frames.shown[row, stop], "difference": difference}

    @property
    def selected(self) -> dict[str, str]:
        """What was picked, in words."""
        row, stop = self.picked
        return {"row": self.frames.rows[row], self.frames.axis: self.frames.stops[stop]}

    @property
    def table(self) -> pd.DataFrame:
        """A row a picture: tokens, mean absolute error and PSNR against its reference."""
        return self.frames.table()

    @property
    def figure(self) -> go.Figure:
        """The three pictures on the screen."""
        return _figure(self)

    def code(self) -> str:
        """The Python that makes what is on the screen."""
        runs = [repr(str(run.folder)) for run in self.runs]
        row, stop = self.picked
        told = asdict(replace(self.state, row=row, stop=stop)) | ({"modules": self._modules} if self._modules else {})
        plain = asdict(LensState("")) | {"over": None}
        changed = [f"{name}={value!r}" for name, value in told.items() if value != plain.get(name)]
        return f"import workbench as wb\n\nlens = wb.lens({', '.join(runs + changed)})\nlens.images"

    def data(self) -> dict[str, Any]:
        """What the JavaScript module shows."""
        return module_data(self.frames)

    def view(self) -> dict[str, Any]:
        """What was picked, as the module has it."""
        row, stop = self.picked
        return {"row": row, "stop": stop}

    def __repr__(self) -> str:
        return f"Lens on {', '.join(run.name for run in self.runs)} over {self.state.over}"

    def _repr_html_(self) -> str:
        """Without a kernel: the same module, with what was computed so far."""
        try:
            return static("lens", self.data(), self.view(), height=HEIGHT, title=repr(self))
        except UserError as error:
            return f"<p><em>{html.escape(str(error))}</em></p>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The widgets; without a kernel, the page; in a terminal, a line."""
        from workbench.views.lens_screen import Screen

        bundle = Screen(self).box._repr_mimebundle_()
        return {**bundle, "text/html": self._repr_html_(), "text/plain": repr(self)}

    def _subject(self, step: int | None) -> Any:
        """The leading run with its model; None where there is no torch, or nothing to load."""
        if step not in self._subjects:
            try:
                from workbench.explore.subject import Subject
            except ModuleNotFoundError:
                return None
            if not self.runs[0].steps:
                return None
            self._subjects = {step: Subject.load(self.runs[0], step, self._modules)}
        return self._subjects[step]

    def _asked(self, state: LensState) -> Frames:
        subject = None if state.over == "run" else self._subject(state.step)
        if subject is None:
            evidences = [self.runs[0].evidence(state.step), *(run.evidence() for run in self.runs[1:])]
            return compared(evidences, self._places(state, columns=len(self.runs)))
        if self.runs[0].tokenizer is not None:
            chosen = range(min(state.show, self.runs[0].config["settings"]["classes"]))
        else:
            chosen = self._places(state, columns=self.runs[0].config["settings"].get("tokens", 16) + 1)
        return subject.frames(state.over, list(chosen), token=state.token, seed=state.seed)

    def _places(self, state: LensState, columns: int) -> list[int]:
        """Which images of the evidence: as many as are asked for, and as a page can hold."""
        evidence = self.runs[0].evidence()
        room = max(1, LARGEST // (columns * evidence.images[0].size))
        if state.order == "first":
            return list(range(min(state.show, room, len(evidence.images))))
        _, l1 = errors(evidence.images, evidence.reconstructions)
        ranked = np.argsort(l1 if state.order == "best" else -l1, kind="stable")
        return ranked[: min(state.show, room)].tolist()


def module_data(frames: Frames) -> dict[str, Any]:
    """What the JavaScript module needs of frames: two sheets of pictures, and a note for each."""
    n, m, h, w, c = frames.shown.shape
    error, psnr, tokens = frames.error, frames.psnr, frames.tokens
    word = "error" if frames.against == "original" else "difference"

    def note(i: int, j: int) -> str:
        used = "" if tokens is None else f"{tokens[i, j]} of {frames.active.shape[2]} tokens · "
        return f"{used}mean absolute {word} {error[i, j]:.4f} · PSNR {psnr[i, j]:.1f} dB"

    active = frames.active
    return {
        "axis": frames.axis,
        "stops": frames.stops,
        "rows": frames.rows,
        "against": frames.against,
        "note": frames.note,
        "size": [h, w],
        "notes": [[note(i, j) for j in range(m)] for i in range(n)],
        "active": None if active is None else [["".join("01"[int(a)] for a in one) for one in row] for row in active],
        "reference": png(frames.reference.reshape(n * h, w, c)),
        "shown": png(frames.shown.transpose(0, 2, 1, 3, 4).reshape(n * h, m * w, c)),
    }


def _figure(lens: Lens) -> go.Figure:
    from plotly.subplots import make_subplots

    images, (row, stop), frames = lens.images, lens.picked, lens.frames
    titles = (frames.against, f"{frames.axis} {frames.stops[stop]}", "absolute difference")
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles)
    for column, name in enumerate(("reference", "shown"), 1):
        figure.add_trace(go.Image(z=np.broadcast_to(images[name], (*images[name].shape[:2], 3))), row=1, col=column)
    figure.add_trace(go.Heatmap(z=images["difference"], colorscale=MAGNITUDE, zmin=0), row=1, col=3)
    figure.update_xaxes(showticklabels=False, constrain="domain")
    figure.update_yaxes(showticklabels=False, autorange="reversed", scaleanchor="x", constrain="domain")
    for axis in ("2", "3"):
        figure.update_layout({f"yaxis{axis}": {"scaleanchor": f"x{axis}"}})
    said = f"mean absolute error {frames.error[row, stop]:.4f} · PSNR {frames.psnr[row, stop]:.1f} dB"
    title = {"text": f"{lens.runs[0].name}, {frames.rows[row]}", "subtitle": {"text": said}}
    return themed(figure.update_layout(title=title, height=360))
