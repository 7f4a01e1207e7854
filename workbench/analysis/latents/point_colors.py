"""What the points of a latent map are coloured by: a name for each image, or a number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.analysis.images.reconstruction import decibels, errors
from workbench.analysis.inputs import class_names, one_row_an_image
from workbench.analysis.latents.cross_validation import grid, held_out
from workbench.analysis.latents.mode_assignment import largest_first
from workbench.analysis.latents.mode_nulls import LEAST
from workbench.analysis.latents.modes import MOST_IMAGES
from workbench.analysis.stats.reductions import reduced
from workbench.analysis.stats.sampling import sample
from workbench.core.errors import NotApplicable

By = Literal["class", "mode", "code", "error", "tokens"]
MOST_CODES = 12  # those met most; the others share a grey
COMPONENTS, MOST_MODES = 16, 24  # as the analysis of modes sets them
NEEDED = {"code": ("codes",), "error": ("images", "reconstructions"), "tokens": ("active",)}
OTHER = "other"


@dataclass(frozen=True, eq=False)
class Colouring:
    """Names (m,) or values (m,) of the points, whichever is not empty; both are where there is nothing to say."""

    by: By
    title: str
    names: tuple[str, ...] = ()
    values: np.ndarray | None = None  # float (m,)


def colouring(by: By, places: np.ndarray, known: Mapping[str, object], seed: int) -> Colouring:
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
        return Colouring(by, "class", tuple(classes[i] for i in places) if classes else ())
    if by == "mode":
        assignment = modes(known["latents"], places, seed)
        fitted = "" if len(places) <= MOST_IMAGES else f", fitted to {MOST_IMAGES:,} at random"
        return Colouring(by, f"mode{fitted}", tuple(str(mode) for mode in assignment))
    if by == "code":
        codes = np.asarray(known["codes"])[places, 0]
        often = set(np.argsort(-np.bincount(codes), kind="stable")[:MOST_CODES].tolist())
        return Colouring(
            by, "code of token 0", tuple(str(c) if c in often else OTHER for c in codes.tolist())
        )
    if by == "error":
        mse, _ = errors(known["images"][places], known["reconstructions"][places])
        return Colouring(by, "PSNR, dB", values=decibels(mse))
    return Colouring(
        by, "tokens used", values=np.asarray(known["active"])[places].sum(axis=1).astype(float)
    )


def modes(latents: np.ndarray, places: np.ndarray, seed: int) -> np.ndarray:
    """The mode (m,) of the images at `places`, the largest 0, as the analysis of modes counts them by default."""
    rows = one_row_an_image(
        latents if len(places) == len(latents) else latents[places], LEAST, "Colour by mode"
    )
    points, _ = reduced(rows, "ours", COMPONENTS, seed)
    judges = points[sample(len(points), MOST_IMAGES, np.random.default_rng(seed))]
    tried = grid(min(MOST_MODES, len(judges) // 10))
    (found,), fits = held_out([judges], tried, "diag", seed)
    return largest_first(fits[list(tried).index(found.best)], points)[0]
