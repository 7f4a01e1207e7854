"""Loss of a generator by its time on the path from data to noise."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.core.counted import counted
from workbench.core.errors import NotApplicable, UserError


@dataclass(frozen=True, eq=False, kw_only=True)
class DenoisingLoss(Result):
    """Loss by time. It is comparable between checkpoints on one latent space only."""

    times: np.ndarray = field(repr=False)  # (m,), ascending in [0, 1]; 0 is data, 1 is noise
    loss: np.ndarray = field(repr=False)  # (m,): mean squared error of the prediction target
    mean: float  # over the times
    hardest_time: float  # time of the highest loss
    max_loss: float
    easiest_time: float  # time of the lowest loss
    min_loss: float

    def figure(self) -> go.Figure:
        """Draw loss by time."""
        figure = go.Figure()
        figure.add_scatter(
            x=self.times,
            y=self.loss,
            mode="lines+markers",
            line_color=COLORS[0],
            name="loss",
            hovertemplate="t = %{x:.3~g}: %{y:.4~g}<extra></extra>",
        )
        figure.add_scatter(
            x=[0, 1],
            y=[self.mean] * 2,
            mode="lines",
            line={"color": COLORS[6], "dash": "dash"},
            name="mean over the times",
        )
        figure.update_xaxes(title="time (0 is data, 1 is noise)", range=[-0.02, 1.02])
        figure.update_yaxes(title="mean squared error of the target", rangemode="tozero")
        subtitle = (
            f"mean {self.mean:.4g} over {len(self.times)} times"
            " · comparable between checkpoints, not between latent spaces"
        )
        figure.update_layout(
            title={"text": "Denoising loss by time", "subtitle": {"text": subtitle}},
            height=420,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per time: the loss, and its ratio to the mean."""
        ratio = self.loss / self.mean if self.mean else np.ones(len(self.loss))
        return pd.DataFrame({"time": self.times, "loss": self.loss, "over_mean": ratio})

    def summary(self) -> str:
        """State the mean loss, and the times of the highest and the lowest loss."""
        times = counted(len(self.times), "time")
        return (
            f"The mean denoising loss is {self.mean:.4g} over {times}. It is highest at t ="
            f" {self.hardest_time:.3g} ({self.max_loss:.4g}) and lowest at t ="
            f" {self.easiest_time:.3g} ({self.min_loss:.4g}), where t = 0 is data."
        )


def denoising_loss(loss_times: np.ndarray, loss_by_time: np.ndarray) -> DenoisingLoss:
    """Describe a generator's loss at times between data and noise.

    Parameters
    ----------
    loss_times : ndarray of float, shape (m,)
        Times in [0, 1]; 0 is data and 1 is noise.
    loss_by_time : ndarray of float, shape (m,)
        Mean loss on held-out images at those times.

    Returns
    -------
    DenoisingLoss
        The losses in ascending order of time, and the extremes.

    Raises
    ------
    UserError
        If the arrays differ in length, a time is outside [0, 1], or a loss is NaN.
    NotApplicable
        If there are no times.

    Examples
    --------
    >>> import numpy as np
    >>> result = denoising_loss(np.array([0.75, 0.25]), np.array([1.0, 3.0]))
    >>> result.hardest_time, result.mean
    (0.25, 2.0)
    """
    times = np.asarray(loss_times, np.float64)
    loss = np.asarray(loss_by_time, np.float64)
    if len(times) != len(loss):
        raise UserError(
            f"There are {len(loss)} losses for {len(times)} times. Collect the evidence again."
        )
    if not len(times):
        raise NotApplicable("Denoising loss needs at least one time; this evidence has none.")
    if not np.isfinite(loss).all():
        raise UserError(
            "The denoising loss contains NaN or infinity."
            " Collect the evidence from an earlier step."
        )
    if not 0 <= times.min() <= times.max() <= 1:
        raise UserError(
            f"Times must be in [0, 1]; these range from {times.min():g} to {times.max():g}."
        )
    order = np.argsort(times, kind="stable")
    times, loss = times[order], loss[order]
    hardest, easiest = int(loss.argmax()), int(loss.argmin())
    return DenoisingLoss(
        times=times,
        loss=loss,
        mean=float(loss.mean()),
        hardest_time=float(times[hardest]),
        max_loss=float(loss[hardest]),
        easiest_time=float(times[easiest]),
        min_loss=float(loss[easiest]),
    )
