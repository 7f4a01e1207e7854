"""How soft the choices of a soft codebook are: how many codes a token mixes, and how long the mixtures are.

Where logits are cosines over tau and codes fill the sphere evenly, a mixture is the mean of a von Mises-Fisher
distribution, whose length is A_d(1 / tau): latents are then no longer than that, whatever the encoder says.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.special import ive

from workbench.analysis.base import Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import UserError

BINS = 50


@dataclass(frozen=True, eq=False)
class CodebookSoftness(Result):
    """How many codes tokens mix, and the length of what comes out."""

    mixed: tuple[
        float, float, float
    ]  # perplexity of a token's posterior, mean over images, with its 95 % interval
    largest: tuple[float, float, float]  # the largest probability, likewise
    norm: tuple[float, float, float]  # length of a latent over the codes' mean length, likewise
    limit: float  # A_d(1 / tau); NaN where logits are no cosines
    evenness: tuple[
        float, ...
    ]  # of each book, exp of the marginal posterior's entropy: codes; empty if not collected
    hard: tuple[float, ...]  # of each book, the perplexity of the most probable codes
    size: int
    dimensions: int
    temperature: float | None
    images: int
    tokens: int
    mixed_counts: np.ndarray = field(repr=False)  # (BINS,) tokens by how many codes they mix
    mixed_edges: np.ndarray = field(repr=False)  # (BINS + 1,)
    norm_counts: np.ndarray = field(repr=False)  # (BINS,) tokens by their latent's length
    norm_edges: np.ndarray = field(repr=False)

    def figure(self) -> go.Figure:
        """Histograms of codes mixed and of latents' lengths."""
        figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.14)
        sides = (
            ("mixed", self.mixed_counts, self.mixed_edges),
            ("norm", self.norm_counts, self.norm_edges),
        )
        for column, (name, counts, edges) in enumerate(sides, 1):
            bars = {
                "width": np.diff(edges),
                "marker": {"color": COLORS[column - 1], "line": {"width": 0}},
            }
            shown = "codes a token mixes" if name == "mixed" else "length of a latent"
            figure.add_bar(
                x=(edges[1:] + edges[:-1]) / 2, y=counts, name=shown, **bars, row=1, col=column
            )
            figure.update_yaxes(title="tokens", rangemode="tozero", row=1, col=column)
        if not np.isnan(self.limit):
            line = {"mode": "lines", "line": {"color": COLORS[6], "dash": "dash", "width": 2}}
            top = [0, float(self.norm_counts.max())]
            figure.add_scatter(
                x=[self.limit] * 2, y=top, name="limit of even codes", **line, row=1, col=2
            )
        figure.update_xaxes(title=f"codes mixed (perplexity), of {self.size:,}", row=1, col=1)
        figure.update_xaxes(title="length of a latent, the codes' is 1", row=1, col=2)
        at = "" if self.temperature is None else f" · temperature {self.temperature:g}"
        said = f"n = {self.images:,} images, {self.tokens:,} tokens{at}"
        title = {"text": "How soft the choices are", "subtitle": {"text": said}}
        figure.update_layout(
            title=title, height=420, legend={"orientation": "h", "y": -0.2, "yanchor": "top"}
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row a measure; of several books the mean."""
        rows = [
            ("codes mixed", *self.mixed),
            ("largest probability", *self.largest),
            ("latent length", *self.norm),
        ]
        rows += [("limit of the length", self.limit, np.nan, np.nan)]
        if self.evenness:
            rows += [("codes by marginal posterior", float(np.mean(self.evenness)), np.nan, np.nan)]
        rows += [("codes by most probable", float(np.mean(self.hard)), np.nan, np.nan)]
        return pd.DataFrame(rows, columns=["measure", "value", "low", "high"])

    def summary(self) -> str:
        """How many codes are mixed, how evenly codes are used, and the length beside its limit."""
        mixed, even = self.mixed[0], self.evenness or self.hard
        marginal = "all tokens together" if self.evenness else "the most probable codes"
        limit = (
            ""
            if np.isnan(self.limit)
            else f", where codes spread evenly would give at most {self.limit:.2f}"
        )
        return (
            f"A token mixes {mixed:.2f} of {self.size:,} codes (perplexity; 95 % interval {self.mixed[1]:.2f} to"
            f" {self.mixed[2]:.2f}), its likeliest with probability {self.largest[0]:.2f}, and {marginal} use them as"
            f" evenly as {np.mean(even):,.1f} codes. Latents are {self.norm[0]:.2f} of a code's length{limit}."
        )


def codebook_softness(
    posterior: np.ndarray,
    latents: np.ndarray,
    codes: np.ndarray,
    codebook: np.ndarray,
    mean_posterior: np.ndarray | None = None,
    temperature: float | None = None,
    active: np.ndarray | None = None,
) -> CodebookSoftness:
    """Read off a soft codebook's posteriors (n, tokens, 2), perplexity and largest probability, how soft it chooses.

    `mean_posterior` (g, k), over all tokens of a book, gives the marginal entropy that SoftVQ's regulariser drives to
    log k; `temperature`, of logits that are cosines, the limit of a latent's length. Raises UserError for posteriors
    or latents of other tokens or of NaN, and what `read` refuses.
    """
    found = parse_codes(codes, codebook, active, "Codebook softness")
    _check("posteriors", posterior, codes)
    _check("latents", latents, codes)
    seen = np.ones(codes.shape, bool) if active is None else np.asarray(active, bool)
    mixed, largest = (
        np.where(seen, np.asarray(posterior[..., i], np.float64), np.nan) for i in (0, 1)
    )
    norms = np.linalg.norm(np.asarray(latents, np.float32), axis=2)
    norms = np.where(seen, norms / np.linalg.norm(codebook, axis=2).mean(), np.nan)
    means = [mean_interval(_mean_of_image(x, seen)) for x in (mixed, largest, norms)]
    even = (
        ()
        if mean_posterior is None
        else tuple(float(_perplexity(row)) for row in np.asarray(mean_posterior))
    )
    limit = float("nan") if temperature is None else vmf_length(codebook.shape[2], 1 / temperature)
    return CodebookSoftness(
        *means,
        limit,
        even,
        tuple(float(_perplexity(row)) for row in found.counts),
        found.size,
        codebook.shape[2],
        temperature,
        len(codes),
        int(seen.sum()),
        *_histogram(mixed[seen], 1.0),
        *_histogram(norms[seen], 0.0),
    )


def _check(name: str, array: np.ndarray, codes: np.ndarray) -> None:
    if array.shape[:2] != codes.shape:
        a, b = (" × ".join(map(str, x)) for x in (array.shape[:2], codes.shape))
        raise UserError(
            f"The {name} are of {a} tokens and the codes of {b}. Do both come from the same run?"
        )
    if not np.isfinite(array).all():
        raise UserError(f"The {name} hold NaN or infinity. Collect from an earlier step.")


def vmf_length(dim: int, concentration: float) -> float:
    """The length of the mean of a von Mises-Fisher distribution on the unit sphere: I_{d/2}(kappa) / I_{d/2-1}(kappa).

    For kappa far above d it is about 1 - (d - 1) / (2 kappa).
    """
    below = ive(dim / 2 - 1, concentration)
    return float(ive(dim / 2, concentration) / below) if below else 0.0


def _mean_of_image(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.nansum(values, axis=1)[seen.any(axis=1)] / seen.sum(axis=1)[seen.any(axis=1)]


def _perplexity(weights: np.ndarray) -> float:
    share = weights[weights > 0] / weights.sum()
    return np.exp(-(share * np.log(share)).sum())


def _histogram(values: np.ndarray, low: float) -> tuple[np.ndarray, np.ndarray]:
    values = values[np.isfinite(values)]
    high = max(float(values.max(initial=low)), low + 1e-6)
    return np.histogram(values, bins=BINS, range=(min(low, float(values.min(initial=low))), high))
