"""Latents as a generator reads them: centered and scaled, block by block.

All measures of this group depend on the scale. By default every channel is centered and divided by
its standard deviation over images and tokens, as generators do with `by_channel`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from workbench.analysis.stats.sampling import Subset, rows_at, subsample
from workbench.core.errors import NotApplicable, UserError
from workbench.core.mapped_memory import release_mapped_pages
from workbench.core.moments import MAX_BLOCK_VALUES, ElementMoments, is_constant

Scaling = Literal["by channel", "all alike"]
MIN_PREFIX_SHARE = 0.95  # of the images, which must have all tokens that are measured
MIN_TOKENS_OF_PREFIX = 2
WITH_ALL_TOKENS = "those with all measured tokens"


@dataclass(frozen=True, eq=False, kw_only=True)
class ScaledLatents:
    """Latents of some images, scaled when they are read.

    Attributes
    ----------
    latents : ndarray of float, shape (of, all_tokens, channels)
        The latents, which may be mapped from a file.
    images : ndarray of int, shape (n,)
        Indices of the images that are measured, in ascending order.
    tokens : int
        Number of tokens that are measured: the longest prefix that 95 % of the images have.
    shift : ndarray of float64, shape (tokens, channels)
        Is subtracted from the latents.
    factor : ndarray of float64, shape (channels,)
        Multiplies the result; 0 for a constant channel.
    position_mean, position_variance : ndarray of float64, shape (tokens, channels)
        Moments of the latents before scaling, over the images.
    scaling : {"by channel", "all alike"}
        Scaling of the channels: each by its own standard deviation, or all alike.
    selection : Subset or None
        The images that are measured; None if they are all.
    """

    latents: np.ndarray
    images: np.ndarray
    tokens: int
    shift: np.ndarray
    factor: np.ndarray
    position_mean: np.ndarray
    position_variance: np.ndarray
    scaling: Scaling
    selection: Subset | None

    @classmethod
    def create(
        cls,
        latents: np.ndarray,
        active: np.ndarray | None = None,
        *,
        purpose: str,
        min_images: int,
        max_images: int | None = None,
        labels: np.ndarray | None = None,
        scaling: Scaling = "by channel",
        seed: int = 0,
    ) -> "ScaledLatents":
        """Measure the scale of latents in one pass.

        Parameters
        ----------
        latents : ndarray of float, shape (of, all_tokens, channels)
            Latent vectors, one per token.
        active : ndarray of bool, shape (of, all_tokens), optional
            Tokens that the decoder reads.
        purpose : str
            Name of the analysis, used as the subject of messages.
        min_images : int
            Smallest number of images that the analysis accepts.
        max_images : int, optional
            Number of images to draw at random if there are more, stratified if there are labels.
        labels : ndarray of int, shape (of,), optional
            Class of each image.
        scaling : {"by channel", "all alike"}
            Use the mean and standard deviation of each channel, or of all channels together.
        seed : int
            Seed of the images that are drawn.

        Raises
        ------
        NotApplicable
            If there are too few images, under two shared tokens, or the latents are constant.
        UserError
            If a latent is NaN or infinite.
        """
        images, tokens = _shared_tokens(latents, active, purpose)
        selection = None
        if len(images) < len(latents):
            selection = Subset(len(images), len(latents), method=WITH_ALL_TOKENS)
        if max_images is not None and len(images) > max_images:
            subset_labels = None if labels is None else np.asarray(labels)[images]
            random = np.random.default_rng(seed)
            images = images[subsample(len(images), max_images, random, subset_labels)]
            selection = Subset.if_partial(len(images), len(latents), stratified=labels is not None)
        if len(images) < min_images:
            raise NotApplicable(
                f"{purpose} needs at least {min_images} images; the evidence has {len(images)}."
            )
        channels = latents.shape[2]
        unscaled = cls(
            latents=latents,
            images=images,
            tokens=tokens,
            shift=np.zeros((tokens, channels)),
            factor=np.ones(channels),
            position_mean=np.zeros((tokens, channels)),
            position_variance=np.zeros((tokens, channels)),
            scaling=scaling,
            selection=selection,
        )
        mean, variance = unscaled._moments()
        shift, factor = _shift_and_factor(mean, variance, scaling)
        if not variance[:, factor > 0].any():
            raise NotApplicable(
                f"{purpose} needs latents that differ between images; all {len(images)} images"
                " have the same."
            )
        return replace(
            unscaled, shift=shift, factor=factor, position_mean=mean, position_variance=variance
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """Number of channels of a token."""
        return self.latents.shape[2]

    @property
    def constant_channels(self) -> int:
        """Number of channels that are constant up to rounding."""
        return int((self.factor == 0).sum())

    @property
    def dimensions(self) -> int:
        """Dimensions per image: tokens times channels."""
        return self.tokens * self.channels

    def centered_by_position(self) -> "ScaledLatents":
        """Return the latents less the mean of each token position, scaled again.

        A generator with positional embeddings learns these means immediately.
        """
        free_variance = self.position_variance.mean(axis=0)
        if self.scaling == "all alike":
            free_variance = np.full_like(free_variance, free_variance.mean())
        factor = np.where(self.factor > 0, _inverse_root(free_variance), 0.0)
        return replace(self, shift=self.position_mean, factor=factor)

    def with_scale(self, mean: np.ndarray, std: np.ndarray) -> "ScaledLatents":
        """Return the latents scaled by other moments, such as those of a generator.

        Parameters
        ----------
        mean, std : ndarray of float, shape (channels,) or ()
            Mean and standard deviation of each channel, or of all channels.
        """
        shift = np.broadcast_to(np.asarray(mean, np.float64), self.shift.shape)
        factor = np.broadcast_to(1 / np.asarray(std, np.float64), self.factor.shape)
        return replace(self, shift=shift, factor=factor)

    def subset(self, positions: np.ndarray) -> "ScaledLatents":
        """Return some of the images, by their positions in `images`, with the same scale."""
        return replace(self, images=self.images[positions])

    def array(self) -> np.ndarray:
        """Read all images at once, as float64 of shape (n, tokens, channels)."""
        rows = np.array(rows_at(self.latents[:, : self.tokens], self.images), np.float64)
        rows -= self.shift
        rows *= self.factor
        return rows

    def blocks(self) -> Iterator[np.ndarray]:
        """Read the images in blocks of bounded size, as float64 of shape (m, tokens, channels)."""
        step = max(1, MAX_BLOCK_VALUES // max(self.dimensions, 1))
        for start in range(0, len(self.images), step):
            yield self.subset(np.arange(start, min(start + step, len(self.images)))).array()
            release_mapped_pages()

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute mean and variance of every number over the images."""
        moments = ElementMoments.from_blocks(self.blocks())
        if moments.num_invalid:
            raise UserError(
                f"The latents of {moments.num_invalid} of {len(self.images)} images contain NaN or"
                " infinity. Collect the evidence of an earlier step."
            )
        return moments.mean, moments.variance


def _shared_tokens(
    latents: np.ndarray, active: np.ndarray | None, purpose: str
) -> tuple[np.ndarray, int]:
    """Return the images with all tokens of the longest shared prefix, and its length."""
    n, tokens = latents.shape[:2]
    if active is None:
        return np.arange(n), tokens
    is_active = np.asarray(active, bool)
    lengths = np.where(is_active.all(axis=1), tokens, is_active.argmin(axis=1))
    prefix = int(np.quantile(lengths, 1 - MIN_PREFIX_SHARE, method="lower")) if n else tokens
    if prefix < min(MIN_TOKENS_OF_PREFIX, tokens):
        raise NotApplicable(
            f"{purpose} needs at least {MIN_TOKENS_OF_PREFIX} tokens that 95 % of the images have;"
            f" they share the first {prefix}."
        )
    return np.flatnonzero(lengths >= prefix), prefix


def _shift_and_factor(
    mean: np.ndarray, variance: np.ndarray, scaling: Scaling
) -> tuple[np.ndarray, np.ndarray]:
    """Return what centers and scales the latents, (tokens, channels) and (channels,)."""
    channel_mean = mean.mean(axis=0)
    channel_variance = variance.mean(axis=0) + mean.var(axis=0)
    has_rounding_only = is_constant(np.sqrt(channel_variance), channel_mean)
    if scaling == "all alike":
        overall_mean = channel_mean.mean()
        overall_variance = channel_variance.mean() + channel_mean.var()
        channel_mean = np.full_like(channel_mean, overall_mean)
        channel_variance = np.full_like(channel_variance, overall_variance)
    factor = np.where(has_rounding_only, 0.0, _inverse_root(channel_variance))
    return np.broadcast_to(channel_mean, mean.shape), factor


def _inverse_root(variance: np.ndarray) -> np.ndarray:
    """Return 1 / sqrt(variance), and 0 where the variance is 0."""
    is_positive = variance > 0
    return np.where(is_positive, 1 / np.sqrt(np.where(is_positive, variance, 1)), 0.0)
