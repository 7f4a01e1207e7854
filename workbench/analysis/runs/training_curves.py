"""Curves of training of several runs: loss, held-out loss, codebook, optimizer, speed and memory.

They are read from the logs, so that a run that is being trained and has no evidence yet is drawn
too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.core.counted import counted
from workbench.core.errors import NotApplicable
from workbench.storage.training_log import TrainingLog

X = Literal["step", "images", "minutes"]
Terms = Literal["without multipliers", "as optimized"]
MAX_SUMMARIZED_RUNS = 5
MAX_SMOOTHING = 0.99
BYTES_PER_GB = 1e9
HELD_OUT_SUFFIX = ", held-out"
LOSS = "loss"


@dataclass(frozen=True, kw_only=True)
class TrainingCurve:
    """One logged number of one run."""

    run: str
    name: str  # as on the screen
    panel: str  # curves of one panel share their axes
    unit: str
    is_held_out: bool
    steps: np.ndarray
    x: np.ndarray  # steps, images or minutes
    values: np.ndarray
    smoothed: np.ndarray  # empty without smoothing


@dataclass(frozen=True, kw_only=True)
class TrainingCurves(Result):
    """Logged numbers of the runs over training."""

    curves: tuple[TrainingCurve, ...]
    runs: tuple[str, ...]
    x: X
    log: bool
    terms: Terms

    @property
    def panels(self) -> tuple[str, ...]:
        """The titles of the panels, those of the loss first."""
        return tuple(dict.fromkeys(curve.panel for curve in self.curves))

    @property
    def loss_panels(self) -> tuple[str, ...]:
        """The panels of the loss: one for all runs whose objectives have a term in common."""
        return tuple(dict.fromkeys(curve.panel for curve in self.curves if curve.name == LOSS))

    def table(self) -> pd.DataFrame:
        """Return one row per run and curve: first, last, smallest and largest value."""
        rows = []
        for curve in self.curves:
            finite = curve.values[np.isfinite(curve.values)]
            if not len(finite):
                continue
            rows.append(
                {
                    "run": curve.run,
                    "curve": curve.name,
                    "unit": curve.unit,
                    "first": finite[0],
                    "last": finite[-1],
                    "min": finite.min(),
                    "step_of_min": int(curve.steps[np.nanargmin(curve.values)]),
                    "max": finite.max(),
                    "last_step": int(curve.steps[-1]),
                }
            )
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State the last loss of each run, its held-out loss and its use of the codebook."""
        sentences = [self._run_summary(run) for run in self.runs[:MAX_SUMMARIZED_RUNS]]
        if len(self.runs) > MAX_SUMMARIZED_RUNS:
            rest = counted(len(self.runs) - MAX_SUMMARIZED_RUNS, "more run")
            sentences.append(f"The table has {rest}.")
        return " ".join(sentences)

    def _run_summary(self, run: str) -> str:
        of_run = {curve.name: curve for curve in self.curves if curve.run == run}
        loss = of_run[LOSS]
        text = f"{run}: after {loss.steps[-1]:,.0f} steps the loss is {loss.values[-1]:#.3g}"
        held_out = of_run.get(f"{LOSS}{HELD_OUT_SUFFIX}")
        if held_out is not None:
            text += f", {held_out.values[-1]:#.3g} on held-out items"
        if "codes in use" in of_run:
            used = of_run["codes in use"].values[-1]
            perplexity = of_run["perplexity"].values[-1]
            text += f", with {used:,.0f} codes in use (perplexity {perplexity:,.0f})"
        return f"{text}."


def training_curves(
    training_logs: Sequence[TrainingLog],
    *,
    x: X = "step",
    smoothing: Annotated[float, Range(0, MAX_SMOOTHING, step=0.01)] = 0.0,
    log: bool = False,
    terms: Terms = "without multipliers",
) -> TrainingCurves:
    """Draw what was logged while the runs were trained.

    Parameters
    ----------
    training_logs : sequence of TrainingLog
        The logs of the runs.
    x : {"step", "images", "minutes"}, default "step"
        The horizontal axis: optimizer steps, training images, or minutes of training without
        pauses.
    smoothing : float, default 0
        Weight of the past in an exponential moving average, in [0, 0.99].
    log : bool, default False
        Use logarithmic axes where all values are positive.
    terms : {"without multipliers", "as optimized"}, default "without multipliers"
        Divide each term by the multiplier that was set during training, or show it as the
        optimizer received it. A change of a multiplier otherwise looks like a jump of the loss.

    Returns
    -------
    TrainingCurves
        One curve per run and logged number.

    Raises
    ------
    NotApplicable
        If nothing was logged.

    Examples
    --------
    >>> log = TrainingLog(run="a", records=({"step": 10, "pixel": 0.5}, {"step": 20, "pixel": 0.4}))
    >>> training_curves([log]).summary()
    'a: after 20 steps the loss is 0.400.'
    """
    logs = [item for item in training_logs if item.terms]
    if not logs:
        raise NotApplicable("No selected run has a log of training.")
    curves: list[TrainingCurve] = []
    for item, loss_panel in zip(logs, _loss_panels(logs), strict=True):
        curves += _curves_of_run(item, loss_panel, x=x, smoothing=smoothing, terms=terms)
    order = {panel: i for i, panel in enumerate(_panel_order(curves))}
    curves.sort(key=lambda curve: order[curve.panel])  # stable: runs stay in their order
    return TrainingCurves(
        curves=tuple(curves),
        runs=tuple(item.run for item in logs),
        x=x,
        log=log,
        terms=terms,
    )


def smooth(values: np.ndarray, smoothing: float) -> np.ndarray:
    """Return an exponential moving average without bias to the first value; empty for 0."""
    if not smoothing:
        return values[:0]
    return pd.Series(values).ewm(alpha=1 - smoothing).mean().to_numpy()


def term_values(log: TrainingLog, term: str, terms: Terms) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of a term; NaN where its multiplier is 0."""
    steps, values = log.series(term)
    if terms == "as optimized":
        return steps, values
    multipliers = log.multipliers(term, steps)
    multipliers[multipliers == 0] = np.nan
    return steps, values / multipliers


def total_loss(
    log: TrainingLog, terms: Terms = "without multipliers"
) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of the sum of all terms."""
    return sum_of_terms(lambda term: term_values(log, term, terms), log.terms)


def held_out_loss(log: TrainingLog, without: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of the loss on held-out items; both are empty without one.

    Parameters
    ----------
    log : TrainingLog
        The training log.
    without : sequence of str
        Terms to leave out.
    """
    return sum_of_terms(log.held_out, [t for t in log.held_out_terms if t not in without])


def sum_of_terms(
    series: Callable[[str], tuple[np.ndarray, np.ndarray]], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of the sum of some terms.

    Parameters
    ----------
    series : callable
        Returns steps and values of a term.
    names : sequence of str
        The terms.
    """
    columns = {}
    for name in names:
        steps, values = series(name)
        columns[name] = pd.Series(values, index=steps).groupby(level=0).last()
    if not columns:
        return np.zeros(0), np.zeros(0)
    # A term that starts later, such as an adversarial one, counts as 0 before.
    total = pd.DataFrame(columns).fillna(0.0).sum(axis=1)
    return total.index.to_numpy(float), total.to_numpy(float)


def x_positions(log: TrainingLog, steps: np.ndarray, x: X) -> np.ndarray:
    """Return steps as positions on the horizontal axis; NaN if times were not logged.

    Parameters
    ----------
    log : TrainingLog
        The training log.
    steps : ndarray of float, shape (n,)
        Training steps.
    x : {"step", "images", "minutes"}
        Unit of the horizontal axis.

    Returns
    -------
    ndarray of float, shape (n,)
    """
    if x == "images":
        return steps * _batch_size(log)
    if x == "minutes":
        return log.seconds(steps) / 60
    return steps


def _batch_size(log: TrainingLog) -> float:
    return float(log.training.get("batch_size", 1))


def _loss_panels(logs: Sequence[TrainingLog]) -> list[str]:
    """Return the panel of the loss of each run.

    The losses of a tokenizer and of a generator are different quantities. Runs whose objectives
    have a term in common, if only through other runs, share a panel.
    """
    groups: list[set[str]] = []
    for log in logs:
        connected = [group for group in groups if not group.isdisjoint(log.terms)]
        groups = [group for group in groups if group.isdisjoint(log.terms)]
        groups.append(set(log.terms).union(*connected))
    if len(groups) == 1:
        return [LOSS] * len(logs)
    titles = []
    for log in logs:
        members = next(group for group in groups if not group.isdisjoint(log.terms))
        first = next(other for other in logs if not members.isdisjoint(other.terms))
        titles.append(f"{LOSS} of {' + '.join(first.terms).replace('_', ' ')}")
    return titles


def _curves_of_run(
    log: TrainingLog, loss_panel: str, *, x: X, smoothing: float, terms: Terms
) -> list[TrainingCurve]:
    batch_size = _batch_size(log)
    curves = []

    def add(
        name: str, series: tuple[np.ndarray, ...], unit: str = "", panel: str | None = None
    ) -> None:
        is_known = np.isfinite(series[1])
        if not is_known.any():
            return
        steps, values = series[0][is_known], series[1][is_known]
        curves.append(
            TrainingCurve(
                run=log.run,
                name=name,
                panel=panel or name,
                unit=unit,
                is_held_out=name.endswith(HELD_OUT_SUFFIX),
                steps=steps,
                x=x_positions(log, steps, x),
                values=values,
                smoothed=smooth(values, smoothing),
            )
        )

    add(LOSS, total_loss(log, terms), panel=loss_panel)
    add(f"{LOSS}{HELD_OUT_SUFFIX}", held_out_loss(log), panel=loss_panel)
    for term in log.terms if len(log.terms) > 1 else ():
        title = term.replace("_", " ")
        add(title, term_values(log, term, terms))
        add(f"{title}{HELD_OUT_SUFFIX}", log.held_out(term), panel=title)
    add("codes in use", log.series("codes_used"))
    add("perplexity", log.series("perplexity"))
    add("learning rate", log.series("lr"))
    add("gradient norm", log.series("gradient"))
    add("images per second", _speed(log, batch_size))
    steps, memory = log.series("memory_bytes")
    add("peak memory", (steps, memory / BYTES_PER_GB), "GB")
    return curves


def _speed(log: TrainingLog, batch_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images per second between each record and the one before."""
    steps, _ = log.series("time")
    seconds = log.seconds(steps)
    durations = np.diff(seconds)
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = batch_size * np.diff(steps) / durations
    speed[~np.isfinite(speed)] = np.nan
    return steps[1:], speed


def _panel_order(curves: Sequence[TrainingCurve]) -> list[str]:
    """Return the panels in the order of the first run that has them: losses, terms, the rest."""
    losses = [curve.panel for curve in curves if curve.name == LOSS]
    panels = list(dict.fromkeys([*losses, *(curve.panel for curve in curves)]))
    rest = (
        "codes in use",
        "perplexity",
        "learning rate",
        "gradient norm",
        "images per second",
        "peak memory",
    )
    return [p for p in panels if p not in rest] + [p for p in rest if p in panels]
