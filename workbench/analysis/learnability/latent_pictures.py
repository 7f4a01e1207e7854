"""Pictures of latents on a grid: their three principal components as red, green and blue.

Each image is drawn twice: with the means of token positions, which are the same in all images, and
without them. Next to the pictures are the mean and the standard deviation of each channel, with
which generators shift and scale the latents.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.learnability.scaled_latents import ScaledLatents
from workbench.analysis.learnability.token_grid import grid_fault
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.sampling import Subset
from workbench.core.errors import NotApplicable
from workbench.storage.latent_stats import LatentStats

MIN_IMAGES = 2
MAX_FITTED_IMAGES = 2000  # behind the principal components
COLOR_PERCENTILES = (1, 99)  # mapped to the darkest and brightest value of a color
ROW_HEIGHT_PX = 96
ROW_NAMES = ("images", "latents", "without<br>position means")
PICTURE_SHARE = 0.64  # of the width


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentPictures(Result):
    """Pictures of the latents of a few images, and the scale of each channel.

    Attributes
    ----------
    mosaic : ndarray of uint8, shape (height, width, 4)
        Rows of images, of latents, and of latents without the means of token positions.
    indices : ndarray of int, shape (count,)
        The images that are drawn.
    explained, explained_centered : float
        Share of the variance of the three components, from 0 to 1.
    channel_mean, channel_std : ndarray of float64, shape (channels,)
        Mean and standard deviation of each channel before scaling.
    grid : tuple of int
        Rows and columns of the tokens.
    images, of : int
        Number of images behind the components, and in the evidence.
    selection : Subset or None
        The images behind the components, if they are not all.
    seed : int
        Seed of the random draws.
    """

    mosaic: np.ndarray = field(repr=False)
    indices: np.ndarray = field(repr=False)
    explained: float
    explained_centered: float
    channel_mean: np.ndarray = field(repr=False)
    channel_std: np.ndarray = field(repr=False)
    grid: tuple[int, int]
    images: int
    of: int
    selection: Subset | None
    seed: int

    def figure(self) -> go.Figure:
        """Draw the pictures on the left, and the mean and spread of each channel on the right."""
        shape = (len(ROW_NAMES), len(self.indices))
        figure = image_grid.draw(self.mosaic, ROW_NAMES, shape, ROW_HEIGHT_PX)
        figure.update_layout(xaxis_domain=[0, PICTURE_SHARE])
        self._draw_channels(figure)
        subtitle = (
            f"three principal components as colors: {100 * self.explained:.0f} % of the variance,"
            f" {100 * self.explained_centered:.0f} % without position means · grid"
            f" {self.grid[0]} × {self.grid[1]} · seed {self.seed}"
        )
        figure.update_layout(title={"text": "Latent pictures", "subtitle": {"text": subtitle}})
        return apply_theme(figure)

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return self.selection

    def table(self) -> pd.DataFrame:
        """Return one row per channel: mean and standard deviation, shift and scale."""
        stats = LatentStats(channel_mean=self.channel_mean, channel_std=self.channel_std)
        return pd.DataFrame(
            {
                "channel": np.arange(len(self.channel_mean)),
                "mean": self.channel_mean,
                "deviation": self.channel_std,
                "shift": self.channel_mean,
                "scale": stats.channel_scale,
            }
        )

    def summary(self) -> str:
        """State the share of the variance in the colors, and the range of the deviations."""
        return (
            f"Three components hold {100 * self.explained:.0f} % of the variance of the tokens,"
            f" {100 * self.explained_centered:.0f} % without the means of token positions. The"
            f" standard deviations of the {len(self.channel_std)} channels range from"
            f" {self.channel_std.min():.3g} to {self.channel_std.max():.3g}, their means from"
            f" {self.channel_mean.min():.3g} to {self.channel_mean.max():.3g}.{self.subset_note()}"
        )

    def _draw_channels(self, figure: go.Figure) -> None:
        channels = np.arange(len(self.channel_mean))
        bars = {"type": "data", "array": self.channel_std, "thickness": 1.5, "width": 0}
        figure.add_scatter(
            x=channels,
            y=self.channel_mean,
            error_y=bars,
            customdata=self.channel_std,
            mode="markers",
            marker={"color": COLORS[0], "size": 7},
            xaxis="x2",
            yaxis="y2",
            hovertemplate="channel %{x}: %{y:.3~g} ± %{customdata:.3~g}<extra></extra>",
        )
        figure.update_layout(
            xaxis2={"domain": [PICTURE_SHARE + 0.1, 1], "anchor": "y2", "title": "channel"},
            yaxis2={"anchor": "x2", "title": "mean ± deviation"},
            showlegend=False,
        )


def latent_pictures(
    latents: np.ndarray,
    images: np.ndarray,
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    count: Annotated[int, Range(1, 16)] = 8,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> LatentPictures:
    """Draw latents on a grid in colors, by the three principal components of their tokens.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    images : ndarray of uint8, shape (n, height, width, colors)
        The images of these latents.
    grid : tuple of int, optional
        Rows and columns of the tokens.
    active : ndarray of bool, shape (n, tokens), optional
        Tokens that the decoder reads.
    labels : ndarray of int, shape (n,), optional
        Class of each image. Samples are stratified by it.
    count : int
        Number of images to draw, at random.
    seed : int
        Seed of the images.

    Returns
    -------
    LatentPictures
        The pictures, and the mean and standard deviation of each channel.

    Raises
    ------
    NotApplicable
        If the tokens have no grid, there are fewer than two images, or the latents are constant.
    UserError
        If a latent is NaN or infinite, or the grid does not have as many cells as tokens.
    """
    scaled = ScaledLatents.create(
        latents,
        active,
        purpose="A latent picture",
        min_images=MIN_IMAGES,
        max_images=MAX_FITTED_IMAGES,
        labels=labels,
        seed=seed,
    )
    fault = grid_fault(grid, scaled.tokens, latents.shape[1], need_square=False)
    if fault or grid is None:
        raise NotApplicable(f"A latent picture needs {fault}.")
    drawable = np.flatnonzero(scaled.images < len(images))
    positions = np.sort(np.random.default_rng(seed).permutation(drawable)[:count])
    pictures, explained = component_colors(scaled, positions)
    free_pictures, explained_centered = component_colors(scaled.centered_by_position(), positions)
    indices = scaled.images[positions]
    originals = np.asarray(images[indices])
    size = originals.shape[1:3]
    stats = LatentStats.of_latents(latents, active)
    return LatentPictures(
        mosaic=image_grid.compose(
            [originals, enlarge(pictures, grid, size), enlarge(free_pictures, grid, size)]
        ),
        indices=indices,
        explained=explained,
        explained_centered=explained_centered,
        channel_mean=stats.channel_mean,
        channel_std=stats.channel_std,
        grid=grid,
        images=len(scaled),
        of=len(latents),
        selection=scaled.selection,
        seed=seed,
    )


def component_colors(latents: ScaledLatents, positions: np.ndarray) -> tuple[np.ndarray, float]:
    """Map the tokens of some images to colors by their three principal components.

    Parameters
    ----------
    latents : ScaledLatents
        All images, to which the components are fitted.
    positions : ndarray of int, shape (m,)
        Positions of the images to map.

    Returns
    -------
    colors : ndarray of uint8, shape (m, tokens, 3)
        Components that do not exist are black.
    explained : float
        Share of the variance of the three components.
    """
    scatter = np.zeros((latents.channels, latents.channels))
    for block in latents.blocks():
        rows = block.reshape(-1, latents.channels)
        scatter += rows.T @ rows
    values, vectors = np.linalg.eigh(scatter)
    axes = vectors[:, ::-1][:, :3]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])  # the sign is arbitrary
    projected = latents.subset(positions).array() @ axes
    low, high = np.percentile(projected, COLOR_PERCENTILES, axis=(0, 1))
    relative = (projected - low) / np.where(high > low, high - low, 1)
    colors = np.zeros((*projected.shape[:2], 3), np.uint8)
    colors[..., : axes.shape[1]] = (255 * relative.clip(0, 1)).round()
    return colors, float(values[::-1][:3].sum() / values.sum())


def enlarge(colors: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Repeat the cells of a grid until they fill images of a size.

    Parameters
    ----------
    colors : ndarray of uint8, shape (m, tokens, 3)
        Color of each token.
    grid, size : tuple of int
        Rows and columns of cells and of pixels.

    Returns
    -------
    ndarray of uint8, shape (m, height, width, 3)
    """
    maps = colors.reshape(len(colors), *grid, 3)
    rows = np.arange(size[0]) * grid[0] // size[0]
    columns = np.arange(size[1]) * grid[1] // size[1]
    return maps[:, rows][:, :, columns]
