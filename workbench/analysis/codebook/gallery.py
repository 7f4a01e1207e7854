"""What a code stands for: patches of held-out images whose token chose it.

Tokens without a place in the image are shown by the whole image: what the images of a code have in common.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import Codes, check_grid, parse_codes
from workbench.analysis.inputs import class_names
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import apply_theme
from workbench.core.errors import UserError

Order = Literal["commonest", "rarest", "random"]
CONTEXT = 1  # patches of surroundings on each side


@dataclass(frozen=True)
class Shown:
    """One code of the gallery."""

    book: int
    code: int
    times: int  # how often it was chosen
    images: int  # how many hold it
    common: str  # its most frequent class; empty without labels
    share: float  # of its tokens in that class; NaN without labels
    distance: float  # mean of the shown tokens to the code; NaN where tokens are their codes, or are not known


@dataclass(frozen=True, eq=False)
class CodeGallery(Result):
    """A row of patches, or of images, for each of some codes."""

    codes: tuple[Shown, ...]
    order: Order
    grid: tuple[int, int] | None
    members: int
    nearest: bool  # the members are those nearest to the code; else random ones
    seed: int
    n: int  # images
    mosaic: np.ndarray = field(repr=False)  # uint8 (height, width, 4)

    def figure(self) -> go.Figure:
        """The mosaic; beside each row its code and how often that was chosen."""
        prefix = any(c.book for c in self.codes)
        names = [f"{f'{c.book}:' if prefix else ''}{c.code} · {c.times:,}×" for c in self.codes]
        figure = image_grid.draw(self.mosaic, names, (len(names), self.members), row_height=58)
        title = {
            "text": f"The {self.order} codes that were chosen",
            "subtitle": {"text": f"n = {self.n:,} images · {self._what()}"},
        }
        figure.update_xaxes(title=f"at most {self.members} for a code, each of another image")
        return apply_theme(figure.update_layout(title=title))

    def table(self) -> pd.DataFrame:
        """One row a code shown."""
        columns = ("book", "code", "times", "images", "common", "share", "distance")
        return pd.DataFrame([{name: getattr(c, name) for name in columns} for c in self.codes])

    def summary(self) -> str:
        """What is shown, and which of the codes is most one class's."""
        first = f"The {self.order} {len(self.codes)} codes, {self._what()}."
        named = [c for c in self.codes if c.common]
        if not named:
            return first
        pure = max(named, key=lambda c: (c.share, c.times))
        return (
            f"{first} Of these, code {pure.code} is most one class's: {100 * pure.share:.0f} % of its"
            f" {pure.times:,} tokens are of class {pure.common}."
        )

    def _what(self) -> str:
        kind = (
            "whole images, the tokens having no place"
            if self.grid is None
            else "patches with their surroundings"
        )
        chosen = "nearest to the code" if self.nearest else f"drawn at random (seed {self.seed})"
        return f"{kind}, {chosen}"


def code_gallery(
    images: np.ndarray,
    codes: np.ndarray,
    codebook: np.ndarray,
    latents: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    *,
    order: Order = "commonest",
    show: Annotated[int, Range(4, 24)] = 10,
    members: Annotated[int, Range(4, 16)] = 10,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeGallery:
    """Show `members` tokens of each of `show` codes: on a grid their patches, else their whole images.

    Those whose latents are nearest to the code come first; where latents are the codes themselves they are drawn at
    random. Each is of another image. Raises UserError for images or labels that are not as many as the codes, a grid
    that does not hold the tokens and what `read` refuses.
    """
    found = parse_codes(codes, codebook, active, "Code gallery")
    if len(images) != len(codes):
        raise UserError(
            f"There are {len(images)} images and codes of {len(codes)}. Do both come from the same run?"
        )
    check_grid(grid, codes.shape[1])
    texts, random = class_names(labels, names, len(codes)), np.random.default_rng(seed)
    chosen = _chosen(found.counts.ravel(), order, show, random)
    places = _places(found, chosen)
    soft = latents is not None and latents.shape == (*codes.shape, codebook.shape[2])
    words = codebook.reshape(-1, codebook.shape[2])
    rows, shown, nearest = [], [], False
    for one in chosen.tolist():
        image, token = places[one]
        distance = (
            np.linalg.norm(latents[image, token] - words[one], axis=1)
            if soft
            else np.zeros(len(image))
        )
        apart = bool(distance.max() > 1e-4 * np.linalg.norm(words[one]))
        kept = _of_other_images(image, distance if apart else random.random(len(image)), members)
        nearest, mean = nearest or apart, float(distance[kept].mean()) if apart else float("nan")
        rows.append(np.stack([_patch(images[image[i]], token[i], grid) for i in kept]))
        shown.append(
            Shown(
                *divmod(one, found.size),
                len(image),
                len(np.unique(image)),
                *_common(texts, image),
                mean,
            )
        )
    return CodeGallery(
        tuple(shown),
        order,
        grid,
        max(map(len, rows)),
        nearest,
        seed,
        len(codes),
        image_grid.compose(rows),
    )


def _chosen(totals: np.ndarray, order: Order, show: int, random: np.random.Generator) -> np.ndarray:
    used = np.flatnonzero(totals)
    if order == "random":
        return np.sort(random.permutation(used)[:show])
    ranked = used[np.argsort(totals[used] * (-1 if order == "commonest" else 1), kind="stable")]
    return ranked[:show]


def _places(found: Codes, chosen: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The images and tokens, int (m,) each, that chose each of some ids."""
    start, parts = 0, []
    wanted = np.zeros(found.counts.size + 1, bool)  # the last: of an inactive token, whose id is -1
    wanted[chosen] = True
    for ids in found.parts():
        image, token = np.nonzero(wanted[ids])
        parts.append((ids[image, token], image + start, token))
        start += len(ids)
    ids, image, token = (np.concatenate(x) for x in zip(*parts, strict=True))
    return {int(one): (image[ids == one], token[ids == one]) for one in chosen}


def _of_other_images(image: np.ndarray, order: np.ndarray, most: int) -> np.ndarray:
    """Places of the first by `order`, each of another image."""
    ranked = np.argsort(order, kind="stable")
    first = np.unique(image[ranked], return_index=True)[1]
    return ranked[np.sort(first)[:most]]


def _patch(image: np.ndarray, token: int, grid: tuple[int, int] | None) -> np.ndarray:
    """The part of an image (h, w, c) that a token stands for, with its surroundings, mirrored at the image's edge."""
    if grid is None:
        return np.asarray(image)
    high, wide = image.shape[0] // grid[0], image.shape[1] // grid[1]
    row, column = divmod(int(token), grid[1])
    edges = ((CONTEXT * high, CONTEXT * high), (CONTEXT * wide, CONTEXT * wide), (0, 0))
    padded = np.pad(np.asarray(image), edges, mode="symmetric")
    span = 2 * CONTEXT + 1
    return padded[row * high : (row + span) * high, column * wide : (column + span) * wide]


def _common(texts: tuple[str, ...], image: np.ndarray) -> tuple[str, float]:
    if not texts:
        return "", float("nan")
    classes, counts = np.unique([texts[i] for i in image], return_counts=True)
    return str(classes[counts.argmax()]), float(counts.max() / len(image))
