"""What a tokenizer keeps of an image: originals, reconstructions and their difference, side by side."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError

MAX_PSNR_DB = 100.0  # dB: what identical images are given, whose PSNR is infinite
ERROR_GAIN = 4  # how much brighter than life errors are drawn
COLUMNS = 8
Order = Literal["first", "worst", "best"]


@dataclass(frozen=True, eq=False)
class Reconstruction(Result):
    """Peak signal-to-noise ratio and absolute error of every image, and a mosaic of some of them."""

    psnr: np.ndarray = field(repr=False)  # (n,) dB, peak 1.0, at most CEILING
    l1: np.ndarray = field(repr=False)  # (n,) mean absolute error, pixels in [0, 1]
    classes: tuple[str, ...] = field(repr=False)  # of each image; empty without labels
    mean: float  # dB
    low: float  # dB: 95 % bootstrap interval of the mean over images
    high: float
    shown: tuple[int, ...]  # places of the images in the mosaic
    order: Order
    mosaic: np.ndarray = field(repr=False)  # uint8 (height, width, 4)

    @property
    def n(self) -> int:
        """How many images were measured."""
        return len(self.psnr)

    def figure(self) -> go.Figure:
        """Rows of originals, reconstructions and errors; above each column its place and PSNR."""
        bands, columns = -(-len(self.shown) // COLUMNS), min(len(self.shown), COLUMNS)
        names = ("", "original", "reconstruction", f"error ×{ERROR_GAIN}") * bands
        figure = image_grid.draw(self.mosaic, names, (len(names), columns), row_height=58)
        high, wide = self.mosaic.shape[0] / bands, self.mosaic.shape[1] / columns
        for i, place in enumerate(self.shown):
            x, y = (i % COLUMNS + 0.5) * wide, (i // COLUMNS + 0.25) * high
            text = f"#{place}<br>{self.psnr[place]:.1f} dB"
            figure.add_annotation(
                x=x, y=y, text=text, yanchor="bottom", showarrow=False, font_size=11
            )
        figure.update_xaxes(title=f"the {self.order} {len(self.shown)} of {self.n:,} images")
        figure.update_layout(
            title={"text": "Reconstruction", "subtitle": {"text": self._caption()}}
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row an image: its place, class, PSNR in dB and mean absolute error in [0, 1]."""
        columns = {"image": np.arange(self.n), "psnr": self.psnr, "l1": self.l1}
        if self.classes:
            columns["class"] = np.array(self.classes)
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """The mean PSNR with its interval, and the mean absolute error."""
        exact = int((self.psnr >= MAX_PSNR_DB).sum())
        note = f" {exact:,} identical images count as {MAX_PSNR_DB:.0f} dB." if exact else ""
        return f"{self._caption()}. The mean absolute error is {self.l1.mean():.4f} of the pixels' range.{note}"

    def _caption(self) -> str:
        return f"PSNR {self.mean:.2f} dB (95 % interval {self.low:.2f} to {self.high:.2f}), n = {self.n:,} images"


def reconstruction(
    images: np.ndarray,
    reconstructions: np.ndarray,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    *,
    show: Annotated[int, Range(4, 32)] = 16,
    order: Order = "first",
) -> Reconstruction:
    """Compare uint8 images (n, h, w, c) with what the decoder made of them.

    PSNR is 10 log10(1 / mse) with pixels in [0, 1]; identical images are given 100 dB. Raises UserError where the
    two differ in shape, NotApplicable where there is no image.
    """
    mse, l1 = pixel_errors(images, reconstructions)
    psnr = psnr_db(mse)
    ranked = {"first": np.arange(len(psnr)), "worst": np.argsort(psnr, kind="stable")}
    ranked["best"] = np.argsort(-psnr, kind="stable")
    shown = tuple(ranked[order][:show].tolist())
    mean, low, high = mean_interval(psnr)
    classes = class_names(labels, names, len(psnr))
    return Reconstruction(
        psnr, l1, classes, mean, low, high, shown, order, _mosaic(images, reconstructions, shown)
    )


def pixel_errors(images: np.ndarray, reconstructions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared and mean absolute error of each image, (n,) and (n,), pixels in [0, 1].

    Raises UserError where the shapes differ, NotApplicable where there is no image.
    """
    if images.shape != reconstructions.shape:
        a, b = (" × ".join(map(str, x.shape)) for x in (images, reconstructions))
        raise UserError(
            f"The images are {a}, the reconstructions {b}. Do both come from the same run?"
        )
    if not len(images):
        raise NotApplicable("Reconstruction needs at least one image; this evidence has none.")
    mse, l1 = np.empty(len(images)), np.empty(len(images))
    for i in range(len(images)):  # one at a time: the arrays may be larger than memory
        difference = (
            np.asarray(images[i], np.float64) / 255
            - np.asarray(reconstructions[i], np.float64) / 255
        )
        mse[i], l1[i] = np.square(difference).mean(), np.abs(difference).mean()
    return mse, l1


def psnr_db(mse: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of squared errors of pixels in [0, 1], at most CEILING; NaN stays NaN."""
    return -10 * np.log10(np.maximum(mse, 10 ** (-MAX_PSNR_DB / 10)))


def _mosaic(images: np.ndarray, reconstructions: np.ndarray, shown: tuple[int, ...]) -> np.ndarray:
    bands = []
    for start in range(0, len(shown), COLUMNS):
        places = list(shown[start : start + COLUMNS])
        original, decoded = np.asarray(images[places]), np.asarray(reconstructions[places])
        error = np.clip(np.abs(original.astype(int) - decoded) * ERROR_GAIN, 0, 255).astype(
            np.uint8
        )
        bands += [
            original[:0],
            original,
            decoded,
            error,
        ]  # the empty row holds the columns' captions
    return image_grid.compose(bands)
