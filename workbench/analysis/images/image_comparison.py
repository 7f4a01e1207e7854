"""Images first: the original next to the reconstruction of every selected run, a page at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.images.picture_sets import (
    LETTERS,
    PictureSet,
    describe_excluded,
    patch_side,
    picture_set,
    shrink,
    worst_patches,
)
from workbench.analysis.images.reconstruction import psnr_db
from workbench.analysis.inputs import describe_pictures
from workbench.analysis.plotting.picture_cards import Card, Picture, to_html
from workbench.analysis.plotting.run_colors import colors_of_runs
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import Evidence

Order = Literal["disagreement", "worst", "best", "class", "mode", "first"]
Patches = Literal["outlined", "enlarged", "hidden"]
ORDER_TEXTS = {
    "disagreement": "the largest difference between the runs first",
    "worst": "the largest error of any run first",
    "best": "the smallest error first",
    "class": "by class, in each class the largest difference first",
    "mode": "by mode of the latents, in each mode the largest difference first",
    "first": "in the order of the data",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageComparison(Result):
    """One page of originals and reconstructions of several runs.

    Attributes
    ----------
    runs : tuple of str
        Name of each run, with the step if the name occurs twice.
    excluded : tuple of str
        Runs with other images than the first, or beyond the eighth.
    order : {"disagreement", "worst", "best", "class", "mode", "first"}
        Order of the images. With one run, `disagreement` is the order of its errors.
    patches : {"outlined", "enlarged", "hidden"}
        Whether the patches with the largest error are outlined, or shown alone.
    page, num_pages : int
        The page that is shown, and the number of pages.
    ranking : ndarray of int, shape (n,)
        Indices of all compared images in the order.
    indices : ndarray of int, shape (m,)
        Indices of the images on the page.
    classes : tuple of str
        Class of each of the n images; empty without labels.
    modes : ndarray of int, shape (n,), or None
        Mode of the latents of the first run, for the order `mode`.
    psnr : ndarray of float, shape (n, runs)
        Of each image and run, in dB.
    disagreement : ndarray of float, shape (n,)
        Root mean squared difference of two runs' reconstructions, pixels in [0, 1].
    pictures : ndarray of uint8, shape (m, 1 + runs, h, w, c)
        Original and reconstructions of the images on the page, or their patches.
    boxes : ndarray of float, shape (m, runs, 4)
        Left, top, width and height of the outlined patches, as fractions of the picture.
    patch_psnr : ndarray of float, shape (m, runs)
        PSNR within the outlined or enlarged patch, in dB.
    num_images : int
        Number of images of the evidence, with or without pictures.
    """

    replaces_figure: ClassVar[bool] = True

    runs: tuple[str, ...]
    excluded: tuple[str, ...]
    order: Order
    patches: Patches
    page: int
    num_pages: int
    ranking: np.ndarray = field(repr=False)
    indices: np.ndarray
    classes: tuple[str, ...] = field(repr=False)
    modes: np.ndarray | None = field(repr=False)
    psnr: np.ndarray = field(repr=False)
    disagreement: np.ndarray = field(repr=False)
    pictures: np.ndarray = field(repr=False)
    boxes: np.ndarray = field(repr=False)
    patch_psnr: np.ndarray = field(repr=False)
    num_images: int

    @property
    def n(self) -> int:
        """Number of compared images."""
        return len(self.ranking)

    def control_limits(self) -> Mapping[str, int]:
        """Return the number of the last page."""
        return {"page": self.num_pages}

    def figure_html(self) -> str:
        """Return one card per image: the original and the reconstruction of every run."""
        colors = colors_of_runs(self.runs, self.run_colors)
        means = self.psnr.mean(axis=0)
        legend = [
            (colors[run], f"{LETTERS[i]} = {run}, mean PSNR {means[i]:.2f} dB")
            for i, run in enumerate(self.runs)
        ]
        return to_html([self._card(i, colors) for i in range(len(self.indices))], legend)

    def _card(self, row: int, colors: Mapping[str, str]) -> Card:
        index = int(self.indices[row])
        caption = "original" if self.patches != "enlarged" else "original patch"
        pictures = [Picture(pixels=self.pictures[row, 0], caption=caption)]
        values = self.patch_psnr[row] if self.patches == "enlarged" else self.psnr[index]
        for i, run in enumerate(self.runs):
            is_best = len(self.runs) > 1 and values[i] == values.max()
            picture = Picture(
                pixels=self.pictures[row, i + 1],
                caption=f"{LETTERS[i]} {values[i]:.1f} dB",
                title=f"image {index} by {run}, PSNR {values[i]:.2f} dB",
                color=colors[run],
                box=tuple(self.boxes[row, i]) if self.patches == "outlined" else None,
                is_best=is_best,
            )
            pictures.append(picture)
        return Card(
            title=f"#{index}",
            details=self._describe_image(index),
            pictures=tuple(pictures),
            image=index,
        )

    def _describe_image(self, index: int) -> str:
        parts = []
        if self.classes:
            parts.append(self.classes[index])
        if self.modes is not None:
            parts.append(f"mode {self.modes[index]}")
        if len(self.runs) > 1:
            parts.append(f"difference {self.disagreement[index]:.3f}")
        return " · ".join(parts)

    def table(self) -> pd.DataFrame:
        """Return one row per compared image, in the order: class, mode, difference, PSNR in dB."""
        columns = {"image": self.ranking}
        if self.classes:
            columns["class"] = np.array(self.classes)[self.ranking]
        if self.modes is not None:
            columns["mode"] = self.modes[self.ranking]
        columns["difference"] = self.disagreement[self.ranking]
        columns |= {f"psnr {run}": self.psnr[self.ranking, i] for i, run in enumerate(self.runs)}
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Return which run is the best on how many images, and what the page shows."""
        sentences = [self._describe_winners()]
        sentences.append(
            f"Page {self.page} of {self.num_pages} shows {len(self.indices)} of {self.n:,} images,"
            f" {ORDER_TEXTS[self._shown_order()]}."
        )
        if self.patches == "outlined":
            sentences.append("The patch with the largest error of each run is outlined.")
        elif self.patches == "enlarged":
            sentences.append("Each card shows the patch with the largest error of any run.")
        text = " ".join(sentences) + describe_pictures(self.n, self.num_images)
        return text + describe_excluded(self.excluded)

    def _shown_order(self) -> Order:
        is_single = len(self.runs) == 1
        return "worst" if is_single and self.order == "disagreement" else self.order

    def _describe_winners(self) -> str:
        if len(self.runs) == 1:
            return f"{self.runs[0]} reconstructs with a mean PSNR of {self.psnr.mean():.2f} dB."
        best = self.psnr == self.psnr.max(axis=1, keepdims=True)
        shares = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
        ranks = np.argsort(-shares, kind="stable")
        first, *rest = [f"{100 * shares[i]:.0f} %" for i in ranks]
        parts = [f"{self.runs[i]} on {share}" for i, share in zip(ranks[1:], rest, strict=True)]
        mean = float(np.sqrt(np.square(self.disagreement).mean()))
        return (
            f"{self.runs[ranks[0]]} has the best PSNR on {first} of the images,"
            f" {', '.join(parts)}. Two runs differ by {mean:.3f} of the pixel range (root mean"
            " square)."
        )


def image_comparison(
    evidences: Sequence[Evidence],
    *,
    page: Annotated[int, Range(1, 500)] = 1,
    order: Order = "disagreement",
    patches: Patches = "outlined",
    count: Annotated[int, Range(4, 24, 2)] = 12,
) -> ImageComparison:
    """Show images next to the reconstructions of all selected runs, a page at a time.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of the selected runs. Runs without reconstructions are ignored. Runs with other
        images than the first are excluded and named in the result.
    page : int
        The page; beyond the last one, the last one.
    order : {"disagreement", "worst", "best", "class", "mode", "first"}
        Order of the images: by the mean squared difference between the runs' reconstructions, by
        the largest or smallest error, by class, by mode of the latents of the first run, or as in
        the data.
    patches : {"outlined", "enlarged", "hidden"}
        Outline the patch with the largest error of each run, or show only the patch with the
        largest error of any run. A patch has a quarter of the image's shorter side.
    count : int
        Number of images on a page.

    Returns
    -------
    ImageComparison
        The pictures of one page, and the errors of all images that have pictures.

    Raises
    ------
    NotApplicable
        If no run has reconstructions, or the order needs classes or latents that are missing.
    """
    pictures = picture_set(evidences, "The comparison of images")
    psnr, disagreement = pictures.psnr(), pictures.disagreement()
    modes = _modes(pictures) if order == "mode" else None
    ranking = _ranking(order, psnr, disagreement, pictures.classes(), modes)
    num_pages = max(1, -(-pictures.n // count))
    page = min(page, num_pages)
    indices = ranking[(page - 1) * count : page * count]
    page_pictures, boxes, patch_psnr = _page(pictures.pictures(indices), patches)
    return ImageComparison(
        runs=pictures.names,
        excluded=pictures.excluded,
        order=order,
        patches=patches,
        page=page,
        num_pages=num_pages,
        ranking=ranking,
        indices=indices,
        classes=pictures.classes(),
        modes=modes,
        psnr=psnr,
        disagreement=np.sqrt(disagreement),
        pictures=page_pictures,
        boxes=boxes,
        patch_psnr=patch_psnr,
        num_images=pictures.num_images,
    )


def _ranking(
    order: Order,
    psnr: np.ndarray,
    disagreement: np.ndarray,
    classes: tuple[str, ...],
    modes: np.ndarray | None,
) -> np.ndarray:
    """Return the indices of the images in an order."""
    if order == "first":
        return np.arange(len(psnr))
    if order == "best":
        return np.argsort(-psnr.min(axis=1), kind="stable")
    by_error = psnr.min(axis=1)
    if order == "worst":
        return np.argsort(by_error, kind="stable")
    # For one run, all differences are 0.
    difference = disagreement if psnr.shape[1] > 1 else -by_error
    if order == "disagreement":
        return np.argsort(-difference, kind="stable")
    if order == "class" and not classes:
        raise NotApplicable("Images cannot be sorted by class: the evidence has no labels.")
    groups = np.unique(classes, return_inverse=True)[1] if modes is None else modes
    return np.lexsort((-difference, groups))


def _modes(pictures: PictureSet) -> np.ndarray:
    """Return the mode of the first run's latents for each image."""
    from workbench.analysis.latents.point_colors import modes_of_points

    latents = pictures.first.latents
    if latents is None:
        raise NotApplicable(f"Images cannot be sorted by mode: {pictures.names[0]} has no latents.")
    return modes_of_points(latents, np.arange(len(latents)), 0)[: pictures.n]


def _page(pictures: np.ndarray, patches: Patches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pictures that are shown, the boxes in them, and the PSNR within patches."""
    m, columns, h, w = pictures.shape[:4]
    side = patch_side(h, w)
    pixels = pictures.astype(np.float32) / 255
    errors = np.square(pixels[:, 1:] - pixels[:, :1]).mean(axis=-1)  # (m, runs, h, w)
    if patches == "enlarged":
        # The same position in all pictures, so that they can be compared.
        corners = np.repeat(worst_patches(errors.max(axis=1), side)[:, None], columns - 1, axis=1)
    else:
        flat = errors.reshape(m * (columns - 1), h, w)
        corners = worst_patches(flat, side).reshape(m, columns - 1, 2)
    patch_mse = np.empty((m, columns - 1))
    for i in range(m):
        for j in range(columns - 1):
            top, left = corners[i, j]
            patch_mse[i, j] = errors[i, j, top : top + side, left : left + side].mean()
    sizes = np.broadcast_to([side / w, side / h], (m, columns - 1, 2))
    boxes = np.concatenate([corners[..., ::-1] / [w, h], sizes], axis=-1)
    panels = _crops(pictures, corners[:, 0], side) if patches == "enlarged" else shrink(pictures)
    return panels, boxes, psnr_db(patch_mse)


def _crops(pictures: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Return the same square of all pictures of an image."""
    return np.stack(
        [
            pictures[i, :, top : top + side, left : left + side]
            for i, (top, left) in enumerate(corners)
        ]
    )
