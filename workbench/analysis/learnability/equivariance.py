"""Equivariance: a transformed latent should decode to the transformed image.

The reference is always the transformed image itself, at the resolution of the result, and never an
image that was resized twice. The error of the latents is reported without the mean at each position
as well: tokenizers with differing mean maps otherwise seem worse than unrelated ones.

References
----------
EQ-VAE, arXiv 2502.09509, and arXiv 2502.14831.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.images.reconstruction import psnr_db
from workbench.analysis.perspectives import Perspective, PerspectiveResult
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError

TRANSFORMS = ("mirror", "quarter turn", "half size")
MIN_IMAGES = 2
DIRECTION_DOUBT = (
    "Weak published evidence (arXiv 2606.03578: |r| .01 to .71): training for equivariance helps,"
    " and its measure hardly predicts."
)


@dataclass(frozen=True, kw_only=True)
class TransformScore:
    """Equivariance under one transform.

    Attributes
    ----------
    transform : str
        Name of the transform.
    psnr, low, high : float
        PSNR of decoded transformed latents to transformed images, dB, mean and 95 % interval.
    direct_psnr : float
        PSNR of the reconstructions of the transformed images; NaN if the encoder does not take
        them, as the errors of the latents.
    latent_error : float
        Relative squared difference of the latents without the mean at each position: 0 is exact, 2
        unrelated.
    raw_latent_error : float
        The same with the means.
    """

    transform: str
    psnr: float
    low: float
    high: float
    direct_psnr: float
    latent_error: float
    raw_latent_error: float

    @property
    def loss_db(self) -> float:
        """The PSNR that is lost by transforming the latents instead of the image."""
        return self.direct_psnr - self.psnr


@dataclass(frozen=True, kw_only=True)
class Equivariance(PerspectiveResult):
    """Equivariance under each transform that the tokenizer takes.

    Attributes
    ----------
    scores : tuple of TransformScore
        One score per transform.
    missing : tuple of str
        Transforms that the tokenizer does not take.
    images : int
        Number of images that were measured.
    grid : tuple of int
        Rows and columns of the tokens.
    dimensions : int
        Dimensions of a latent.
    """

    scores: tuple[TransformScore, ...]
    missing: tuple[str, ...]
    images: int
    grid: tuple[int, int]
    dimensions: int

    def perspectives(self) -> tuple[Perspective, ...]:
        """Return the error of the latents under each transform."""
        conditions = (
            ("images", f"{self.images:,}"),
            ("grid", f"{self.grid[0]} × {self.grid[1]}"),
            ("dimensions per image", f"{self.dimensions:,}"),
        )
        return tuple(
            Perspective(
                name=f"equivariance error, {score.transform}",
                meaning="squared difference of transformed latents and latents of transformed"
                " images, over the variance, without the mean at each position",
                value=score.latent_error,
                null=2.0,
                null_case="unrelated latents",
                reason=DIRECTION_DOUBT,
                conditions=conditions,
            )
            for score in self.scores
            if np.isfinite(score.latent_error)
        )

    def figure(self) -> go.Figure:
        """Draw PSNR and the error of the latents by transform."""
        names = [score.transform for score in self.scores]
        figure = make_subplots(1, 2, horizontal_spacing=0.14)
        bars = (
            ("transformed latents, decoded", [s.psnr for s in self.scores], COLORS[0]),
            ("transformed images, reconstructed", [s.direct_psnr for s in self.scores], COLORS[6]),
        )
        for name, values, color in bars:
            figure.add_bar(x=names, y=values, name=name, marker_color=color, row=1, col=1)
        errors = (
            ("without position means", [s.latent_error for s in self.scores], COLORS[2]),
            ("with position means", [s.raw_latent_error for s in self.scores], COLORS[4]),
        )
        for name, values, color in errors:
            figure.add_bar(x=names, y=values, name=name, marker_color=color, row=1, col=2)
        figure.add_hline(
            y=2,
            line={"dash": "dot", "color": COLORS[6]},
            annotation_text="unrelated",
            row=1,
            col=2,
        )
        figure.update_xaxes(title="transform")
        figure.update_yaxes(title="PSNR, dB", row=1, col=1)
        figure.update_yaxes(title="relative error of latents", rangemode="tozero", row=1, col=2)
        subtitle = f"{self.images:,} images · {self.grid[0]} × {self.grid[1]} tokens"
        figure.update_layout(
            title={"text": "Equivariance", "subtitle": {"text": subtitle}},
            height=420,
            barmode="group",
            legend={"orientation": "h", "y": -0.15},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per transform."""
        return pd.DataFrame(
            [
                {
                    "transform": score.transform,
                    "psnr": score.psnr,
                    "low": score.low,
                    "high": score.high,
                    "direct_psnr": score.direct_psnr,
                    "latent_error": score.latent_error,
                    "raw_latent_error": score.raw_latent_error,
                    "images": self.images,
                }
                for score in self.scores
            ]
        )

    def summary(self) -> str:
        """State the loss and the error of the latents under each transform."""
        sentences = []
        for score in self.scores:
            text = (
                f"{score.transform.capitalize()}: decoded transformed latents have"
                f" {score.psnr:.1f} dB"
            )
            if np.isfinite(score.direct_psnr):
                comparison = "less" if score.loss_db >= 0 else "more"
                text += (
                    f", {abs(score.loss_db):.1f} dB {comparison} than reconstructions of"
                    f" transformed images; the error of the latents is {score.latent_error:.2f}"
                    " (unrelated: 2)"
                )
            else:
                text += "; the encoder does not take images of this size"
            sentences.append(f"{text}.")
        if self.missing:
            sentences.append(
                f"Not measured: {', '.join(self.missing)}; this tokenizer takes images of one size,"
                " or its grid is not square or cannot be halved."
            )
        return " ".join(sentences)


def equivariance(
    equivariance_mse: np.ndarray,
    equivariance_direct_mse: np.ndarray,
    equivariance_latent_errors: np.ndarray,
    latents: np.ndarray,
    grid: tuple[int, int],
) -> Equivariance:
    """Compare transformed latents with transformed images, and with the latents of these.

    Parameters
    ----------
    equivariance_mse : ndarray of float, shape (3, n)
        Squared errors of the decoded mirrored, turned and shrunken latents, pixels in [0, 1]. NaN
        where the tokenizer does not take a transform.
    equivariance_direct_mse : ndarray of float, shape (3, n)
        Squared errors of the reconstructions of the transformed images.
    equivariance_latent_errors : ndarray of float, shape (3, 2)
        Relative errors of the latents: raw, and without the mean at each position.
    latents : ndarray of float, shape (n_images, tokens, d)
        Only their shape is used.
    grid : tuple of int
        Rows and columns of the tokens.

    Returns
    -------
    Equivariance
        PSNR and errors of the latents by transform.

    Raises
    ------
    NotApplicable
        If there are under 2 images, or the tokenizer takes none of the transforms.
    UserError
        If the arrays do not have one row per transform.

    References
    ----------
    arXiv 2502.09509; arXiv 2502.14831.

    Examples
    --------
    >>> mse, errors = np.full((3, 5), 0.01), np.zeros((3, 2))
    >>> round(equivariance(mse, mse, errors, np.zeros((5, 4, 2)), (2, 2)).scores[0].psnr, 6)
    20.0
    """
    mse = np.asarray(equivariance_mse, np.float64)
    direct = np.asarray(equivariance_direct_mse, np.float64)
    errors = np.asarray(equivariance_latent_errors, np.float64)
    if not len(mse) == len(direct) == len(errors) == len(TRANSFORMS):
        raise UserError(
            f"Equivariance needs one row per transform ({', '.join(TRANSFORMS)}), got"
            f" {len(mse)}, {len(direct)} and {len(errors)}. Collect the evidence again."
        )
    if mse.shape[1] < MIN_IMAGES:
        raise NotApplicable(
            f"Equivariance needs at least {MIN_IMAGES} images; there are {mse.shape[1]}."
        )
    is_measured = np.isfinite(mse).all(axis=1)
    if not is_measured.any():
        raise NotApplicable("This tokenizer takes no mirrored, turned or shrunken tokens.")
    scores = []
    for row in np.flatnonzero(is_measured):
        psnr, low, high = mean_interval(psnr_db(mse[row]))
        scores.append(
            TransformScore(
                transform=TRANSFORMS[row],
                psnr=psnr,
                low=low,
                high=high,
                direct_psnr=float(psnr_db(direct[row]).mean()),
                latent_error=float(errors[row, 1]),
                raw_latent_error=float(errors[row, 0]),
            )
        )
    return Equivariance(
        scores=tuple(scores),
        missing=tuple(TRANSFORMS[row] for row in np.flatnonzero(~is_measured)),
        images=mse.shape[1],
        grid=grid,
        dimensions=int(np.prod(latents.shape[1:])),
    )
