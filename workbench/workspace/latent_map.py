"""`workbench.latent_map(run)`: a latent space laid out in the plane, whose points open into their images.

A lasso picks some: `.selected` has their rows, `.images` their pictures; `.state`, `.table`, `.figure` and `.code()`
have the rest of what is seen.
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.inputs import class_names
from workbench.analysis.latents.point_colors import PointColors
from workbench.analysis.latents.projection import LatentMap
from workbench.analysis.latents.projection import latent_map as lay_out
from workbench.analysis.plotting.style import COLORS, MAGNITUDE_SCALE
from workbench.core.errors import UserError
from workbench.hosts.js import binary, refusal, static, webp
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace.controls import Value, coerce_controls
from workbench.workspace.selection import id_scopes, points_in_polygon

if TYPE_CHECKING:
    pass

# Okabe and Ito's palette without black, then Tol's muted one: as many as a map tells classes apart by colour.
CLASSES = (
    *COLORS[:7],
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#661100",
    "#332288",
    "#DDCC77",
    "#CC6677",
)
CLASSES += ("#117733", "#AA7744", "#6699CC", "#AA4466", "#77AADD")
RAMP, SPAN = (
    32,
    (0.15, 0.95),
)  # colours of a magnitude; the ends of the scale are lost on a dark or a light page
MOST_THUMBS, THUMB = 4096, 32  # images that hovering shows, and their longest side in pixels
HEIGHT = 600  # pixels of a map in a page


@dataclass(frozen=True)
class MapState:
    """How a map was laid out, and the lasso; JSON by `to_json`."""

    step: int | None = None  # of the evidence; None: the last
    controls: Mapping[str, Value] = field(default_factory=dict)  # of the analysis
    polygon: tuple[tuple[float, float], ...] | None = None  # corners, in the units of the map

    def to_json(self) -> str:
        """The state as JSON."""
        return json.dumps(asdict(self))


def latent_map(
    run: Run | str | Path,
    *,
    step: int | None = None,
    polygon: Sequence[Sequence[float]] | None = None,
    **controls: Any,
) -> "Map":
    """The map of a run's latents at a step (None: the last), as the analysis `latent_map` makes it with its controls.

    `polygon`, corners in the units of the map, selects as a lasso would. Raises UserError for an unknown control.
    """
    corners = None if polygon is None else tuple((float(x), float(y)) for x, y in polygon)
    return Map(
        run if isinstance(run, Run) else Run(run),
        MapState(step, coerce_controls(lay_out, controls), corners),
    )


class Map:
    """A run's map, and what was picked on it."""

    def __init__(self, run: Run, state: MapState, result: LatentMap | None = None) -> None:
        self.run, self.state = run, state
        self._given = None if result is None else (state.step, state.controls, result)
        self.marked: tuple[int, ...] = ()  # images that were picked elsewhere

    @property
    def evidence(self) -> Evidence:
        """The arrays it is made of."""
        return self.run.evidence(self.state.step)

    @property
    def result(self) -> LatentMap:
        """The analysis, computed once for each setting. Raises NotApplicable without latents."""
        if self._given is not None and self._given[:2] == (self.state.step, self.state.controls):
            return self._given[2]
        made_of = json.dumps(self.evidence.provenance, sort_keys=True)
        return _laid_out(
            str(self.run.folder),
            self.state.step,
            made_of,
            tuple(sorted(self.state.controls.items())),
        )

    @property
    def selection(self) -> np.ndarray:
        """The places, among the evidence's images, of the points inside the lasso; none without one."""
        return self.result.places[self._inside]

    @property
    def selected(self) -> pd.DataFrame:
        """The rows of the table inside the lasso."""
        return self.table[self._inside].reset_index(drop=True)

    @property
    def images(self) -> np.ndarray:
        """The images of the selection, uint8 (m, h, w, c)."""
        return np.asarray(self.evidence.images[self.selection])

    @property
    def chosen(self) -> "SelectedImages":
        """The selection beside all images: errors, classes, codes. Raises UserError where nothing is selected."""
        from workbench.workspace.image_selection import select

        if not len(self.selection):
            raise UserError("No point of the map is selected; draw a loop, or give a polygon.")
        return select(self.run, step=self.state.step, ids=self.selection.tolist())

    @property
    def table(self) -> pd.DataFrame:
        """One row a point: image, coordinates, and what it is coloured by."""
        return self.result.table()

    @property
    def figure(self) -> go.Figure:
        """The map as the analysis draws it."""
        return self.result.figure()

    def code(self) -> str:
        """The Python that makes what is on the screen."""
        step = {} if self.state.step is None else {"step": self.state.step}
        lasso = (
            {}
            if self.state.polygon is None
            else {"polygon": [list(corner) for corner in self.state.polygon]}
        )
        told = {**step, **self.state.controls, **lasso}
        arguments = ", ".join(
            [repr(str(self.run.folder)), *(f"{name}={value!r}" for name, value in told.items())]
        )
        return f"import workbench as wb\n\nmap = wb.latent_map({arguments})\nmap.selected"

    def data(self) -> dict[str, Any]:
        """What the JavaScript module shows."""
        result, evidence = self.result, self.evidence
        caption = f"{self.run.name} at step {evidence.step:,}. {result.summary()}"
        if evidence.images is not None and len(result.places) > MOST_THUMBS:
            caption += f" Hovering shows the pictures of {MOST_THUMBS:,} of {len(result.places):,} points, the first."
        thumbs = None if evidence.images is None else sheet(evidence.images, result.places)
        told = {
            "places": binary(result.places.astype(np.int32)),
            "thumbs": thumbs,
            "caption": caption,
        }
        return {
            **placed(result.coordinates),
            **coloured(result.colours, len(result.places)),
            **self._titles(),
            **told,
        }

    def view(self) -> dict[str, Any]:
        """What was picked, as the module has it."""
        return {"polygon": self.state.polygon, "ids": self.marked}

    def __repr__(self) -> str:
        return f"Latent map of {self.run.name}: {len(self.selection):,} of {len(self.result.places):,} points selected"

    def _repr_html_(self) -> str:
        """Without a kernel: the same module."""
        try:
            of = id_scopes(self.run.name, self.evidence)
            return static(
                "latentmap", self.data(), self.view(), height=HEIGHT, title=repr(self), of=of
            )
        except UserError as error:
            return refusal(error)

    def _ipython_display_(self) -> None:
        """The widgets at once; then the page, when it is laid out."""
        from workbench.hosts.notebook.latent_map_view import MapView
        from workbench.hosts.notebook.static_fallback import display_with_fallback

        screen = MapView(self)
        display_with_fallback(
            screen.box, f"Latent map of {self.run.name}", self._repr_html_, waiting=screen.waiting
        )

    @property
    def _inside(self) -> np.ndarray:
        if self.state.polygon is None:
            return np.zeros(len(self.result.places), bool)
        return points_in_polygon(rounded(self.result.coordinates), self.state.polygon)

    def _titles(self) -> dict[str, Any]:
        """What each point is called beside its number: its class, and its name in the legend if that is another."""
        evidence, result = self.evidence, self.result
        classes = class_names(evidence.labels, evidence.names, len(evidence.latents))
        parts = [[classes[place] for place in result.places]] if classes else []
        if result.colours.names and result.colours.by != "class":
            parts.append([f"{result.colours.title} {name}" for name in result.colours.names])
        titles, which = np.unique(
            [" · ".join(one) for one in zip(*parts, strict=True)], return_inverse=True
        )
        return {
            "titles": titles.tolist(),
            "names": binary(which.astype(np.int32)) if parts else None,
        }


def said_of(shown: Any) -> str:
    """What is selected on a map or in a codebook, in a line of HTML; empty where nothing is."""
    return f"<p>{html.escape(shown.chosen.summary())}</p>" if len(shown.selection) else ""


@lru_cache(maxsize=8)
def _laid_out(
    folder: str, step: int | None, made_of: str, told: tuple[tuple[str, Value], ...]
) -> LatentMap:
    """The map of a run's evidence; `made_of` tells evidence collected anew from what was there before."""
    return lay_out(**Run(folder).evidence(step).kwargs_for(lay_out), **dict(told))


def placed(coordinates: np.ndarray) -> dict[str, Any]:
    """Points (n, 2) as a module takes them: steps of a 65,536th of the square around them."""
    box, steps = _steps(coordinates)
    return {"n": len(coordinates), "box": box, "xy": binary(steps)}


def rounded(coordinates: np.ndarray) -> np.ndarray:
    """Points (n, 2) as the module draws them: what a lasso drawn there is compared with."""
    (x0, y0, x1, y1), steps = _steps(coordinates)
    return np.array([x0, y0]) + steps / 65535 * np.array([x1 - x0, y1 - y0])


def coloured(colours: PointColors, n: int) -> dict[str, Any]:
    """What n points are coloured by, as a module takes it: a ramp for values; for names a colour each, up to 20."""
    if colours.values is not None:
        return _graded(colours.values, colours.title)
    found = sorted(
        set(colours.names),
        key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name),
    )
    if not 0 < len(found) <= len(CLASSES):
        return {
            "colour": binary(np.zeros(n, np.uint8)),
            "palette": CLASSES[:1],
            "groups": ["images"],
        }
    which = {name: i for i, name in enumerate(found)}
    places = np.array([which[name] for name in colours.names], np.uint8)
    return {"colour": binary(places), "palette": CLASSES[: len(found)], "groups": found}


def _graded(values: np.ndarray, what: str) -> dict[str, Any]:
    from plotly.colors import sample_colorscale, unlabel_rgb

    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros(len(values))
    ramp = [
        unlabel_rgb(colour)
        for colour in sample_colorscale(MAGNITUDE_SCALE, np.linspace(*SPAN, RAMP))
    ]
    palette = ["#" + "".join(f"{round(part):02x}" for part in colour) for colour in ramp]
    places = np.minimum(share * RAMP, RAMP - 1).astype(np.uint8)
    told = {"scale": [low, high, what], "values": binary(values.astype(np.float32))}
    return {"colour": binary(places), "palette": palette, "groups": [], **told}


def sheet(images: np.ndarray, places: np.ndarray) -> dict[str, Any]:
    """Small pictures of the first points in one: of images (n, h, w, c), those at some places."""
    count = min(len(places), MOST_THUMBS)
    columns, step = (
        max(1, int(np.ceil(np.sqrt(count)))),
        max(1, -(-max(images.shape[1:3]) // THUMB)),
    )
    small = np.stack([_shrunk(np.asarray(images[place]), step) for place in places[:count]])
    h, w, c = small.shape[1:]
    canvas = np.zeros((-(-count // columns), columns, h, w, c), np.uint8)
    canvas.reshape(-1, h, w, c)[:count] = small
    picture = canvas.transpose(0, 2, 1, 3, 4).reshape(-1, columns * w, c)
    return {"sheet": webp(picture), "columns": columns, "count": count, "size": [h, w]}


def _steps(coordinates: np.ndarray) -> tuple[list[float], np.ndarray]:
    points = np.asarray(coordinates, np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2, 1e-9)
    x0, y0, x1, y1 = (*(middle - half).tolist(), *(middle + half).tolist())
    share = (points - np.array([x0, y0])) / np.array([x1 - x0, y1 - y0])
    return [x0, y0, x1, y1], np.rint(65535 * share.clip(0, 1)).astype(np.uint16)


def _shrunk(image: np.ndarray, step: int) -> np.ndarray:
    """An image (h, w, c) of which each block of pixels is one."""
    h, w = image.shape[0] // step, image.shape[1] // step
    blocks = image[: h * step, : w * step].reshape(h, step, w, step, -1)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)
