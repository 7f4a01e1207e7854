"""`workbench.lens(run)`: one slider over what a trained model makes of images, beside what they should be.

Along tokens, errors asked for, checkpoints, codes, modes, guidance. What is seen can be had in code: `.state`,
`.images`, `.selected`, `.frames`, `.table`, `.figure`, `.code()`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.images.reconstruction import pixel_errors
from workbench.core.errors import RunError, UserError, unknown
from workbench.explore.image_grid import ImageGrid, classes, compared
from workbench.storage.run import Run
from workbench.workspace import display
from workbench.workspace.lens_data import beside_data, draw, module_data

ORDERS = ("first", "worst", "best")
OF_IMAGES = ("tokens", "error", "token dropped", "token swapped", "code", "step", "run")
GROWING = (
    "tokens",
    "step",
    "guidance",
    "interval",
    "modes",
)  # axes whose end is what one wants to see first
SHARED = ("tokens", "error", "step")  # axes along which several runs may be held beside each other
MOST_BESIDE = 3  # runs beside the leading one
LEAST = {"token": 0, "mode": 0, "label": 0, "seed": 0, "row": 0, "stop": -1, "step": 0}
LARGEST = 24_000_000  # numbers in all pictures of one lens, so that a page stays small


@dataclass(frozen=True)
class LensState:
    """What a lens looks at, and what was picked in it; JSON by `to_json`."""

    over: str  # what the slider changes: an axis of the leading run, or "run"
    show: int = 8  # rows: images, or labels of a generator
    order: str = "first"  # of the images: as collected, or by their error
    step: int | None = None  # checkpoint; None: the last
    token: int = 0  # whose code the axis "code" changes
    mode: int = 0  # whose mean the axis "modes" begins at; 0 is the largest
    label: int = 0  # class that the axis "interval" is drawn of
    seed: int = 0  # whose noise a generator starts from
    places: tuple[int, ...] = ()  # of images of the evidence, instead of an order
    row: int = 0  # picked
    stop: int = -1  # picked; -1: the last of what grows, the first of what merely differs

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise unknown("order", str(self.order), ORDERS)
        if not isinstance(self.show, int) or self.show < 1:
            raise UserError(f"A lens shows at least 1 row; got show={self.show}.")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise UserError(f"{name} is a whole number, at least {least}; got {value}.")

    def to_json(self) -> str:
        """The state as JSON."""
        return json.dumps(asdict(self))


def lens(
    *runs: Run | str | Path, over: str | None = None, modules: Sequence[str] = (), **state: Any
) -> "Lens":
    """Look through a lens at one run, or at several beside each other on the same images.

    `over` is what the slider changes (None: the first that the run knows; of several runs, the run), `modules` are
    those beside ours from which its class may come. `state` sets any other field of LensState. Raises UserError.
    """
    if not runs:
        raise UserError("A lens looks at a run; name one: wb.lens('runs/a').")
    return Lens([run if isinstance(run, Run) else Run(run) for run in runs], over, modules, state)


class Lens:
    """Rows of images, one axis, and what was picked of both."""

    def __init__(
        self, runs: Sequence[Run], over: str | None, modules: Sequence[str], state: dict[str, Any]
    ) -> None:
        self.runs, self._modules = list(runs), tuple(modules)
        self._subjects: dict[
            tuple[int, int | None], Any
        ] = {}  # models, by the run's place and the step
        self._computed: tuple[Any, list[ImageGrid]] | None = None
        known = [name for name in LensState.__dataclass_fields__ if name != "over"]
        for name in state:
            if name not in known:
                raise unknown("setting of a lens", name, known)
        self.state = LensState(over or self.axes[0], **state)
        if self.state.over not in self.axes:
            raise unknown("axis", self.state.over, self.axes)

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: what was computed, and no models."""
        return {**self.__dict__, "_subjects": {}}

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """What the slider can change; without torch or a checkpoint, only the run."""
        subject = self._subject(0, None)
        told = () if subject is None else subject.axes
        several = len(self.runs) > 1 or not told
        return (*(["run"] if several else []), *told)

    @property
    def settings(self) -> tuple[str, ...]:
        """Which fields of the state matter to what it shows, beside what was picked."""
        over, generator = self.state.over, self.runs[0].tokenizer is not None
        wanted = {"over": True, "show": over not in ("modes", "interval")}
        wanted |= {
            "order": not generator and over in OF_IMAGES,
            "step": over not in ("step", "run"),
        }
        wanted |= {
            "token": over == "code",
            "mode": over == "modes",
            "label": over == "interval",
            "seed": generator,
        }
        return tuple(name for name, wants in wanted.items() if wants)

    @property
    def places(self) -> list[int] | None:
        """Which images of the evidence the rows are; None where they are none, as a generator's."""
        of_images = self.runs[0].tokenizer is None and self.state.over in OF_IMAGES
        return self._places(self.state) if of_images else None

    @property
    def most_tokens(self) -> int:
        """The last token's number, whose code may be changed."""
        return max(0, self.runs[0].config["settings"].get("num_tokens", 1) - 1)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the labels are called that a generator draws."""
        return classes(self.runs[0])

    @property
    def frames(self) -> ImageGrid:
        """All the pictures of the leading run, computed once. Raises UserError where there are none to show."""
        return self._all[0]

    @property
    def beside(self) -> list[ImageGrid]:
        """The same of the other runs, where the axis is theirs too and their images are the same."""
        return self._all[1:]

    @property
    def picked(self) -> tuple[int, int]:
        """The row and the stop that were picked, within what there is."""
        n, m = self.frames.shown.shape[:2]
        grows = self.state.over in GROWING and not self.frames.against.startswith(
            "step"
        )  # else the last is that one
        stop = (m - 1 if grows else 0) if self.state.stop < 0 else self.state.stop
        return min(self.state.row, n - 1), min(stop, m - 1)

    def look(self, row: int, stop: int) -> None:
        """Pick a row and a stop."""
        self.state = replace(self.state, row=row, stop=stop)

    @property
    def images(self) -> dict[str, np.ndarray]:
        """What is on the screen: `reference` and `shown`, uint8 (h, w, c), and `difference` (h, w) in [0, 1]."""
        row, stop = self.picked
        frames = self.frames
        difference = frames.error_map(row, stop)
        return {
            "reference": frames.reference[row],
            "shown": frames.shown[row, stop],
            "difference": difference,
        }

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
        return draw(self.runs[0].name, self.frames, *self.picked)

    def code(self) -> str:
        """The Python that makes what is on the screen."""
        runs = [repr(str(run.folder)) for run in self.runs]
        row, stop = self.picked
        told = asdict(replace(self.state, row=row, stop=stop)) | (
            {"modules": self._modules} if self._modules else {}
        )
        plain = asdict(LensState("")) | {"over": None}
        changed = [f"{name}={value!r}" for name, value in told.items() if value != plain.get(name)]
        return f"import workbench as wb\n\nlens = wb.lens({', '.join(runs + changed)})\nlens.images"

    def data(self) -> dict[str, Any]:
        """What the JavaScript module shows."""
        names = [run.name for run in self._shared]
        others = [
            beside_data(name, self.frames, one)
            for name, one in zip(names, self.beside, strict=True)
        ]
        told = {"name": self.runs[0].name, "places": self.places, "beside": others}
        return {**module_data(self.frames), **told}

    def view(self) -> dict[str, Any]:
        """What was picked, as the module has it."""
        row, stop = self.picked
        return {"row": row, "stop": stop}

    def __repr__(self) -> str:
        return f"Lens on {', '.join(run.name for run in self.runs)} over {self.state.over}"

    def _repr_html_(self) -> str | None:
        return display.to_html(self)

    def _ipython_display_(self) -> None:
        display.show(self)

    @property
    def _all(self) -> list[ImageGrid]:
        told = replace(self.state, row=0, stop=0)
        if self._computed is None or self._computed[0] != told:
            self._computed = told, [self._asked(told), *self._others(told)]
        return self._computed[1]

    @property
    def _shared(self) -> list[Run]:
        """The runs that are shown beside the leading one."""
        if self.state.over not in SHARED or self.runs[0].tokenizer is not None:
            return []
        found = []
        for place, run in enumerate(self.runs[1:], 1):
            if run.tokenizer is None and _images(run) == _images(self.runs[0]) is not None:
                subject = self._subject(place, None)
                found += [run] if subject is not None and self.state.over in subject.axes else []
        return found[:MOST_BESIDE]

    def _subject(self, place: int, step: int | None) -> Any:
        """A run with its model; None where there is no torch, or nothing to load."""
        if (place, step) not in self._subjects:
            try:
                from workbench.explore.loaded_run import LoadedRun
            except ModuleNotFoundError:
                return None
            if not self.runs[place].steps:
                return None
            kept = {key: one for key, one in self._subjects.items() if key[0] != place}
            self._subjects = {
                **kept,
                (place, step): LoadedRun.load(self.runs[place], step, self._modules),
            }
        return self._subjects[place, step]

    def _asked(self, state: LensState) -> ImageGrid:
        subject = None if state.over == "run" else self._subject(0, state.step)
        if subject is None:
            evidences = [
                self.runs[0].evidence(state.step),
                *(run.evidence() for run in self.runs[1:]),
            ]
            return compared(evidences, self._places(state))
        if self.runs[0].tokenizer is not None:
            chosen = (
                [state.label]
                if state.over == "interval"
                else range(min(state.show, len(self.classes)))
            )
            if state.over == "interval" and state.label >= len(self.classes):
                raise UserError(
                    f"{self.runs[0].name} draws labels 0 to {len(self.classes) - 1}; got {state.label}."
                )
        else:
            chosen = self._places(state)
        return subject.frames(
            state.over, list(chosen), token=state.token, mode=state.mode, seed=state.seed
        )

    def _others(self, state: LensState) -> list[ImageGrid]:
        chosen = self._places(state) if self._shared else []
        subjects = [self._subject(self.runs.index(run), None) for run in self._shared]
        return [subject.frames(state.over, chosen) for subject in subjects]

    def _places(self, state: LensState) -> list[int]:
        """Which images of the evidence: as many as are asked for, and as a page can hold."""
        evidence, tokens = (
            self.runs[0].evidence(),
            self.runs[0].config["settings"].get("num_tokens", 16),
        )
        columns = len(self.runs) if state.over == "run" else tokens + 1
        room = max(1, LARGEST // (columns * (1 + len(self._shared)) * evidence.images[0].size))
        if state.places:
            if not 0 <= min(state.places) <= max(state.places) < len(evidence.images):
                raise UserError(
                    f"{self.runs[0].name} has images 0 to {len(evidence.images) - 1}; got others."
                )
            return list(state.places[: min(state.show, room)])
        if state.order == "first":
            return list(range(min(state.show, room, len(evidence.images))))
        _, l1 = pixel_errors(evidence.images, evidence.reconstructions)
        ranked = np.argsort(l1 if state.order == "best" else -l1, kind="stable")
        return ranked[: min(state.show, room)].tolist()


def _images(run: Run) -> str | None:
    """The fingerprint of the images that a run was collected on; None where it was not."""
    try:
        return run.evidence().provenance.get("fingerprint")
    except RunError:
        return None
