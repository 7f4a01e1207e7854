"""Figure of a metric against settings: parallel coordinates above one panel per setting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.run_colors import colors_of_runs
from workbench.analysis.plotting.style import TRANSPARENT, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.runs.setting_effects import SettingEffect, SettingEffects

COLUMNS = 3
COORDINATES_HEIGHT_PX = 300
PANEL_HEIGHT_PX = 230
MIN_LOG_RATIO = 10  # of the largest to the smallest positive value
MAX_TICKS = 8
TOP_PX = 140  # the names of the parallel axes are between the title and the axes
BOTTOM_PX = 60
LINE_SCALE = ((0, "#a8a8a8"), (0.5, "#56B4E9"), (1, "#0072B2"))  # readable in light and dark


def draw(result: SettingEffects) -> go.Figure:
    """Draw one line per run through all settings, and the metric against each setting."""
    columns = min(COLUMNS, len(result.effects))
    rows = math.ceil(len(result.effects) / columns)
    specs: list[list[dict[str, Any] | None]] = [
        [{"type": "domain", "colspan": columns}, *[None] * (columns - 1)]
    ]
    for row in range(rows):
        filled = len(result.effects) - row * columns
        specs.append([{} if column < filled else None for column in range(columns)])
    figure = make_subplots(
        rows + 1,
        columns,
        specs=specs,
        row_heights=[COORDINATES_HEIGHT_PX, *[PANEL_HEIGHT_PX] * rows],
        vertical_spacing=0.24 / (rows + 1),
        horizontal_spacing=0.2 / columns,
    )
    figure.add_trace(_coordinates(result), row=1, col=1)
    colors = colors_of_runs(result.runs, result.run_colors)
    label = f"{result.info.label}, {result.info.unit}" if result.info.unit else result.info.label
    for i, effect in enumerate(result.effects):
        cell = {"row": 2 + i // columns, "col": i % columns + 1}
        figure.add_trace(_points(result, effect, colors), **cell)
        figure.update_xaxes(title=effect.name, **_ticks(effect), **cell)
        figure.update_yaxes(title=label, **cell)
    direction = "higher" if result.info.higher_is_better else "lower"
    subtitle = f"{len(result.runs)} runs · {direction} is better · drag along an axis to filter"
    if result.num_omitted:
        subtitle += f" · {result.num_omitted} more settings differ"
    figure.update_layout(
        title={"text": f"{result.info.label} by settings", "subtitle": {"text": subtitle}},
        height=TOP_PX + BOTTOM_PX + COORDINATES_HEIGHT_PX + PANEL_HEIGHT_PX * rows,
        showlegend=False,
    )
    return apply_theme(figure).update_layout(margin={"t": TOP_PX, "b": BOTTOM_PX})


def _coordinates(result: SettingEffects) -> go.Parcoords:
    dimensions: list[dict[str, Any]] = [
        {"label": effect.name, "values": _axis_values(effect), **_axis_ticks(effect)}
        for effect in result.effects
    ]
    dimensions.append({"label": result.info.label, "values": result.values})
    return go.Parcoords(
        dimensions=dimensions,
        line={
            "color": result.values,
            "colorscale": LINE_SCALE,
            "reversescale": not result.info.higher_is_better,
        },
        labelfont={"size": 12},
        rangefont={"size": 1, "color": TRANSPARENT},  # the ticks have these numbers
    )


def _points(result: SettingEffects, effect: SettingEffect, colors: dict[str, str]) -> go.Scatter:
    return go.Scatter(
        x=effect.positions,
        y=result.values,
        text=result.runs,
        customdata=result.runs,
        meta="run",
        mode="markers",
        marker={"size": 9, "color": [colors[run] for run in result.runs]},
        hovertemplate=f"%{{text}}<br>{result.info.label} %{{y:.4~g}}<extra></extra>",
    )


def _ticks(effect: SettingEffect) -> dict[str, Any]:
    """Return the type and the ticks of the axis of a setting: its values, if they are few."""
    positions, first = np.unique(effect.positions, return_index=True)
    ticks: dict[str, Any] = {"nticks": 6}
    if len(positions) <= MAX_TICKS or not effect.is_number:
        ticks = {"tickvals": positions, "ticktext": [effect.values[i] for i in first]}
    return {"type": "log", **ticks} if _is_logarithmic(effect) else ticks


def _axis_values(effect: SettingEffect) -> np.ndarray:
    """Return the positions on an axis of the parallel coordinates, which are linear."""
    return np.log10(effect.positions) if _is_logarithmic(effect) else effect.positions


def _axis_ticks(effect: SettingEffect) -> dict[str, Any]:
    positions, first = np.unique(_axis_values(effect), return_index=True)
    return {"tickvals": positions, "ticktext": [effect.values[i] for i in first]}


def _is_logarithmic(effect: SettingEffect) -> bool:
    if not effect.is_number or effect.positions.min() <= 0:
        return False
    return bool(effect.positions.max() / effect.positions.min() >= MIN_LOG_RATIO)
