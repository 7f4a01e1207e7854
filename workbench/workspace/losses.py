"""The log of a run as a `Result`: the terms of the objective during training."""

from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.plotting.style import apply_theme
from workbench.core.errors import NotApplicable
from workbench.storage.run import Run
from workbench.workspace.run_snapshot import NOT_TERMS


@dataclass(frozen=True, eq=False)
class Losses(Result):
    """The terms of the objective at every logged step.

    Attributes
    ----------
    run : str
        Name of the run.
    history : DataFrame
        The column `step`, and one column per term. Terms are already weighted: their sum is
        the loss that the optimizer minimizes.
    """

    run: str
    history: pd.DataFrame = field(repr=False)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms."""
        return tuple(str(name) for name in self.history if name != "step")

    def figure(self) -> go.Figure:
        """Draw one line per term."""
        figure = go.Figure()
        steps = self.history["step"]
        for name in self.terms:
            figure.add_scatter(x=steps, y=self.history[name], name=name, mode="lines")
        is_positive = (self.history[list(self.terms)] > 0).all(axis=None)
        figure.update_yaxes(title="weighted term", type="log" if is_positive else "linear")
        figure.update_xaxes(title=f"step of {self.run}")
        figure.update_layout(title="Losses", height=420, showlegend=True)
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row per logged step, one column per term."""
        return self.history

    def summary(self) -> str:
        """Each term at the first and at the last logged step."""
        first, last = self.history.iloc[0], self.history.iloc[-1]
        changes = ", ".join(f"{name} {first[name]:.3g} to {last[name]:.3g}" for name in self.terms)
        steps = f"From step {first['step']:,.0f} to {last['step']:,.0f}"
        return f"{steps} the weighted terms changed: {changes}."


def losses(run: Run) -> Losses:
    """Read the log of a run.

    Raises
    ------
    NotApplicable
        If nothing has been logged.
    """
    history = run.history()
    terms = [
        name
        for name in history
        if name not in NOT_TERMS and pd.api.types.is_numeric_dtype(history[name])
    ]
    if not terms:
        raise NotApplicable(f"{run.name} has no log, which losses need.")
    return Losses(run=run.name, history=history[["step", *terms]])
