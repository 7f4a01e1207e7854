"""Gallery of codes: patches of held-out images whose token selected each code.

Tokens without a position in the image are represented by the full image: the gallery then shows
what the images of a code have in common.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import Codes, check_grid, codebook_table, parse_codes
from workbench.analysis.inputs import class_names, describe_pictures
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import apply_theme
from workbench.core.errors import UserError

Order = Literal["commonest", "rarest", "random"]
CONTEXT = 1  # patches of surroundings on each side
ROW_HEIGHT_PX = 58
# Latents differ from their codes if a distance exceeds this fraction of the code's norm.
MIN_RELATIVE_DISTANCE = 1e-4


@dataclass(frozen=True)
class GalleryRow:
    """One code of the gallery."""

    codebook: int
    code: int
    count: int  # tokens that selected the code
    images: int  # images that contain the code
    common_class: str  # most frequent class of its tokens; empty without labels
    class_share: float  # fraction of its tokens in that class; NaN without labels
    # Mean distance of the tokens in the row to the code; NaN if tokens are their codes.
    distance: float


@dataclass(frozen=True, eq=False, kw_only=True)
class CodeGallery(Result):
    """One row of patches or images for each of some codes."""

    rows: tuple[GalleryRow, ...]
    order: Order
    grid: tuple[int, int] | None
    members: int  # patches in the longest row
    nearest: bool  # whether the members are the nearest to the code; otherwise they are random
    seed: int
    n: int  # images
    num_images: int | None  # images in the evidence, with those that have no picture
    mosaic: np.ndarray = field(repr=False)  # uint8 (height, width, 4)

    def figure(self) -> go.Figure:
        """Draw the mosaic, with the code and its count next to each row."""
        has_several = any(row.codebook for row in self.rows)
        names = []
        for row in self.rows:
            code = f"{row.codebook}:{row.code}" if has_several else str(row.code)
            names.append(f"{code} · {row.count:,}×")
        figure = image_grid.draw(
            self.mosaic, names, (len(names), self.members), row_height=ROW_HEIGHT_PX
        )
        subtitle = f"n = {self.n:,} images · {self._description()}"
        figure.update_xaxes(title=f"up to {self.members} per code, each from a different image")
        figure.update_layout(
            title={
                "text": f"Code gallery: the {self.order} used codes",
                "subtitle": {"text": subtitle},
            }
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per code of the gallery."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def summary(self) -> str:
        """State which codes the gallery contains, and the code with the purest class."""
        scope = f"The {self.order} {len(self.rows)} used codes, {self._description()}."
        scope += describe_pictures(self.n, self.num_images)
        labeled = [row for row in self.rows if row.common_class]
        if not labeled:
            return scope
        purest = max(labeled, key=lambda row: (row.class_share, row.count))
        return (
            f"{scope} Code {purest.code} is the most specific to one class:"
            f" {100 * purest.class_share:.0f} % of its {purest.count:,} tokens belong to class"
            f" {purest.common_class}."
        )

    def _description(self) -> str:
        if self.grid is None:
            kind = "full images (tokens have no position)"
        else:
            kind = "patches with surroundings"
        if self.nearest:
            return f"{kind}, nearest to the code"
        return f"{kind}, drawn at random (seed {self.seed})"


def code_gallery(
    images: np.ndarray,
    codes: np.ndarray,
    codebook: np.ndarray | int,
    latents: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    num_images: int | None = None,
    *,
    order: Order = "commonest",
    show: Annotated[int, Range(4, 24)] = 10,
    members: Annotated[int, Range(4, 16)] = 10,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeGallery:
    """Show the image patches of the tokens that selected each of some codes.

    Tokens whose latents are nearest to the code come first. If the latents are the codes
    themselves, tokens are drawn at random. Each token of a row belongs to a different image.

    Parameters
    ----------
    images : ndarray of uint8, shape (n_images, height, width, channels)
        The images, encoded as `codes`, from which the patches are cut.
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected. -1 marks padding, which is left out.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim), or int
        The codewords, or only their number if the vectors are not at hand.
    latents : ndarray of float, shape (n_images, n_tokens, dim), optional
        Vectors that the decoder reads, which order the members of a row.
    labels : ndarray of int, shape (n_images,), optional
        Classes of the images.
    names : tuple of str, optional
        Names of the classes, by label.
    grid : (int, int), optional
        Rows and columns of the token grid. Without a grid, full images are shown.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are left out.
    num_images : int, optional
        Number of images in the evidence, if only these have pictures.
    order : {"commonest", "rarest", "random"}, default "commonest"
        Which of the used codes to show.
    show : int, default 10
        Number of codes.
    members : int, default 10
        Number of tokens per code.
    seed : int, default 0
        Seed of random codes and random members.

    Returns
    -------
    CodeGallery
        The codes with their counts and classes, and the mosaic of their patches.

    Raises
    ------
    UserError
        If images, labels or grid do not match the codes, or the codes the codebook.
    NotApplicable
        If there are no tokens.
    """
    parsed = parse_codes(codes, codebook, active, "Code gallery")
    if len(images) != len(codes):
        raise UserError(
            f"There are {len(images)} images, but codes of {len(codes)} images."
            " Do both come from the same run?"
        )
    check_grid(grid, codes.shape[1])
    class_of_image = class_names(labels, names, len(codes))
    random = np.random.default_rng(seed)
    code_ids = _select_codes(parsed.counts.ravel(), order, show, random)
    tokens_by_id = _tokens_by_id(parsed, code_ids)
    table = codebook_table(codebook)
    dim = table.shape[2]
    codewords = table.reshape(parsed.counts.size, dim)
    if latents is not None and (not dim or latents.shape != (*codes.shape, dim)):
        latents = None
    rows: list[GalleryRow] = []
    patches: list[np.ndarray] = []
    has_nearest = False
    for code_id in code_ids.tolist():
        image, token = tokens_by_id[code_id]
        distance = _distances(latents, codewords[code_id], image, token)
        priority = random.random(len(image)) if distance is None else distance
        selected = _first_of_each_image(image, priority, members)
        has_nearest = has_nearest or distance is not None
        patches.append(np.stack([_patch(images[image[i]], token[i], grid) for i in selected]))
        common_class, class_share = _common_class(class_of_image, image)
        rows.append(
            GalleryRow(
                codebook=code_id // parsed.codebook_size,
                code=code_id % parsed.codebook_size,
                count=len(image),
                images=len(np.unique(image)),
                common_class=common_class,
                class_share=class_share,
                distance=float("nan") if distance is None else float(distance[selected].mean()),
            )
        )
    return CodeGallery(
        rows=tuple(rows),
        order=order,
        grid=grid,
        members=max(map(len, patches)),
        nearest=has_nearest,
        seed=seed,
        n=len(codes),
        num_images=num_images,
        mosaic=image_grid.compose(patches),
    )


def _select_codes(
    totals: np.ndarray, order: Order, count: int, random: np.random.Generator
) -> np.ndarray:
    used = np.flatnonzero(totals)
    if order == "random":
        return np.sort(random.permutation(used)[:count])
    sign = -1 if order == "commonest" else 1
    return used[np.argsort(sign * totals[used], kind="stable")][:count]


def _tokens_by_id(codes: Codes, code_ids: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return, for each code id, the images and tokens, int (m,) each, that selected it."""
    # The last entry is the one of inactive tokens, whose id is -1.
    is_selected = np.zeros(codes.counts.size + 1, bool)
    is_selected[code_ids] = True
    start = 0
    parts = []
    for part_ids in codes.iter_ids():
        part_image, part_token = np.nonzero(is_selected[part_ids])
        parts.append((part_ids[part_image, part_token], part_image + start, part_token))
        start += len(part_ids)
    ids, image, token = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return {int(i): (image[ids == i], token[ids == i]) for i in code_ids}


def _distances(
    latents: np.ndarray | None, codeword: np.ndarray, image: np.ndarray, token: np.ndarray
) -> np.ndarray | None:
    """Return the distance of each token to its codeword, or None if tokens are their codewords."""
    if latents is None:
        return None
    distances = np.linalg.norm(latents[image, token] - codeword, axis=1)
    if not distances.max() > MIN_RELATIVE_DISTANCE * np.linalg.norm(codeword):
        return None
    return distances


def _first_of_each_image(image: np.ndarray, priority: np.ndarray, count: int) -> np.ndarray:
    """Return indices of the first tokens by priority, at most one per image."""
    ranked = np.argsort(priority, kind="stable")
    first = np.unique(image[ranked], return_index=True)[1]
    return ranked[np.sort(first)[:count]]


def _patch(image: np.ndarray, token: int, grid: tuple[int, int] | None) -> np.ndarray:
    """Cut out the part of an image (h, w, c) of a token, mirrored at the edge of the image."""
    if grid is None:
        return np.asarray(image)
    height = image.shape[0] // grid[0]
    width = image.shape[1] // grid[1]
    row, column = divmod(int(token), grid[1])
    edges = ((CONTEXT * height, CONTEXT * height), (CONTEXT * width, CONTEXT * width), (0, 0))
    padded = np.pad(np.asarray(image), edges, mode="symmetric")
    span = 2 * CONTEXT + 1
    rows = slice(row * height, (row + span) * height)
    columns = slice(column * width, (column + span) * width)
    return padded[rows, columns]


def _common_class(class_of_image: tuple[str, ...], image: np.ndarray) -> tuple[str, float]:
    if not class_of_image:
        return "", float("nan")
    classes, counts = np.unique([class_of_image[i] for i in image], return_counts=True)
    return str(classes[counts.argmax()]), float(counts.max() / len(image))
