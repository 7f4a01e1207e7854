"""Amplification of latent noise by the decoder.

A generator draws latents with errors. The error of the decoded image grows with the square of the
noise s, in standard deviations of the latents: error = reconstruction error + slope s^2. At the
doubling level, noise costs as much as the tokenizer itself.

A decoder that replaces latents by the nearest codewords does not follow this law: it ignores noise
up to about half of the distance between codewords. It then has no slope.

References
----------
VE, arXiv 2603.21085, and l-DeTok, arXiv 2507.15856, which train decoders against noise.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.images.reconstruction import pixel_errors
from workbench.analysis.perspectives import Perspective, PerspectiveResult
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError

MIN_IMAGES = 10
NUM_BOOTSTRAPS = 500
MAX_GROWTH = 2.0  # of the error from one level to the next, over that of the squared level
ROUNDING_MSE = 1 / 12 / 255**2  # of pixels in [0, 1] that are rounded to 8 bits
DIRECTION_DOUBT = (
    "Contested: VE and l-DeTok expect a smaller slope to be better, and in one family of VA-VAEs of"
    " equal size a larger slope went with better generation."
)


@dataclass(frozen=True, kw_only=True)
class NoiseError:
    """The mean squared error of images that are decoded from noisy latents."""

    noise: str  # added, or mixed in
    level: float  # standard deviations of the latents, or share of the latents that is replaced
    mse: float  # pixels in [0, 1]
    low: float
    high: float
    clean_mse: float  # without noise, of the same images
    images: int


@dataclass(frozen=True, eq=False, kw_only=True)
class DecoderNoise(PerspectiveResult):
    """Errors by noise level, and the slope at the smallest level.

    Attributes
    ----------
    errors : tuple of NoiseError
        By kind and level of the noise.
    reconstruction_mse : float
        Mean squared error without noise.
    slope, slope_low, slope_high : float
        Increase of the error per variance of the noise, and its 95 % bootstrap
        interval; NaN if the error does not grow with the square of the noise.
    doubling_level, doubling_low, doubling_high : float
        Noise that doubles the error; NaN without a slope, or if noise of the smallest level is
        ignored.
    ignored_level : float
        The largest level up to which noise does not measurably change the error; 0 if there is
        none.
    images : int
        Number of images that were measured.
    dimensions, pixels : int
        Dimensions of a latent, and pixel values of an image.
    """

    errors: tuple[NoiseError, ...] = field(repr=False)
    reconstruction_mse: float
    slope: float
    slope_low: float
    slope_high: float
    doubling_level: float
    doubling_low: float
    doubling_high: float
    ignored_level: float
    images: int
    dimensions: int
    pixels: int

    @property
    def has_slope(self) -> bool:
        """True if the error grows with the square of the noise, as far as it was measured."""
        return bool(np.isfinite(self.slope))

    def perspectives(self) -> tuple[Perspective, ...]:
        """Return the slope and the doubling level."""
        conditions = (
            ("images", f"{self.images:,}"),
            ("pixel values", f"{self.pixels:,}"),
            ("dimensions per image", f"{self.dimensions:,}"),
        )
        return (
            Perspective(
                name="noise slope",
                meaning="increase of the squared pixel error per variance of the latent noise",
                value=self.slope,
                low=self.slope_low,
                high=self.slope_high,
                null=0.0,
                null_case="a decoder that ignores noise",
                reason=DIRECTION_DOUBT,
                conditions=conditions,
            ),
            Perspective(
                name="doubling level",
                meaning="latent noise, in standard deviations, that doubles the error",
                value=self.doubling_level,
                low=self.doubling_low,
                high=self.doubling_high,
                reason="It shares the reconstruction error with PSNR.",
                conditions=conditions,
            ),
        )

    def figure(self) -> go.Figure:
        """Draw the error on the squared level, with the slope and the doubling level."""
        added = [error for error in self.errors if error.noise == "added"]
        squares = np.array([0.0, *(error.level**2 for error in added)])
        values = np.array([self.reconstruction_mse, *(error.mse for error in added)])
        figure = go.Figure()
        figure.add_scatter(
            x=squares,
            y=values,
            mode="markers",
            name="measured",
            marker={"size": 10, "color": COLORS[0]},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [0.0, *(error.high - error.mse for error in added)],
                "arrayminus": [0.0, *(error.mse - error.low for error in added)],
            },
            customdata=np.sqrt(squares),
            hovertemplate="noise %{customdata:.2~g}: %{y:.4~g}<extra></extra>",
        )
        if self.has_slope:
            figure.add_scatter(
                x=squares,
                y=self.reconstruction_mse + self.slope * squares,
                mode="lines",
                line={"color": COLORS[0], "dash": "dash"},
                name=f"slope {self.slope:.3g} of the smallest level",
            )
        if 0 < self.doubling_level**2 <= squares.max():
            figure.add_scatter(
                x=[self.doubling_level**2],
                y=[2 * self.reconstruction_mse],
                mode="markers",
                marker={"symbol": "diamond-open", "size": 13, "color": COLORS[5]},
                name=f"doubling level {self.doubling_level:.2g}",
            )
        figure.update_xaxes(title="squared noise, in variances of the latents", rangemode="tozero")
        figure.update_yaxes(title="squared error, pixels in [0, 1]", rangemode="tozero")
        subtitle = f"{self.images:,} images · {self.dimensions:,} dimensions per image · bars: 95 %"
        figure.update_layout(
            title={"text": "Error of decoded noisy latents", "subtitle": {"text": subtitle}},
            height=420,
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per kind and level of the noise."""
        return pd.DataFrame(
            [
                {
                    "noise": error.noise,
                    "level": error.level,
                    "mse": error.mse,
                    "low": error.low,
                    "high": error.high,
                    "increase": error.mse - error.clean_mse,
                    "images": error.images,
                }
                for error in self.errors
            ]
        )

    def summary(self) -> str:
        """State the slope, the doubling level, and the cost of noise that is mixed in."""
        sentences = [self._growth()]
        if np.isfinite(self.doubling_level):
            sentences.append(
                f"Noise of {self.doubling_level:.2g} standard deviations doubles the error."
            )
        mixed = [error for error in self.errors if error.noise == "mixed in"]
        if mixed:
            first = mixed[0]
            cost = f"{first.mse:.2g}"
            if first.clean_mse:
                cost = f"{first.mse / first.clean_mse:.2g} times as large"
            sentences.append(
                f"If {100 * first.level:.0f} % of the latents are replaced by noise of three"
                f" standard deviations, the squared error is {cost}."
            )
        return " ".join(sentences)

    def _growth(self) -> str:
        """State how the error grows with the noise."""
        added = [error for error in self.errors if error.noise == "added" and error.level > 0]
        if self.ignored_level == added[-1].level:
            return (
                f"Noise of up to {self.ignored_level:.2g} standard deviations does not measurably"
                f" change the squared error of {self.reconstruction_mse:.3g}."
            )
        if self.has_slope:
            return (
                f"Latent noise of s standard deviations adds {self.slope:.3g} s²"
                f" ({self.slope_low:.3g} to {self.slope_high:.3g}) to a squared error of"
                f" {self.reconstruction_mse:.3g}."
            )
        increases = ", ".join(
            f"{error.mse - error.clean_mse:.2g} at {error.level:.2g} standard deviations"
            for error in added
        )
        return (
            "No slope: the error does not grow with the square of the noise. It adds"
            f" {increases} to a squared error of {self.reconstruction_mse:.3g}. A decoder that"
            " replaces latents by the nearest codewords ignores noise up to about half of the"
            " distance between them."
        )


def decoder_noise(
    images: np.ndarray,
    reconstructions: np.ndarray,
    latents: np.ndarray,
    noise_levels: np.ndarray,
    noise_mse: np.ndarray,
    interpolative_noise_shares: np.ndarray | None = None,
    interpolative_noise_mse: np.ndarray | None = None,
) -> DecoderNoise:
    """Measure the increase of the error of decoded images with noise on the latents.

    The slope is taken at the smallest level, since large errors saturate at black and white. There
    is none if the error at the next level, or at the first one with a measurable error, is more
    than twice what the slope explains, as with decoders that round latents to codewords.

    Parameters
    ----------
    images, reconstructions : ndarray of uint8, shape (n, height, width, channels)
        Images, and their reconstructions without noise.
    latents : ndarray of float, shape (n, tokens, d)
        Only their shape is used.
    noise_levels : ndarray of float, shape (m,)
        Levels of the added noise, in standard deviations of all latents.
    noise_mse : ndarray of float, shape (n, m)
        Squared errors of the decoded noisy latents, pixels in [0, 1].
    interpolative_noise_shares : ndarray of float, shape (k,), optional
        Shares of the latents that are replaced by noise of three standard deviations.
    interpolative_noise_mse : ndarray of float, shape (n_first, k), optional
        Squared errors of the first images with that noise.

    Returns
    -------
    DecoderNoise
        Errors by level, the slope and the doubling level.

    Raises
    ------
    NotApplicable
        If there are under 10 images, or no level above 0.
    UserError
        If an error is NaN or infinite, or the shapes do not fit.

    References
    ----------
    arXiv 2603.21085; arXiv 2507.15856.

    Examples
    --------
    >>> images = np.zeros((10, 1, 1, 1), np.uint8)
    >>> result = decoder_noise(
    ...     images, images + 51, np.zeros((10, 1, 1)), np.array([0.1]), np.full((10, 1), 0.05)
    ... )
    >>> round(result.slope, 6), round(result.doubling_level, 6)
    (1.0, 0.2)
    """
    n = len(images)
    levels = np.asarray(noise_levels, np.float64)
    mse = np.asarray(noise_mse, np.float64)
    if n < MIN_IMAGES or not (levels > 0).any():
        raise NotApplicable(
            f"Decoder noise needs at least {MIN_IMAGES} images and one noise level above 0; there"
            f" are {n} images and {(levels > 0).sum()} levels."
        )
    if mse.shape != (n, len(levels)) or not np.isfinite(mse).all():
        raise UserError(
            f"noise_mse must be finite and have the shape {n} × {len(levels)} (images × noise"
            f" levels), got {' × '.join(map(str, mse.shape))}."
        )
    clean = pixel_errors(images, reconstructions)[0]
    order = [column for column in np.argsort(levels, kind="stable") if levels[column] > 0]
    increase = (mse[:, order] - clean[:, None]) / levels[order] ** 2
    num_ignored = _num_ignored(increase, levels[order])
    slope, slope_low, slope_high = mean_interval(increase[:, 0])
    doubling_level = _doubling(clean.mean(), slope)
    doubling = _bootstrap_doubling(clean, increase[:, 0])
    if not _is_quadratic(increase, num_ignored):
        slope = slope_low = slope_high = float("nan")
    if num_ignored or np.isnan(slope):
        doubling_level = float("nan")
        doubling = (float("nan"), float("nan"))
    errors = _errors("added", levels, mse, clean)
    if interpolative_noise_shares is not None and interpolative_noise_mse is not None:
        errors += _errors("mixed in", interpolative_noise_shares, interpolative_noise_mse, clean)
    return DecoderNoise(
        errors=errors,
        reconstruction_mse=float(clean.mean()),
        slope=slope,
        slope_low=slope_low,
        slope_high=slope_high,
        doubling_level=doubling_level,
        doubling_low=doubling[0],
        doubling_high=doubling[1],
        ignored_level=float(levels[order[num_ignored - 1]]) if num_ignored else 0.0,
        images=n,
        dimensions=int(np.prod(latents.shape[1:])),
        pixels=int(np.prod(images.shape[1:])),
    )


def _num_ignored(increase: np.ndarray, levels: np.ndarray) -> int:
    """Return the number of smallest levels whose error is not above the rounding of pixels."""
    for column, level in enumerate(levels):
        if mean_interval(increase[:, column])[1] * level**2 > ROUNDING_MSE:
            return column
    return len(levels)


def _is_quadratic(increase: np.ndarray, num_ignored: int) -> bool:
    """Return False if the error grows faster than the square of the noise.

    The first level with a measurable error, or the second one, is compared with the smallest.

    Parameters
    ----------
    increase : ndarray of float, shape (n, m)
        Increase of the error per squared level, for ascending levels.
    num_ignored : int
        Number of smallest levels that do not measurably change the error.
    """
    compared = max(1, num_ignored)
    if compared >= increase.shape[1]:
        return True
    excess = increase[:, compared] - MAX_GROWTH * increase[:, 0]
    return bool(mean_interval(excess)[1] <= 0)


def _errors(
    noise: str, levels: np.ndarray, mse: np.ndarray, clean: np.ndarray
) -> tuple[NoiseError, ...]:
    """Return the errors in ascending order of the level; `mse` may have fewer images."""
    errors = []
    for column in np.argsort(levels, kind="stable"):
        mean, low, high = mean_interval(mse[:, column])
        errors.append(
            NoiseError(
                noise=noise,
                level=float(levels[column]),
                mse=mean,
                low=low,
                high=high,
                clean_mse=float(clean[: len(mse)].mean()),
                images=len(mse),
            )
        )
    return tuple(errors)


def _doubling(clean: float, slope: float) -> float:
    return float(np.sqrt(clean / slope)) if slope > 0 else float("nan")


def _bootstrap_doubling(clean: np.ndarray, increase: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the doubling level over images."""
    random = np.random.default_rng(0)
    rows = random.integers(0, len(clean), (NUM_BOOTSTRAPS, len(clean)))
    values = [_doubling(clean[part].mean(), increase[part].mean()) for part in rows]
    if np.isnan(values).any():
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
