"""Labels at the ends of curves, moved apart where they would overlap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

LABEL_HEIGHT_PX = 15
LABEL_SHIFT_PX = 16  # from the end of a curve to its label
MAX_LABELS = 12  # more would not fit into the height of a panel


@dataclass(frozen=True, kw_only=True)
class CurveEnd:
    """The last point of a curve, in units of the axes (decades of a logarithmic one)."""

    text: str
    color: str
    x: float
    y: float


def spread(positions: Sequence[float] | np.ndarray, gap: float) -> np.ndarray:
    """Move numbers apart, as little as possible in the sum of squares.

    Parameters
    ----------
    positions : sequence of float, or ndarray of float, shape (n,)
        In any order, which is kept.
    gap : float
        The smallest difference between two of the results.

    Returns
    -------
    ndarray of float, shape (n,)

    Examples
    --------
    >>> spread([0.0, 10.0, 10.0], 4.0)
    array([ 0.,  8., 12.])
    """
    values = np.asarray(positions, float)
    order = np.argsort(values, kind="stable")
    shifts = gap * np.arange(len(values))
    moved = np.empty(len(values))
    moved[order] = _isotonic(values[order] - shifts) + shifts
    return moved


def _isotonic(values: np.ndarray) -> np.ndarray:
    """Return the ascending numbers nearest to some numbers, by pooling adjacent violators."""
    pools: list[tuple[float, int]] = []  # mean and size
    for value in values:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            other_mean, other_size = pools.pop()
            mean = (mean * size + other_mean * other_size) / (size + other_size)
            size += other_size
        pools.append((mean, size))
    return np.repeat([mean for mean, _ in pools], [size for _, size in pools])


def add_end_labels(
    figure: go.Figure, ends: Sequence[CurveEnd], *, pixels_per_unit: float, cell: Mapping[str, Any]
) -> None:
    """Write a label to the right of the end of each curve, with a line to it.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
        A figure made of subplots. There must be room to the right of the panel.
    ends : sequence of CurveEnd
        Beyond `MAX_LABELS` they have no label.
    pixels_per_unit : float
        Of the vertical axis.
    cell : mapping
        `row` and `col` of the panel.
    """
    labeled = ends[:MAX_LABELS]
    if not labeled:
        return
    heights = np.array([end.y for end in labeled]) * pixels_per_unit
    shifts = spread(heights, LABEL_HEIGHT_PX) - heights
    for end, shift in zip(labeled, shifts, strict=True):
        figure.add_annotation(
            x=end.x,
            y=end.y,
            ax=LABEL_SHIFT_PX,
            ay=-float(shift),
            text=end.text,
            font={"size": 11},
            xanchor="left",
            showarrow=True,
            arrowhead=0,
            arrowwidth=1,
            arrowcolor=end.color,
            **cell,
        )
