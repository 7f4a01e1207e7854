"""Measurements of the candidates of a decision, and paired comparisons between them.

Nothing is computed here: every number is that of the analysis of its quantity.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from workbench.analysis.codebook.usage import codebook_usage, worst_verdict
from workbench.analysis.diagnosis.checks import FINDING_STATUSES, checks
from workbench.analysis.inputs import image_set
from workbench.analysis.latents.probes import linear_hits
from workbench.analysis.result_cache import composed_result
from workbench.analysis.runs.generators import (
    GeneratorPair,
    checkpoint_of,
    generation_distances,
    pair_generators,
)
from workbench.analysis.runs.metrics import (
    METRICS,
    MetricInfo,
    Verdict,
    metric_values,
    paired_difference,
)
from workbench.analysis.runs.settings import run_names
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.tokens.budget import token_budget
from workbench.analysis.tokens.metrics import (
    QUALITY_METRICS,
    Estimate,
    has_metric,
    reconstruction_quality,
)
from workbench.core.errors import NotApplicable, UserError
from workbench.core.progress import Cancelled, report_progress
from workbench.storage.evidence import Evidence

NORMAL_QUANTILE = 1.96  # of a 95 % interval
# Metrics of a candidate in the order of the columns.
CANDIDATE_METRICS: dict[str, MetricInfo] = {
    "psnr": METRICS["psnr"],
    # The collected one, not that of METRICS, which is computed from stored pictures.
    "ssim": MetricInfo(label="SSIM (Gaussian window of 11)", unit="", higher_is_better=True),
    "lpips": MetricInfo(label="LPIPS", unit="", higher_is_better=False),
    "rfd": QUALITY_METRICS["rfd"],
    "gfd": MetricInfo(label="gFD", unit="", higher_is_better=False),
    "probe": MetricInfo(label="linear probe", unit="%", higher_is_better=True),
}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A metric of a candidate with its 95 % interval."""

    value: float
    low: float
    high: float
    # "best", "tied" if the interval of the difference to the best contains zero, otherwise "".
    standing: str = ""


@dataclass(frozen=True)
class Comparison:
    """Difference of a candidate to another in one metric, with its 95 % interval."""

    metric: str
    run: str
    reference: str
    difference: float
    low: float
    high: float
    better_share: float  # fraction of images on which the run is better; NaN for a distance of sets
    verdict: Verdict


@dataclass(frozen=True)
class Candidate:
    """One row of the table: a tokenizer with its generators, or a generator."""

    run: str
    tokenizer: str  # name of the tokenizer's run; that of `run` unless it is a generator
    generators: tuple[str, ...]  # generators behind gFD
    tokens: float  # per image, mean over images
    bits: float  # of the codes of an image; NaN if not discrete
    measurements: Mapping[str, Measurement]  # by metric; a missing one was not measured
    codes_used: int | None  # of all codebooks; None without codes
    codebook_size: int | None
    codebook_verdict: str  # the worst of all codebooks; empty without codes
    findings: Mapping[str, int]  # number of findings of the checks by severity


@dataclass(frozen=True, eq=False)
class Subject:
    """The evidence of a candidate."""

    name: str
    tokenizer: Evidence
    generator: Evidence | None = None  # if the candidate is a generator

    @property
    def evidence(self) -> Evidence:
        """Evidence of the run itself."""
        return self.tokenizer if self.generator is None else self.generator


@dataclass(frozen=True, eq=False)
class Measurements:
    """Metrics of all candidates: one value per image, or a distance between sets of images."""

    image_values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    distances: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    generators: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pairs: Sequence[GeneratorPair] = ()
    samples: int = 0  # images of every gFD

    def runs(self, metric: str) -> tuple[str, ...]:
        """Return the names of the candidates for which a metric was measured."""
        return (*self.image_values.get(metric, {}), *self.distances.get(metric, {}))

    def estimate(self, metric: str, run: str) -> Estimate:
        """Return a metric of a candidate with its 95 % interval."""
        if metric in self.distances:
            return self.distances[metric][run]
        return mean_interval(self.image_values[metric][run])

    def goodness(self, metric: str, run: str) -> float:
        """Return a metric with its sign changed if lower is better."""
        sign = 1 if CANDIDATE_METRICS[metric].higher_is_better else -1
        if metric in self.distances:
            return sign * self.distances[metric][run][0]
        return sign * float(self.image_values[metric][run].mean())

    def compare(self, metric: str, run: str, reference: str) -> Comparison:
        """Compare two candidates: image by image if possible, otherwise by their intervals."""
        if metric in self.distances:
            return self._compare_distances(metric, run, reference)
        values = self.image_values[metric]
        difference = paired_difference(
            run,
            values[run].astype(np.float64),
            values[reference].astype(np.float64),
            higher_is_better=CANDIDATE_METRICS[metric].higher_is_better,
        )
        return Comparison(
            metric=metric,
            run=run,
            reference=reference,
            difference=difference.difference,
            low=difference.low,
            high=difference.high,
            better_share=difference.better_share,
            verdict=difference.verdict,
        )

    def _compare_distances(self, metric: str, run: str, reference: str) -> Comparison:
        value, _, high = self.distances[metric][run]
        other_value, _, other_high = self.distances[metric][reference]
        difference = value - other_value
        # The lower ends are cut at zero, so that the upper ends give the errors.
        margin = math.hypot(high - value, other_high - other_value)
        verdict: Verdict = "better" if difference < 0 else "worse"
        if abs(difference) <= margin:
            verdict = "undecided"
        return Comparison(
            metric=metric,
            run=run,
            reference=reference,
            difference=difference,
            low=difference - margin,
            high=difference + margin,
            better_share=math.nan,
            verdict=verdict,
        )

    def best(self, metric: str) -> str:
        """Return the candidate with the best value of a metric."""
        return max(self.runs(metric), key=lambda run: self.goodness(metric, run))

    def tied(self, metric: str) -> tuple[str, ...]:
        """Return the best candidate, and those that do not differ from it significantly."""
        best = self.best(metric)
        return tuple(
            run
            for run in self.runs(metric)
            if run == best or self.compare(metric, run, best).verdict == "undecided"
        )

    def rows(self) -> dict[str, dict[str, Measurement]]:
        """Return all metrics of every candidate, with its standing among the candidates."""
        rows: dict[str, dict[str, Measurement]] = {}
        for metric in CANDIDATE_METRICS:
            runs = self.runs(metric)
            is_ranked = len({self.goodness(metric, run) for run in runs}) > 1
            best = self.best(metric) if is_ranked else ""
            tied = self.tied(metric) if is_ranked else ()
            for run in runs:
                value, low, high = self.estimate(metric, run)
                standing = "tied" if run in tied else ""
                if run == best:
                    standing = "best"
                rows.setdefault(run, {})[metric] = Measurement(
                    value=value, low=low, high=high, standing=standing
                )
        return rows


def measure(subjects: Sequence[Subject], generators: Sequence[Evidence]) -> Measurements:
    """Measure every metric of every candidate that its evidence allows.

    Parameters
    ----------
    subjects : sequence of Subject
        Candidates on the same images.
    generators : sequence of Evidence
        Generators, of which those of the candidates' tokenizers are used.

    Returns
    -------
    Measurements
        A metric that does not apply to a candidate is missing.
    """
    measures: dict[str, Callable[[Evidence], Any]] = {
        "psnr": lambda evidence: metric_values(evidence, "psnr"),
        "ssim": lambda evidence: evidence.ssim,
        "lpips": partial(_lpips, network=_shared_lpips(subjects)),
        "probe": lambda evidence: linear_hits(**evidence.kwargs_for(linear_hits)),
    }
    measurements = Measurements()
    reference = next((s.tokenizer for s in subjects if s.tokenizer.features is not None), None)
    for done, subject in enumerate(subjects):
        for metric, function in measures.items():
            values = _if_applicable(function, subject.tokenizer)
            if values is not None:
                of_metric = measurements.image_values.setdefault(metric, {})
                of_metric[subject.name] = np.asarray(values)
        if has_metric(subject.tokenizer, "rfd", reference):
            distance = _if_applicable(
                lambda evidence: reconstruction_quality(evidence, "rfd"), subject.tokenizer
            )
            if distance is not None:
                measurements.distances.setdefault("rfd", {})[subject.name] = distance
        report_progress(done + 1, len(subjects) + 1)
    return _with_generation(measurements, subjects, generators)


def candidates(subjects: Sequence[Subject], measurements: Measurements) -> tuple[Candidate, ...]:
    """Return the rows of the table, with cost, codebook and findings of each candidate."""
    outcomes = composed_result(checks, {"evidences": tuple(s.evidence for s in subjects)})
    metrics = measurements.rows()
    rows = []
    checked_names = run_names([subject.evidence for subject in subjects])
    for subject, checked_name in zip(subjects, checked_names, strict=True):
        codebooks = _if_applicable(
            lambda evidence: codebook_usage(**evidence.kwargs_for(codebook_usage)).codebooks,
            subject.tokenizer,
        )
        budget = token_budget([subject.tokenizer], prefixes=False).points[0]
        counts: dict[str, int] = dict.fromkeys(FINDING_STATUSES, 0)
        for finding in outcomes.findings:
            if finding.run == checked_name:
                counts[finding.status] += 1
        rows.append(
            Candidate(
                run=subject.name,
                tokenizer=subject.tokenizer.run_name,
                generators=measurements.generators.get(subject.name, ()),
                tokens=budget.tokens,
                bits=budget.bits,
                measurements=metrics.get(subject.name, {}),
                codes_used=sum(c.used for c in codebooks) if codebooks else None,
                codebook_size=sum(c.size for c in codebooks) if codebooks else None,
                codebook_verdict=worst_verdict(c.verdict for c in codebooks) if codebooks else "",
                findings=counts,
            )
        )
    return tuple(rows)


def subjects_of(
    evidences: Sequence[Evidence], partners: Sequence[Evidence]
) -> tuple[list[Subject], tuple[str, ...]]:
    """Return the candidates on the images of the first one, and the reason of each other run.

    The candidates are the tokenizers if the first run is a tokenizer, and otherwise the generators.

    Parameters
    ----------
    evidences : sequence of Evidence
        The selected runs.
    partners : sequence of Evidence
        Further runs that are not candidates.
    """
    is_generator = evidences[0].latents is None and "tokenizer" in evidences[0].provenance
    subjects: list[Subject] = []
    excluded: list[str] = []
    tokenizers: dict[str, list[Evidence]] = {}
    for evidence in (*evidences, *partners):
        if _is_complete(evidence):
            tokenizers.setdefault(evidence.run_name, []).append(evidence)
    for evidence, name in zip(evidences, run_names(evidences), strict=True):
        reason = ""
        subject: Subject | None = None
        if not is_generator and _is_complete(evidence):
            subject = Subject(name=name, tokenizer=evidence)
        elif is_generator and evidence.latents is None and "tokenizer" in evidence.provenance:
            reference = evidence.provenance["tokenizer"]
            source = reference["run"].replace("\\", "/").rpartition("/")[2]
            if source in tokenizers:
                tokenizer = checkpoint_of(tokenizers[source], reference.get("step"))
                subject = Subject(name=name, tokenizer=tokenizer, generator=evidence)
            else:
                reason = f"its tokenizer {source} is not at hand"
        elif is_generator or "tokenizer" not in evidence.provenance:
            reason = "is a tokenizer" if is_generator else "has no reconstructions"
        if subject is not None and subjects and _images(subject) != _images(subjects[0]):
            reason = f"was measured on other images ({subject.tokenizer.provenance.get('data')})"
            subject = None
        if subject is not None:
            subjects.append(subject)
        elif reason:
            excluded.append(f"{name} {reason}")
    return subjects, tuple(excluded)


def _images(subject: Subject) -> tuple[object, int]:
    images = subject.tokenizer.images
    return image_set(subject.tokenizer, images if images is not None else np.empty(0))


def _is_complete(evidence: Evidence) -> bool:
    arrays = (evidence.images, evidence.reconstructions, evidence.latents)
    return all(array is not None and len(array) for array in arrays)


def _with_generation(
    measurements: Measurements, subjects: Sequence[Subject], generators: Sequence[Evidence]
) -> Measurements:
    """Add gFD: the mean of the generators of a tokenizer, or that of a generator."""
    names_by_source = {id(subject.evidence): subject.name for subject in subjects}
    tokenizers = {id(subject.tokenizer): subject.tokenizer for subject in subjects}
    selected = [subject.generator for subject in subjects if subject.generator is not None]
    pairs, _ = pair_generators([*tokenizers.values(), *(selected or generators)])
    if not pairs:
        return measurements
    by: Literal["tokenizer", "generator"] = "generator" if selected else "tokenizer"
    try:
        distances, samples = generation_distances(pairs, by=by)
    except NotApplicable:  # too few samples
        return measurements
    names: dict[str, tuple[str, ...]] = {}  # in the order of the distances
    for pair in pairs:
        name = names_by_source[id(pair.generator if selected else pair.tokenizer)]
        names[name] = (*names.get(name, ()), pair.generator.run_name)
    gfd = {
        name: (d.value, d.low, d.high)
        for name, d in zip(names, distances, strict=True)
        if math.isfinite(d.value)
    }
    return Measurements(
        image_values=measurements.image_values,
        distances=measurements.distances | ({"gfd": gfd} if gfd else {}),
        generators=names,
        pairs=pairs,
        samples=samples,
    )


def _shared_lpips(subjects: Sequence[Subject]) -> str:
    """Return the name of the LPIPS that most candidates have; on VGG-16 if they have both."""
    names = ("lpips_vgg", "lpips_alex")
    return max(names, key=lambda name: sum(name in s.tokenizer.arrays() for s in subjects))


def _lpips(evidence: Evidence, network: str) -> np.ndarray | None:
    return evidence.arrays().get(network)


def _if_applicable(function: Callable[[Evidence], Any], evidence: Evidence) -> Any:
    """Return a quantity of a run, or None if it does not apply."""
    try:
        return function(evidence)
    except Cancelled:
        raise
    except UserError:
        return None
