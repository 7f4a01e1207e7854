"""Distances of images that are decoded from the neighborhood of latents.

A generator draws points between the latents of images. Interpolations show if the decoder maps
these to images. Perturbed codes are their counterpart for discrete tokenizers. Both distances have
a floor, the distance of reconstructions (rFD), so that the excess over it is reported, and both use
the features of the generation distance.

References
----------
iFID, arXiv 2603.05630. pFID of RobusTok, arXiv 2509.12474.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.generation.distance_names import distance_name, network_title
from workbench.analysis.generation.feature_distances import (
    error_of_influence,
    frechet_distance,
    frechet_influence,
    has_influence_error,
)
from workbench.analysis.generation.fidelity import feature_distance
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.perspectives import NAN, Direction, Perspective, PerspectiveResult
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.core.errors import NotApplicable, UserError
from workbench.core.moments import Moments

MIN_IMAGES = 20
# The distance of sets that are not paired has a bias of about the number of features over images;
# that of paired reconstructions has less, so that the excess keeps a part of it.
MIN_IMAGES_PER_FEATURE = 10
NUM_HALF_SAMPLES = 20
NEIGHBORS = "near training latents"
RANDOM = "random training latents"
INTERPOLATION_SOURCE = (
    "arXiv 2603.05630: r about .85 over public tokenizers, .54 to .87 at matched reconstruction; "
    "measured in the features of the generation distance."
)
CODES_SOURCE = (
    "arXiv 2509.12474: rank correlation over .95 with autoregressive generation over 11 tokenizers."
)


@dataclass(frozen=True, kw_only=True)
class Neighborhood:
    """Images that are decoded from near the latents of the held-out images.

    Attributes
    ----------
    name : str
        How the latents were changed.
    distance : float
        Fréchet distance to the held-out images.
    excess, low, high : float
        Distance less that of the reconstructions, and its 95 % interval over half samples.
    """

    name: str
    distance: float
    excess: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class DecodedNeighborhoods(PerspectiveResult):
    """Distances of decoded neighborhoods, next to that of the reconstructions.

    Attributes
    ----------
    kind : {"interpolation", "codes"}
        Kind of neighborhood: points between latents, or replaced codes.
    neighborhoods : tuple of Neighborhood
        The first is the perspective.
    reconstruction : float
        Distance of the reconstructions.
    most_frequent_partner : float
        Share of the images that are interpolated with the same training latent; NaN for codes.
    feature_extractor : str
        Name of the feature extractor.
    images : int
        Number of images that were measured.
    dimensions : int
        Dimensions of a latent, or codes of an image.
    num_features : int
        Features of an image.
    """

    kind: str
    neighborhoods: tuple[Neighborhood, ...]
    reconstruction: float
    most_frequent_partner: float
    feature_extractor: str
    images: int
    dimensions: int
    num_features: int

    @property
    def label(self) -> str:
        """Name of the distance in text: iFID, pFD, ..."""
        return distance_name("i" if self.kind == "interpolation" else "p", self.feature_extractor)

    def perspectives(self) -> tuple[Perspective, ...]:
        """Return the excess of the first neighborhood over the reconstructions."""
        first = self.neighborhoods[0]
        random = next((x.excess for x in self.neighborhoods if x.name == RANDOM), NAN)
        reason = INTERPOLATION_SOURCE if self.kind == "interpolation" else CODES_SOURCE
        better: Direction = "lower"
        return (
            Perspective(
                name=f"{self.label} excess",
                meaning=f"distance of images decoded from {first.name} less that of"
                " reconstructions",
                value=first.excess,
                low=first.low,
                high=first.high,
                null=random,
                null_case="random partners" if np.isfinite(random) else "",
                better=better,
                reason=reason,
                conditions=(
                    ("features", self.feature_extractor or "unnamed"),
                    ("images", f"{self.images:,}"),
                    ("neighborhood", first.name),
                ),
            ),
        )

    def figure(self) -> go.Figure:
        """Draw the distance of each neighborhood, with the reconstructions as a line."""
        names = [item.name for item in self.neighborhoods][::-1]
        excess = np.array([item.excess for item in self.neighborhoods][::-1])
        figure = go.Figure()
        figure.add_scatter(
            x=self.reconstruction + excess,
            y=names,
            mode="markers",
            marker={"size": 11, "color": COLORS[0]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [item.high - item.excess for item in self.neighborhoods][::-1],
                "arrayminus": [item.excess - item.low for item in self.neighborhoods][::-1],
            },
            hovertemplate="%{x:.4~g}<extra>%{y}</extra>",
            showlegend=False,
        )
        reconstruction = distance_name("r", self.feature_extractor)
        figure.add_vline(
            x=self.reconstruction,
            line={"color": COLORS[6], "dash": "dash"},
            annotation_text=f"reconstructions ({reconstruction} {self.reconstruction:.3g})",
            annotation_position="top left",
        )
        figure.update_xaxes(title=f"{self.label}, squared units of the features")
        title = "partner" if self.kind == "interpolation" else "codes"
        figure.update_yaxes(title=title, automargin=True, range=[-0.6, len(names) - 0.4])
        subtitle = (
            f"{network_title(self.feature_extractor)} · n = {self.images:,} images · bars: 95 %"
            " intervals of the excess"
        )
        title = "Images decoded between latents"
        if self.kind == "codes":
            title = "Images decoded from perturbed codes"
        figure.update_layout(
            title={"text": title, "subtitle": {"text": subtitle}},
            height=220 + 60 * len(names),
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per neighborhood."""
        rows = [
            {
                "neighborhood": item.name,
                "distance": item.distance,
                "reconstruction_distance": self.reconstruction,
                "excess": item.excess,
                "low": item.low,
                "high": item.high,
                "images": self.images,
            }
            for item in self.neighborhoods
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State the distance of each neighborhood and its excess over the reconstructions."""
        sentences = [
            f"{self.label} with {item.name} is {item.distance:.4g}, {item.excess:+.3g}"
            f" ({item.low:+.3g} to {item.high:+.3g}) relative to the reconstructions."
            for item in self.neighborhoods
        ]
        if np.isfinite(self.most_frequent_partner):
            sentences.append(
                f"The most frequent partner belongs to {100 * self.most_frequent_partner:.1f} % of"
                f" the {self.images:,} images."
            )
        if self.images < MIN_IMAGES_PER_FEATURE * self.num_features:
            sentences.append(
                f"The excess is too high with under {MIN_IMAGES_PER_FEATURE} images per feature:"
                f" there are {self.images:,} images and {self.num_features:,} features."
            )
        return " ".join(sentences)


def interpolation_distance(
    features: np.ndarray,
    reconstruction_features: np.ndarray,
    interpolation_features: np.ndarray,
    interpolation_partners: np.ndarray,
    latents: np.ndarray,
    random_interpolation_features: np.ndarray | None = None,
    feature_extractor: str = "",
) -> DecodedNeighborhoods:
    """Compare images with points decoded halfway between their latents and near training latents.

    Partners are among the ten nearest training latents by cosine, after centering and scaling, and
    points are on the arc between the two latents.

    Parameters
    ----------
    features, reconstruction_features, interpolation_features : ndarray of float, shape (n, dim)
        Features of held-out images, of their reconstructions and of the decoded points.
    interpolation_partners : ndarray of int, shape (n,)
        Index of the training latent of each image.
    latents : ndarray of float, shape (n, tokens, d)
        Only their shape is used.
    random_interpolation_features : ndarray of float, shape (n, dim), optional
        Features of points decoded halfway to random training latents, the null.
    feature_extractor : str, optional
        Name of the network of the features.

    Returns
    -------
    DecodedNeighborhoods
        The distance, and its excess over that of the reconstructions.

    Raises
    ------
    NotApplicable
        If there are under 20 images.
    UserError
        If features contain NaN, or differ in shape.

    References
    ----------
    arXiv 2603.05630.

    Examples
    --------
    >>> features = np.random.default_rng(0).normal(size=(40, 2))
    >>> partners, latents = np.zeros(40, int), np.zeros((40, 1, 2))
    >>> result = interpolation_distance(features, features, features + 1, partners, latents)
    >>> round(result.neighborhoods[0].excess, 6)
    2.0
    """
    decoded = {NEIGHBORS: interpolation_features}
    if random_interpolation_features is not None:
        decoded[RANDOM] = random_interpolation_features
    counts = np.bincount(np.asarray(interpolation_partners))
    _check_features([features, reconstruction_features, *decoded.values()])
    reconstruction = _distance(features, reconstruction_features)
    return DecodedNeighborhoods(
        kind="interpolation",
        neighborhoods=_neighborhoods(features, reconstruction_features, decoded, reconstruction),
        reconstruction=reconstruction,
        most_frequent_partner=float(counts.max() / counts.sum()),
        feature_extractor=feature_extractor,
        images=len(features),
        num_features=features.shape[1],
        dimensions=int(np.prod(latents.shape[1:])),
    )


def perturbed_codes(
    features: np.ndarray,
    reconstruction_features: np.ndarray,
    codes: np.ndarray,
    perturbed_code_shares: np.ndarray,
    perturbed_code_features: np.ndarray,
    feature_extractor: str = "",
) -> DecodedNeighborhoods:
    """Compare images with those decoded after codes are replaced by one of their nearest.

    A replaced code is one of the nearest sixteenth of its codebook. The paper averages over shares
    and numbers of neighbors; the distance at each share is given here, and the smallest share is
    the perspective.

    Parameters
    ----------
    features, reconstruction_features : ndarray of float, shape (n, dim)
        Features of held-out images and of their reconstructions.
    codes : ndarray of int, shape (n, tokens)
        The codes; only their shape is used. Continuous tokenizers have none.
    perturbed_code_shares : ndarray of float, shape (m,)
        Shares of the codes that are replaced.
    perturbed_code_features : ndarray of float, shape (m, n, dim)
        Features of the images that are decoded from these codes.
    feature_extractor : str, optional
        Name of the network of the features.

    Returns
    -------
    DecodedNeighborhoods
        The distance at each share, and its excess over that of the reconstructions.

    Raises
    ------
    NotApplicable
        If there are under 20 images, or the tokenizer is continuous.
    UserError
        If features contain NaN, or differ in shape.

    References
    ----------
    arXiv 2509.12474.

    Examples
    --------
    >>> features = np.random.default_rng(0).normal(size=(40, 2))
    >>> shares, codes = np.array([0.1]), np.zeros((40, 4), int)
    >>> result = perturbed_codes(features, features, codes, shares, features[None] + 1)
    >>> round(result.neighborhoods[0].excess, 6)
    2.0
    """
    order = np.argsort(perturbed_code_shares, kind="stable")
    decoded = {
        f"{100 * perturbed_code_shares[i]:g} % of the codes replaced": perturbed_code_features[i]
        for i in order
    }
    _check_features([features, reconstruction_features, *decoded.values()])
    reconstruction = _distance(features, reconstruction_features)
    return DecodedNeighborhoods(
        kind="codes",
        neighborhoods=_neighborhoods(features, reconstruction_features, decoded, reconstruction),
        reconstruction=reconstruction,
        most_frequent_partner=NAN,
        feature_extractor=feature_extractor,
        images=len(features),
        num_features=features.shape[1],
        dimensions=codes.shape[1],
    )


def _neighborhoods(
    features: np.ndarray,
    reconstructions: np.ndarray,
    decoded: Mapping[str, np.ndarray],
    reconstruction: float,
) -> tuple[Neighborhood, ...]:
    """Measure each set of decoded images; `reconstruction` is the distance of reconstructions."""
    errors = _excess_errors(features, reconstructions, tuple(decoded.values()))
    neighborhoods = []
    for (name, rows), error in zip(decoded.items(), errors, strict=True):
        distance = _distance(features, rows)
        excess = distance - reconstruction
        neighborhoods.append(
            Neighborhood(
                name=name,
                distance=distance,
                excess=excess,
                low=excess - 1.96 * error,
                high=excess + 1.96 * error,
            )
        )
    return tuple(neighborhoods)


def _distance(real: np.ndarray, evaluated: np.ndarray) -> float:
    return feature_distance(held_out=real, reconstructions=evaluated)


def _excess_errors(
    features: np.ndarray, reconstructions: np.ndarray, decoded: Sequence[np.ndarray]
) -> list[float]:
    """Return the standard error of each excess; all sets belong to the same images."""
    if has_influence_error(*features.shape):
        real = Moments.from_rows(features)
        influences = [
            frechet_influence(rows, real, Moments.from_rows(rows), features)
            for rows in (reconstructions, *decoded)
        ]
        return [error_of_influence(influence - influences[0]) for influence in influences[1:]]

    def excesses(half: np.ndarray) -> np.ndarray:
        real = features[half]
        base = frechet_distance(real, reconstructions[half])
        return np.array([frechet_distance(real, rows[half]) - base for rows in decoded])

    return half_samples(excesses, len(features), splits=NUM_HALF_SAMPLES)[0].tolist()


def _check_features(sets: Sequence[np.ndarray]) -> None:
    n, dim = sets[0].shape
    if n < MIN_IMAGES:
        raise NotApplicable(
            f"Decoded neighborhoods need at least {MIN_IMAGES} images; there are {n}."
        )
    for rows in sets:
        if rows.shape != (n, dim) or not np.isfinite(rows).all():
            raise UserError(
                f"All features must be finite and have the shape {n} × {dim}, got"
                f" {' × '.join(map(str, rows.shape))}. Collect the evidence again."
            )
