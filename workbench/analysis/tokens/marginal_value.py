"""What each further token is worth, and what their sum tells of an image.

The error at the fewest tokens less that at the most, KARL's delta (arXiv 2507.07995, section 4), is about 0 for noise,
which no number of tokens describes, and large for structure; an image that is simple has no error left at either.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names
from workbench.analysis.plotting.style import COLORS, HIGHLIGHT_COLOR, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.sampling import describe_subset, subsample
from workbench.core.errors import NotApplicable, UserError

MOST_POINTS = 3000
MOST_CLASSES = 6  # told apart by colour
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


@dataclass(frozen=True)
class Step:
    """From one number of tokens to the next."""

    start: int  # tokens
    end: int
    error: float  # mean over images at the end
    value: float  # drop in error a token on the way, mean over images; below 0 it rises
    low: float  # 95 % bootstrap interval
    high: float


@dataclass(frozen=True, eq=False)
class TokenValue(Result):
    """The drop in error that each token brings, and each image's whole drop."""

    steps: tuple[Step, ...]
    delta: np.ndarray = field(repr=False)  # (n,) error at the fewest tokens less that at the most
    left: np.ndarray = field(repr=False)  # (n,) error at the most
    classes: tuple[str, ...] = field(repr=False)  # of each image; empty without labels
    absolute: bool  # mean absolute errors; else squared
    few: int  # tokens
    many: int
    first: float  # mean error at the fewest
    mean: tuple[float, float, float]  # of delta, with its 95 % interval
    share: float  # of the images whose delta is under a tenth of their error at the fewest: more tokens hardly help
    seed: int

    def figure(self) -> go.Figure:
        """Value of a token by place, and each image's drop against what is left."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.15)
        names = [
            f"{s.start + 1}" if s.end == s.start + 1 else f"{s.start + 1}–{s.end}"
            for s in self.steps
        ]
        value = np.array([s.value for s in self.steps])
        up, down = (
            np.array([s.high for s in self.steps]) - value,
            value - np.array([s.low for s in self.steps]),
        )
        bars = {
            "type": "data",
            "symmetric": False,
            "array": up,
            "arrayminus": down,
            "thickness": 1.2,
        }
        look = {
            "marker_color": COLORS[0],
            "error_y": {**bars, "color": COLORS[6]},
            "showlegend": False,
        }
        figure.add_bar(
            x=names,
            y=value,
            hovertemplate="tokens %{x}: %{y:.4g}<extra></extra>",
            **look,
            row=1,
            col=1,
        )
        kind = "absolute" if self.absolute else "squared"
        figure.update_xaxes(title="which tokens", type="category", row=1, col=1)
        figure.update_yaxes(title=f"drop in {kind} error a token", row=1, col=1)
        self._scatter(figure)
        figure.update_xaxes(
            title=f"error left at {self.many} tokens", rangemode="tozero", row=1, col=2
        )
        figure.update_yaxes(title=f"drop from {self.few} to {self.many}: delta", row=1, col=2)
        n = len(self.delta)
        said = f"n = {n:,} images · mean {kind} error of pixels in [0, 1] · bars: 95 % bootstrap intervals"
        if n > MOST_POINTS:
            said += f"<br>points: {describe_subset(MOST_POINTS, n, stratified=bool(self.classes))}, seed {self.seed}"
        legend = {"orientation": "h", "y": -0.2, "yanchor": "top", "itemsizing": "constant"}
        title = {"text": "What further tokens are worth", "subtitle": {"text": said}}
        figure.update_layout(title=title, height=460, legend=legend)
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row a step from one number of tokens to the next."""
        return pd.DataFrame([asdict(s) for s in self.steps])

    def summary(self) -> str:
        """The first and the last token's worth, the mean drop, and the images that further tokens do not help."""
        kind = "absolute" if self.absolute else "squared"
        mean, low, high = self.mean
        return (
            f"The mean {kind} error goes from {self.first:.3g} at {self.few} to {self.steps[-1].error:.3g} at"
            f" {self.many} tokens, a delta of {mean:.3g} ({low:.3g} to {high:.3g}): a token is worth"
            f" {self.steps[0].value:.2g} at first and {self.steps[-1].value:.2g} at last. For"
            f" {100 * self.share:.0f} % of {len(self.delta):,} images it falls by less than a tenth: they are noise to"
            " this tokenizer, or had no error left."
        )

    def _scatter(self, figure: go.Figure) -> None:
        """Points by class where there are few; noise lies low and right, structure high, the simple low and left."""
        labels, random = self.classes or None, np.random.default_rng(self.seed)
        kept = subsample(len(self.delta), MOST_POINTS, random, labels)
        names = list(dict.fromkeys(sorted(self.classes)))
        of = (
            np.array(self.classes)[kept]
            if 1 < len(names) <= MOST_CLASSES
            else np.full(len(kept), "images")
        )
        hover = "#%{customdata}: %{x:.3g} left, delta %{y:.3g}<extra></extra>"
        for i, name in enumerate(dict.fromkeys(sorted(of))):
            mine = kept[of == name]
            marker = {"color": COLORS[i], "symbol": SYMBOLS[i], "size": 5, "opacity": 0.75}
            figure.add_scatter(
                x=self.left[mine], y=self.delta[mine], customdata=mine, meta="image", mode="markers", marker=marker,
                name=str(name), hovertemplate=hover, selected=HIGHLIGHT_COLOR, row=1, col=2,
            )  # fmt: skip


def marginal_token_value(
    prefixes: np.ndarray,
    prefix_l1: np.ndarray | None = None,
    prefix_mse: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> TokenValue:
    """Measure what further tokens bring, from errors (n, m) of decoding the first `prefixes` (m,) tokens alone.

    Absolute errors, else squared. Raises NotApplicable for under two numbers of tokens or no image, UserError for
    errors that do not fit or hold NaN.
    """
    counts, errors = _in_order(prefixes, prefix_l1 if prefix_l1 is not None else prefix_mse)
    steps = []
    for i, (start, end) in enumerate(zip(counts[:-1], counts[1:], strict=True)):
        worth = (errors[:, i] - errors[:, i + 1]) / (end - start)
        steps.append(Step(start, end, float(errors[:, i + 1].mean()), *mean_interval(worth)))
    delta, first = errors[:, 0] - errors[:, -1], float(errors[:, 0].mean())
    return TokenValue(
        steps=tuple(steps),
        delta=delta,
        left=errors[:, -1],
        classes=class_names(labels, names, len(errors)),
        absolute=prefix_l1 is not None,
        few=counts[0],
        many=counts[-1],
        first=first,
        mean=mean_interval(delta),
        share=float((delta < 0.1 * errors[:, 0]).mean()),
        seed=seed,
    )


def _in_order(prefixes: np.ndarray, errors: np.ndarray | None) -> tuple[list[int], np.ndarray]:
    """The numbers of tokens, rising, and the errors (n, m) in their order."""
    if errors is None:
        raise NotApplicable(
            "Token value needs the errors of decoding the first tokens alone; this evidence has none."
        )
    if errors.ndim != 2 or errors.shape[1] != len(prefixes):
        shape = " × ".join(map(str, errors.shape))
        raise UserError(
            f"The errors are {shape} for {len(prefixes)} numbers of tokens. Collect them again."
        )
    order = np.argsort(prefixes, kind="stable")
    counts, errors = np.asarray(prefixes)[order].tolist(), np.asarray(errors, np.float64)[:, order]
    if len(counts) < 2 or not len(errors):
        raise NotApplicable(
            "Token value needs an image that was decoded from two numbers of tokens."
        )
    if not np.isfinite(errors).all():
        raise UserError("The errors hold NaN or infinity. Collect from an earlier step.")
    return counts, errors
