"""Marginal value of each further token, and the total drop in error per image.

The drop is the error at the fewest tokens minus that at the most. It is near 0 for noise, which no
number of tokens can describe, and large for structure. A simple image has little error at either
end.

References
----------
KARL's delta, arXiv 2507.07995, section 4.
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

MAX_POINTS = 3000
MAX_COLORED_CLASSES = 6
MAX_UNHELPED_DROP = 0.1  # relative drop in error below which more tokens hardly help an image
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


@dataclass(frozen=True)
class TokenStep:
    """The step from one number of tokens to the next."""

    start: int  # number of tokens
    end: int
    error: float  # mean over images at the end
    value: float  # drop in error per token, mean over images; negative if the error rises
    low: float  # 95 % bootstrap interval
    high: float


@dataclass(frozen=True, eq=False, kw_only=True)
class MarginalTokenValue(Result):
    """Drop in error per token, and the total drop of each image."""

    steps: tuple[TokenStep, ...]
    delta: np.ndarray = field(repr=False)  # (n,): error at the fewest tokens minus at the most
    final_error: np.ndarray = field(repr=False)  # (n,): error at the most tokens
    classes: tuple[str, ...] = field(repr=False)  # per image; empty without labels
    absolute: bool  # whether errors are mean absolute errors; otherwise they are squared
    min_tokens: int
    max_tokens: int
    initial_error: float  # mean error at the fewest tokens
    mean_delta: float
    mean_delta_low: float  # 95 % bootstrap interval
    mean_delta_high: float
    unhelped_share: float  # fraction of images whose error falls by less than a tenth
    seed: int

    @property
    def error_name(self) -> str:
        """Kind of the errors: "absolute" or "squared"."""
        return "absolute" if self.absolute else "squared"

    def figure(self) -> go.Figure:
        """Draw the value of each token, and the drop of each image by its remaining error."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.15)
        self._add_steps(figure)
        self._add_images(figure)
        n = len(self.delta)
        subtitle = (
            f"n = {n:,} images · mean {self.error_name} error of pixels in [0, 1]"
            " · bars: 95 % bootstrap intervals"
        )
        if n > MAX_POINTS:
            subset = describe_subset(MAX_POINTS, n, stratified=bool(self.classes))
            subtitle += f"<br>points: {subset}, seed {self.seed}"
        figure.update_layout(
            title={"text": "Marginal value of tokens", "subtitle": {"text": subtitle}},
            height=460,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top", "itemsizing": "constant"},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per step from one number of tokens to the next."""
        return pd.DataFrame([asdict(step) for step in self.steps])

    def summary(self) -> str:
        """State the total drop, the value of the first and last token, and unhelped images."""
        return (
            f"The mean {self.error_name} error goes from {self.initial_error:.3g} at"
            f" {self.min_tokens} to {self.steps[-1].error:.3g} at {self.max_tokens} tokens,"
            f" {self._change()}. The first step is worth"
            f" {self.steps[0].value:.2g} per token, the last {self.steps[-1].value:.2g}."
            f" {100 * self.unhelped_share:.0f} % of {len(self.delta):,} images improve by less than"
            " a tenth: the tokenizer treats them as noise, or they had no error left."
        )

    def _change(self) -> str:
        """Return the change of the error from the fewest to the most tokens, with its interval."""
        if self.mean_delta < 0:
            rise, low, high = -self.mean_delta, -self.mean_delta_high, -self.mean_delta_low
            return f"a rise of {rise:.3g} ({low:.3g} to {high:.3g})"
        return (
            f"a drop of {self.mean_delta:.3g}"
            f" ({self.mean_delta_low:.3g} to {self.mean_delta_high:.3g})"
        )

    def _add_steps(self, figure: go.Figure) -> None:
        names = []
        for step in self.steps:
            is_single = step.end == step.start + 1
            names.append(f"{step.end}" if is_single else f"{step.start + 1}–{step.end}")
        value = np.array([step.value for step in self.steps])
        high = np.array([step.high for step in self.steps])
        low = np.array([step.low for step in self.steps])
        figure.add_bar(
            x=names,
            y=value,
            hovertemplate="tokens %{x}: %{y:.4~g}<extra></extra>",
            marker_color=COLORS[0],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": high - value,
                "arrayminus": value - low,
                "thickness": 1.2,
                "color": COLORS[6],
            },
            showlegend=False,
            row=1,
            col=1,
        )
        figure.update_xaxes(title="tokens", type="category", row=1, col=1)
        figure.update_yaxes(title=f"drop in {self.error_name} error per token", row=1, col=1)

    def _add_images(self, figure: go.Figure) -> None:
        """Draw one point per image: noise is low and right, structure high, simplicity low left."""
        labels = np.array(self.classes) if self.classes else None
        random = np.random.default_rng(self.seed)
        points = subsample(len(self.delta), MAX_POINTS, random, labels)
        groups = np.full(len(points), "images")
        if labels is not None and 1 < len(set(self.classes)) <= MAX_COLORED_CLASSES:
            groups = labels[points]
        for i, group in enumerate(sorted(set(groups.tolist()))):
            indices = points[groups == group]
            figure.add_scatter(
                x=self.final_error[indices],
                y=self.delta[indices],
                customdata=indices,
                meta="image",
                mode="markers",
                marker={"color": COLORS[i], "symbol": SYMBOLS[i], "size": 5, "opacity": 0.75},
                name=str(group),
                hovertemplate="#%{customdata}: error %{x:.3~g}, drop %{y:.3~g}<extra></extra>",
                selected=HIGHLIGHT_COLOR,
                row=1,
                col=2,
            )
        figure.update_xaxes(
            title=f"error at {self.max_tokens} tokens", rangemode="tozero", row=1, col=2
        )
        figure.update_yaxes(
            title=f"drop in error from {self.min_tokens} to {self.max_tokens} tokens", row=1, col=2
        )


def marginal_token_value(
    prefixes: np.ndarray,
    prefix_l1: np.ndarray | None = None,
    prefix_mse: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> MarginalTokenValue:
    """Measure the drop in reconstruction error per further token.

    Parameters
    ----------
    prefixes : ndarray of int, shape (n_prefixes,)
        Numbers of first tokens that were decoded alone.
    prefix_l1 : ndarray of float, shape (n_images, n_prefixes), optional
        Mean absolute errors of those, of pixels in [0, 1].
    prefix_mse : ndarray of float, shape (n_images, n_prefixes), optional
        Mean squared errors, used if there are no absolute errors.
    labels : ndarray of int, shape (n_images,), optional
        Classes of the images, which color the points.
    names : tuple of str, optional
        Names of the classes, by label.
    seed : int, default 0
        Seed of the points that are drawn.

    Returns
    -------
    MarginalTokenValue
        Value per token of each step, and the total drop of each image.

    Raises
    ------
    NotApplicable
        If there are no errors, no images, or under two numbers of tokens.
    UserError
        If the errors do not match the prefixes or contain NaN.

    References
    ----------
    KARL, arXiv 2507.07995, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> result = marginal_token_value(np.array([1, 2, 4]), np.array([[0.5, 0.25, 0.125]]))
    >>> [step.value for step in result.steps]
    [0.25, 0.0625]
    """
    counts, errors = _sorted_errors(prefixes, prefix_mse if prefix_l1 is None else prefix_l1)
    steps = []
    for i, (start, end) in enumerate(zip(counts[:-1], counts[1:], strict=True)):
        value, low, high = mean_interval((errors[:, i] - errors[:, i + 1]) / (end - start))
        steps.append(
            TokenStep(
                start=start,
                end=end,
                error=float(errors[:, i + 1].mean()),
                value=value,
                low=low,
                high=high,
            )
        )
    delta = errors[:, 0] - errors[:, -1]
    mean_delta, mean_delta_low, mean_delta_high = mean_interval(delta)
    return MarginalTokenValue(
        steps=tuple(steps),
        delta=delta,
        final_error=errors[:, -1],
        classes=class_names(labels, names, len(errors)),
        absolute=prefix_l1 is not None,
        min_tokens=counts[0],
        max_tokens=counts[-1],
        initial_error=float(errors[:, 0].mean()),
        mean_delta=mean_delta,
        mean_delta_low=mean_delta_low,
        mean_delta_high=mean_delta_high,
        unhelped_share=float((delta < MAX_UNHELPED_DROP * errors[:, 0]).mean()),
        seed=seed,
    )


def _sorted_errors(prefixes: np.ndarray, errors: np.ndarray | None) -> tuple[list[int], np.ndarray]:
    """Return the numbers of tokens in ascending order, and the errors (n, m) in this order."""
    if errors is None:
        raise NotApplicable(
            "The marginal value of tokens needs errors of decoding the first tokens alone;"
            " this evidence has none."
        )
    if errors.ndim != 2 or errors.shape[1] != len(prefixes):
        shape = " × ".join(map(str, errors.shape))
        raise UserError(
            f"The errors have shape {shape}; they need one column for each of {len(prefixes)}"
            " numbers of tokens. Collect the evidence again."
        )
    order = np.argsort(prefixes, kind="stable")
    counts = np.asarray(prefixes)[order].tolist()
    errors = np.asarray(errors, np.float64)[:, order]
    if len(counts) < 2 or not len(errors):
        raise NotApplicable(
            "The marginal value of tokens needs at least one image that was decoded from two"
            " numbers of tokens."
        )
    if not np.isfinite(errors).all():
        raise UserError(
            "The errors contain NaN or infinity. Collect the evidence from an earlier step."
        )
    return counts, errors
