"""What was picked, as it is kept, sent and linked to: a lasso's polygon, a condition, or places; never the points."""

import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from workbench.core.errors import UserError, unknown
from workbench.storage.evidence import Evidence

Corners = tuple[tuple[float, float], ...]
OPERATORS: dict[str, Callable[[Any, float], np.ndarray]] = {
    ">=": np.greater_equal,
    "<=": np.less_equal,
    ">": np.greater,
    "<": np.less,
}
MANY, MOST = (
    200,
    10_000_000,
)  # ids beyond which they are told in short, and the largest that is then read
CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|>|<|=)\s*(.+?)\s*")


@dataclass(frozen=True)
class Selection:
    """Some images of a run's evidence: those inside a polygon of its map, those that meet a condition, or these.

    A condition is `error > 0.05 & class = 3`; after `=` may stand several values: `code = 17, 23` means any of them.
    """

    run: str = ""  # whose evidence it was picked in; "": the leading run's
    step: int | None = None  # of that evidence; None: the last
    polygon: Corners = ()  # in the units of the map
    layout: Mapping[str, bool | int | float | str] = field(
        default_factory=dict
    )  # controls of that map
    where: str = ""
    ids: tuple[int, ...] = ()  # places among the images, ascending

    def __post_init__(self) -> None:
        told = [name for name in ("polygon", "where", "ids") if getattr(self, name)]
        if len(told) != 1:
            raise UserError(
                f"A selection is a polygon, a condition or ids; got {', '.join(told) or 'none of them'}."
            )
        parse_condition(self.where)

    def told(self) -> dict[str, Any]:
        """What differs from nothing, as JSON takes it; many ids as a text that an address has room for."""
        plain: dict[str, Any] = {
            "polygon": [list(corner) for corner in self.polygon],
            "layout": dict(self.layout),
        }
        plain |= {"ids": _packed(self.ids)} if len(self.ids) > MANY and min(self.ids) >= 0 else {}
        return {
            name: value
            for name, value in (asdict(self) | plain).items()
            if value not in ("", None, (), [], {})
        }

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Selection":
        """The selection that `told` told. Raises UserError."""
        known = [one.name for one in fields(cls)]
        for name in told:
            if name not in known:
                raise unknown("part of a selection", name, known)
        try:
            polygon = tuple((float(x), float(y)) for x, y in told.get("polygon", ()))
            ids, step = told.get("ids", ()), told.get("step")
            ids = _unpacked(ids) if isinstance(ids, str) else tuple(map(int, ids))
            layout, step = dict(told.get("layout", {})), None if step is None else int(step)
        except (TypeError, ValueError, zlib.error) as error:
            raise UserError(f"this is not a selection: {error}.") from None
        return cls(str(told.get("run", "")), step, polygon, layout, str(told.get("where", "")), ids)


def parse_condition(where: str) -> list[tuple[str, str, list[str]]]:
    """The parts of a condition, each a column, an operator and its values. Raises UserError."""
    found = []
    for part in where.split("&") if where.strip() else ():
        match = CONDITION.fullmatch(part)
        if match is None:
            raise UserError(
                f"`{part.strip()}` is no condition; write for example `error > 0.05 & class = 3`."
            )
        found.append((match[1], match[2], [value.strip() for value in match[3].split(",")]))
    return found


def matches_condition(columns: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """Which of n images meet a condition, bool (n,), by their columns, (n,) or with several values each (n, m).

    Raises UserError for a column that there is not, or a comparison with what is no number.
    """
    chosen = np.ones(len(next(iter(columns.values()))), bool)
    for name, operator, values in parse_condition(where):
        if name not in columns:
            raise unknown("column to select by", name, columns)
        column = columns[name]
        if operator == "=":
            one = np.isin(column, values if column.dtype.kind == "U" else _numbers(values))
        elif column.dtype.kind == "U":
            raise UserError(f"{name} is no number; write `{name} = {values[0]}`.")
        else:
            one = OPERATORS[operator](column, _numbers(values)[0])
        chosen &= one.reshape(len(chosen), -1).any(axis=1)
    return chosen


def id_scopes(run: str, evidence: Evidence) -> dict[str, str]:
    """What ids of images and codes count in a run's evidence: they mean the same in another where this is the same."""
    here = f"{run} {evidence.step}"
    return {"image": evidence.provenance.get("fingerprint") or here, "code": here, "run": ""}


def points_in_polygon(points: np.ndarray, polygon: Sequence[Sequence[float]]) -> np.ndarray:
    """Which of the points (n, 2) lie in a polygon of corners (m, 2), by the even-odd rule, bool (n,).

    Fewer than three corners hold nothing. A million points and 60 corners take a fifth of a second.
    """
    chosen = np.zeros(len(points), bool)
    if len(polygon) < 3:
        return chosen
    corners = np.asarray(polygon, np.float64)
    low, high = corners.min(axis=0), corners.max(axis=0)
    within = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
    x, y = np.asarray(points[within], np.float64).T
    odd = np.zeros(len(within), bool)
    for (xa, ya), (xb, yb) in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        if ya != yb:
            odd ^= ((ya > y) != (yb > y)) & (x < (xb - xa) * (y - ya) / (yb - ya) + xa)
    chosen[within] = odd
    return chosen


def _packed(ids: Sequence[int]) -> str:
    """Places in few letters: a bit for each image there is, deflated."""
    bits = np.zeros(max(ids) + 1, np.uint8)
    bits[list(ids)] = 1
    return urlsafe_b64encode(zlib.compress(np.packbits(bits).tobytes(), 9)).decode()


def _unpacked(text: str) -> tuple[int, ...]:
    told = zlib.decompressobj().decompress(urlsafe_b64decode(text), MOST // 8)
    return tuple(np.flatnonzero(np.unpackbits(np.frombuffer(told, np.uint8))).tolist())


def _numbers(values: Sequence[str]) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError:
        raise UserError(f"`{', '.join(values)}` is no number to compare with.") from None
