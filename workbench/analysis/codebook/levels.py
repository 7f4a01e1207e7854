"""Usage of the levels of an implicit codebook, channel by channel.

References
----------
FSQ, "Finite scalar quantization", arXiv 2309.15505.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.codebook.codes import parse_codes, require_vectors
from workbench.analysis.codebook.mutual_information import entropy
from workbench.analysis.plotting.style import MAGNITUDE_SCALE, apply_theme
from workbench.core.errors import NotApplicable

ROW_HEIGHT_PX = 44
MIN_TOKENS_PER_CODE = 5  # of the used codes, for redundant bits


@dataclass(frozen=True, eq=False, kw_only=True)
class LevelUsage(Result):
    """Frequency of each level of each channel, over all codebooks."""

    values: tuple[np.ndarray, ...] = field(repr=False)  # per channel, its levels in ascending order
    shares: tuple[np.ndarray, ...] = field(repr=False)  # per channel, the share of each level
    bits: tuple[float, ...]  # per channel, the entropy of its level
    joint_bits: float  # entropy of the full code, with Miller and Madow's correction
    size: int
    used: int  # codes that occurred
    tokens: int

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of levels of each channel."""
        return tuple(len(values) for values in self.values)

    @property
    def shared_bits(self) -> float:
        """Redundant bits: the sum of the entropies of the channels minus the joint entropy.

        NaN with few tokens per used code: the estimate of the joint entropy is then far too low.
        """
        if self.tokens < MIN_TOKENS_PER_CODE * self.used:
            return float("nan")
        return max(sum(self.bits) - self.joint_bits, 0.0)

    def figure(self) -> go.Figure:
        """Draw one row per channel and one cell per level; 1 is uniform usage."""
        ratio = np.full((len(self.levels), max(self.levels)), np.nan)
        value = np.full_like(ratio, np.nan)
        for i, (share, levels) in enumerate(zip(self.shares, self.values, strict=True)):
            ratio[i, : len(share)] = share * len(share)
            value[i, : len(share)] = levels
        figure = go.Figure(
            go.Heatmap(
                z=ratio,
                customdata=value,
                colorscale=MAGNITUDE_SCALE,
                zmin=0,
                xgap=2,
                ygap=2,
                texttemplate="%{z:.2f}",
                colorbar={"title": {"text": "times<br>uniform"}, "thickness": 12},
                hovertemplate=(
                    "channel %{y}, level %{customdata:.3~g}:"
                    " %{z:.2f} times uniform usage<extra></extra>"
                ),
            )
        )
        rows = list(range(len(self.levels)))
        labels = [
            f"{i}: {bits:.2f} of {np.log2(count):.2f} bits"
            for i, bits, count in zip(rows, self.bits, self.levels, strict=True)
        ]
        quiet = {"showgrid": False, "zeroline": False}
        figure.update_xaxes(title="level, in ascending order", dtick=1, **quiet)
        figure.update_yaxes(
            title="channel",
            tickvals=rows,
            ticktext=labels,
            autorange="reversed",
            automargin=True,
            **quiet,
        )
        levels_text = " × ".join(map(str, self.levels))
        subtitle = f"{self.size:,} codes of {levels_text} levels · n = {self.tokens:,} tokens"
        figure.update_layout(
            title={"text": "Usage of the levels of each channel", "subtitle": {"text": subtitle}},
            height=200 + ROW_HEIGHT_PX * len(rows),
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per level of each channel."""
        rows = [
            {
                "channel": channel,
                "level": level,
                "value": value,
                "share": share,
                "uniform_share": 1 / len(values),
            }
            for channel, (values, shares) in enumerate(zip(self.values, self.shares, strict=True))
            for level, (value, share) in enumerate(zip(values, shares, strict=True))
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State the bits of all channels, the redundant bits, and the rarest level."""
        max_bits = sum(np.log2(count) for count in self.levels)
        ratios = [share * len(share) for share in self.shares]
        channel = min(range(len(ratios)), key=lambda i: ratios[i].min())
        level = int(ratios[channel].argmin())
        redundancy = (
            "; how many of them are redundant between channels needs"
            f" {MIN_TOKENS_PER_CODE} tokens per used code"
        )
        if np.isfinite(self.shared_bits):
            redundancy = f", of which {self.shared_bits:.2f} are redundant between channels"
        return (
            f"The levels carry {sum(self.bits):.2f} of {max_bits:.2f} bits per token{redundancy}."
            f" The rarest level is level {level} of channel {channel}, at"
            f" {ratios[channel][level]:.2f} times uniform usage."
        )


def level_usage(
    codes: np.ndarray, codebook: np.ndarray, active: np.ndarray | None = None
) -> LevelUsage:
    """Count the levels of each channel in the codes of a codebook that is a grid.

    Parameters
    ----------
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected. -1 marks padding, which is left out.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim)
        The codewords, which must be all combinations of the levels of the channels.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are not counted.

    Returns
    -------
    LevelUsage
        Share and entropy of the levels of each channel.

    Raises
    ------
    NotApplicable
        If the codebook is not a grid of levels, if its vectors are not known, or if there are no
        tokens.
    UserError
        If the codes do not match the codebook.

    Examples
    --------
    >>> import numpy as np
    >>> codebook = np.array([[[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]])
    >>> usage = level_usage(np.array([[0, 1, 2, 3]]), codebook)
    >>> usage.levels, usage.bits
    ((2, 2), (1.0, 1.0))
    """
    codebook = require_vectors(codebook, "Level usage")
    parsed = parse_codes(codes, codebook, active, "Level usage")
    levels = [np.unique(codebook[0, :, i], return_inverse=True) for i in range(codebook.shape[2])]
    combinations = int(np.prod([float(len(values)) for values, _ in levels]))
    is_grid = combinations == parsed.codebook_size
    if not is_grid or any((table != codebook[0]).any() for table in codebook[1:]):
        raise NotApplicable(
            "Level usage needs a codebook that is a grid of levels, as FSQ's is;"
            " this codebook was learned."
        )
    counts = parsed.counts.sum(axis=0)
    tokens = int(counts.sum())
    used = int((counts > 0).sum())
    totals = [np.bincount(level, counts, len(values)) for values, level in levels]
    return LevelUsage(
        values=tuple(values for values, _ in levels),
        shares=tuple(total / tokens for total in totals),
        bits=tuple(entropy(total) for total in totals),
        joint_bits=entropy(counts) + (used - 1) / (2 * tokens * np.log(2)),
        size=parsed.codebook_size,
        used=used,
        tokens=tokens,
    )
