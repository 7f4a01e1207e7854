"""Selected images of a run, compared with all of its images: `workbench.select(run, ...)`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from cachetools import LRUCache, cached

from workbench.analysis.base import Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.images.reconstruction import image_errors, psnr_db
from workbench.analysis.inputs import class_names
from workbench.analysis.latents.modes import mixture_modes
from workbench.analysis.latents.projection import LatentMap
from workbench.analysis.latents.projection import latent_map as compute_layout
from workbench.analysis.plotting.image_grid import compose
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.result_cache import lookup
from workbench.core.counted import counted
from workbench.core.errors import NotApplicable, UserError
from workbench.core.image_url import png_url
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace.controls import coerce_controls
from workbench.workspace.filters import apply_filter, check_values, parse_filter
from workbench.workspace.map_layout import layout_of_run, snap_to_grid
from workbench.workspace.selection import Selection, points_in_polygon
from workbench.workspace.workspace import RESULTS_FOLDER

MAX_PICTURES = 40
PICTURES_PER_ROW = 8
PICTURE_ROW_PX = 66
NUM_HISTOGRAM_EDGES = 31
NUM_COMMON_CODES = 5
MAX_CACHED_ERRORS = 8  # evidences
Layout = Callable[[Run, Selection], LatentMap]


@dataclass(frozen=True, eq=False)
class SelectedImages(Result):
    """Selected images of a run, and what is known of all of its images.

    Attributes
    ----------
    run : str
        Name of the run.
    step : int
        Step of the evidence.
    indices : ndarray of int, shape (m,)
        Indices of the selected images among those of the evidence, ascending.
    columns : dict of str to array, shape (n,) or (n, tokens)
        Of all n images, as far as known: image, class, error, psnr, tokens, code, mode.
    common_codes : tuple of (int, int)
        The most frequent codes of the selected images, each with its count.
    images : ndarray of uint8, shape (m, h, w, c), or None
        The selected images; None if none has a picture.
    map_sample : str
        The images on the map on which a lasso was drawn, if these are not all; otherwise empty.
    """

    run: str
    step: int
    indices: np.ndarray = field(repr=False)
    columns: dict[str, Any] = field(repr=False)
    common_codes: tuple[tuple[int, int], ...]
    images: np.ndarray | None = field(repr=False)
    map_sample: str = ""

    @property
    def n(self) -> int:
        """Number of images of the evidence."""
        return len(self.columns["image"])

    @property
    def code_counts(self) -> np.ndarray | None:
        """Tokens of each code in the selected images, int (codes,); None without codes."""
        codes = self.columns.get("code")
        if codes is None or not codes.size:
            return None
        selected = codes[self.indices]
        return np.bincount(selected[selected >= 0], minlength=int(codes.max()) + 1)

    def figure(self) -> go.Figure:
        """Draw the first selected images, and their errors next to those of all images."""
        from plotly.subplots import make_subplots

        figure = make_subplots(rows=1, cols=2, column_widths=(0.58, 0.42), horizontal_spacing=0.1)
        count = len(self.indices)
        if self.images is not None and count:
            pictures = png_url(_picture_grid(self.images[:MAX_PICTURES]))
            figure.add_trace(go.Image(source=pictures, hoverinfo="skip"), row=1, col=1)
        if "error" in self.columns:
            for bars in self._error_histograms():
                figure.add_trace(bars, row=1, col=2)
        bare = {"showticklabels": False, "showgrid": False, "zeroline": False}
        figure.update_xaxes(**bare, constrain="domain", row=1, col=1)
        figure.update_yaxes(**bare, constrain="domain", constraintoward="top", row=1, col=1)
        figure.update_xaxes(title="mean absolute error", row=1, col=2)
        figure.update_yaxes(title="fraction of images", row=1, col=2)

        subject = counted(count, "selected image")
        if count > MAX_PICTURES:
            subject = f"the first {MAX_PICTURES} of {subject}"
        subtitle = f"{subject} of {self.run} at step {self.step:,}"
        num_rows = -(-min(MAX_PICTURES, max(1, count)) // PICTURES_PER_ROW)
        figure.update_layout(
            title={"text": "Selection", "subtitle": {"text": subtitle}},
            barmode="overlay",
            bargap=0,
            height=max(320, PICTURE_ROW_PX * num_rows + 130),
            legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        )
        return apply_theme(figure)

    def _error_histograms(self) -> list[go.Bar]:
        error = self.columns["error"]
        low = error.min()
        edges = np.linspace(low, max(error.max(), low + 1e-9), NUM_HISTOGRAM_EDGES)
        groups = (("all", error, COLORS[6]), ("selected", error[self.indices], COLORS[0]))
        return [
            go.Bar(
                x=(edges[1:] + edges[:-1]) / 2,
                y=np.histogram(values, edges)[0] / max(1, len(values)),
                name=name,
                marker_color=color,
                opacity=0.65,
            )
            for name, values, color in groups
        ]

    def table(self) -> pd.DataFrame:
        """One row per selected image.

        Its index, class, mean absolute error in [0, 1], PSNR in dB, number of tokens, and its mode
        if `mixture_modes` was computed before with its default controls.
        """
        columns = {
            name: column[self.indices] for name, column in self.columns.items() if column.ndim == 1
        }
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """The number of selected images, their mean error, and their most frequent codes."""
        verb = "is" if len(self.indices) == 1 else "are"
        sentences = [f"{len(self.indices):,} of {self.n:,} images of {self.run} {verb} selected."]
        if self.map_sample:
            sentences.append(f"The map with the lasso shows {self.map_sample}.")
        if "error" in self.columns and len(self.indices):
            error = self.columns["error"]
            selected, overall = error[self.indices].mean(), error.mean()
            sentences.append(
                f"Their mean absolute error is {selected:.4f} (all images: {overall:.4f})."
            )
        if self.common_codes:
            codes = ", ".join(f"{code} (×{count:,})" for code, count in self.common_codes)
            sentences.append(f"Their most frequent codes are {codes}.")
        return " ".join(sentences)


def select(
    run: Run | str | Path,
    *,
    polygon: Sequence[Sequence[float]] = (),
    where: str = "",
    ids: Sequence[int] | np.ndarray = (),
    step: int | None = None,
    **layout: Any,
) -> SelectedImages:
    """Select images of a run by exactly one of a polygon, a filter or indices.

    Parameters
    ----------
    run : Run, str or Path
        The run or its folder.
    polygon : sequence of (float, float)
        Corners of a lasso on the latent map of the run.
    where : str
        A filter such as ``error > 0.05 & class = 3 & code = 17, 23``.
    ids : sequence of int
        Indices of images.
    step : int, optional
        Step of the evidence; None is the last one.
    **layout
        Controls of the latent map, such as ``method="pca"``; for a polygon only.

    Returns
    -------
    SelectedImages
        The images with their classes, errors and codes.

    Raises
    ------
    UserError
        If not exactly one of the three is given, or it is not valid.
    """
    run = run if isinstance(run, Run) else Run(run)
    selection = Selection(
        run=run.name,
        step=step,
        polygon=tuple((float(x), float(y)) for x, y in polygon),
        layout=layout,
        where=where,
        ids=ids,
    )
    return resolve(run, selection)


def layout_of(run: Run, selection: Selection) -> LatentMap:
    """Return the latent map on which the polygon of a selection was drawn."""
    controls = coerce_controls(compute_layout, selection.layout)
    return layout_of_run(run, selection.step, controls)


def resolve(run: Run, selection: Selection, layout: Layout = layout_of) -> SelectedImages:
    """Return the images of a run that a selection contains.

    Parameters
    ----------
    run : Run
        Run of the images.
    selection : Selection
        Images by indices, codes, a polygon or a condition.
    layout : callable
        Returns the latent map of a polygon; a host may have computed it before.

    Returns
    -------
    SelectedImages
        The images with their classes, errors and codes.

    Raises
    ------
    UserError
        If the selection names a column, a class or an image that the evidence does not have.
    """
    evidence = run.evidence(selection.step)
    columns: dict[str, Any] = dict(columns_of(run, evidence))
    map_sample = ""
    if selection.polygon:
        latent_map = layout(run, selection)
        indices = _inside(latent_map, selection)
        if len(latent_map.image_indices) < latent_map.n:
            map_sample = f"{latent_map.sample_description}, seed {latent_map.seed}"
    else:
        indices = selected_indices(run, selection, layout)
    common_codes: tuple[tuple[int, int], ...] = ()
    if "code" in columns and len(indices):
        common_codes = _common_codes(columns["code"][indices])
    columns |= _modes(run, evidence, len(columns["image"]))
    return SelectedImages(
        run=run.name,
        step=evidence.step,
        indices=indices,
        columns=columns,
        common_codes=common_codes,
        images=_pictures(evidence, indices),
        map_sample=map_sample,
    )


def selected_indices(run: Run, selection: Selection, layout: Layout = layout_of) -> np.ndarray:
    """Return the indices of the images of a run that a selection contains, ascending.

    Raises
    ------
    UserError
        If the selection names a column or an image that the evidence does not have.
    """
    if selection.polygon:
        return _inside(layout(run, selection), selection)
    evidence = run.evidence(selection.step)
    if selection.where:
        conditions = parse_filter(selection.where)
        columns = columns_of(run, evidence)
        is_selected = apply_filter(columns, conditions)
        if "class" in columns:
            check_values(columns["class"], "class", conditions)
        return np.flatnonzero(is_selected)
    indices, count = selection.indices, num_images(evidence)
    if len(indices) and indices[-1] >= count:
        raise UserError(
            f"ids must be between 0 and {count - 1:,} for {run.name}, got {indices[-1]:,}."
        )
    return indices


def num_images(evidence: Evidence) -> int:
    """Return the number of images of an evidence; 0 for a generator's."""
    return evidence.num_images


def _pictures(evidence: Evidence, indices: np.ndarray) -> np.ndarray | None:
    """Return the pictures of those of some images that have one; None without any."""
    if evidence.images is None:
        return None
    return np.asarray(evidence.images[indices[indices < evidence.num_pictures]])


def require_images(evidence: Evidence) -> np.ndarray:
    """Return the images of an evidence, uint8 (n, h, w, c).

    Raises
    ------
    NotApplicable
        If it has none.
    """
    if evidence.images is None:
        raise NotApplicable(f"The evidence of {evidence.run_name} has no images.")
    return evidence.images


def columns_of(run: Run, evidence: Evidence) -> dict[str, np.ndarray]:
    """Return the columns by which images can be selected, as far as the evidence has them.

    Returns
    -------
    dict of str to ndarray, shape (n,) or (n, tokens)
        image, class, error, psnr, tokens, code. Code k of book g is number g * codebook_size + k.
    """
    count = num_images(evidence)
    columns = {"image": np.arange(count)}
    if evidence.labels is not None:
        names = class_names(evidence.labels, evidence.names, count)
        columns["class"] = np.array(names, np.str_)
    if evidence.reconstructions is not None:
        provenance = json.dumps(evidence.provenance, sort_keys=True)
        columns["error"], columns["psnr"] = _image_errors(str(run.folder), provenance)
    if evidence.active is not None:
        columns["tokens"] = np.asarray(evidence.active).sum(axis=1)
    if evidence.codes is not None:
        columns["code"] = np.asarray(evidence.codes)
        if evidence.codebook is not None:
            codes = parse_codes(evidence.codes, evidence.codebook, evidence.active, "A selection")
            columns["code"] = codes.ids(slice(None))
    return columns


def _inside(latent_map: LatentMap, selection: Selection) -> np.ndarray:
    points = snap_to_grid(latent_map.coordinates)
    return np.sort(latent_map.image_indices[points_in_polygon(points, selection.polygon)])


def _common_codes(codes: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the most frequent codes and their counts; inactive tokens have code -1."""
    numbers, counts = np.unique(codes[codes >= 0], return_counts=True)
    top = np.argsort(-counts, kind="stable")[:NUM_COMMON_CODES]
    return tuple(zip(numbers[top].tolist(), counts[top].tolist(), strict=True))


def _modes(run: Run, evidence: Evidence, count: int) -> dict[str, Any]:
    """Return the mode of each image, as far as `mixture_modes` was computed before."""
    try:
        arguments = evidence.kwargs_for(mixture_modes)
    except NotApplicable:
        return {}
    cache = run.folder.parent / RESULTS_FOLDER
    result = lookup(cache, mixture_modes, arguments, coerce_controls(mixture_modes, {}))
    if result is None:
        return {}
    modes = pd.array([pd.NA] * count, dtype="Int64")
    modes[result.image_indices] = result.assignment
    return {"mode": modes}


@cached(LRUCache(maxsize=MAX_CACHED_ERRORS), lock=Lock())
def _image_errors(folder: str, provenance: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean absolute error and PSNR of every image, once per evidence."""
    evidence = Run(folder).evidence(json.loads(provenance)["step"])
    mse, l1 = image_errors(evidence)
    return l1, psnr_db(mse)


def _picture_grid(images: np.ndarray) -> np.ndarray:
    """Arrange images (m, h, w, c) in rows on a transparent canvas, uint8 (height, width, 4)."""
    starts = range(0, len(images), PICTURES_PER_ROW)
    return compose([images[start : start + PICTURES_PER_ROW] for start in starts])
