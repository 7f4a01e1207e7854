"""Show the images that a model makes along one axis: `workbench.lens(run)`.

A slider moves along tokens, requested errors, checkpoints, codes, modes or guidance. `.state`,
`.images`, `.selected`, `.image_grid`, `.table`, `.figure` and `.code()` give what is on the screen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.images.reconstruction import image_errors
from workbench.analysis.plotting.run_colors import colors_of_runs
from workbench.core.errors import RunError, UserError, unknown
from workbench.explore.image_grid import ImageGrid, classes, compare_reconstructions
from workbench.storage.run import Run
from workbench.workspace import display
from workbench.workspace.image_selection import require_images
from workbench.workspace.lens_data import comparison_data, lens_figure, module_data
from workbench.workspace.run_colors import colors_of_named

if TYPE_CHECKING:  # the module needs torch
    from workbench.explore.loaded_run import LoadedRun

ORDERS = ("first", "worst", "best")
# Axes whose rows are images of the evidence.
IMAGE_AXES = ("tokens", "error", "token dropped", "token swapped", "code", "step", "run")
# Axes on which the last stop is the most interesting one.
GROWING_AXES = ("tokens", "step", "guidance", "interval", "modes")
# Axes along which several runs can be compared.
COMPARABLE_AXES = ("tokens", "error", "step")
MAX_COMPARED_RUNS = 3
MIN_VALUES = {"token": 0, "mode": 0, "label": 0, "seed": 0, "row": 0, "stop": -1, "step": 0}
MAX_VALUE = 2**31 - 1
# Numbers in all images of one lens, so that a page stays small.
MAX_PIXEL_VALUES = 24_000_000
DEFAULT_NUM_TOKENS = 16


@dataclass(frozen=True)
class LensState:
    """The axis and the rows of a lens, and the position in it.

    Attributes
    ----------
    over : str
        What the slider changes: an axis of the primary run, or `run`.
    show : int
        Number of rows: images, or labels of a generator.
    order : str
        Order of the images: `first` as collected, or `worst` or `best` by their error.
    step : int or None
        Step of the checkpoint; None is the last one.
    token : int
        Token whose code the axis `code` changes.
    mode : int
        Mode at which the axis `modes` begins; mode 0 is the largest.
    label : int
        Class of which the axis `interval` draws samples.
    seed : int
        Seed of a generator's noise.
    indices : tuple of int
        Indices of the images to show; empty for an order.
    row : int
        Selected row.
    stop : int
        Selected stop on the axis; -1 is the last stop of an axis that grows, otherwise the first.
    """

    over: str
    show: int = 8
    order: str = "first"
    step: int | None = None
    token: int = 0
    mode: int = 0
    label: int = 0
    seed: int = 0
    indices: tuple[int, ...] = ()
    row: int = 0
    stop: int = -1

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise unknown("order", str(self.order), ORDERS)
        if not isinstance(self.show, int) or self.show < 1:
            raise UserError(f"show must be a whole number of at least 1, got {self.show}.")
        for name, minimum in MIN_VALUES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or not minimum <= value <= MAX_VALUE:
                raise UserError(
                    f"{name} must be a whole number of at least {minimum}, got {str(value)[:60]}."
                )

    def to_json(self) -> str:
        """Return the state as JSON."""
        return json.dumps(asdict(self))


def lens(
    *runs: Run | str | Path, over: str | None = None, trust: Sequence[str] = (), **state: Any
) -> "Lens":
    """Show the images that one or several runs make of the same inputs along one axis.

    Parameters
    ----------
    *runs : Run, str or Path
        The runs or their folders; the first is the primary run.
    over : str, optional
        What the slider changes. None is the first axis of a run, and `run` for several runs.
    trust : sequence of str
        Modules and packages outside of this package that may be imported.
    **state
        Any other attribute of `LensState`, such as ``order="worst"``.

    Returns
    -------
    Lens
        The lens, which a notebook shows with its controls.

    Raises
    ------
    UserError
        If there is no run, or a setting or axis does not exist.
    """
    if not runs:
        raise UserError("A lens needs at least one run, for example wb.lens('runs/a').")
    opened = [run if isinstance(run, Run) else Run(run) for run in runs]
    return Lens(opened, over=over, trust=trust, state=state)


class Lens:
    """Rows of images along one axis, and a position in them.

    Parameters
    ----------
    runs : sequence of Run
        The first is the primary run.
    over : str, optional
        The axis; None is the first of `axes`.
    trust : sequence of str
        Modules and packages outside of this package that may be imported.
    state : Mapping
        Any other attribute of `LensState`.

    Raises
    ------
    UserError
        If a setting or the axis does not exist.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        over: str | None = None,
        trust: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.runs = list(runs)
        # A workspace replaces them by the colors of all its runs.
        self.run_colors: Mapping[str, str] = colors_of_named(self.runs)
        self._trust = tuple(trust)
        # Loaded models, by the number of the run and the step.
        self._models: dict[tuple[int, int | None], LoadedRun | None] = {}
        self._problems: dict[int, str] = {}  # why an imported model is missing, by its run's number
        self._computed: tuple[LensState, list[ImageGrid]] | None = None
        settings = dict(state or {})
        names = [item.name for item in fields(LensState) if item.name != "over"]
        for name in settings:
            if name not in names:
                raise unknown("setting", name, names, within="of a lens")
        self.state = LensState(over or self.axes[0], **settings)
        if self.state.over not in self.axes:
            self.runs[0].check_trust(self._trust)
            if 0 in self._problems:
                raise UserError(self._problems[0])
            raise unknown("axis", self.state.over, self.axes)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to another process: the computed images, but no models."""
        return {**self.__dict__, "_models": {}}

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The axes along which the slider can move.

        Without torch, a checkpoint or trust in the code of the run, it is only `run`.
        """
        model = self._model(0, None)
        model_axes = () if model is None else model.axes
        if len(self.runs) > 1 or not model_axes:
            return ("run", *model_axes)
        return model_axes

    @property
    def relevant_settings(self) -> tuple[str, ...]:
        """Names of the settings that change what the lens shows, without row and stop."""
        axis, is_generator = self.state.over, self.runs[0].is_generator
        relevant = {
            "over": True,
            "show": axis not in ("modes", "interval"),
            "order": not is_generator and axis in IMAGE_AXES,
            "step": axis not in ("step", "run"),
            "token": axis == "code",
            "mode": axis == "modes",
            "label": axis == "interval",
            "seed": is_generator,
        }
        return tuple(name for name, is_relevant in relevant.items() if is_relevant)

    @property
    def indices(self) -> list[int] | None:
        """Indices of the evidence's images in the rows; None if the rows are not images of it."""
        if self.runs[0].is_generator or self.state.over not in IMAGE_AXES:
            return None
        return self._row_indices(self.state)

    @property
    def max_token(self) -> int:
        """The number of the last token."""
        return max(0, self.runs[0].config.settings.get("num_tokens", 1) - 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes that a generator draws."""
        return classes(self.runs[0])

    @property
    def image_grid(self) -> ImageGrid:
        """All images of the primary run, computed once per state."""
        return self._grids[0]

    @property
    def compared_grids(self) -> list[ImageGrid]:
        """The images of the other runs that have the same axis and the same images."""
        return self._grids[1:]

    @property
    def position(self) -> tuple[int, int]:
        """The selected row and stop, within the image grid."""
        num_rows, num_stops = self.image_grid.images.shape[:2]
        stop = self.state.stop
        if stop < 0:
            # If the last step is the reference, the last stop equals it and shows nothing.
            is_reference = self.image_grid.reference_label.startswith("step")
            is_growing = self.state.over in GROWING_AXES and not is_reference
            stop = num_stops - 1 if is_growing else 0
        return min(self.state.row, num_rows - 1), min(stop, num_stops - 1)

    def move_to(self, row: int, stop: int) -> None:
        """Select a row and a stop."""
        self.state = replace(self.state, row=row, stop=stop)

    @property
    def images(self) -> dict[str, np.ndarray]:
        """The images on the screen.

        `reference` and `shown` are uint8 (h, w, c), `difference` is float (h, w) in [0, 1].
        """
        row, stop = self.position
        grid = self.image_grid
        return {
            "reference": grid.reference[row],
            "shown": grid.images[row, stop],
            "difference": grid.error_map(row, stop),
        }

    @property
    def selected(self) -> dict[str, str]:
        """The names of the selected row and stop."""
        row, stop = self.position
        grid = self.image_grid
        return {"row": grid.rows[row], grid.axis: grid.axis_values[stop]}

    @property
    def table(self) -> pd.DataFrame:
        """One row per image: tokens, mean absolute error and PSNR against its reference."""
        return self.image_grid.table()

    @property
    def figure(self) -> go.Figure:
        """The three images on the screen."""
        return lens_figure(self.runs[0].name, self.image_grid, *self.position)

    def code(self) -> str:
        """Return the Python code that shows the same lens."""
        row, stop = self.position
        values = asdict(replace(self.state, row=row, stop=stop))
        if self._trust:
            values["trust"] = self._trust
        defaults = {**asdict(LensState("")), "over": None}
        arguments = [repr(str(run.folder)) for run in self.runs]
        arguments += [f"{k}={v!r}" for k, v in values.items() if v != defaults.get(k)]
        return f"import workbench as wb\n\nlens = wb.lens({', '.join(arguments)})\nlens.images"

    def data(self) -> dict[str, Any]:
        """Return the data that the JavaScript module shows."""
        comparisons = [
            comparison_data(run.name, self.image_grid, grid)
            for run, grid in zip(self._compared_runs, self.compared_grids, strict=True)
        ]
        return {
            **module_data(self.image_grid),
            "name": self.runs[0].name,
            "colors": self._colors,
            "places": self.indices,
            "beside": comparisons,
        }

    @property
    def _colors(self) -> list[str]:
        """The colors of the primary run and of the compared runs."""
        names = [run.name for run in (self.runs[0], *self._compared_runs)]
        colors = colors_of_runs(names, self.run_colors)
        return [colors[name] for name in names]

    def view(self) -> dict[str, Any]:
        """Return the position as the JavaScript module represents it."""
        row, stop = self.position
        return {"row": row, "stop": stop}

    def __repr__(self) -> str:
        return f"Lens on {', '.join(run.name for run in self.runs)} over {self.state.over}"

    def _repr_html_(self) -> str | None:
        return display.to_html(self)

    def _ipython_display_(self) -> None:
        display.show(self)

    @property
    def _grids(self) -> list[ImageGrid]:
        """The images of the primary run, then of the compared runs; computed once per state."""
        # Row and stop only change what is on the screen.
        state = replace(self.state, row=0, stop=0)
        if self._computed is None or self._computed[0] != state:
            grids = [self._compute_grid(state), *self._compute_comparisons(state)]
            self._computed = state, grids
        return self._computed[1]

    @property
    def _compared_runs(self) -> list[Run]:
        """The runs that are compared with the primary run."""
        primary = self.runs[0]
        if self.state.over not in COMPARABLE_AXES or primary.is_generator:
            return []
        fingerprint = _fingerprint(primary)
        compared_runs = []
        for number, run in enumerate(self.runs[1:], 1):
            if run.is_generator or fingerprint is None:
                continue
            if _fingerprint(run) != fingerprint:
                continue
            model = self._model(number, None)
            if model is not None and self.state.over in model.axes:
                compared_runs.append(run)
        return compared_runs[:MAX_COMPARED_RUNS]

    def _model(self, number: int, step: int | None) -> "LoadedRun | None":
        """Return a run with its model; None without torch, a checkpoint or trust."""
        if (number, step) not in self._models:
            try:
                from workbench.explore.loaded_run import LoadedRun
            except ModuleNotFoundError:
                return None
            run = self.runs[number]
            if not run.steps or not run.is_trusted(self._trust):
                return None
            # One model per run is held in memory.
            self._models = {key: model for key, model in self._models.items() if key[0] != number}
            try:
                self._models[number, step] = LoadedRun.load(run, step, self._trust)
            except RunError as error:
                if run.config.imported is None:
                    raise
                # The evidence can be shown without the model.
                self._models[number, step] = None
                self._problems[number] = str(error)
        return self._models[number, step]

    def _compute_grid(self, state: LensState) -> ImageGrid:
        model = None if state.over == "run" else self._model(0, state.step)
        if model is None:
            evidences = [self.runs[0].evidence(state.step)]
            evidences += [run.evidence() for run in self.runs[1:]]
            grid = compare_reconstructions(evidences, self._row_indices(state))
            return replace(grid, note=" ".join(filter(None, [grid.note, *self._problems.values()])))
        rows = self._row_indices(state) if not self.runs[0].is_generator else self._labels(state)
        return model.explore(state.over, rows, token=state.token, mode=state.mode, seed=state.seed)

    def _labels(self, state: LensState) -> list[int]:
        """Return the labels that a generator draws."""
        count = len(self.class_names)
        if state.over != "interval":
            return list(range(min(state.show, count)))
        if state.label >= count:
            name = self.runs[0].name
            raise UserError(
                f"label must be between 0 and {count - 1} for {name}, got {state.label}."
            )
        return [state.label]

    def _compute_comparisons(self, state: LensState) -> list[ImageGrid]:
        grids = []
        for run in self._compared_runs:
            model = self._model(self.runs.index(run), None)
            if model is not None:
                grids.append(model.explore(state.over, self._row_indices(state)))
        return grids

    def _row_indices(self, state: LensState) -> list[int]:
        """Return the indices of the images: as many as requested, and as a page can hold."""
        run = self.runs[0]
        evidence = run.evidence()
        images = require_images(evidence)
        columns = len(self.runs)
        if state.over != "run":
            columns = run.config.settings.get("num_tokens", DEFAULT_NUM_TOKENS) + 1
        values_per_row = columns * (1 + len(self._compared_runs)) * images[0].size
        count = min(state.show, max(1, MAX_PIXEL_VALUES // values_per_row))
        if state.indices:
            first, last = min(state.indices), max(state.indices)
            if not 0 <= first <= last < len(images):
                raise UserError(
                    f"indices must be between 0 and {len(images) - 1} for {run.name}, "
                    f"got {first} to {last}."
                )
            return list(state.indices[:count])
        if state.order == "first":
            return list(range(min(count, len(images))))
        l1 = image_errors(evidence)[1][: len(images)]
        ranking = np.argsort(l1 if state.order == "best" else -l1, kind="stable")
        return ranking[:count].tolist()


def _fingerprint(run: Run) -> str | None:
    """Return the fingerprint of the images of a run's evidence; None without evidence."""
    try:
        return run.evidence().provenance.get("fingerprint")
    except RunError:
        return None
