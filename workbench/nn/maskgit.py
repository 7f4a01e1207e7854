"""Decoder of MaskGIT's VQGAN (arXiv:2202.04200), with which TiTok's first release makes pixels."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.types import Images

GROUPS = 32  # of every GroupNorm
NORM_EPS = 1e-6


class MaskGITDecoder(nn.Module):
    """Decode a grid of codewords to an image, whose side is 2^(levels - 1) times the grid's.

    Parameters
    ----------
    dim : int
        Channels of a codeword.
    widths : tuple of int
        Channels of each level, from the coarsest to the finest; multiples of 32.
    channels : int
        Color channels of an image.
    """

    def __init__(self, *, dim: int, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(dim, widths[0], 3, padding=1)
        self.middle = nn.Sequential(*(Residual(widths[0], widths[0]) for _ in range(2)))
        in_widths = (widths[0], *widths)
        self.levels = nn.ModuleList(
            nn.Sequential(Residual(in_width, width), Residual(width, width))
            for in_width, width in zip(in_widths, widths, strict=False)
        )
        self.upsample_convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for width in widths[:-1]
        )
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, codewords: Float[Tensor, "b d rows columns"]) -> Images:
        """Decode codewords, without a final activation."""
        x = self.levels[0](self.middle(self.conv_in(codewords)))
        for upsample_conv, level in zip(self.upsample_convs, self.levels[1:], strict=True):
            x = level(upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.conv_out(F.silu(self.norm_out(x)))


class Residual(nn.Module):
    """Two convolutions and a shortcut.

    If the number of channels changes, the shortcut reads the output of the convolutions instead of
    the input. This is an error of the original code, with which its weights were trained.
    """

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = _norm(in_width), _norm(width)
        self.conv_1 = nn.Conv2d(in_width, width, 3, padding=1, bias=False)
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None if in_width == width else nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Add the shortcut to the output of the convolutions."""
        branch = self.conv_1(F.silu(self.norm_1(x)))
        branch = self.conv_2(F.silu(self.norm_2(branch)))
        return branch + (x if self.shortcut is None else self.shortcut(branch))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=NORM_EPS)
