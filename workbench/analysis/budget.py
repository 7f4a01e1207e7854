"""What quality costs: reconstruction against the number of tokens, of every run at once.

A run answers for the tokens it was trained with and, where its decoder can, for the first few of them alone.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.intervals import mean_interval
from workbench.analysis.reconstruction import decibels, errors
from workbench.analysis.result import Result
from workbench.analysis.style import COLOURS, themed
from workbench.errors import NotApplicable
from workbench.evidence import Evidence

Metric = Literal["psnr", "mse"]
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


@dataclass(frozen=True)
class Point:
    """One run at one number of tokens."""

    run: str
    tokenizer: str  # its class, without the module
    kind: str  # "trained" at this many tokens, or the first tokens as a "prefix"
    tokens: int
    value: float  # mean over images: dB, or squared error of pixels in [0, 1]
    low: float  # 95 % bootstrap interval of the mean
    high: float
    bits: float  # of an image's codes: tokens * log2(codes); NaN where tokens are not discrete
    frontier: bool = False  # no point has as few tokens and does better


@dataclass(frozen=True)
class TokenBudget(Result):
    """Quality against tokens, with the runs that could not be compared."""

    points: tuple[Point, ...]
    metric: Metric
    n: int  # images
    left_out: tuple[str, ...]  # runs on other images

    def figure(self) -> go.Figure:
        """Trained runs of a class joined by a line, the prefixes of one run by a dashed one."""
        figure = go.Figure()
        for i, name in enumerate(dict.fromkeys(p.tokenizer for p in self.points)):
            colour, symbol = COLOURS[i % 6], SYMBOLS[i % 6]
            mine = [p for p in self.points if p.tokenizer == name]
            look = {"marker": {"color": colour, "symbol": symbol, "size": 9}, "line_color": colour}
            figure.add_trace(_line([p for p in mine if p.kind == "trained"], name=name, **look))
            look["marker"] = {**look["marker"], "symbol": f"{symbol}-open"}
            for run in dict.fromkeys(p.run for p in mine if p.kind == "prefix"):
                prefixes = [p for p in mine if p.kind == "prefix" and p.run == run]
                figure.add_trace(_line(prefixes, name=f"{run}, its first tokens", line_dash="dash", **look))
        tokens = sorted({p.tokens for p in self.points})
        ends = [math.log10(tokens[0]) - 0.08, math.log10(tokens[-1]) + 0.08]
        doublings = {"tickvals": [2**i for i in range(tokens[-1].bit_length() + 1)]}
        figure.update_xaxes(title="tokens an image", type="log", range=ends, minor_showgrid=False, **doublings)
        figure.update_yaxes(title="PSNR, dB" if self.metric == "psnr" else "squared error, pixels in [0, 1]")
        left = f" · left out, other images: {len(self.left_out)}" if self.left_out else ""
        subtitle = f"n = {self.n:,} held-out images · bars: 95 % bootstrap intervals{left}"
        better = "higher is better" if self.metric == "psnr" else "lower is better"
        figure.update_layout(title={"text": f"Token budget, {better}", "subtitle": {"text": subtitle}}, height=460)
        return themed(figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.2, "yanchor": "top"}))

    def table(self) -> pd.DataFrame:
        """One row for each run and number of tokens; `value` is the metric's mean over images."""
        table = pd.DataFrame([asdict(p) for p in self.points]).rename(columns={"value": self.metric})
        return table.astype({"tokens": "int64"})

    def summary(self) -> str:
        """The best at the fewest and at the most tokens, and which runs were left out."""
        sentence = f"{self._trend()} ({self.n:,} held-out images)."
        if self.left_out:
            sentence += f" Left out, being measured on other images: {', '.join(self.left_out)}."
        return sentence

    def _trend(self) -> str:
        trained = [p for p in self.points if p.kind == "trained" and not math.isnan(p.value)]
        name = "PSNR" if self.metric == "psnr" else "Mean squared error"
        if not trained:
            return f"{name} is not a number in any run"
        few, many = (self._best(trained, ends(p.tokens for p in trained)) for ends in (min, max))
        if few.tokens == many.tokens:
            return f"{name} is {self._text(many.value)} at {_count(many.tokens)}"
        verb = "rises" if many.value > few.value else "falls"
        start, end = (f"{self._text(p.value)} at {_count(p.tokens)}" for p in (few, many))
        return f"{name} {verb} from {start} to {end}"

    def _best(self, points: Sequence[Point], tokens: int) -> Point:
        return max((p for p in points if p.tokens == tokens), key=lambda p: _goodness(p, self.metric))

    def _text(self, value: float) -> str:
        return f"{value:.1f} dB" if self.metric == "psnr" else f"{value:.4f}"


def token_budget(evidences: Sequence[Evidence], *, metric: Metric = "psnr", prefixes: bool = True) -> TokenBudget:
    """Compare runs by what their tokens buy, with `prefixes` also the first tokens of each that can decode them.

    PSNR is an image's own, averaged. Runs on other images than the first are left out and named. Raises
    NotApplicable where no run has images, reconstructions and latents.
    """
    whole = [e for e in evidences if not any(x is None or not len(x) for x in (e.images, e.reconstructions, e.latents))]
    if not whole:
        raise NotApplicable("Token budget needs images, reconstructions and latents; no selected run has all three.")
    reference = whole[0].provenance.get("fingerprint")
    same = [e for e in whole if e.provenance.get("fingerprint") == reference]
    left_out = tuple(e.run for e in whole if e.provenance.get("fingerprint") != reference)
    points = [point for e in same for point in _points(e, metric, prefixes)]
    points.sort(key=lambda p: (p.tokenizer, p.kind != "trained", p.run if p.kind == "prefix" else "", p.tokens, p.run))
    marked = tuple(_marked(p, points, metric) for p in points)
    return TokenBudget(marked, metric, len(same[0].images), left_out)


def _points(evidence: Evidence, metric: Metric, prefixes: bool) -> list[Point]:
    measured = [("trained", evidence.latents.shape[1], errors(evidence.images, evidence.reconstructions)[0])]
    if prefixes and evidence.prefixes is not None and evidence.prefix_mse is not None:
        for tokens, mse in zip(evidence.prefixes, np.asarray(evidence.prefix_mse, np.float64).T, strict=True):
            measured.append(("prefix", int(tokens), mse))
    tokenizer = str(evidence.provenance.get("class", evidence.run)).rpartition(":")[-1]
    return [
        Point(evidence.run, tokenizer, kind, tokens, *_mean(mse, metric), bits=tokens * _bits_a_token(evidence))
        for kind, tokens, mse in measured
    ]


def _mean(mse: np.ndarray, metric: Metric) -> tuple[float, float, float]:
    return mean_interval(decibels(mse) if metric == "psnr" else mse)


def _bits_a_token(evidence: Evidence) -> float:
    discrete = evidence.provenance.get("discrete") is True
    if not discrete or evidence.codes is None or evidence.codebook is None:
        return math.nan  # of a soft quantizer the codes are only labels: the decoder reads more than they say
    return math.log2(evidence.codebook.shape[1])


def _marked(point: Point, points: Sequence[Point], metric: Metric) -> Point:
    mine = _goodness(point, metric)
    beaten = any(
        other.tokens <= point.tokens
        and _goodness(other, metric) >= mine
        and (other.tokens < point.tokens or _goodness(other, metric) > mine)
        for other in points
    )
    return Point(**{**asdict(point), "frontier": not beaten and not math.isnan(point.value)})


def _goodness(point: Point, metric: Metric) -> float:
    if math.isnan(point.value):
        return -math.inf
    return point.value if metric == "psnr" else -point.value


def _line(points: Sequence[Point], **look: object) -> go.Scatter:
    value = np.array([p.value for p in points])
    up, down = np.array([p.high for p in points]) - value, value - np.array([p.low for p in points])
    hover = "%{text}, %{x} tokens: %{y:.4g}<extra></extra>"
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2}
    return go.Scatter(
        x=[p.tokens for p in points], y=value, text=[p.run for p in points],
        error_y=bars, hovertemplate=hover, mode="lines+markers", **look,
    )  # fmt: skip


def _count(tokens: int) -> str:
    return f"{tokens:,} token{'' if tokens == 1 else 's'}"
