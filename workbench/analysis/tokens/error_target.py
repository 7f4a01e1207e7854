"""Errors that an adaptive tokenizer reaches, compared with the errors that were requested.

The tokens are compared with perfect halting, where the errors of fixed budgets were collected.

References
----------
KARL, arXiv 2507.07995, table 3.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Result
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.rank_correlation import spearman
from workbench.analysis.tokens.halting import perfect_halting
from workbench.core.errors import NotApplicable, UserError

# Errors above the request by more than each margin are counted.
MARGINS = (0.0, 0.01, 0.02, 0.03)
BAR_PATTERNS = ("", "/", "x", ".")  # distinguish the margins without colors
QUANTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class ErrorRequest:
    """One requested error and its outcome, as mean absolute errors of pixels in [0, 1]."""

    requested: float
    reached: float  # mean over images
    low: float  # 95 % bootstrap interval
    high: float
    tokens: float  # mean over images
    images: int  # images that count
    over: tuple[float, ...]  # fraction of those above the request by more than each margin
    over_low: float  # 95 % bootstrap interval of the first fraction
    over_high: float
    violators: float  # mean error of the images above the request; NaN if there are none
    # Compared with the fewest tokens of the same decoder that meet the request; None if their
    # errors were not collected.
    needed: float | None = None  # mean over images; all tokens where none meet it
    need_correlation: float | None = None  # Spearman, of the tokens and the fewest ones
    avoidable: float | None = None  # fraction of all images: above, where some budget meets it


@dataclass(frozen=True, eq=False, kw_only=True)
class ErrorTarget(Result):
    """Requested and reached errors, in ascending order of the request."""

    requests: tuple[ErrorRequest, ...]
    # Per request, the QUANTILES of the errors of the images that count.
    quantiles: tuple[tuple[float, ...], ...]
    halted: bool
    n: int
    max_tokens: int  # largest number of tokens of any image

    @property
    def has_reference(self) -> bool:
        """True if the errors of fixed budgets were collected."""
        return self.requests[0].needed is not None

    def figure(self) -> go.Figure:
        """Draw reached against requested errors, the fraction of images above, and the tokens."""
        columns = 3 if self.has_reference else 2
        figure = make_subplots(rows=1, cols=columns, horizontal_spacing=0.26 / columns)
        self._add_errors(figure)
        self._add_violations(figure)
        if self.has_reference:
            self._add_tokens(figure)
        images = f"{self.n:,} images"
        if self.halted:
            images += f" with under {self.max_tokens} tokens"
        subtitle = f"n = {images} · reached errors · images above the request"
        if self.has_reference:
            subtitle += " · tokens, next to the fewest of the same decoder that meet the request"
        figure.update_layout(
            title={"text": "Reached and requested errors", "subtitle": {"text": subtitle}},
            height=460,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top", "traceorder": "normal"},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per request: tokens, errors, and fractions above the request."""
        rows = []
        for request in self.requests:
            row = asdict(request)
            for margin, share in zip(MARGINS, row.pop("over"), strict=True):
                row[f"over +{margin:g}" if margin else "over"] = share
            rows.append(row)
        table = pd.DataFrame(rows)
        if self.has_reference:
            return table
        return table.drop(columns=["needed", "need_correlation", "avoidable"])

    def summary(self) -> str:
        """State the tightest and the loosest request, and the request that is missed most."""
        first, last = self.requests[0], self.requests[-1]
        worst = max(self.requests, key=lambda request: request.over[1])
        sentence = (
            f"The reached error is {first.reached:.3g} with {first.tokens:.1f} tokens for a request"
            f" of {first.requested:.3g}"
        )
        if len(self.requests) > 1:
            sentence += (
                f", and {last.reached:.3g} with {last.tokens:.1f} tokens for a request of"
                f" {last.requested:.3g}"
            )
        return (
            f"{sentence} ({self.n:,} images). The request of {worst.requested:.3g} is missed most:"
            f" {100 * worst.over[0]:.0f} % of {worst.images:,} images are above it,"
            f" {100 * worst.over[1]:.0f} % by more than {MARGINS[1]:g}.{self._need_sentence()}"
        )

    def _need_sentence(self) -> str:
        """Compare the tokens with perfect halting, for the request that separates images most."""
        compared = [request for request in self.requests if request.needed is not None]
        if not compared:
            return ""
        middle = min(compared, key=lambda r: abs((r.needed or 0) - self.max_tokens / 2))
        correlation = ""
        if middle.need_correlation is not None:
            correlation = f", rank correlation {middle.need_correlation:.2f}"
        return (
            f" For a request of {middle.requested:.3g}, perfect halting with the same decoder"
            f" spends {middle.needed:.1f} tokens and this tokenizer {middle.tokens:.1f}"
            f"{correlation}; for {100 * (middle.avoidable or 0):.0f} % of the images, the request"
            " is missed although some number of tokens meets it."
        )

    def _add_errors(self, figure: go.Figure) -> None:
        requested = [request.requested for request in self.requests]
        quantiles = np.array(self.quantiles).T
        edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        for low, high, opacity in ((0, 4, 0.2), (1, 3, 0.3)):
            figure.add_scatter(
                x=requested, y=quantiles[high], showlegend=False, row=1, col=1, **edge
            )
            figure.add_scatter(
                x=requested,
                y=quantiles[low],
                fill="tonexty",
                fillcolor=f"rgba(127,127,127,{opacity})",
                name=f"{QUANTILES[high] - QUANTILES[low]} % of the images",
                showlegend=True,
                row=1,
                col=1,
                **edge,
            )
        figure.add_scatter(
            x=requested,
            y=[request.reached for request in self.requests],
            text=[f"{request.tokens:.1f} tokens" for request in self.requests],
            hovertemplate="requested %{x:.3~g}, reached %{y:.3~g} with %{text}<extra></extra>",
            mode="lines+markers",
            line_color=COLORS[0],
            name="mean",
            row=1,
            col=1,
        )
        figure.add_scatter(
            x=[0, requested[-1]],
            y=[0, requested[-1]],
            hoverinfo="skip",
            mode="lines",
            line={"color": COLORS[6], "dash": "dash"},
            name="requested",
            row=1,
            col=1,
        )
        axis = {"rangemode": "tozero"}
        figure.update_xaxes(title="requested error, pixels in [0, 1]", row=1, col=1, **axis)
        figure.update_yaxes(title="reached error", row=1, col=1, **axis)

    def _add_violations(self, figure: go.Figure) -> None:
        for i, (margin, pattern) in enumerate(zip(MARGINS, BAR_PATTERNS, strict=True)):
            figure.add_bar(
                x=[f"{request.requested:.3g}" for request in self.requests],
                y=[100 * request.over[i] for request in self.requests],
                name=f"above by more than {margin:g}" if margin else "above the request",
                marker={"color": COLORS[5 - i], "pattern": {"shape": pattern, "solidity": 0.2}},
                row=1,
                col=2,
            )
        figure.update_xaxes(title="requested error", type="category", row=1, col=2)
        figure.update_yaxes(title="images above the request, %", rangemode="tozero", row=1, col=2)

    def _add_tokens(self, figure: go.Figure) -> None:
        requested = [request.requested for request in self.requests]
        traces = (
            ("tokens spent", [request.tokens for request in self.requests], COLORS[0], "solid"),
            ("perfect halting", [request.needed for request in self.requests], COLORS[6], "dash"),
        )
        for name, tokens, color, dash in traces:
            figure.add_scatter(
                x=requested,
                y=tokens,
                mode="lines+markers",
                line={"color": color, "dash": dash},
                name=name,
                hovertemplate="requested %{x:.3~g}: %{y:.1f} tokens<extra></extra>",
                row=1,
                col=3,
            )
        figure.update_xaxes(title="requested error", rangemode="tozero", row=1, col=3)
        figure.update_yaxes(title="tokens per image", rangemode="tozero", row=1, col=3)


def error_target(
    requested: np.ndarray,
    reached: np.ndarray,
    spent: np.ndarray,
    budgets: np.ndarray | None = None,
    budget_l1: np.ndarray | None = None,
    *,
    halted: bool = False,
) -> ErrorTarget:
    """Compare reached errors with requested errors. All errors are of pixels in [0, 1].

    Parameters
    ----------
    requested : ndarray of float, shape (n_requests,)
        Requested mean absolute errors.
    reached : ndarray of float, shape (n_requests, n_images)
        Errors that were reached.
    spent : ndarray of int, shape (n_requests, n_images)
        Tokens that were spent.
    budgets : ndarray of int, shape (n_budgets,), optional
        Fixed numbers of tokens, for the comparison with perfect halting.
    budget_l1 : ndarray of float, shape (n_budgets, n_images), optional
        Errors with these numbers of tokens.
    halted : bool, default False
        Count only images with fewer tokens than the maximum, as in the table of the paper. The
        others had no more tokens to spend.

    Returns
    -------
    ErrorTarget
        Reached errors, tokens and fraction of images above each request.

    Raises
    ------
    UserError
        If shapes do not match, or errors contain NaN.
    NotApplicable
        If no image counts.

    References
    ----------
    KARL, arXiv 2507.07995, table 3.

    Examples
    --------
    >>> import numpy as np
    >>> result = error_target(np.array([0.05]), np.array([[0.04, 0.07]]), np.array([[2, 4]]))
    >>> result.requests[0].over
    (0.5, 0.5, 0.0, 0.0)
    """
    for name, array in (("reached errors", reached), ("tokens spent", spent)):
        if array.ndim != 2 or len(array) != len(requested) or array.shape != reached.shape:
            shape = " × ".join(map(str, array.shape))
            raise UserError(
                f"The {name} have shape {shape}; they need one row for each of"
                f" {len(requested)} requests and one column per image. Collect the evidence again."
            )
    if not reached.size:
        raise NotApplicable(
            "The analysis of error targets needs at least one request and one image;"
            " this evidence has none."
        )
    errors = np.asarray(reached, np.float64)
    tokens = np.asarray(spent)
    if not np.isfinite(errors).all():
        raise UserError(
            "The reached errors contain NaN or infinity. Collect the evidence from an earlier step."
        )
    max_tokens = int(tokens.max())
    reference = None
    if budgets is not None and budget_l1 is not None:
        reference = perfect_halting(requested, budgets, budget_l1)
        max_tokens = max(max_tokens, int(budgets.max()))
    requests: list[ErrorRequest] = []
    quantiles: list[tuple[float, ...]] = []
    for i in np.argsort(requested, kind="stable"):
        counts = tokens[i] < max_tokens if halted else np.ones(len(errors[i]), bool)
        if not counts.any():
            continue
        request = _request(float(requested[i]), errors[i][counts], tokens[i][counts])
        if reference is not None:
            request = _compare(
                request,
                is_above=(errors[i] > requested[i])[counts],
                spent=tokens[i][counts],
                needed=reference.needed[i][counts],
                reachable=reference.reachable[i][counts],
            )
        requests.append(request)
        quantiles.append(tuple(np.percentile(errors[i][counts], QUANTILES).tolist()))
    if not requests:
        raise NotApplicable(
            "The analysis of error targets of halted images needs an image with under"
            f" {max_tokens} tokens."
        )
    return ErrorTarget(
        requests=tuple(requests),
        quantiles=tuple(quantiles),
        halted=halted,
        n=errors.shape[1],
        max_tokens=max_tokens,
    )


def _request(requested: float, errors: np.ndarray, tokens: np.ndarray) -> ErrorRequest:
    is_above = errors > requested
    reached, low, high = mean_interval(errors)
    _, over_low, over_high = mean_interval(is_above.astype(float))
    return ErrorRequest(
        requested=requested,
        reached=reached,
        low=low,
        high=high,
        tokens=float(tokens.mean()),
        images=len(errors),
        over=tuple(float((errors > requested + margin).mean()) for margin in MARGINS),
        over_low=over_low,
        over_high=over_high,
        violators=float(errors[is_above].mean()) if is_above.any() else float("nan"),
    )


def _compare(
    request: ErrorRequest,
    *,
    is_above: np.ndarray,
    spent: np.ndarray,
    needed: np.ndarray,
    reachable: np.ndarray,
) -> ErrorRequest:
    """Add the comparison with perfect halting."""
    correlation = None
    if np.ptp(spent) and np.ptp(needed):
        correlation = float(spearman(spent[:, None].astype(float), needed.astype(float))[0])
    return replace(
        request,
        needed=float(needed.mean()),
        need_correlation=correlation,
        avoidable=float((is_above & reachable).mean()),
    )
