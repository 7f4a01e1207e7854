"""A run's log as a Result: what training brought down, term by term."""

from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.plotting.style import apply_theme
from workbench.core.errors import NotApplicable
from workbench.storage.run import Run

NOT_TERMS = ("step", "time", "lr", "gradient")


@dataclass(frozen=True, eq=False)
class Losses(Result):
    """The objective's terms at every logged step, already weighted: their sum is what the optimiser saw."""

    run: str
    history: pd.DataFrame = field(repr=False)  # step and a column a term

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms."""
        return tuple(name for name in self.history if name != "step")

    def figure(self) -> go.Figure:
        """A line a term."""
        figure = go.Figure()
        for name in self.terms:
            figure.add_scatter(
                x=self.history["step"], y=self.history[name], name=name, mode="lines"
            )
        positive = (self.history[list(self.terms)] > 0).all(axis=None)
        figure.update_yaxes(title="weighted term", type="log" if positive else "linear")
        figure.update_xaxes(title=f"step, of {self.run}")
        figure.update_layout(title="Losses", height=420, showlegend=True)
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row a logged step, one column a term."""
        return self.history

    def summary(self) -> str:
        """Each term at the first and at the last logged step."""
        first, last = self.history.iloc[0], self.history.iloc[-1]
        said = ", ".join(f"{name} {first[name]:.3g} to {last[name]:.3g}" for name in self.terms)
        return f"From step {first['step']:,.0f} to {last['step']:,.0f} the weighted terms went: {said}."


def losses(run: Run) -> Losses:
    """Read a run's log. Raises NotApplicable where nothing has been logged."""
    history = run.history()
    terms = [
        name
        for name in history
        if name not in NOT_TERMS and pd.api.types.is_numeric_dtype(history[name])
    ]
    if not terms:
        raise NotApplicable(f"Losses need a log; {run.name} has none.")
    return Losses(run.name, history[["step", *terms]])
