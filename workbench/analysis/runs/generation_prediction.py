"""Expected generation of tokenizers, and their position among published ones.

The published table has the gFID of generators on 14 pretrained tokenizers, and their iFID. A run
is placed on it only if its iFID was measured by the same protocol and is in the range of the
published ones; otherwise the differences are listed. The table has no other metric of each
tokenizer: of the others only correlations within families are published.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from workbench.analysis.base import Range, Result
from workbench.analysis.generation.distance_names import network_title
from workbench.analysis.generation.fidelity import feature_distance
from workbench.analysis.inputs import distinct_names
from workbench.analysis.runs.expectation import (
    Expectation,
    expectation,
    known_tokenizer,
    published_fit,
    published_range,
    tokenizers_of,
)
from workbench.analysis.stats.prediction import left_out_q2
from workbench.core.image_size import ImageSize
from workbench.storage.calibration import (
    IFID_PROTOCOL,
    REGIME,
    CalibrationTokenizer,
    calibration_tokenizers,
    published_correlations,
)
from workbench.storage.evidence import Evidence

MIN_FEATURES = 20  # of a distance
OUR_PARTNERS = (
    "neighbors are found among centered and scaled latents, and drawn by the softmax of the cosine"
)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A run next to the published tokenizers.

    Attributes
    ----------
    run : str
        Name of the run.
    published : str
        Name of the published tokenizer that the run is; empty if it is none of them.
    ifid : float
        Its interpolation distance; NaN if it was not measured.
    differences : tuple of str
        Differences to the published protocol; a run without any is placed on the table if its
        distance is in the range of the published ones.
    expected : float
        gFID of SiT-XL that the line of the table expects; NaN if it is not placed.
    low, high : float
        95 % interval of a new tokenizer around the line.
    """

    run: str
    published: str
    ifid: float
    differences: tuple[str, ...]
    expected: float
    low: float
    high: float

    @property
    def has_place(self) -> bool:
        """True if the metric was measured as the published one, and is in the range of the line."""
        return not self.differences and self.is_in_range

    @property
    def is_in_range(self) -> bool:
        """True if the iFID is in the range of the published ones."""
        low, high = published_range()
        return low <= self.ifid <= high


@dataclass(frozen=True, eq=False, kw_only=True)
class GenerationPrediction(Result):
    """Expected order of generation, and the published tokenizers with the runs among them.

    Attributes
    ----------
    expectation : Expectation
        The expected order, or the reason why there is none.
    placements : tuple of Placement
        One per tokenizer.
    spearman, q2 : float
        Rank correlation of iFID with gFID over the published tokenizers, and the share of the
        squared error of log gFID that iFID saves for a tokenizer that is left out.
    """

    expectation: Expectation
    placements: tuple[Placement, ...]
    spearman: float
    q2: float

    @property
    def tokenizers(self) -> tuple[CalibrationTokenizer, ...]:
        """The published tokenizers."""
        return calibration_tokenizers()

    def table(self) -> pd.DataFrame:
        """Return one row per run and per published tokenizer."""
        rows = [
            {
                "tokenizer": placement.run,
                "is run": True,
                "published as": placement.published,
                "ifid": placement.ifid,
                "expected gfid, SiT-XL": placement.expected,
                "low": placement.low,
                "high": placement.high,
                "differences": "; ".join(placement.differences),
            }
            for placement in self.placements
        ]
        rows += [
            {
                "tokenizer": tokenizer.name,
                "is run": False,
                "published as": tokenizer.name,
                "ifid": tokenizer.ifid,
                "gfid, SiT-XL": tokenizer.gfid_xl,
                "gfid, SiT-B": tokenizer.gfid_b,
                "rfid": tokenizer.rfid,
                "psnr": tokenizer.psnr,
                "source": tokenizer.source,
            }
            for tokenizer in self.tokenizers
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State the expected order, and where each run is among the published tokenizers."""
        placements = _placement_sentences(self.placements)
        return " ".join([self.expectation.sentence(), *placements, self._calibration_sentence()])

    def _calibration_sentence(self) -> str:
        published = [
            c for c in published_correlations() if c.metric == "VIV" and c.target == "gFID"
        ]
        values = [c.abs_r for c in published]
        return (
            f"Over {len(self.tokenizers)} published tokenizers iFID has a rank correlation of"
            f" {self.spearman:.2f} with gFID and saves {100 * self.q2:.0f} % of the squared error"
            f" of a left-out one ({REGIME}). For VIV and other metrics only correlations are"
            f" published (VIV: |r| {min(values):.2f} to {max(values):.2f} within families), so that"
            " they cannot place a run."
        )


def generation_prediction(
    evidences: Sequence[Evidence],
    partners: Sequence[Evidence] = (),
    *,
    ifid: Annotated[float, Range(0, 500, 0.01)] = 0.0,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> GenerationPrediction:
    """Predict which tokenizer generates better, or state why it cannot be predicted.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of tokenizers, and of generators of some of them.
    partners : sequence of Evidence, optional
        Further generators of these tokenizers.
    ifid : float, default 0
        Interpolation FID of the first tokenizer without a generator, if the authors' code measured
        it on the 50,000 validation images of ImageNet; 0 if it was not measured.
    seed : int, default 0
        Seed of the diagnostics, distances and permutations.

    Returns
    -------
    GenerationPrediction
        The expectation, and the positions of the runs among published tokenizers.

    Raises
    ------
    NotApplicable
        If no run has latents.

    References
    ----------
    iFID and the published table: arXiv 2603.05630. Correlations of other metrics: arXiv
    2606.03578.
    """
    tokenizers = tokenizers_of(evidences)
    expected = expectation(evidences, partners, ifid=ifid, seed=seed)
    fit = published_fit()
    return GenerationPrediction(
        expectation=expected,
        placements=tuple(
            _placement(evidence, name, ifid if evidence.run_name == expected.run else 0.0, seed)
            for evidence, name in zip(tokenizers, distinct_names(tokenizers), strict=True)
        ),
        spearman=_spearman(fit.x, fit.y),
        q2=left_out_q2(fit.x[:, None], fit.y),
    )


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    from workbench.analysis.stats.rank_correlation import spearman

    return float(spearman(x[:, None], y)[0])


def _placement(evidence: Evidence, name: str, ifid: float, seed: int) -> Placement:
    published = known_tokenizer(evidence)
    differences: tuple[str, ...] = ()
    value = ifid or math.nan
    if published is not None and not ifid:
        value = published.ifid
    elif not ifid:
        value = _interpolation_distance(evidence, seed)
        differences = _protocol_differences(evidence)
    placement = Placement(
        run=name,
        published=published.name if published else "",
        ifid=value,
        differences=differences,
        expected=math.nan,
        low=math.nan,
        high=math.nan,
    )
    if not placement.has_place:
        return placement
    fit = published_fit()
    x = math.log(value)
    margin = stdtrit(fit.n - 2, 0.975) * fit.prediction_deviation(x)
    expected, low, high = np.exp(fit.predict(x) + np.array([0.0, -margin, margin])).tolist()
    return replace(placement, expected=expected, low=low, high=high)


def _interpolation_distance(evidence: Evidence, seed: int) -> float:
    points = evidence.interpolation_features
    if evidence.features is None or points is None or len(points) < MIN_FEATURES:
        return math.nan
    return feature_distance(
        seed, held_out=np.asarray(evidence.features), interpolations=np.asarray(points)
    )


def _protocol_differences(evidence: Evidence) -> tuple[str, ...]:
    """Return the differences of a run's interpolation distance to the published protocol."""
    if evidence.interpolation_features is None:
        return ("it was not measured",)
    data = evidence.provenance.get("data", "unnamed data")
    differences = []
    if evidence.feature_extractor != IFID_PROTOCOL["network"]:
        network = network_title(evidence.feature_extractor or "")
        differences.append(f"features of {network} instead of Inception-v3")
    side = 0 if evidence.images is None else ImageSize(*evidence.images.shape[1:3]).side
    images = f"{evidence.num_images:,} images of {data} with {side} pixels"
    differences.append(
        f"{images} instead of {IFID_PROTOCOL['number of images']} of {IFID_PROTOCOL['images']} with"
        f" {IFID_PROTOCOL['side']}"
    )
    differences.append(OUR_PARTNERS)
    return tuple(differences)


def _placement_sentences(placements: Sequence[Placement]) -> list[str]:
    """Return one sentence per placed run, and one per reason that others cannot be placed."""
    sentences = []
    runs_by_reason: dict[str, list[str]] = {}
    for placement in placements:
        if placement.published:
            sentences.append(f"{placement.run} is {placement.published} of the published table.")
        elif placement.has_place:
            sentences.append(
                f"By its iFID of {placement.ifid:.4g}, the gFID of SiT-XL on {placement.run} is"
                f" expected at {placement.expected:.3g} ({placement.low:.3g} to"
                f" {placement.high:.3g})."
            )
        elif placement.differences:
            # Only an iFID that was given can be out of range, as the expectation states.
            reason = "; ".join(placement.differences)
            runs_by_reason.setdefault(reason, []).append(placement.run)
    for reason, runs in runs_by_reason.items():
        sentences.append(
            f"{', '.join(runs)} cannot be placed among the published tokenizers, because the"
            f" protocol of the interpolation distance differs: {reason}."
        )
    return sentences
