"""How the levels of an implicit codebook are used: FSQ's grid (arXiv 2309.15505), channel by channel."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.codebook.mutual_information import entropy
from workbench.analysis.plotting.style import MAGNITUDE_SCALE, apply_theme
from workbench.core.errors import NotApplicable


@dataclass(frozen=True, eq=False)
class LevelUsage(Result):
    """How often each level of each channel was chosen, all books together."""

    values: tuple[np.ndarray, ...] = field(repr=False)  # of each channel, its levels, rising
    shares: tuple[np.ndarray, ...] = field(
        repr=False
    )  # of each channel, how often each of them was chosen
    bits: tuple[float, ...]  # of each channel, the entropy of its level
    joint: float  # entropy of the whole code, Miller and Madow's
    size: int
    tokens: int

    @property
    def levels(self) -> tuple[int, ...]:
        """How many levels each channel has."""
        return tuple(map(len, self.values))

    @property
    def shared(self) -> float:
        """Bits that the channels tell twice: the sum of their entropies less the joint one."""
        return max(sum(self.bits) - self.joint, 0.0)

    def figure(self) -> go.Figure:
        """A row a channel, a cell a level; 1 is as often as an even use."""
        widest = max(self.levels)
        ratio = np.full((len(self.levels), widest), np.nan)
        value = np.full_like(ratio, np.nan)
        for i, (share, levels) in enumerate(zip(self.shares, self.values, strict=True)):
            ratio[i, : len(share)], value[i, : len(share)] = share * len(share), levels
        figure = go.Figure(
            go.Heatmap(
                z=ratio, customdata=value, colorscale=MAGNITUDE_SCALE, zmin=0, xgap=2, ygap=2, texttemplate="%{z:.2f}",
                colorbar={"title": {"text": "times even"}, "thickness": 12},
                hovertemplate="channel %{y}, level %{customdata:.3g}: %{z:.2f} times an even use<extra></extra>",
            )
        )  # fmt: skip
        rows = list(range(len(self.levels)))
        names = [
            f"{i}: {b:.2f} of {np.log2(n):.2f} bits"
            for i, b, n in zip(rows, self.bits, self.levels, strict=True)
        ]
        quiet = {"showgrid": False, "zeroline": False}
        figure.update_xaxes(title="level of the channel, from the lowest", dtick=1, **quiet)
        figure.update_yaxes(
            title="channel",
            tickvals=rows,
            ticktext=names,
            autorange="reversed",
            automargin=True,
            **quiet,
        )
        said = f"{self.size:,} codes of {' × '.join(map(str, self.levels))} levels · n = {self.tokens:,} tokens"
        title = {"text": "How the levels are used", "subtitle": {"text": said}}
        return apply_theme(figure.update_layout(title=title, height=200 + 44 * len(rows)))

    def table(self) -> pd.DataFrame:
        """One row for each level of each channel."""
        rows = [
            {"channel": i, "level": j, "value": value, "share": share, "even": 1 / len(values)}
            for i, (values, shares) in enumerate(zip(self.values, self.shares, strict=True))
            for j, (value, share) in enumerate(zip(values, shares, strict=True))
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """The bits of all channels, the emptiest level, and what channels tell twice."""
        most = sum(np.log2(n) for n in self.levels)
        channel, level = min(
            ((i, int(s.argmin())) for i, s in enumerate(self.shares)),
            key=lambda x: self.shares[x[0]][x[1]] * self.levels[x[0]],
        )
        rare = self.shares[channel][level] * self.levels[channel]
        return (
            f"The channels' levels tell {sum(self.bits):.2f} of {most:.2f} bits a token, {self.shared:.2f} of them"
            f" more than once. The least used is level {level} of channel {channel}, with {rare:.2f} of an even use."
        )


def level_usage(
    codes: np.ndarray, codebook: np.ndarray, active: np.ndarray | None = None
) -> LevelUsage:
    """Count the levels that codes (n, tokens) stand for in each channel of a codebook (g, k, d) that is a grid.

    Raises NotApplicable where the codebook is no grid (its channels' levels do not multiply to k), and what `read`
    raises.
    """
    found = parse_codes(codes, codebook, active, "Level usage")
    levels = [np.unique(codebook[0, :, i], return_inverse=True) for i in range(codebook.shape[2])]
    grid = int(np.prod([float(len(values)) for values, _ in levels])) == found.size
    if not grid or any((book != codebook[0]).any() for book in codebook[1:]):
        raise NotApplicable(
            "Level usage needs a codebook that is a grid of levels, as FSQ's; this one was learned."
        )
    counts = found.counts.sum(axis=0)
    tokens, used = int(counts.sum()), int((counts > 0).sum())
    totals = [np.bincount(level, counts, len(values)) for values, level in levels]
    return LevelUsage(
        values=tuple(values for values, _ in levels),
        shares=tuple(total / tokens for total in totals),
        bits=tuple(entropy(total) for total in totals),
        joint=entropy(counts) + (used - 1) / (2 * tokens * np.log(2)),
        size=found.size,
        tokens=tokens,
    )
