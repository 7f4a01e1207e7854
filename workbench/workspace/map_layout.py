"""Lay out the latent map of a run, and encode its points and colors for the browser."""

import json
from collections.abc import Mapping
from threading import Lock
from typing import Any

import numpy as np
from cachetools import LRUCache, cached

from workbench.analysis.latents.point_colors import (
    NAME_COLORS,
    PointColors,
    name_colors,
    sort_names,
)
from workbench.analysis.latents.projection import LatentMap
from workbench.analysis.latents.projection import latent_map as compute_layout
from workbench.analysis.plotting.style import MAGNITUDE_SCALE
from workbench.storage.run import Run
from workbench.workspace.controls import Value
from workbench.workspace.encoding import base64_array

MAGNITUDE_STEPS = 32
# The ends of the scale are hard to see on a dark or a light page.
MAGNITUDE_RANGE = (0.15, 0.95)
GRID_STEPS = 65_535
MAX_CACHED_LAYOUTS = 8


def layout_of_run(run: Run, step: int | None, controls: Mapping[str, Value]) -> LatentMap:
    """Return the latent map of a run at a step, computed once per evidence and controls.

    Raises
    ------
    NotApplicable
        If the evidence has no latents.
    """
    provenance = json.dumps(run.evidence(step).provenance, sort_keys=True)
    return _layout(str(run.folder), step, provenance, tuple(sorted(controls.items())))


@cached(LRUCache(maxsize=MAX_CACHED_LAYOUTS), lock=Lock())
def _layout(
    folder: str, step: int | None, provenance: str, controls: tuple[tuple[str, Value], ...]
) -> LatentMap:
    """Compute a map; `provenance` is a part of the key because evidence may be collected anew."""
    evidence = Run(folder).evidence(step)
    return compute_layout(**evidence.kwargs_for(compute_layout), **dict[str, Any](controls))


def point_data(coordinates: np.ndarray) -> dict[str, Any]:
    """Encode points (n, 2) for the browser, as steps of a 65,536th of the square around them."""
    box, steps = _grid_steps(coordinates)
    return {"n": len(coordinates), "box": box, "xy": base64_array(steps)}


def snap_to_grid(coordinates: np.ndarray) -> np.ndarray:
    """Round points (n, 2) as the browser draws them, so that a lasso matches the screen."""
    box, steps = _grid_steps(coordinates)
    low, high = np.array(box[:2]), np.array(box[2:])
    return low + steps / GRID_STEPS * (high - low)


def _grid_steps(coordinates: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Return the square around points as [x0, y0, x1, y1], and the points on its grid, uint16."""
    points = np.asarray(coordinates, np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    center = (low + high) / 2
    half = max(float((high - low).max()) / 2, 1e-9)
    start, end = center - half, center + half
    fraction = (points - start) / (end - start)
    steps = np.rint(GRID_STEPS * fraction.clip(0, 1)).astype(np.uint16)
    return [*start.tolist(), *end.tolist()], steps


def color_data(colors: PointColors, n: int) -> dict[str, Any]:
    """Encode the colors of n points: a ramp for values, one color per name for up to 20 names."""
    if colors.values is not None:
        return _magnitude_colors(colors.values, colors.title)
    names = sort_names(colors.names)
    if not 0 < len(names) <= len(NAME_COLORS):
        zeros = base64_array(np.zeros(n, np.uint8))
        return {"color": zeros, "palette": NAME_COLORS[:1], "groups": ["images"]}
    number = {name: i for i, name in enumerate(names)}
    groups = np.array([number[name] for name in colors.names], np.uint8)
    return {"color": base64_array(groups), "palette": name_colors(names), "groups": names}


def _magnitude_colors(values: np.ndarray, title: str) -> dict[str, Any]:
    from plotly.colors import sample_colorscale, unlabel_rgb

    low, high = float(values.min()), float(values.max())
    fraction = (values - low) / (high - low) if high > low else np.zeros(len(values))
    scale = sample_colorscale(MAGNITUDE_SCALE, np.linspace(*MAGNITUDE_RANGE, MAGNITUDE_STEPS))
    channels = [unlabel_rgb(color) for color in scale]
    palette = ["#" + "".join(f"{round(channel):02x}" for channel in color) for color in channels]
    levels = np.minimum(fraction * MAGNITUDE_STEPS, MAGNITUDE_STEPS - 1).astype(np.uint8)
    return {
        "color": base64_array(levels),
        "palette": palette,
        "groups": [],
        "scale": [low, high, title],
        "values": base64_array(values.astype(np.float32)),
    }
