"""Spectral energy of latents on a grid: the share of high frequencies, and the slope.

The energies are those of the orthonormal two-dimensional cosine transform of each channel, averaged
over images and channels. *SEC* at q is the share at frequencies u + v above q of the largest. White
noise has the share of cells. More is rougher, and neither end is good: very smooth latents lose
detail as well. So the slope is also given less that of the images, pooled to the same grid.

References
----------
arXiv 2606.03578 (2026), whose q is not stated; Spectrum Matching (2026), arXiv 2603.14645.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range
from workbench.analysis.learnability.latents_result import LatentsResult
from workbench.analysis.learnability.scaled_latents import ScaledLatents, Scaling
from workbench.analysis.learnability.token_grid import grid_fault
from workbench.analysis.perspectives import Conditions, Perspective
from workbench.core.errors import NotApplicable, UserError

MIN_IMAGES = 10
MAX_POOLED_IMAGES = 2000  # whose spectrum is computed for comparison
QUANTILES = (0.25, 0.5)
NUM_RESAMPLES = 500
RAW = "raw"
CENTERED = "without position means"
IMAGES = "images, pooled to the grid"
CONTESTED = (
    "No direction: less energy went with better gFID in arXiv 2606.03578, but over-smooth latents"
    " generate worse in arXiv 2603.14645, and position means lower it."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class EnergySpectrum:
    """Energy by frequency of latents or images.

    Attributes
    ----------
    name : str
        `raw`, `without position means` or `images, pooled to the grid`.
    energy : ndarray of float64, shape (2 * side - 1,)
        Mean energy of the cells at each frequency u + v.
    high_shares : ndarray of float64, shape (2, 3)
        SEC at .25 and .5: value and 95 % bootstrap interval over images.
    slope : ndarray of float64, shape (3,)
        Slope of log energy on log (1 + u + v): value and interval.
    """

    name: str
    energy: np.ndarray = field(repr=False)
    high_shares: np.ndarray = field(repr=False)
    slope: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class SpectralEnergy(LatentsResult):
    """Energy of the latents by frequency, next to that of the images.

    Attributes
    ----------
    spectra : tuple of EnergySpectrum
        Raw, without position means, and that of the images if they can be pooled to the grid.
    white_noise : ndarray of float64, shape (2,)
        SEC at .25 and .5 of white noise.
    note : str
        Reason why the images' spectrum is missing; empty if it is not.
    side : int
        Rows of the square grid.
    """

    spectra: tuple[EnergySpectrum, ...]
    white_noise: np.ndarray = field(repr=False)
    note: str
    side: int

    def get(self, name: str) -> EnergySpectrum | None:
        """Return a spectrum by its name; None if there is none."""
        return next((spectrum for spectrum in self.spectra if spectrum.name == name), None)

    @property
    def raw(self) -> EnergySpectrum:
        """The spectrum of the scaled latents."""
        return self.spectra[0]

    @property
    def centered(self) -> EnergySpectrum:
        """The spectrum without the means of token positions."""
        return self.spectra[1]

    def perspectives(self) -> tuple[Perspective, ...]:
        """Return SEC at .5, raw and without position means, and the slope next to the images'."""
        columns = [
            self._high_share(self.raw, "SEC .5"),
            self._high_share(self.centered, "SEC .5, position-centered"),
        ]
        images = self.get(IMAGES)
        if images is not None:
            value, low, high = self.centered.slope - images.slope[0]
            columns.append(
                Perspective(
                    name="slope excess",
                    meaning="slope of log energy on log frequency, less that of the images",
                    value=float(value),
                    low=float(low),
                    high=float(high),
                    null=float(-images.slope[0]),
                    null_case="white noise",
                    reason=CONTESTED,
                    conditions=self._conditions(),
                )
            )
        return tuple(columns)

    def table(self) -> pd.DataFrame:
        """Return one row per measure and spectrum, and one per frequency."""
        rows = []
        for spectrum in self.spectra:
            for i, quantile in enumerate(QUANTILES):
                value, low, high = spectrum.high_shares[i]
                rows.append(
                    {
                        "measure": f"SEC {quantile:g}",
                        "spectrum": spectrum.name,
                        "value": value,
                        "low": low,
                        "high": high,
                        "null": self.white_noise[i],
                    }
                )
            value, low, high = spectrum.slope
            rows.append(
                {
                    "measure": "slope",
                    "spectrum": spectrum.name,
                    "value": value,
                    "low": low,
                    "high": high,
                    "null": 0.0,
                }
            )
            rows += [
                {"measure": f"energy at {u}", "spectrum": spectrum.name, "value": energy}
                for u, energy in enumerate(spectrum.energy)
            ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State the share of high frequencies next to white noise and the images, and slopes."""
        images = self.get(IMAGES)
        high, free = self.raw.high_shares[1][0], self.centered.high_shares[1][0]
        pooled = "" if images is None else f", pooled images: {100 * images.high_shares[1][0]:.1f}"
        sentences = [
            f"{100 * high:.1f} % of the energy is in the upper half of the frequencies"
            f" ({100 * free:.1f} % without position means; white noise:"
            f" {100 * self.white_noise[1]:.1f} %{pooled}{' %' if pooled else ''})."
        ]
        if images is not None:
            sentences.append(
                f"The spectrum falls with a slope of {self.centered.slope[0]:.2f}, that of the"
                f" images with {images.slope[0]:.2f}."
            )
        if self.note:
            sentences.append(self.note)
        sentences.append("Compare only equal grids.")
        return " ".join(sentences) + self.remarks()

    def _high_share(self, spectrum: EnergySpectrum, name: str) -> Perspective:
        value, low, high = spectrum.high_shares[1].tolist()
        return Perspective(
            name=name,
            meaning="share of the energy in the upper half of the frequencies",
            value=value,
            low=low,
            high=high,
            null=float(self.white_noise[1]),
            null_case="white noise",
            reason=CONTESTED,
            conditions=self._conditions(),
        )

    def _conditions(self) -> Conditions:
        return (("grid", f"{self.side} × {self.side}"), ("scaling", self.scaling))


def spectral_energy(
    latents: np.ndarray,
    images: np.ndarray | None = None,
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    scaling: Scaling = "by channel",
    max_images: Annotated[int, Range(500, 50_000, 500)] = 5_000,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> SpectralEnergy:
    """Measure the energy of latents on a grid by frequency.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    images : ndarray of uint8, shape (n, height, width, colors), optional
        Images, pooled to the grid by means and scaled in the same way, for comparison.
    grid : tuple of int, optional
        Rows and columns of the tokens.
    active : ndarray of bool, shape (n, tokens), optional
        Tokens that the decoder reads.
    labels : ndarray of int, shape (n,), optional
        Class of each image. Samples are stratified by it.
    scaling : {"by channel", "all alike"}
        Scale each channel, or all channels together, to variance 1.
    max_images : int
        Number of images to draw if there are more.
    seed : int
        Seed of the images that are drawn.

    Returns
    -------
    SpectralEnergy
        Energies, their high share and their slope, raw and without position means.

    Raises
    ------
    NotApplicable
        If there is no square grid of at least 4 × 4, there are fewer than 10 images, or the latents
        are constant.
    UserError
        If a latent is NaN or infinite, or the grid does not have as many cells as tokens.

    References
    ----------
    arXiv 2606.03578 (2026).

    Examples
    --------
    >>> latents = np.random.default_rng(0).normal(size=(500, 64, 4))
    >>> spectral_energy(latents, grid=(8, 8)).white_noise.tolist()  # shares of the cells
    [0.84375, 0.4375]
    """
    scaled = ScaledLatents.create(
        latents,
        active,
        purpose="Spectral energy",
        min_images=MIN_IMAGES,
        max_images=max_images,
        labels=labels,
        scaling=scaling,
        seed=seed,
    )
    fault = grid_fault(grid, scaled.tokens, latents.shape[1])
    if fault or grid is None:
        raise NotApplicable(f"Spectral energy needs {fault}.")
    side = grid[0]
    spectra = [
        _spectrum(RAW, scaled, side),
        _spectrum(CENTERED, scaled.centered_by_position(), side),
    ]
    pooled, note = _pooled(images, side, seed)
    if pooled is not None:
        spectra.append(_spectrum(IMAGES, pooled.centered_by_position(), side))
    is_high = np.array([_is_high(side, quantile) for quantile in QUANTILES])
    cells = _cells_by_frequency(side)
    return SpectralEnergy(
        spectra=tuple(spectra),
        white_noise=is_high @ cells / cells.sum(),
        note=note,
        side=side,
        images=len(scaled),
        of=len(latents),
        selection=scaled.selection,
        tokens=scaled.tokens,
        channels=scaled.channels,
        constant_channels=scaled.constant_channels,
        scaling=scaling,
    )


def energy_by_frequency(maps: np.ndarray) -> np.ndarray:
    """Sum the energy of the cosine transform of each map over the cells of a frequency u + v.

    Parameters
    ----------
    maps : ndarray of float, shape (n, side, side, channels)
        Maps of latents on a square grid.

    Returns
    -------
    ndarray of float64, shape (n, 2 * side - 1)
        Mean over channels.
    """
    from scipy import fft

    side = maps.shape[1]
    energy = np.square(fft.dctn(maps, axes=(1, 2), norm="ortho")).mean(axis=3)
    frequency = np.add.outer(np.arange(side), np.arange(side)).ravel()
    return energy.reshape(len(maps), -1) @ np.eye(2 * side - 1)[frequency]


def _spectrum(name: str, latents: ScaledLatents, side: int) -> EnergySpectrum:
    blocks = [
        energy_by_frequency(block.reshape(len(block), side, side, -1)) for block in latents.blocks()
    ]
    by_image = np.concatenate(blocks)
    # Row 0 is the mean over all images, the others are bootstrap means.
    weights = np.random.default_rng(0).multinomial(
        len(by_image), np.full(len(by_image), 1 / len(by_image)), NUM_RESAMPLES
    )
    sums = np.vstack([by_image.mean(axis=0), weights @ by_image / len(by_image)])
    is_high = np.array([_is_high(side, quantile) for quantile in QUANTILES])
    shares = sums @ is_high.T / sums.sum(axis=1, keepdims=True)
    energies = sums / _cells_by_frequency(side)
    return EnergySpectrum(
        name=name,
        energy=energies[0],
        high_shares=np.array([_with_interval(values) for values in shares.T]),
        slope=_with_interval(_slopes(energies)),
    )


def _with_interval(values: np.ndarray) -> np.ndarray:
    """Return the first value and the 95 % interval of the others."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return np.array([values[0], low, high])


def _slopes(energies: np.ndarray) -> np.ndarray:
    """Return the slope of log energy on log (1 + frequency) of each row."""
    log_frequency = np.log(np.arange(1, energies.shape[1] + 1))
    centered = log_frequency - log_frequency.mean()
    smallest = np.finfo(float).tiny
    return np.log(np.maximum(energies, smallest)) @ centered / np.square(centered).sum()


def _is_high(side: int, quantile: float) -> np.ndarray:
    return (np.arange(2 * side - 1) > quantile * (2 * side - 2)).astype(float)


def _cells_by_frequency(side: int) -> np.ndarray:
    return np.bincount(np.add.outer(np.arange(side), np.arange(side)).ravel()).astype(float)


def _pooled(images: np.ndarray | None, side: int, seed: int) -> tuple[ScaledLatents | None, str]:
    """Return the images as maps of the grid, or None and the reason."""
    if images is None or len(images) < MIN_IMAGES:
        return None, f"There are fewer than {MIN_IMAGES} images to compare the spectrum with."
    n, height, width, colors = images.shape
    if height % side or width % side:
        return None, (
            f"Images of {height} × {width} cannot be pooled to {side} × {side} for comparison."
        )
    random = np.random.default_rng(seed)
    indices = np.sort(random.permutation(n)[:MAX_POOLED_IMAGES])
    pixels = np.asarray(images[indices], np.float64) / 255
    cells = pixels.reshape(len(indices), side, height // side, side, width // side, colors)
    maps = cells.mean(axis=(2, 4)).reshape(len(indices), side * side, colors)
    try:
        return ScaledLatents.create(maps, purpose="Images", min_images=MIN_IMAGES), ""
    except UserError as error:
        return None, str(error)
