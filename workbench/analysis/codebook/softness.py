"""Softness of a soft codebook: the number of codes per token, and the norm of the mixtures.

If logits are cosines over tau and codes are uniform on the sphere, a mixture is the mean of a von
Mises-Fisher distribution, whose norm is A_d(1 / tau). This bounds the norm of latents, for any
encoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.special import ive

from workbench.analysis.base import Result
from workbench.analysis.codebook.codes import parse_codes, require_vectors
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import UserError
from workbench.core.mapped_memory import release_mapped_pages

NUM_BINS = 50
BLOCK_IMAGES = 1000  # whose latents are in memory at once

# A mean over images with its 95 % bootstrap interval.
Estimate = tuple[float, float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class CodebookSoftness(Result):
    """Number of codes that tokens mix, and norm of the resulting latents."""

    codes_mixed: Estimate  # perplexity of the posterior of a token
    max_probability: Estimate  # largest probability of the posterior of a token
    norm: Estimate  # norm of a latent over the mean norm of the codewords
    norm_limit: float  # A_d(1 / tau); NaN if logits are not cosines
    # Per codebook, perplexity of the mean posterior; empty if it was not collected.
    marginal_perplexity: tuple[float, ...]
    hard_perplexity: tuple[float, ...]  # per codebook, perplexity of the most probable codes
    size: int
    dimensions: int
    temperature: float | None
    images: int
    tokens: int
    mixed_counts: np.ndarray = field(repr=False)  # (NUM_BINS,): tokens by number of codes
    mixed_edges: np.ndarray = field(repr=False)  # (NUM_BINS + 1,)
    norm_counts: np.ndarray = field(repr=False)  # (NUM_BINS,): tokens by norm of the latent
    norm_edges: np.ndarray = field(repr=False)  # (NUM_BINS + 1,)

    def figure(self) -> go.Figure:
        """Draw histograms of the number of codes per token and of the norm of latents."""
        figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.14)
        panels = (
            ("codes per token", self.mixed_counts, self.mixed_edges),
            ("norm of latents", self.norm_counts, self.norm_edges),
        )
        for column, (name, counts, edges) in enumerate(panels, 1):
            figure.add_bar(
                x=(edges[1:] + edges[:-1]) / 2,
                y=counts,
                width=np.diff(edges),
                marker={"color": COLORS[column - 1], "line": {"width": 0}},
                name=name,
                row=1,
                col=column,
            )
            figure.update_yaxes(title="tokens", rangemode="tozero", row=1, col=column)
        if not np.isnan(self.norm_limit):
            figure.add_scatter(
                x=[self.norm_limit] * 2,
                y=[0, float(self.norm_counts.max())],
                name="limit for uniform codes",
                mode="lines",
                line={"color": COLORS[6], "dash": "dash", "width": 2},
                row=1,
                col=2,
            )
        figure.update_xaxes(title=f"codes per token (perplexity), of {self.size:,}", row=1, col=1)
        figure.update_xaxes(title="norm of latent / mean norm of codes", row=1, col=2)
        temperature = "" if self.temperature is None else f" · temperature {self.temperature:g}"
        subtitle = f"n = {self.images:,} images, {self.tokens:,} tokens{temperature}"
        figure.update_layout(
            title={"text": "Softness of the codebook", "subtitle": {"text": subtitle}},
            height=420,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per measure; means if there are several codebooks."""
        rows: list[tuple[str, float, float, float]] = [
            ("codes per token", *self.codes_mixed),
            ("largest probability", *self.max_probability),
            ("norm of latents", *self.norm),
            ("limit of the norm", self.norm_limit, np.nan, np.nan),
        ]
        if self.marginal_perplexity:
            perplexity = float(np.mean(self.marginal_perplexity))
            rows.append(("perplexity of the mean posterior", perplexity, np.nan, np.nan))
        perplexity = float(np.mean(self.hard_perplexity))
        rows.append(("perplexity of the most probable codes", perplexity, np.nan, np.nan))
        return pd.DataFrame(rows, columns=["measure", "value", "low", "high"])

    def summary(self) -> str:
        """State the codes per token, the evenness of usage, and the norm of latents."""
        mean, low, high = self.codes_mixed
        usage = "mean posterior" if self.marginal_perplexity else "most probable codes"
        perplexity = np.mean(self.marginal_perplexity or self.hard_perplexity)
        limit = ""
        if not np.isnan(self.norm_limit):
            limit = f" (limit for uniformly spread codes: {self.norm_limit:.2f})"
        return (
            f"A token mixes {mean:.2f} of {self.size:,} codes (perplexity; 95 % interval"
            f" {low:.2f} to {high:.2f}); the most probable code has probability"
            f" {self.max_probability[0]:.2f}. Over all tokens, the perplexity of the {usage} is"
            f" {perplexity:,.1f}."
            f" Latents have {self.norm[0]:.2f} times the norm of a code{limit}."
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
    """Measure how many codes the tokens of a soft codebook mix.

    Parameters
    ----------
    posterior : ndarray of float, shape (n_images, n_tokens, 2)
        Perplexity and largest probability of the posterior of each token.
    latents : ndarray of float, shape (n_images, n_tokens, dim)
        The mixtures of codewords, which the decoder reads.
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the most probable codeword of each token. -1 marks padding, which is left out.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim)
        The codewords.
    mean_posterior : ndarray of float, shape (n_codebooks, codebook_size), optional
        Mean posterior over all tokens of a codebook. The regularizer of SoftVQ drives its entropy
        to log(codebook_size).
    temperature : float, optional
        Temperature of logits that are cosines. It determines the limit of the norm of latents.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are left out.

    Returns
    -------
    CodebookSoftness
        Codes per token, evenness of usage, and norm of latents relative to codes.

    Raises
    ------
    UserError
        If posteriors or latents do not match the codes or contain NaN.
    NotApplicable
        If there are no tokens, or the vectors of the codebook are not known.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.tile(np.arange(4), (10, 1))
    >>> posterior = np.tile([2.0, 0.5], (10, 4, 1))
    >>> result = codebook_softness(posterior, np.eye(4)[codes] / 2, codes, np.eye(4)[None])
    >>> result.codes_mixed[0], result.norm[0]
    (2.0, 0.5)
    """
    codebook = require_vectors(codebook, "Codebook softness")
    parsed = parse_codes(codes, codebook, active, "Codebook softness")
    _check_tokens("posteriors", posterior, codes)
    _check_tokens("latents", latents, codes)
    is_active = parsed.ids(slice(None)) >= 0
    mixed = np.where(is_active, np.asarray(posterior[..., 0], np.float64), np.nan)
    largest = np.where(is_active, np.asarray(posterior[..., 1], np.float64), np.nan)
    norms = _token_norms(latents)
    norms = np.where(is_active, norms / np.linalg.norm(codebook, axis=2).mean(), np.nan)
    mixed_counts, mixed_edges = _histogram(mixed[is_active], 1.0)
    norm_counts, norm_edges = _histogram(norms[is_active], 0.0)
    marginal_perplexity: tuple[float, ...] = ()
    if mean_posterior is not None:
        marginal_perplexity = tuple(_perplexity(row) for row in np.asarray(mean_posterior))
    norm_limit = float("nan")
    if temperature is not None:
        norm_limit = vmf_norm(codebook.shape[2], 1 / temperature)
    return CodebookSoftness(
        codes_mixed=mean_interval(_mean_per_image(mixed, is_active)),
        max_probability=mean_interval(_mean_per_image(largest, is_active)),
        norm=mean_interval(_mean_per_image(norms, is_active)),
        norm_limit=norm_limit,
        marginal_perplexity=marginal_perplexity,
        hard_perplexity=tuple(_perplexity(row) for row in parsed.counts),
        size=parsed.codebook_size,
        dimensions=codebook.shape[2],
        temperature=temperature,
        images=len(codes),
        tokens=int(is_active.sum()),
        mixed_counts=mixed_counts,
        mixed_edges=mixed_edges,
        norm_counts=norm_counts,
        norm_edges=norm_edges,
    )


def vmf_norm(dim: int, concentration: float) -> float:
    """Return the norm of the mean of a von Mises-Fisher distribution on the unit sphere.

    The norm is I_{d/2}(kappa) / I_{d/2-1}(kappa). For kappa far above d it is about
    1 - (d - 1) / (2 kappa).

    Parameters
    ----------
    dim : int
        Dimension d of the space.
    concentration : float
        Concentration kappa, greater than 0.

    Returns
    -------
    float
        A norm in [0, 1).

    Examples
    --------
    >>> round(vmf_norm(3, 3.0), 4)  # coth(3) - 1/3
    0.6716
    """
    denominator = ive(dim / 2 - 1, concentration)
    return float(ive(dim / 2, concentration) / denominator) if denominator else 0.0


def _check_tokens(name: str, array: np.ndarray, codes: np.ndarray) -> None:
    if array.shape[:2] != codes.shape:
        array_shape, codes_shape = (
            " × ".join(map(str, shape)) for shape in (array.shape[:2], codes.shape)
        )
        raise UserError(
            f"The {name} have shape {array_shape} and the codes have shape {codes_shape}."
            " Do both come from the same run?"
        )
    if not all(np.isfinite(block).all() for block in _image_blocks(array)):
        raise UserError(
            f"The {name} contain NaN or infinity. Collect the evidence from an earlier step."
        )


def _image_blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Read an array of all images in parts, because it may exceed the memory."""
    for start in range(0, len(array), BLOCK_IMAGES):
        yield array[start : start + BLOCK_IMAGES]
        release_mapped_pages()


def _token_norms(latents: np.ndarray) -> np.ndarray:
    """Return the norm of each token, float32 (n_images, n_tokens)."""
    lengths = np.empty(latents.shape[:2], np.float32)
    for i, block in enumerate(_image_blocks(latents)):
        start = i * BLOCK_IMAGES
        lengths[start : start + len(block)] = np.linalg.norm(np.asarray(block, np.float32), axis=2)
    return lengths


def _mean_per_image(values: np.ndarray, is_active: np.ndarray) -> np.ndarray:
    has_tokens = is_active.any(axis=1)
    return np.nansum(values, axis=1)[has_tokens] / is_active.sum(axis=1)[has_tokens]


def _perplexity(weights: np.ndarray) -> float:
    share = weights[weights > 0] / weights.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _histogram(values: np.ndarray, low: float) -> tuple[np.ndarray, np.ndarray]:
    """Count values in NUM_BINS bins that start at `low` or at the smallest value below it."""
    values = values[np.isfinite(values)]
    high = max(float(values.max(initial=low)), low + 1e-6)
    bounds = (min(low, float(values.min(initial=low))), high)
    return np.histogram(values, bins=NUM_BINS, range=bounds)
