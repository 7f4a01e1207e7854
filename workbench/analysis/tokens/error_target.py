"""Whether an adaptive tokenizer keeps to the error it was asked for: KARL's table 3 (arXiv 2507.07995)."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Result
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError

PATTERNS = ("", "/", "x", ".")  # of the bars, so that they are told apart without their colours
MARGINS = (0.0, 0.01, 0.02, 0.03)  # above the request: how far an error may be off before it counts
QUANTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Request:
    """One requested error, and what came of it. Errors are mean absolute differences of pixels in [0, 1]."""

    requested: float
    reached: float  # mean over images
    low: float  # 95 % bootstrap interval
    high: float
    tokens: float  # mean over images
    judged: int  # images that count
    over: tuple[float, ...]  # share of those above the request by more than each margin
    over_low: float  # 95 % bootstrap interval of the first of them
    over_high: float
    violators: float  # mean error of those above the request; NaN where there is none


@dataclass(frozen=True, eq=False)
class ErrorOnRequest(Result):
    """Requested against reached errors, rising in the request."""

    requests: tuple[Request, ...]
    spread: tuple[
        tuple[float, ...], ...
    ]  # of each request, the quantiles of the errors reached by images that count
    halted: bool
    n: int
    most: int  # tokens: the largest number any image was given

    def figure(self) -> go.Figure:
        """Reached against requested errors, and the share of images that miss by each margin."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.13)
        asked = [r.requested for r in self.requests]
        spread = np.array(self.spread).T
        edge = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
        for low, high, shade in ((0, 4, 0.2), (1, 3, 0.3)):
            name = f"{QUANTILES[high] - QUANTILES[low]} % of the images"
            fill = {
                "fill": "tonexty",
                "fillcolor": f"rgba(127,127,127,{shade})",
                "showlegend": True,
                "name": name,
            }
            figure.add_scatter(x=asked, y=spread[high], **edge, row=1, col=1)
            figure.add_scatter(x=asked, y=spread[low], **{**edge, **fill}, row=1, col=1)
        look = {"mode": "lines+markers", "line_color": COLORS[0], "name": "mean"}
        tokens = [f"{r.tokens:.1f} tokens" for r in self.requests]
        hover = "asked %{x:.3g}, reached %{y:.3g} with %{text}<extra></extra>"
        reached = [r.reached for r in self.requests]
        figure.add_scatter(
            x=asked, y=reached, text=tokens, hovertemplate=hover, **look, row=1, col=1
        )
        line = {"mode": "lines", "line": {"color": COLORS[6], "dash": "dash"}, "name": "as asked"}
        figure.add_scatter(
            x=[0, asked[-1]], y=[0, asked[-1]], hoverinfo="skip", **line, row=1, col=1
        )
        figure.update_xaxes(
            title="requested error, pixels in [0, 1]", rangemode="tozero", row=1, col=1
        )
        figure.update_yaxes(title="reached error", rangemode="tozero", row=1, col=1)
        for i, (margin, pattern) in enumerate(zip(MARGINS, PATTERNS, strict=True)):
            share = [100 * r.over[i] for r in self.requests]
            name = f"by more than {margin:g}" if margin else "at all"
            look = {"color": COLORS[5 - i], "pattern": {"shape": pattern, "solidity": 0.2}}
            figure.add_bar(
                x=[f"{x:.3g}" for x in asked], y=share, name=name, marker=look, row=1, col=2
            )
        figure.update_xaxes(title="requested error", type="category", row=1, col=2)
        figure.update_yaxes(title="images above it, %", rangemode="tozero", row=1, col=2)
        which = f"that were given under {self.most} tokens" if self.halted else "of any length"
        said = f"n = {self.n:,} images {which} · left: errors reached; right: the request missed"
        figure.update_layout(
            title={"text": "Error on request", "subtitle": {"text": said}}, height=460
        )
        return apply_theme(
            figure.update_layout(
                legend={"orientation": "h", "y": -0.2, "yanchor": "top", "traceorder": "normal"}
            )
        )

    def table(self) -> pd.DataFrame:
        """One row a request: tokens, errors, and the shares of images above the request by each margin."""
        rows = []
        for request in self.requests:
            row = asdict(request)
            over = {
                f"over +{m:g}" if m else "over": x
                for m, x in zip(MARGINS, row.pop("over"), strict=True)
            }
            rows.append(row | over)
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """The tightest and the loosest request, and how often the worst one is missed by more than 0.01."""
        first, last = self.requests[0], self.requests[-1]
        worst = max(self.requests, key=lambda r: r.over[1])
        said = f"Asked for an error of {first.requested:.3g}, it reached {first.reached:.3g} with {first.tokens:.1f}"
        said += " tokens"
        if len(self.requests) > 1:
            said += f"; asked for {last.requested:.3g}, {last.reached:.3g} with {last.tokens:.1f}"
        return (
            f"{said} ({self.n:,} images). At worst, asked for {worst.requested:.3g}, {100 * worst.over[0]:.0f} % of"
            f" {worst.judged:,} images miss it, {100 * worst.over[1]:.0f} % by more than 0.01."
        )


def error_target(
    requested: np.ndarray, reached: np.ndarray, spent: np.ndarray, *, halted: bool = False
) -> ErrorOnRequest:
    """Hold errors reached (m, n), with the tokens spent (m, n), against those requested (m,), pixels in [0, 1].

    With `halted` only images count that were given fewer tokens than the most any image was: the others had no more to
    spend, as in the paper's table. Raises UserError where the shapes do not fit, NotApplicable without images.
    """
    m = len(requested)
    for name, array in (("reached errors", reached), ("tokens spent", spent)):
        if array.ndim != 2 or len(array) != m or array.shape != reached.shape:
            shape = " × ".join(map(str, array.shape))
            raise UserError(
                f"The {name} are {shape}; {m} requests × images would be right. Collect them again."
            )
    if not reached.size:
        raise NotApplicable(
            "Error on request needs at least one request and one image; this evidence has none."
        )
    errors, tokens = np.asarray(reached, np.float64), np.asarray(spent)
    if not np.isfinite(errors).all():
        raise UserError("The reached errors hold NaN or infinity. Collect from an earlier step.")
    most, requests, spread = int(tokens.max()), [], []
    for i in np.argsort(requested, kind="stable"):
        counted = tokens[i] < most if halted else np.ones(len(errors[i]), bool)
        if counted.any():
            requests.append(_request(float(requested[i]), errors[i][counted], tokens[i][counted]))
            spread.append(tuple(np.percentile(errors[i][counted], QUANTILES).tolist()))
    if not requests:
        raise NotApplicable(
            f"Error on request, halted only, needs an image that was given under {most} tokens."
        )
    return ErrorOnRequest(tuple(requests), tuple(spread), halted, errors.shape[1], most)


def _request(requested: float, errors: np.ndarray, tokens: np.ndarray) -> Request:
    above = errors > requested
    violators = float(errors[above].mean()) if above.any() else float("nan")
    over = tuple(float((errors > requested + margin).mean()) for margin in MARGINS)
    low, high = mean_interval(above.astype(float))[1:]
    return Request(
        requested, *mean_interval(errors), float(tokens.mean()), len(errors), over, low, high, violators
    )  # fmt: skip
