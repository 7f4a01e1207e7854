"""Optional regularizers of latents that several papers propose against latents that are hard to
generate.

Each term is added to the objective of an autoencoder; each disturbance changes the latents between
encoder and decoder in training (`LatentDisturbance`). All are off by default.

- Equivariance (EQ-VAE, arXiv:2502.09509): |D(T z) - T x| for T a mirroring or a quarter turn. The
  paper scales images as well, and replaces the reconstruction in half of the batches; here it is a
  term next to it.
- Half-size decoding (arXiv:2502.14831): |D(P z) - P x|, where P averages 2 x 2 tokens or pixels.
- Local correlation (SSVAE, arXiv:2512.05394): the mean of max(0, threshold - r) over 2 x 2 windows
  of tokens, where r is the mean correlation over channels of the pairs in a window.
- Latent masking (as for masked latents in SSVAE's study, arXiv:2606.03578): a share of 25, 50 or
  75 % of the tokens of an image is replaced by one learned vector, and the whole image is decoded.
  The papers draw a share per batch; here each image draws its own.
- Interpolative noise (l-DeTok, arXiv:2507.15856): z <- (1 - tau) z + tau gamma eps, tau uniform
  in [0, 1] per image and eps standard normal.

Terms in pixels are mean absolute errors. The first three need tokens on a grid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.batch_shares import item_draws, item_noise
from workbench.core.errors import UserError
from workbench.core.types import Images

MASKED_SHARES = (0.25, 0.5, 0.75)
Latents = Float[Tensor, "b n d"]
Maps = Float[Tensor, "b d rows columns"]
Decoder = Callable[[Latents, tuple[int, int]], Images]


@dataclass(frozen=True, kw_only=True)
class LatentDisturbanceConfig:
    """Settings of disturbances, for tokens of any kind; a `Config` inherits them.

    Attributes
    ----------
    latent_mask : float
        Probability that 25, 50 or 75 % of the tokens of an image are masked in training; 0: off.
    interpolative_noise : float
        Standard deviation of the noise that latents are interpolated with in training; 0: off.
        That of l-DeTok is 3.
    """

    latent_mask: float = 0.0
    interpolative_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.latent_mask <= 1:
            raise UserError(
                f"latent_mask must be a probability between 0 and 1, got {self.latent_mask}."
            )
        if self.interpolative_noise < 0:
            raise UserError(
                f"interpolative_noise must be at least 0, got {self.interpolative_noise}."
            )


@dataclass(frozen=True, kw_only=True)
class LatentRegularizerConfig(LatentDisturbanceConfig):
    """Settings of all regularizers, for tokens on a grid; a `Config` inherits them.

    Attributes
    ----------
    equivariance_weight : float
        Weight of the error of decoded mirrored and turned latents; 0: off.
    half_size_weight : float
        Weight of the error of latents that are decoded at half size; 0: off.
    local_correlation_weight : float
        Weight of the loss of neighboring tokens whose channels correlate less than the threshold;
        0: off. That of SSVAE is 0.02.
    local_correlation_threshold : float
        Correlation above which neighboring tokens have no loss.
    """

    equivariance_weight: float = 0.0
    half_size_weight: float = 0.0
    local_correlation_weight: float = 0.0
    local_correlation_threshold: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("equivariance_weight", "half_size_weight", "local_correlation_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if not -1 <= self.local_correlation_threshold <= 1:
            raise UserError(
                "local_correlation_threshold must be a correlation between -1 and 1, got"
                f" {self.local_correlation_threshold}."
            )


class LatentDisturbance(nn.Module):
    """Disturb latents between encoder and decoder, in training only.

    Parameters
    ----------
    config : LatentDisturbanceConfig
        Settings.
    dim : int
        Channels of a token.
    """

    def __init__(self, config: LatentDisturbanceConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.mask_vector = nn.Parameter(torch.zeros(dim)) if config.latent_mask else None

    def forward(self, latents: Latents) -> Latents:
        """Mask tokens and add interpolative noise in training; otherwise return the latents."""
        if not self.training:
            return latents
        if self.mask_vector is not None:
            is_masked = masked_tokens(latents, self.config.latent_mask)
            latents = torch.where(is_masked, self.mask_vector.to(latents.dtype), latents)
        if self.config.interpolative_noise:
            size = (len(latents), 1, 1)
            mix = item_draws(torch.rand, size, device=latents.device, dtype=latents.dtype)
            noise = self.config.interpolative_noise * item_noise(latents)
            latents = (1 - mix) * latents + mix * noise
        return latents


def regularization_terms(
    config: LatentRegularizerConfig,
    images: Images,
    latents: Latents,
    grid: tuple[int, int],
    decode: Decoder,
) -> dict[str, Float[Tensor, ""]]:
    """Compute the terms that are switched on.

    Parameters
    ----------
    config : LatentRegularizerConfig
        Settings.
    images : Tensor, shape (batch, channels, height, width)
        Images in [-1, 1].
    latents : Tensor, shape (batch, tokens, dim)
        Their latents, one per grid position.
    grid : tuple of int
        Rows and columns of tokens.
    decode : callable
        Decodes latents on a grid.

    Returns
    -------
    dict of str to Tensor, shape ()
        Weighted terms: `equivariance`, `half size` and `local correlation`.
    """
    maps = rearrange(latents, "b (h w) d -> b d h w", h=grid[0])
    terms = {}
    if config.equivariance_weight:
        choice = item_draws(torch.rand, (len(images),), device=images.device)
        error = _decoding_error(turned(images, choice), turned(maps, choice), decode)
        terms["equivariance"] = config.equivariance_weight * error
    if config.half_size_weight:
        error = _decoding_error(F.avg_pool2d(images, 2), F.avg_pool2d(maps, 2), decode)
        terms["half size"] = config.half_size_weight * error
    if config.local_correlation_weight:
        loss = F.relu(config.local_correlation_threshold - window_correlation(maps)).mean()
        terms["local correlation"] = config.local_correlation_weight * loss
    return terms


def masked_tokens(latents: Latents, probability: float) -> Tensor:
    """Draw the tokens to mask: a quarter, half or three quarters of those of some images.

    Parameters
    ----------
    latents : Tensor, shape (batch, tokens, dim)
        Latent vectors, one per token.
    probability : float
        Probability that tokens of an image are masked.

    Returns
    -------
    Tensor of bool, shape (batch, tokens, 1)
    """
    size = latents.shape[:2]
    device = latents.device
    draws = item_draws(torch.rand, (size[0], 2), device=device)
    shares = torch.tensor(MASKED_SHARES, device=device)
    share = shares[(draws[:, 1] * len(MASKED_SHARES)).long()] * (draws[:, 0] < probability)
    order = item_draws(torch.rand, tuple(size), device=device).argsort(dim=1).argsort(dim=1)
    return (order < (share * size[1]).round()[:, None])[..., None]


def turned(maps: Maps, choice: Float[Tensor, " b"]) -> Maps:
    """Mirror or turn each map of a square grid.

    Parameters
    ----------
    maps : Tensor, shape (batch, channels, side, side)
        Maps on a square grid.
    choice : Tensor, shape (batch,)
        Numbers in [0, 1) that select a mirroring, or a turn by one, two or three quarters.

    Returns
    -------
    Tensor, shape (batch, channels, side, side)
    """
    candidates = torch.stack([maps.flip(3), *(maps.rot90(turns, (2, 3)) for turns in (1, 2, 3))])
    index = (choice * len(candidates)).long()
    return candidates[index, torch.arange(len(maps), device=maps.device)]


def window_correlation(maps: Maps) -> Float[Tensor, "b windows"]:
    """Compute the mean correlation over channels of the pairs of tokens in each 2 x 2 window.

    Parameters
    ----------
    maps : Tensor, shape (batch, dim, height, width)
        Latents on a grid of at least 2 x 2.

    Returns
    -------
    Tensor, shape (batch, windows)
    """
    windows = rearrange(
        F.unfold(maps, 2, stride=1), "b (d tokens) windows -> b windows tokens d", tokens=4
    )
    centered = windows - windows.mean(dim=-1, keepdim=True)
    unit = F.normalize(centered, dim=-1)
    similarity = unit @ unit.mT
    return (similarity.sum(dim=(-2, -1)) - similarity.diagonal(dim1=-2, dim2=-1).sum(-1)) / 12


def _decoding_error(images: Images, maps: Maps, decode: Decoder) -> Float[Tensor, ""]:
    """Return the mean absolute error of decoded maps of latents."""
    grid = (maps.shape[2], maps.shape[3])
    return F.l1_loss(decode(rearrange(maps, "b d h w -> b (h w) d"), grid), images)
