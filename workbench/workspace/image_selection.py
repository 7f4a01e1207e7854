"""`workbench.select(run, ...)`: some images of a run, however they were picked, beside all of them.

Their pictures, their classes and errors, the codes they are told in; a Result, as an analysis returns.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.images.reconstruction import pixel_errors, psnr_db
from workbench.analysis.inputs import class_names
from workbench.analysis.latents.modes import mixture_modes
from workbench.analysis.latents.projection import LatentMap
from workbench.analysis.latents.projection import latent_map as compute_layout
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.result_cache import lookup
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace.controls import coerce_controls
from workbench.workspace.encoding import png_url
from workbench.workspace.map_layout import layout_of_run, snap_to_grid
from workbench.workspace.selection import Selection, matches_condition, points_in_polygon
from workbench.workspace.workspace import RESULTS_FOLDER

SHOWN, COLUMNS = 40, 8  # pictures, and how many in a row
TOP = 5  # codes named
Layout = Callable[[Run, Selection], LatentMap]


@dataclass(frozen=True, eq=False)
class SelectedImages(Result):
    """Which images, their properties, and the same of all."""

    run: str
    step: int
    places: np.ndarray = field(repr=False)  # int (m,): among the evidence's images
    columns: dict[str, Any] = field(
        repr=False
    )  # of all n images: class, error, psnr, tokens, mode, where known
    codes: tuple[
        tuple[int, int], ...
    ]  # the commonest of theirs, each with its count, the commonest first
    images: np.ndarray | None = field(repr=False)  # uint8 (m, h, w, c)
    drawn: str = ""  # which images were on the map that a loop was drawn on, in words; "": all could be selected

    @property
    def n(self) -> int:
        """How many images there are in all."""
        return len(self.columns["image"])

    def figure(self) -> go.Figure:
        """Pictures of the first at the left; at the right their errors' distribution over that of all."""
        from plotly.subplots import make_subplots

        pictured, measured = (
            self.images is not None and len(self.places) > 0,
            "error" in self.columns,
        )
        figure = make_subplots(rows=1, cols=2, column_widths=(0.58, 0.42), horizontal_spacing=0.1)
        if pictured:
            figure.add_trace(
                go.Image(source=png_url(_sheet(self.images[:SHOWN])), hoverinfo="skip"),
                row=1,
                col=1,
            )
        if measured:
            error = self.columns["error"]
            edges = np.linspace(error.min(), max(error.max(), error.min() + 1e-9), 31)
            for name, some, colour in (
                ("all", error, COLORS[6]),
                ("selected", error[self.places], COLORS[0]),
            ):
                share = np.histogram(some, edges)[0] / max(1, len(some))
                bars = go.Bar(
                    x=(edges[1:] + edges[:-1]) / 2,
                    y=share,
                    name=name,
                    marker_color=colour,
                    opacity=0.65,
                )
                figure.add_trace(bars, row=1, col=2)
        plain = {
            "showticklabels": False,
            "showgrid": False,
            "zeroline": False,
            "constrain": "domain",
        }
        figure.update_xaxes(**plain, row=1, col=1).update_yaxes(
            **plain, constraintoward="top", row=1, col=1
        )
        figure.update_xaxes(title="mean absolute error", row=1, col=2).update_yaxes(
            title="share of images", row=1, col=2
        )
        many = len(self.places)
        some = (
            f"the first {SHOWN} of {many:,} selected images"
            if many > SHOWN
            else f"{many:,} selected images"
        )
        title = {
            "text": "Selection",
            "subtitle": {"text": f"{some} of {self.run} at step {self.step:,}"},
        }
        rows = -(-min(SHOWN, max(1, len(self.places))) // COLUMNS)
        legend = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}
        figure.update_layout(
            title=title,
            barmode="overlay",
            bargap=0,
            height=max(320, 66 * rows + 130),
            legend=legend,
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row a selected image: its place, class, mean absolute error in [0, 1], PSNR in dB, tokens, and its mode
        where `mixture_modes` was computed before, by its default controls.
        """
        told = {
            name: column[self.places] for name, column in self.columns.items() if column.ndim == 1
        }
        return pd.DataFrame(told)

    def summary(self) -> str:
        """How many of how many, their mean error against that of all, and their commonest codes."""
        said = f"{len(self.places):,} of {self.n:,} images of {self.run} are selected."
        if self.drawn:
            said += f" The map they were picked on shows {self.drawn}."
        if "error" in self.columns and len(self.places):
            error = self.columns["error"]
            some, every = error[self.places].mean(), error.mean()
            said += f" Their mean absolute error is {some:.4f}, that of all {every:.4f}."
        if self.codes:
            said += f" Their commonest codes: {', '.join(f'{code} (×{count:,})' for code, count in self.codes)}."
        return said


def select(
    run: Run | str | Path,
    *,
    polygon: Sequence[Sequence[float]] = (),
    where: str = "",
    ids: Sequence[int] = (),
    step: int | None = None,
    **layout: Any,
) -> SelectedImages:
    """Pick images of a run at a step (None: the last), by exactly one of three.

    `polygon` holds corners on its latent map, which `layout` are the controls of; `where` is a condition such as
    `error > 0.05 & class = 3 & code = 17, 23`; `ids` are places among the images. Raises UserError.
    """
    run = run if isinstance(run, Run) else Run(run)
    corners = tuple((float(x), float(y)) for x, y in polygon)
    return resolve(run, Selection(run.name, step, corners, layout, where, tuple(map(int, ids))))


def layout_of(run: Run, selection: Selection) -> LatentMap:
    """The map that a selection's polygon was drawn on."""
    controls = coerce_controls(compute_layout, selection.layout)
    return layout_of_run(run, selection.step, controls)


def resolve(run: Run, selection: Selection, layout: Layout = layout_of) -> SelectedImages:
    """What a selection selects in a run; `layout` makes the map of a polygon. Raises UserError."""
    evidence = run.evidence(selection.step)
    columns = columns_of(run, evidence)
    laid = layout(run, selection) if selection.polygon else None
    places = selected_indices(run, selection, lambda *_: laid)
    codes: tuple[tuple[int, int], ...] = ()
    if "code" in columns and len(places):
        held = columns["code"][places]
        found, counts = np.unique(held[held >= 0], return_counts=True)
        top = np.argsort(-counts, kind="stable")[:TOP]
        codes = tuple(zip(found[top].tolist(), counts[top].tolist(), strict=True))
    images = None if evidence.images is None else np.asarray(evidence.images[places])
    columns |= _modes(run, evidence, len(columns["image"]))
    return SelectedImages(
        run.name, evidence.step, places, columns, codes, images, drawn=_drawn(laid)
    )


def selected_indices(run: Run, selection: Selection, layout: Layout = layout_of) -> np.ndarray:
    """The places a selection holds among the images of a run's evidence, ascending. Raises UserError."""
    if selection.polygon:
        found = layout(run, selection)
        return np.sort(
            found.image_indices[points_in_polygon(snap_to_grid(found.coordinates), selection.polygon)]
        )
    evidence = run.evidence(selection.step)
    columns = columns_of(run, evidence)
    if selection.where:
        return np.flatnonzero(matches_condition(columns, selection.where))
    places, n = np.unique(selection.ids), len(columns["image"])
    if len(places) and not 0 <= places[0] <= places[-1] < n:
        raise UserError(f"There are images 0 to {n - 1}; ids named {places[0]} to {places[-1]}.")
    return places


def columns_of(run: Run, evidence: Evidence) -> dict[str, np.ndarray]:
    """What images can be selected by, a row an image: image, class, error, psnr, tokens, code, as far as known."""
    n = len(next(a for a in (evidence.images, evidence.latents, evidence.codes) if a is not None))
    found = {"image": np.arange(n)}
    if evidence.labels is not None:
        found["class"] = np.array(class_names(evidence.labels, evidence.names, n), np.str_)
    if evidence.reconstructions is not None:
        found["error"], found["psnr"] = _measured(
            str(run.folder), json.dumps(evidence.provenance, sort_keys=True)
        )
    if evidence.active is not None:
        found["tokens"] = np.asarray(evidence.active).sum(axis=1)
    if evidence.codes is not None:
        known = (
            evidence.codebook is not None
        )  # of several books, code k of book g is then g * codes + k
        codes = evidence.codes, evidence.codebook, evidence.active, "A selection"
        found["code"] = (
            parse_codes(*codes).ids(slice(None)) if known else np.asarray(evidence.codes)
        )
    return found


def _drawn(laid: LatentMap | None) -> str:
    if laid is None or len(laid.image_indices) == laid.n:
        return ""
    return f"{laid.sample_description}, seed {laid.seed}"


def _modes(run: Run, evidence: Evidence, n: int) -> dict[str, Any]:
    """Each image's mode, where modes were counted and the result is kept; missing where that was of other images."""
    try:
        given = evidence.kwargs_for(mixture_modes)
    except NotApplicable:
        return {}
    found = lookup(
        run.folder.parent / RESULTS_FOLDER, mixture_modes, given, coerce_controls(mixture_modes, {})
    )
    if found is None:
        return {}
    modes = pd.array([pd.NA] * n, dtype="Int64")
    modes[found.image_indices] = found.assignment
    return {"mode": modes}


@lru_cache(maxsize=8)
def _measured(folder: str, provenance: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute error and PSNR of every image; once for each evidence, which may be large."""
    evidence = Run(folder).evidence(json.loads(provenance)["step"])
    mse, l1 = pixel_errors(evidence.images, evidence.reconstructions)
    return l1, psnr_db(mse)


def _sheet(images: np.ndarray) -> np.ndarray:
    """Images (m, h, w, c) in rows of COLUMNS on one transparent picture, uint8 (height, width, 4)."""
    from workbench.analysis.plotting.image_grid import compose

    return compose([images[start : start + COLUMNS] for start in range(0, len(images), COLUMNS)])
