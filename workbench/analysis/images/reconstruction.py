"""Reconstruction quality: originals, reconstructions and their difference next to each other."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range
from workbench.analysis.inputs import class_names
from workbench.analysis.perspectives import Perspective, PerspectiveResult
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence

MAX_PSNR_DB = 100.0  # assigned to identical images, whose PSNR is infinite
ERROR_GAIN = 4  # brightness of the error images
NUM_COLUMNS = 8
ROW_HEIGHT_PX = 58
ROW_NAMES = ("", "original", "reconstruction", f"error ×{ERROR_GAIN}")
Order = Literal["first", "worst", "best"]
# Name, label and decimals of metrics that are collected per image.
SIMILARITY_LABELS = {
    "ssim": "SSIM (Gaussian window of 11, data range 1)",
    "ms_ssim": "MS-SSIM (five scales, data range 1)",
    "lpips_vgg": "LPIPS (VGG-16)",
    "lpips_alex": "LPIPS (AlexNet)",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Reconstruction(PerspectiveResult):
    """PSNR and absolute error of every image, and a grid of example images.

    Attributes
    ----------
    psnr : ndarray of float, shape (n,)
        Peak signal-to-noise ratio in dB, at most 100.
    l1 : ndarray of float, shape (n,)
        Mean absolute error, pixels in [0, 1].
    classes : tuple of str
        Class of each image; empty without labels.
    similarity : dict of str to ndarray of float, shape (n,)
        SSIM, MS-SSIM and LPIPS of every image, those that were collected.
    mean, low, high : float
        Mean PSNR and its 95 % bootstrap interval over images, in dB.
    example_indices : tuple of int
        Indices of the images in the grid.
    order : {"first", "worst", "best"}
        Selection of the examples, by PSNR.
    num_pictures : int
        Number of the first images from which the examples were selected.
    mosaic : ndarray of uint8, shape (height, width, 4)
        Grid of originals, reconstructions and errors.
    size : tuple of int
        Height and width of an image, in pixels.
    """

    psnr: np.ndarray = field(repr=False)
    l1: np.ndarray = field(repr=False)
    similarity: dict[str, np.ndarray] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    mean: float
    low: float
    high: float
    example_indices: tuple[int, ...]
    order: Order
    num_pictures: int
    mosaic: np.ndarray = field(repr=False)
    size: tuple[int, int]

    @property
    def n(self) -> int:
        """Number of images that were measured."""
        return len(self.psnr)

    def perspectives(self) -> tuple[Perspective, ...]:
        """Return the PSNR, which other perspectives are compared at."""
        height, width = self.size
        return (
            Perspective(
                name="PSNR",
                meaning="peak signal-to-noise ratio of the reconstructions, dB",
                value=self.mean,
                low=self.low,
                high=self.high,
                reason="No direction: maps of equal reconstruction generate very differently.",
                conditions=(("pixels", f"{height} × {width}"),),
            ),
        )

    def figure(self) -> go.Figure:
        """Draw rows of originals, reconstructions and errors, with index and PSNR above each."""
        num_examples = len(self.example_indices)
        bands = -(-num_examples // NUM_COLUMNS)
        columns = min(num_examples, NUM_COLUMNS)
        names = ROW_NAMES * bands
        figure = image_grid.draw(
            self.mosaic, names, (len(names), columns), row_height=ROW_HEIGHT_PX
        )
        band_height = self.mosaic.shape[0] / bands
        column_width = self.mosaic.shape[1] / columns
        for i, index in enumerate(self.example_indices):
            figure.add_annotation(
                x=(i % NUM_COLUMNS + 0.5) * column_width,
                y=(i // NUM_COLUMNS + 0.25) * band_height,
                text=f"#{index}<br>{self.psnr[index]:.1f} dB",
                yanchor="bottom",
                showarrow=False,
                font_size=11,
            )
        scope = f"{self.num_pictures:,} images"
        if self.num_pictures < self.n:
            scope += " with pictures"
        figure.update_xaxes(title=f"{self.order} {num_examples} of {scope}")
        figure.update_layout(
            title={"text": "Reconstruction", "subtitle": {"text": self._describe_psnr()}}
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per image: PSNR in dB, absolute error in [0, 1], similarities, class."""
        columns = {"image": np.arange(self.n), "psnr": self.psnr, "l1": self.l1}
        columns |= self.similarity
        if self.classes:
            columns["class"] = np.array(self.classes)
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Return mean PSNR, absolute error and similarities, with 95 % intervals."""
        text = (
            f"{self._describe_psnr()}. The mean absolute error is {self.l1.mean():.4f} of the pixel"
            " range."
        )
        for name, values in self.similarity.items():
            mean, low, high = mean_interval(values)
            text += f" {SIMILARITY_LABELS[name]} {mean:.4f} ({low:.4f} to {high:.4f})."
        if self.num_pictures < self.n:
            text += f" Examples are from the {self.num_pictures:,} images with pictures."
        num_identical = int((self.psnr >= MAX_PSNR_DB).sum())
        if num_identical:
            text += f" {num_identical:,} identical images count as {MAX_PSNR_DB:.0f} dB."
        return text

    def _describe_psnr(self) -> str:
        return (
            f"PSNR {self.mean:.2f} dB (95 % interval {self.low:.2f} to {self.high:.2f}),"
            f" n = {self.n:,} images"
        )


def reconstruction(
    images: np.ndarray | None = None,
    reconstructions: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    ssim: np.ndarray | None = None,
    ms_ssim: np.ndarray | None = None,
    lpips_vgg: np.ndarray | None = None,
    lpips_alex: np.ndarray | None = None,
    mse: np.ndarray | None = None,
    l1: np.ndarray | None = None,
    *,
    show: Annotated[int, Range(4, 32)] = 16,
    order: Order = "first",
) -> Reconstruction:
    """Compare images with their reconstructions.

    The PSNR is 10 log10(1 / mse) with pixels in [0, 1]. Identical images get 100 dB.

    Parameters
    ----------
    images, reconstructions : ndarray of uint8, shape (n, h, w, c)
        The pictures of all images, or of the first ones if `mse` and `l1` are given.
    labels : ndarray of int, shape (n,), optional
        Adds the class of each image to the table.
    names : tuple of str
        Names of the classes.
    ssim, ms_ssim, lpips_vgg, lpips_alex : ndarray of float, shape (n,), optional
        Similarities and perceptual distances that were collected for each image.
    mse, l1 : ndarray of float, shape (n,), optional
        Mean squared and mean absolute error that were collected for each image.
    show : int
        Number of example images in the figure.
    order : {"first", "worst", "best"}
        Selection of the example images, by PSNR.

    Returns
    -------
    Reconstruction
        Errors of every image, and examples from the worst to the best.

    Raises
    ------
    NotApplicable
        If there is no image, or there are no reconstructions.
    UserError
        If the two arrays differ in shape, or the number of labels or similarities is not n.

    Examples
    --------
    >>> images = np.full((5, 8, 8, 1), 100, np.uint8)
    >>> round(reconstruction(images, images + 10).mean, 2)
    28.13
    """
    if images is None or reconstructions is None:
        raise NotApplicable(
            "Reconstruction needs images and reconstructions; this evidence does not have both."
        )
    if mse is None or l1 is None:
        mse, l1 = pixel_errors(images, reconstructions)
    psnr = psnr_db(np.asarray(mse))
    ranking = _ranking(psnr[: len(images)], order)
    example_indices = tuple(ranking[:show].tolist())
    mean, low, high = mean_interval(psnr)
    collected = {"ssim": ssim, "ms_ssim": ms_ssim, "lpips_vgg": lpips_vgg, "lpips_alex": lpips_alex}
    similarity = {name: np.asarray(x) for name, x in collected.items() if x is not None}
    for name, values in similarity.items():
        if len(values) != len(psnr):
            raise UserError(
                f"There are {len(values)} values of {name} for {len(psnr)} images. Collect the"
                " evidence again."
            )
    return Reconstruction(
        psnr=psnr,
        l1=np.asarray(l1),
        similarity=similarity,
        classes=class_names(labels, names, len(psnr)),
        mean=mean,
        low=low,
        high=high,
        example_indices=example_indices,
        order=order,
        num_pictures=len(images),
        mosaic=_compose_examples(images, reconstructions, example_indices),
        size=(images.shape[1], images.shape[2]),
    )


def _ranking(psnr: np.ndarray, order: Order) -> np.ndarray:
    """Return the order in which images are shown."""
    if order == "first":
        return np.arange(len(psnr))
    return np.argsort(psnr if order == "worst" else -psnr, kind="stable")


def pixel_errors(images: np.ndarray, reconstructions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean squared and mean absolute error of each image, pixels in [0, 1].

    Parameters
    ----------
    images, reconstructions : ndarray of uint8, shape (n, h, w, c)
        The arrays may be memory-mapped and larger than memory.

    Returns
    -------
    mse, l1 : ndarray of float64, shape (n,)

    Raises
    ------
    NotApplicable
        If there is no image.
    UserError
        If the two arrays differ in shape.
    """
    if images.shape != reconstructions.shape:
        shape = " × ".join(map(str, images.shape))
        other_shape = " × ".join(map(str, reconstructions.shape))
        raise UserError(
            f"The images have the shape {shape}, the reconstructions {other_shape}. Check that"
            " both come from one run."
        )
    if not len(images):
        raise NotApplicable("Reconstruction needs at least one image; the evidence has none.")
    mse, l1 = np.empty(len(images)), np.empty(len(images))
    for i in range(len(images)):
        original = np.asarray(images[i], np.float64) / 255
        difference = original - np.asarray(reconstructions[i], np.float64) / 255
        mse[i], l1[i] = np.square(difference).mean(), np.abs(difference).mean()
    return mse, l1


def image_errors(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean squared and mean absolute error of each image, pixels in [0, 1].

    Parameters
    ----------
    evidence : Evidence
        The errors that were collected, of every image, are used if there are any. Otherwise they
        are computed from the pictures.

    Returns
    -------
    mse, l1 : ndarray of float64, shape (n,)

    Raises
    ------
    NotApplicable
        If the evidence has neither errors nor pictures.
    """
    if evidence.mse is not None and evidence.l1 is not None:
        return np.array(evidence.mse), np.array(evidence.l1)
    return pixel_errors(**evidence.kwargs_for(pixel_errors))


def psnr_db(mse: np.ndarray) -> np.ndarray:
    """Convert mean squared errors to peak signal-to-noise ratios.

    Parameters
    ----------
    mse : ndarray of float
        Mean squared errors, pixels in [0, 1].

    Returns
    -------
    ndarray of float
        In dB, at most 100. NaN stays NaN.

    Examples
    --------
    >>> psnr_db(np.array([0.01, 0.0])).tolist()
    [20.0, 100.0]
    """
    return -10 * np.log10(np.maximum(mse, 10 ** (-MAX_PSNR_DB / 10)))


def _compose_examples(
    images: np.ndarray, reconstructions: np.ndarray, indices: tuple[int, ...]
) -> np.ndarray:
    rows = []
    for start in range(0, len(indices), NUM_COLUMNS):
        band = list(indices[start : start + NUM_COLUMNS])
        original, decoded = np.asarray(images[band]), np.asarray(reconstructions[band])
        error = np.clip(np.abs(original.astype(int) - decoded) * ERROR_GAIN, 0, 255)
        # The empty row leaves space for the captions of the columns.
        rows += [original[:0], original, decoded, error.astype(np.uint8)]
    return image_grid.compose(rows)
