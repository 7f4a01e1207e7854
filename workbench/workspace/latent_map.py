"""Show a latent space as a map in the plane, whose points open into their images.

A lasso selects points: `.selected` has their rows and `.images` their pictures. `.state`, `.table`,
`.figure` and `.code()` give the rest of what is on the screen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.inputs import class_names
from workbench.analysis.latents.projection import LatentMap
from workbench.analysis.latents.projection import latent_map as compute_layout
from workbench.core.errors import UserError
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace import display
from workbench.workspace.controls import Value, coerce_controls
from workbench.workspace.encoding import MAX_THUMBNAILS, base64_array, thumbnail_sheet
from workbench.workspace.image_selection import SelectedImages, require_images, select
from workbench.workspace.map_layout import color_data, layout_of_run, point_data, snap_to_grid
from workbench.workspace.selection import points_in_polygon


@dataclass(frozen=True)
class MapState:
    """The layout of a map, and the lasso.

    Attributes
    ----------
    step : int or None
        Step of the evidence; None is the last one.
    controls : Mapping
        Controls of the analysis `latent_map`, by name.
    polygon : tuple of (float, float), or None
        Corners of the lasso, in the units of the map.
    ids : tuple of int
        Indices of selected images: a clicked point, points that were searched for, or a selection
        of another view. Empty with a lasso.
    """

    step: int | None = None
    controls: Mapping[str, Value] = field(default_factory=dict)
    polygon: tuple[tuple[float, float], ...] | None = None
    ids: tuple[int, ...] = ()

    def select(self, module_view: Mapping[str, Any]) -> "MapState":
        """Return the state with the selection of the JavaScript module."""
        corners = module_view.get("polygon") or ()
        polygon = tuple((float(x), float(y)) for x, y in corners)
        ids = () if polygon else tuple(int(index) for index in module_view.get("ids") or ())
        return replace(self, polygon=polygon or None, ids=ids)

    def to_json(self) -> str:
        """Return the state as JSON."""
        return json.dumps(asdict(self))


def latent_map(
    run: Run | str | Path,
    *,
    step: int | None = None,
    polygon: Sequence[Sequence[float]] | None = None,
    ids: Sequence[int] = (),
    **controls: Any,
) -> "Map":
    """Show the latents of a run as a map.

    Parameters
    ----------
    run : Run, str or Path
        The run or its folder.
    step : int, optional
        Step of the evidence; None is the last one.
    polygon : sequence of (float, float), optional
        Corners of a lasso, in the units of the map: the points inside are selected.
    ids : sequence of int
        Indices of images whose points are selected, without a lasso.
    **controls
        Controls of the analysis `latent_map`, such as ``method="pca"``.

    Returns
    -------
    Map
        The map, which a notebook shows with its controls.

    Raises
    ------
    UserError
        If a control does not exist or its value is not valid.
    """
    corners = None if polygon is None else tuple((float(x), float(y)) for x, y in polygon)
    return Map(
        run if isinstance(run, Run) else Run(run),
        MapState(
            step=step,
            controls=coerce_controls(compute_layout, controls),
            polygon=corners,
            ids=tuple(int(index) for index in ids),
        ),
    )


class Map:
    """The latent map of a run, and the points selected on it.

    Parameters
    ----------
    run : Run
        Run whose latents are shown.
    state : MapState
        Step, controls and selection.
    result : LatentMap, optional
        The layout of this state, where it was computed before.
    """

    def __init__(self, run: Run, state: MapState, result: LatentMap | None = None) -> None:
        self.run = run
        self.state = state
        self._initial = None if result is None else (state.step, state.controls, result)

    @property
    def evidence(self) -> Evidence:
        """The evidence that the map is computed from."""
        return self.run.evidence(self.state.step)

    @property
    def result(self) -> LatentMap:
        """The layout, computed once per state; raises NotApplicable without latents."""
        state = self.state
        if self._initial is not None and self._initial[:2] == (state.step, state.controls):
            return self._initial[2]
        return layout_of_run(self.run, state.step, state.controls)

    @property
    def selected_indices(self) -> np.ndarray:
        """Indices of the evidence's images whose points are selected."""
        return self.result.image_indices[self._is_selected]

    @property
    def selected(self) -> pd.DataFrame:
        """The rows of the selected points."""
        return self.table[self._is_selected].reset_index(drop=True)

    @property
    def images(self) -> np.ndarray:
        """The selected images, uint8 (m, h, w, c)."""
        return np.asarray(require_images(self.evidence)[self.selected_indices])

    @property
    def selected_images(self) -> SelectedImages:
        """The selected images compared with all images: errors, classes and codes.

        Raises
        ------
        UserError
            If no point is selected.
        """
        if not len(self.selected_indices):
            raise UserError("No point of the map is selected. Draw a loop, or pass a polygon.")
        return select(self.run, step=self.state.step, ids=self.selected_indices)

    @property
    def table(self) -> pd.DataFrame:
        """One row per point: image, coordinates, and the value or name that colors it."""
        return self.result.table()

    @property
    def figure(self) -> go.Figure:
        """The map as the analysis draws it."""
        return self.result.figure()

    def code(self) -> str:
        """Return the Python code that shows the same map."""
        state = self.state
        values: dict[str, Any] = dict(state.controls)
        if state.step is not None:
            values = {"step": state.step, **values}
        if state.polygon is not None:
            values["polygon"] = [list(corner) for corner in state.polygon]
        elif state.ids:
            values["ids"] = list(state.ids)
        keywords = [f"{name}={value!r}" for name, value in values.items()]
        arguments = ", ".join([repr(str(self.run.folder)), *keywords])
        return f"import workbench as wb\n\nmap = wb.latent_map({arguments})\nmap.selected"

    def data(self) -> dict[str, Any]:
        """Return the data that the JavaScript module shows."""
        result = self.result
        evidence = self.evidence
        n = len(result.image_indices)
        caption = f"{self.run.name} at step {evidence.step:,}. {result.summary()}"
        if evidence.images is not None and n > MAX_THUMBNAILS:
            caption += f" Thumbnails show the first {MAX_THUMBNAILS:,} of {n:,} images."
        thumbnails = None
        if evidence.images is not None:
            thumbnails = thumbnail_sheet(evidence.images, result.image_indices)
        return {
            **point_data(result.coordinates),
            **color_data(result.colors, n),
            **self._titles(),
            "places": base64_array(result.image_indices.astype(np.int32)),
            "thumbs": thumbnails,
            "caption": caption,
        }

    def view(self) -> dict[str, Any]:
        """Return the selection as the JavaScript module represents it."""
        return {"polygon": self.state.polygon, "ids": self.state.ids}

    def __repr__(self) -> str:
        counts = (
            f"{len(self.selected_indices):,} of {len(self.result.image_indices):,} points selected"
        )
        return f"Latent map of {self.run.name}: {counts}"

    def _repr_html_(self) -> str | None:
        return display.to_html(self)

    def _ipython_display_(self) -> None:
        display.show(self)

    @property
    def _is_selected(self) -> np.ndarray:
        """Return which points are inside the lasso or were selected one by one, bool (m,)."""
        if self.state.polygon is None:
            return np.isin(self.result.image_indices, self.state.ids)
        return points_in_polygon(snap_to_grid(self.result.coordinates), self.state.polygon)

    def _titles(self) -> dict[str, Any]:
        """Return the title of each point: its class, and its legend entry if that differs."""
        evidence = self.evidence
        result = self.result
        count = 0 if evidence.latents is None else len(evidence.latents)
        classes = class_names(evidence.labels, evidence.names, count)
        parts = []
        if classes:
            parts.append([classes[index] for index in result.image_indices])
        colors = result.colors
        if colors.names and colors.by != "class":
            parts.append([f"{colors.title} {name}" for name in colors.names])
        point_titles = [" · ".join(texts) for texts in zip(*parts, strict=True)]
        titles, numbers = np.unique(point_titles, return_inverse=True)
        names = base64_array(numbers.astype(np.int32)) if parts else None
        return {"titles": titles.tolist(), "names": names}
