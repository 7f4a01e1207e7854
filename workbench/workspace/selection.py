"""A selection of images, as it is saved, sent and linked to: a lasso, a filter or indices."""

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from workbench.core.coerce import coerce
from workbench.core.errors import UserError, unknown
from workbench.storage.evidence import Evidence
from workbench.workspace.filters import parse_filter

Corners = tuple[tuple[float, float], ...]
MAX_LISTED_INDICES = 200  # more indices are packed, so that they fit into an address
# Packed indices come from addresses: this bounds the memory that one address can occupy (256 KiB).
MAX_IMAGES = 2**21
MAX_CORNERS = 10_000


@dataclass(frozen=True, eq=False)
class Selection:
    """Images of the evidence of a run, given by exactly one of a polygon, a filter or indices.

    Attributes
    ----------
    run : str
        Name of the run whose evidence the images are of; empty for the primary run.
    step : int or None
        Step of that evidence; None is the last one.
    polygon : tuple of (float, float)
        Corners of a lasso, in the units of the latent map.
    layout : Mapping
        Controls of the latent map on which the lasso was drawn.
    where : str
        A filter such as ``error > 0.05 & class = 3``; see `workbench.workspace.filters`.
    ids : ndarray of int, shape (m,)
        Indices of images, ascending.

    Raises
    ------
    UserError
        If not exactly one of the three is given, or it is not valid.
    """

    run: str = ""
    step: int | None = None
    polygon: Corners = ()
    layout: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    where: str = ""
    ids: Sequence[int] | np.ndarray = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _check_indices(self.ids))
        lengths = {"polygon": len(self.polygon), "where": len(self.where), "ids": len(self.ids)}
        names = [name for name, length in lengths.items() if length]
        if len(names) != 1:
            raise UserError(
                "A selection needs exactly one of a polygon, a filter (where) and ids, "
                f"got {', '.join(names) or 'none'}."
            )
        if len(self.polygon) > MAX_CORNERS:
            raise UserError(
                f"A polygon has at most {MAX_CORNERS:,} corners, got {len(self.polygon):,}."
            )
        parse_filter(self.where)

    @property
    def indices(self) -> np.ndarray:
        """The indices as an array, int64 (m,), ascending."""
        return np.asarray(self.ids)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Selection)
            and (self.run, self.step, self.where) == (other.run, other.step, other.where)
            and (self.polygon, dict(self.layout)) == (other.polygon, dict(other.layout))
            and np.array_equal(self.indices, other.indices)
        )

    def __hash__(self) -> int:
        return hash((self.run, self.step, self.polygon, self.where, self.indices.tobytes()))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON types; many indices are packed into text."""
        is_listed = len(self.indices) <= MAX_LISTED_INDICES
        indices = self.indices.tolist() if is_listed else _pack(self.indices)
        values = {
            "run": self.run,
            "step": self.step,
            "polygon": [list(corner) for corner in self.polygon],
            "layout": dict(self.layout),
            "where": self.where,
            "ids": indices,
        }
        return {name: value for name, value in values.items() if value not in ("", None, [], {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Selection":
        """Return the selection of `to_dict`.

        Raises
        ------
        UserError
            If the values are not a selection.
        """
        names = [item.name for item in fields(cls)]
        for name in values:
            if name not in names:
                raise unknown("part", name, names, within="of a selection")
        try:
            polygon = tuple((float(x), float(y)) for x, y in values.get("polygon", ()))
            ids = values.get("ids", ())
            indices = _unpack(ids) if isinstance(ids, str) else np.asarray(ids, np.int64)
            layout = dict(values.get("layout", {}))
            step = coerce(int | None, "step", values.get("step"))
        except (TypeError, ValueError, OverflowError, zlib.error) as error:
            raise UserError(f"This is not a selection: {error}.") from None
        return cls(
            run=str(values.get("run", "")),
            step=step,
            polygon=polygon,
            layout=layout,
            where=str(values.get("where", "")),
            ids=indices,
        )


def id_scopes(run: str, evidence: Evidence) -> dict[str, str]:
    """Return in which scope indices of images and codes are valid.

    Two views share a selection of a kind exactly if their scopes of that kind are equal.

    Parameters
    ----------
    run : str
        Name of the run.
    evidence : Evidence
        Evidence of that run.

    Returns
    -------
    dict of str to str
        The scope of each kind: ``image``, ``code`` and ``run``.
    """
    scope = f"{run} {evidence.step}"
    fingerprint = evidence.provenance.get("fingerprint")
    return {"image": fingerprint or scope, "code": scope, "run": ""}


def points_in_polygon(points: np.ndarray, polygon: Sequence[Sequence[float]]) -> np.ndarray:
    """Find the points inside a polygon by the even-odd rule.

    A million points and 60 corners take a fifth of a second.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        Coordinates, one point per row.
    polygon : sequence of (float, float)
        Corners; fewer than three enclose nothing.

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> square = [(0, 0), (2, 0), (2, 2), (0, 2)]
    >>> points_in_polygon(np.array([[1.0, 1.0], [3.0, 1.0]]), square).tolist()
    [True, False]
    """
    is_inside = np.zeros(len(points), bool)
    if len(polygon) < 3:
        return is_inside
    corners = np.asarray(polygon, np.float64)
    low, high = corners.min(axis=0), corners.max(axis=0)
    in_box = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
    x, y = np.asarray(points[in_box], np.float64).T
    is_odd = np.zeros(len(in_box), bool)
    for (xa, ya), (xb, yb) in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        if ya != yb:
            crosses = (ya > y) != (yb > y)
            is_odd ^= crosses & (x < (xb - xa) * (y - ya) / (yb - ya) + xa)
    is_inside[in_box] = is_odd
    return is_inside


def _check_indices(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return indices as a read-only array, int64 (m,), ascending and without repetitions."""
    try:
        indices = np.array(ids, np.int64)
    except (TypeError, ValueError, OverflowError):
        raise UserError("ids must be whole numbers.") from None
    # np.unique is slow for millions of integers.
    if (np.diff(indices) <= 0).any():
        indices = np.sort(indices)
        indices = indices[np.append(True, np.diff(indices) > 0)]
    if len(indices) and not 0 <= indices[0] <= indices[-1] < MAX_IMAGES:
        raise UserError(
            f"ids must be between 0 and {MAX_IMAGES - 1:,}, got {indices[0]} to {indices[-1]}."
        )
    indices.flags.writeable = False
    return indices


def _pack(indices: np.ndarray) -> str:
    """Pack indices into short text: one bit per image, deflated."""
    bits = np.zeros(indices.max() + 1, np.uint8)
    bits[indices] = 1
    return urlsafe_b64encode(zlib.compress(np.packbits(bits).tobytes(), 9)).decode()


def _unpack(text: str) -> np.ndarray:
    decompressor = zlib.decompressobj()
    packed = decompressor.decompress(urlsafe_b64decode(text), MAX_IMAGES // 8)
    if decompressor.unconsumed_tail:
        raise ValueError(f"ids name images beyond {MAX_IMAGES - 1:,}")
    return np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8)))
