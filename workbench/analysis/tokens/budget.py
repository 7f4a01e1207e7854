"""What quality costs: reconstruction against tokens, bits or a generator's work, of every run at once.

A run answers for the tokens it was trained with, where its decoder can for the first few of them alone, and where it is
adaptive for each error it was asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from workbench.analysis.base import Result
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.tokens.cost import bits_per_token, generator_gmacs
from workbench.analysis.tokens.metrics import (
    FEATURE_METRICS,
    QUALITY_METRICS,
    Estimate,
    Quality,
    called,
    floor,
    measurable,
    of_all_tokens,
    of_first_tokens,
)
from workbench.core.errors import NotApplicable
from workbench.core.progress import report_progress
from workbench.storage.evidence import Evidence

Cost = Literal["tokens", "bits", "bits per pixel", "GMACs"]
KINDS = ("trained", "prefix", "adaptive")
MOST_NAMED = 5


@dataclass(frozen=True)
class Point:
    """One run at one number of tokens."""

    run: str
    tokenizer: str  # its class, without the module
    kind: str  # "trained" at this many tokens, the first tokens as a "prefix", or "adaptive": as many as an image needs
    tokens: float  # mean over images
    value: float  # the metric: its mean over images, or of the whole set
    low: float  # 95 % interval: bootstrap of the mean, or half samples of the set
    high: float
    bits: float  # of an image's codes: tokens * log2(codes); NaN where tokens are not discrete
    pixels: int  # rows times columns of an image
    gmacs: float  # of one SiT-XL pass over the tokens, mean over images
    frontier: bool = False  # no point costs as little and does better

    @property
    def bits_per_pixel(self) -> float:
        """The image's bits over its pixels."""
        return self.bits / self.pixels

    def cost(self, of: Cost) -> float:
        """What it costs, in tokens, bits, bits per pixel or billions of multiply-adds."""
        return {
            "tokens": self.tokens,
            "bits": self.bits,
            "bits per pixel": self.bits_per_pixel,
            "GMACs": self.gmacs,
        }[of]


@dataclass(frozen=True)
class TokenBudget(Result):
    """Quality against cost, with the runs that could not be compared."""

    points: tuple[Point, ...]
    metric: Quality
    feature_extractor: str | None  # the network whose features are compared; None where pixels are
    floor: (
        float | None
    )  # the metric between held-out and as many training images: two sets of real ones
    against: Cost
    n: int  # images
    left_out: tuple[str, ...]  # runs on other images
    unmeasured: tuple[str, ...]  # runs without that metric, or with another feature extractor
    priceless: tuple[str, ...]  # runs without that cost: their tokens are not discrete

    @property
    def label(self) -> str:
        """The metric's name, with its feature extractor's in it."""
        return called(self.metric, self.feature_extractor)

    @property
    def frontier(self) -> tuple[Point, ...]:
        """The points that nothing as cheap beats, the cheapest first."""
        return tuple(
            sorted((p for p in self.points if p.frontier), key=lambda p: p.cost(self.against))
        )

    def table(self) -> pd.DataFrame:
        """One row for each run and number of tokens; the column named after the metric is its mean over images."""
        rows = [asdict(p) | {"bits_per_pixel": p.bits_per_pixel} for p in self.points]
        named = pd.DataFrame(rows).rename(columns={"value": self.metric}).drop(columns="pixels")
        return (
            named
            if self.feature_extractor is None
            else named.assign(feature_extractor=self.feature_extractor)
        )

    def summary(self) -> str:
        """The best at the least and at the highest cost, the floor, the frontier, and which runs were left out."""
        sentence = f"{self._trend()} ({self.n:,} held-out images)."
        if self.floor is not None:
            sentence += f" Two sets of real images, as many, are {self._text(self.floor)} apart."
        if len(self.frontier) > 1:
            runs = list(dict.fromkeys(p.run for p in self.frontier))
            more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
            named = [
                f"{run} ({self._costs(*(p for p in self.frontier if p.run == run))})"
                for run in runs[:MOST_NAMED]
            ]
            sentence += f" Nothing as cheap beats {', '.join(named)}{more}."
        for runs, reason in (
            (self.left_out, "measured on other images"),
            (self.unmeasured, f"without the {self.label} to compare"),
            (self.priceless, "of continuous tokens, which no number of bits tells"),
        ):
            if runs:
                sentence += f" Left out, being {reason}: {', '.join(runs)}."
        return sentence

    def _trend(self) -> str:
        name = self.label if self.metric == "rfd" else self.label[0].upper() + self.label[1:]
        told = [p for p in self.points if p.kind != "prefix" and not math.isnan(p.value)]
        if not told:
            return f"{name} is not a number in any run"
        few, many = (
            self._best(told, ends(p.cost(self.against) for p in told)) for ends in (min, max)
        )
        if few.cost(self.against) == many.cost(self.against):
            return f"{name} is {self._text(many.value)} at {self._costs(many)}"
        verb = "rises" if many.value > few.value else "falls"
        start, end = (f"{self._text(p.value)} at {self._costs(p)}" for p in (few, many))
        return f"{name} {verb} from {start} to {end}"

    def _best(self, points: Sequence[Point], cost: float) -> Point:
        return max(
            (p for p in points if p.cost(self.against) == cost),
            key=lambda p: goodness(p.value, self.metric),
        )

    def _text(self, value: float) -> str:
        return f"{value:.1f} dB" if self.metric == "psnr" else f"{value:.4f}"

    def _costs(self, *points: Point) -> str:
        costs = dict.fromkeys(
            f"{p.cost(self.against):,.4g}" for p in points
        )  # all its tokens may be there twice
        return f"{', '.join(costs)} {'token' if (self.against, *costs) == ('tokens', '1') else self.against}"


def token_budget(
    evidences: Sequence[Evidence],
    *,
    metric: Quality = "psnr",
    against: Cost = "tokens",
    prefixes: bool = True,
) -> TokenBudget:
    """Compare runs by what their tokens buy, with `prefixes` also the first tokens of each that can decode them.

    The metric is an image's own, averaged: PSNR in dB, SSIM, errors of pixels in [0, 1], or the distance between the
    features of image and reconstruction; or `rfd`, the Frechet distance between those of all images and
    of all reconstructions, beside that of as many training images. It is held against tokens, the bits of their codes
    (without those that say how many tokens there are), bits per pixel, or the work of a SiT-XL that draws them. An
    adaptive run's tokens are the mean over images; the errors it was asked for are points of the absolute error. Runs
    on other images than the first are left out and named. Raises NotApplicable where no run has images, reconstructions
    and latents, or none has the metric and the cost, or `rfd` is asked of under 10 images; UserError for `rfd` of NaN.
    """
    whole = [
        e
        for e in evidences
        if not any(x is None or not len(x) for x in (e.images, e.reconstructions, e.latents))
    ]
    if not whole:
        raise NotApplicable(
            "Token budget needs images, reconstructions and latents; no selected run has all three."
        )
    reference = whole[0].provenance.get("fingerprint")
    same = [e for e in whole if e.provenance.get("fingerprint") == reference]
    left_out = tuple(e.run_name for e in whole if e.provenance.get("fingerprint") != reference)
    judged = next(
        (e for e in same if e.features is not None and e.reconstruction_features is not None), None
    )
    measured = [e for e in same if measurable(e, metric, judged)]
    priced = [
        e for e in measured if not against.startswith("bits") or not math.isnan(bits_per_token(e))
    ]
    if not priced:
        lacking = (
            "the feature extractor's features" if not measured else "discrete tokens, for bits"
        )
        raise NotApplicable(f"Token budget needs {lacking}; no selected run has them.")
    points = []
    for done, e in enumerate(priced, start=1):
        points += _points(e, metric, prefixes)
        report_progress(done, len(priced))
    points.sort(
        key=lambda p: (
            p.tokenizer,
            KINDS.index(p.kind),
            "" if p.kind == "trained" else p.run,
            p.tokens,
            p.run,
        )
    )
    marked = tuple(_marked(p, points, metric, against) for p in points)
    lost = (
        tuple(e.run_name for e in a if e not in b) for a, b in ((same, measured), (measured, priced))
    )
    feature_extractor, real = (
        priced[0].feature_extractor if metric in FEATURE_METRICS else None,
        floor(priced) if metric == "rfd" else None,
    )
    return TokenBudget(
        marked, metric, feature_extractor, real, against, len(priced[0].images), left_out, *lost
    )


def goodness(value: float, metric: Quality) -> float:
    """The metric's value, turned so that more is better; NaN is worst."""
    if math.isnan(value):
        return -math.inf
    return value if QUALITY_METRICS[metric][2] else -value


def _points(evidence: Evidence, metric: Quality, prefixes: bool) -> list[Point]:
    n, tokens = evidence.latents.shape[:2]
    used = (
        np.full(n, tokens)
        if evidence.active is None
        else np.asarray(evidence.active, bool).sum(axis=1)
    )
    found = [
        (
            "trained" if evidence.active is None else "adaptive",
            used,
            of_all_tokens(evidence, metric),
        )
    ]
    if metric == "l1" and not any(
        x is None for x in (evidence.requested, evidence.reached, evidence.spent)
    ):
        pairs = zip(
            np.asarray(evidence.spent), np.asarray(evidence.reached, np.float64), strict=True
        )
        found += [("adaptive", spent, mean_interval(reached)) for spent, reached in pairs]
    if prefixes:
        shortened = of_first_tokens(evidence, metric)
        found += [("prefix", np.minimum(used, length), estimate) for length, estimate in shortened]
    return [_point(evidence, *one) for one in found]


def _point(evidence: Evidence, kind: str, used: np.ndarray, estimate: Estimate) -> Point:
    tokenizer = str(evidence.provenance.get("class", evidence.run_name)).rpartition(":")[-1]
    tokens, pixels = float(used.mean()), int(np.prod(evidence.images.shape[1:3]))
    work = float(np.mean(generator_gmacs(used.astype(np.float64))))
    bits = tokens * bits_per_token(evidence)
    return Point(evidence.run_name, tokenizer, kind, tokens, *estimate, bits, pixels, work)


def _marked(point: Point, points: Sequence[Point], metric: Quality, against: Cost) -> Point:
    mine, cost = goodness(point.value, metric), point.cost(against)
    beaten = any(
        other.cost(against) <= cost
        and goodness(other.value, metric) >= mine
        and (other.cost(against) < cost or goodness(other.value, metric) > mine)
        for other in points
    )
    return replace(point, frontier=not beaten and not math.isnan(point.value))
