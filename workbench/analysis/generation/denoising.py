"""Where along the path from data to noise a generator errs: its loss at each time."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.core.errors import NotApplicable, UserError


@dataclass(frozen=True, eq=False)
class DenoisingLoss(Result):
    """A generator's loss by time. It compares checkpoints on one latent space, never two latent spaces."""

    times: np.ndarray = field(repr=False)  # (m,) in [0, 1], rising; 0 is data, 1 is noise
    loss: np.ndarray = field(repr=False)  # (m,) mean squared error of the network's target
    mean: float  # over the times
    hardest: float  # the time of the highest loss
    highest: float
    easiest: float
    lowest: float

    def figure(self) -> go.Figure:
        """Loss against time."""
        figure = go.Figure()
        hover = "t = %{x:.3g}: %{y:.4g}<extra></extra>"
        line = {
            "mode": "lines+markers",
            "line_color": COLORS[0],
            "name": "loss",
            "hovertemplate": hover,
        }
        figure.add_scatter(x=self.times, y=self.loss, **line)
        mean = {
            "mode": "lines",
            "line": {"color": COLORS[6], "dash": "dash"},
            "name": "mean over the times",
        }
        figure.add_scatter(x=[0, 1], y=[self.mean] * 2, **mean)
        figure.update_xaxes(title="time, 0 is data and 1 is noise", range=[-0.02, 1.02])
        figure.update_yaxes(title="mean squared error of the target", rangemode="tozero")
        said = f"mean {self.mean:.4g} over {len(self.times)} times · compare checkpoints, not latent spaces"
        figure.update_layout(
            title={"text": "Denoising loss", "subtitle": {"text": said}}, height=420
        )
        return apply_theme(
            figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
        )

    def table(self) -> pd.DataFrame:
        """One row a time: the loss, and how many times the mean that is."""
        over = self.loss / self.mean if self.mean else np.ones(len(self.loss))
        return pd.DataFrame({"time": self.times, "loss": self.loss, "over_mean": over})

    def summary(self) -> str:
        """The mean loss, and the times where it is highest and lowest."""
        return (
            f"The denoising loss is {self.mean:.4g} over {len(self.times)} time{'s' if len(self.times) > 1 else ''}:"
            f" highest at t = {self.hardest:.3g} ({self.highest:.4g}), lowest at t = {self.easiest:.3g}"
            f" ({self.lowest:.4g}); t = 0 is data."
        )


def denoising_loss(loss_times: np.ndarray, loss_by_time: np.ndarray) -> DenoisingLoss:
    """Lay out a generator's loss (m,) at times (m,) between data, 0, and noise, 1.

    Raises UserError where the two differ in length, times lie outside [0, 1] or the loss holds NaN, NotApplicable
    where there is none.
    """
    times, loss = (np.asarray(x, np.float64) for x in (loss_times, loss_by_time))
    if len(times) != len(loss):
        raise UserError(f"There are {len(loss)} losses for {len(times)} times; collect them again.")
    if not len(times):
        raise NotApplicable("Denoising loss needs at least one time; this evidence has none.")
    if not np.isfinite(loss).all():
        raise UserError("The loss is NaN or infinite at some time. Collect from an earlier step.")
    if not 0 <= times.min() <= times.max() <= 1:
        raise UserError(f"Times lie in [0, 1]; these run from {times.min():g} to {times.max():g}.")
    order = np.argsort(times, kind="stable")
    times, loss = times[order], loss[order]
    worst, best = int(loss.argmax()), int(loss.argmin())
    ends = (float(times[worst]), float(loss[worst]), float(times[best]), float(loss[best]))
    return DenoisingLoss(times, loss, float(loss.mean()), *ends)
