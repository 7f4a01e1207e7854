"""What the points of a latent map are coloured by: a name for each image, or a number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.analysis.images.reconstruction import pixel_errors, psnr_db
from workbench.analysis.inputs import class_names, flatten_latents
from workbench.analysis.latents.cross_validation import cross_validate_mixtures, mode_grid
from workbench.analysis.latents.mode_assignment import order_by_size
from workbench.analysis.latents.mode_nulls import MIN_IMAGES
from workbench.analysis.latents.modes import MAX_IMAGES
from workbench.analysis.stats.reductions import reduce_dimensions
from workbench.analysis.stats.sampling import subsample
from workbench.core.errors import NotApplicable

ColorBy = Literal["class", "mode", "code", "error", "tokens"]
MOST_CODES = 12  # those met most; the others share a grey
COMPONENTS, MOST_MODES = 16, 24  # as the analysis of modes sets them
NEEDED = {"code": ("codes",), "error": ("images", "reconstructions"), "tokens": ("active",)}
OTHER_NAME = "other"


@dataclass(frozen=True, eq=False)
class PointColors:
    """Names (m,) or values (m,) of the points, whichever is not empty; both are where there is nothing to say."""

    by: ColorBy
    title: str
    names: tuple[str, ...] = ()
    values: np.ndarray | None = None  # float (m,)


def point_colors(by: ColorBy, places: np.ndarray, known: Mapping[str, object], seed: int) -> PointColors:
    """Colours of the images at `places`, from evidence by field name.

    Raises NotApplicable where the evidence has nothing of the kind; without labels, `class` colours nothing.
    """
    lacking = [field for field in NEEDED.get(by, ()) if known.get(field) is None]
    if lacking:
        raise NotApplicable(
            f"Colour by {by} needs {' and '.join(lacking)}; this evidence has none."
        )
    if by == "class":
        classes = class_names(known.get("labels"), known.get("names") or (), len(known["latents"]))
        return PointColors(by, "class", tuple(classes[i] for i in places) if classes else ())
    if by == "mode":
        assignment = modes_of_points(known["latents"], places, seed)
        fitted = "" if len(places) <= MAX_IMAGES else f", fitted to {MAX_IMAGES:,} at random"
        return PointColors(by, f"mode{fitted}", tuple(str(mode) for mode in assignment))
    if by == "code":
        codes = np.asarray(known["codes"])[places, 0]
        often = set(np.argsort(-np.bincount(codes), kind="stable")[:MOST_CODES].tolist())
        return PointColors(
            by, "code of token 0", tuple(str(c) if c in often else OTHER_NAME for c in codes.tolist())
        )
    if by == "error":
        mse, _ = pixel_errors(known["images"][places], known["reconstructions"][places])
        return PointColors(by, "PSNR, dB", values=psnr_db(mse))
    return PointColors(
        by, "tokens used", values=np.asarray(known["active"])[places].sum(axis=1).astype(float)
    )


def modes_of_points(latents: np.ndarray, places: np.ndarray, seed: int) -> np.ndarray:
    """The mode (m,) of the images at `places`, the largest 0, as the analysis of modes counts them by default."""
    rows = flatten_latents(
        latents if len(places) == len(latents) else latents[places], MIN_IMAGES, "Colour by mode"
    )
    points, _ = reduce_dimensions(rows, "ours", COMPONENTS, seed)
    judges = points[subsample(len(points), MAX_IMAGES, np.random.default_rng(seed))]
    tried = mode_grid(min(MOST_MODES, len(judges) // 10))
    (found,), fits = cross_validate_mixtures([judges], tried, "diag", seed)
    return order_by_size(fits[list(tried).index(found.best)], points)[0]
