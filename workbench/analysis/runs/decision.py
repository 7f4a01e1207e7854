"""Decision: the run to choose for a goal, with the evidence for it and what is not known yet."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from workbench.analysis.base import Result
from workbench.analysis.plotting import image_grid
from workbench.analysis.runs import decision_html, decision_text
from workbench.analysis.runs.candidates import (
    CANDIDATE_METRICS,
    Candidate,
    Comparison,
    Measurements,
    Subject,
    candidates,
    measure,
    subjects_of,
)
from workbench.analysis.runs.commands import generator_command, retrain_command
from workbench.analysis.runs.expectation import Expectation, expectation
from workbench.analysis.runs.generators import generator_differences
from workbench.core.errors import NotApplicable
from workbench.core.html_templates import render_text
from workbench.storage.evidence import Evidence

Goal = Literal["best generation", "best reconstruction", "cheapest within 1 dB", "best probe"]
# The metric that decides for a goal. If fewer than two runs have it, PSNR decides.
GOAL_METRICS: dict[Goal, str] = {
    "best generation": "gfd",
    "best reconstruction": "psnr",
    "cheapest within 1 dB": "psnr",
    "best probe": "probe",
}
TOLERANCE_DB = 1.0  # of the goal "cheapest within 1 dB"
NUM_IMAGES = 8  # in the strip
MAX_NAMED_SETTINGS = 4


@dataclass(frozen=True)
class Missing:
    """A metric that was not measured for some candidates, and the command that measures it."""

    metric: str
    runs: tuple[str, ...]
    command: str  # for the first of the runs that have one; empty if none has
    without_command: tuple[str, ...] = ()  # runs for which it cannot be measured


@dataclass(frozen=True)
class Strip:
    """Images on which two runs differ most."""

    rows: tuple[str, ...]  # names of the rows: original and runs
    captions: tuple[str, ...]  # one per column
    mosaic: np.ndarray = field(repr=False)  # uint8 (height, width, 4)
    is_by_class: bool = False  # equally many images of each class


@dataclass(frozen=True, eq=False, kw_only=True)
class Decision(Result):
    """The run to choose for a goal, next to its alternatives."""

    replaces_figure: ClassVar[bool] = True

    goal: Goal
    basis: str  # metric that decides; differs from that of the goal if that was not measured
    candidates: tuple[Candidate, ...]  # the recommended one first, then from the best by the basis
    tied: tuple[str, ...]  # candidates that do not differ significantly from the best
    versus: (
        Comparison | None
    )  # the recommended run and its strongest alternative; None for a single run
    also: tuple[Comparison, ...]  # the recommended run and the best in other metrics
    missing: tuple[Missing, ...]
    excluded: tuple[str, ...]  # name and reason of each run that is not ranked
    warnings: tuple[str, ...]
    suggestion: str  # command that trains a run to compare with; empty for several runs
    strip: Strip
    feature_extractor: str  # of rFD and gFD
    n: int  # images
    samples: int  # images of every gFD; 0 if it was not measured
    # Expected generation of the first tokenizer whose gFD is missing; None if none is.
    expectation: Expectation | None = None
    image_kind: str = "held-out images"

    @property
    def recommended(self) -> Candidate:
        """The run to choose."""
        return self.candidates[0]

    @property
    def alternative(self) -> Candidate | None:
        """The strongest alternative."""
        if self.versus is None:
            return None
        return self.candidate(self.versus.reference)

    def candidate(self, run: str) -> Candidate:
        """Return a candidate by name."""
        return next(candidate for candidate in self.candidates if candidate.run == run)

    def table(self) -> pd.DataFrame:
        """Return one row per run: cost, every metric with interval and standing, and findings."""
        rows = []
        for candidate in self.candidates:
            row = {
                "run": candidate.run,
                "recommended": candidate is self.recommended and len(self.candidates) > 1,
                "tokens": candidate.tokens,
                "bits": candidate.bits,
            }
            for metric in CANDIDATE_METRICS:
                measurement = candidate.measurements.get(metric)
                row[metric] = measurement.value if measurement else math.nan
                row[f"{metric}_low"] = measurement.low if measurement else math.nan
                row[f"{metric}_high"] = measurement.high if measurement else math.nan
                row[f"{metric}_standing"] = measurement.standing if measurement else ""
            row |= {
                "codes_used": candidate.codes_used,
                "codebook_size": candidate.codebook_size,
                "codebook": candidate.codebook_verdict,
                **{f"{severity}s": n for severity, n in candidate.findings.items()},
                "generators": ", ".join(candidate.generators),
                "n": self.n,
            }
            rows.append(row)
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """Return the card, and the folded table of all numbers."""
        note = ""
        if self.left_out:
            note = render_text("<p>{{ note }}</p>", note=self.left_out_note())
        return f"{note}{decision_html.to_html(self)}{self.table_html()}"

    def summary(self) -> str:
        """Name the run to choose, the evidence for it, its price, and what was not measured."""
        return decision_text.summary(self)


def decision(
    evidences: Sequence[Evidence],
    partners: Sequence[Evidence] = (),
    *,
    goal: Goal = "best generation",
) -> Decision:
    """Choose a run for a goal, and show the evidence for the choice.

    Among runs that do not differ significantly from the best, the one with the fewest tokens is
    recommended. Runs on other images than the first are not ranked.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of tokenizers, or of generators if the first is one.
    partners : sequence of Evidence, optional
        Generators of these tokenizers, or tokenizers of these generators. They are not candidates.
    goal : {"best generation", "best reconstruction", "cheapest within 1 dB", "best probe"}, \
default "best generation"
        The property to choose by: the distance of samples to training images, PSNR, the number of
        tokens among runs that lose at most 1 dB of PSNR, or the accuracy of a linear probe. If
        fewer than two runs have it, PSNR decides.

    Returns
    -------
    Decision
        The recommended run, the others, and what was not measured.

    Raises
    ------
    NotApplicable
        If no run has reconstructions.
    """
    subjects, excluded = subjects_of(evidences, partners)
    if not subjects:
        reasons = f": {'; '.join(excluded)}" if excluded else ""
        raise NotApplicable(f"A decision needs a tokenizer with reconstructions{reasons}.")
    generators = [e for e in (*evidences, *partners) if e.latents is None]
    measurements = measure(subjects, generators)
    metric = GOAL_METRICS[goal]
    is_measured = len(measurements.runs(metric)) >= min(2, len(subjects))
    basis = metric if is_measured else "psnr"
    rows = {candidate.run: candidate for candidate in candidates(subjects, measurements)}
    tied = measurements.tied(basis)
    recommended = _choose(goal, basis, measurements, rows)
    ranking = sorted(
        rows, key=lambda run: (run != recommended, -_goodness(measurements, basis, run), run)
    )
    alternative = _alternative(goal, basis, recommended, measurements, rows)
    versus = None if alternative is None else measurements.compare(basis, recommended, alternative)
    subject_by_name = {subject.name: subject for subject in subjects}
    compared = [subject_by_name[run] for run in (recommended, alternative) if run is not None]
    first = subjects[0].tokenizer
    return Decision(
        goal=goal,
        basis=basis,
        candidates=tuple(rows[run] for run in ranking),
        tied=tied,
        versus=versus,
        also=tuple(
            comparison
            for comparison in _other_metrics(basis, recommended, measurements)
            if rows[comparison.reference].tokenizer != rows[recommended].tokenizer
        ),
        missing=_missing(subjects, measurements),
        excluded=excluded,
        warnings=_warnings(measurements),
        suggestion="" if len(subjects) > 1 else _suggestion(subjects[0]),
        strip=_strip(compared),
        feature_extractor=first.feature_extractor or "",
        n=first.num_images,
        samples=measurements.samples,
        expectation=_expectation(subjects, generators, measurements),
        image_kind=first.image_kind,
    )


def _goodness(measurements: Measurements, metric: str, run: str) -> float:
    if run not in measurements.runs(metric):
        return -math.inf
    return measurements.goodness(metric, run)


def _choose(goal: Goal, basis: str, measurements: Measurements, rows: dict[str, Candidate]) -> str:
    """Return the cheapest of the runs that are good enough for the goal."""
    eligible = measurements.tied(basis)
    if goal == "cheapest within 1 dB":
        best = measurements.best(basis)
        eligible = tuple(
            run
            for run in measurements.runs(basis)
            if _loss(measurements, run, best) <= TOLERANCE_DB
        )
    return min(
        eligible, key=lambda run: (rows[run].tokens, -measurements.goodness(basis, run), run)
    )


def _loss(measurements: Measurements, run: str, best: str) -> float:
    return measurements.goodness("psnr", best) - measurements.goodness("psnr", run)


def _alternative(
    goal: Goal,
    basis: str,
    recommended: str,
    measurements: Measurements,
    rows: dict[str, Candidate],
) -> str | None:
    """Return the run that the recommended one is compared with: the best other one by the basis.

    The cheapest run is compared with the best run, or, if it is the best, with the best cheaper
    one, which loses more than is tolerated.
    """
    alternatives = [run for run in measurements.runs(basis) if run != recommended]
    if not alternatives:
        return None
    if goal == "cheapest within 1 dB" and recommended == measurements.best(basis):
        cheaper = [run for run in alternatives if rows[run].tokens < rows[recommended].tokens]
        alternatives = cheaper or alternatives
    return max(alternatives, key=lambda run: measurements.goodness(basis, run))


def _other_metrics(
    basis: str, recommended: str, measurements: Measurements
) -> tuple[Comparison, ...]:
    """Compare the recommended run with the best one in reconstruction and generation."""
    comparisons = []
    for metric in ("psnr", "gfd"):
        runs = measurements.runs(metric)
        if metric == basis or len(runs) < 2 or recommended not in runs:
            continue
        alternatives = [run for run in runs if run != recommended]
        best = max(alternatives, key=partial(measurements.goodness, metric))
        comparisons.append(measurements.compare(metric, recommended, best))
    return tuple(comparisons)


def _missing(subjects: Sequence[Subject], measurements: Measurements) -> tuple[Missing, ...]:
    """Return what was not measured, with commands."""
    missing = []
    for metric in CANDIDATE_METRICS:
        measured = measurements.runs(metric)
        lacking = [subject for subject in subjects if subject.name not in measured]
        if not lacking:
            continue
        commands = {subject.name: _command(metric, subject) for subject in lacking}
        missing.append(
            Missing(
                metric=metric,
                runs=tuple(commands),
                command=next(filter(None, commands.values()), ""),
                without_command=tuple(name for name, command in commands.items() if not command),
            )
        )
    return tuple(missing)


def _command(metric: str, subject: Subject) -> str:
    """Return the command that measures a metric of a run; empty if none can."""
    if metric == "gfd" and subject.generator is None:
        return generator_command(subject.tokenizer)
    if metric == "probe" and subject.tokenizer.labels is None:
        return ""
    if not subject.evidence.is_model_stored:
        return ""
    return f"workbench collect {shlex.quote(subject.evidence.run_path)}"


def _expectation(
    subjects: Sequence[Subject], generators: Sequence[Evidence], measurements: Measurements
) -> Expectation | None:
    """Return the expected generation if that of a tokenizer was not measured."""
    measured = measurements.runs("gfd")
    if any(subject.generator is not None for subject in subjects):
        return None
    if all(subject.name in measured for subject in subjects):
        return None
    return expectation([subject.tokenizer for subject in subjects], generators)


def _warnings(measurements: Measurements) -> tuple[str, ...]:
    if len(measurements.pairs) < 2:
        return ()
    differences = generator_differences(measurements.pairs)
    if not differences:
        return ()
    names = ", ".join(differences[:MAX_NAMED_SETTINGS])
    if len(differences) > MAX_NAMED_SETTINGS:
        names += f" and {len(differences) - MAX_NAMED_SETTINGS} more settings"
    return (f"The generators also differ in {names}.",)


def _suggestion(subject: Subject) -> str:
    """Return a command that trains a run to compare a single one with."""
    num_tokens = subject.tokenizer.provenance.get("settings", {}).get("num_tokens")
    if subject.generator is not None or not isinstance(num_tokens, int) or num_tokens < 2:
        return ""
    return retrain_command(subject.tokenizer, {"num_tokens": str(num_tokens // 2)})


def _strip(subjects: Sequence[Subject]) -> Strip:
    """Return the images on which runs differ most: originals above the runs' reconstructions.

    Generators of one tokenizer have no common images: their first samples are shown.
    """
    generators = [s.generator for s in subjects if s.generator is not None]
    if generators:
        rows = [np.asarray(g.samples)[:NUM_IMAGES] for g in generators if g.samples is not None]
        captions = ("",) * max((len(row) for row in rows), default=0)
        names = tuple(g.run_name for g in generators if g.samples is not None)
        mosaic = image_grid.compose(rows) if rows else np.zeros((0, 0, 4), np.uint8)
        return Strip(rows=names, captions=captions, mosaic=mosaic)
    images = np.asarray(subjects[0].tokenizer.images)
    reconstructions = [np.asarray(s.tokenizer.reconstructions) for s in subjects]
    other = reconstructions[1] if len(subjects) > 1 else images
    difference = [
        np.square(a.astype(np.float32) - b.astype(np.float32)).mean()
        for a, b in zip(reconstructions[0], other, strict=True)
    ]
    order = np.argsort(difference, kind="stable")[::-1]
    labels = subjects[0].tokenizer.labels
    if labels is not None:
        order = _by_class(order, labels)
    indices = order[:NUM_IMAGES]
    rows = [images[indices], *(part[indices] for part in reconstructions)]
    return Strip(
        rows=("original", *(subject.name for subject in subjects)),
        captions=tuple(f"#{index}" for index in indices),
        mosaic=image_grid.compose(rows),
        is_by_class=labels is not None and len(np.unique(labels)) > 1,
    )


def _by_class(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return an order with the first image of every class, then the second of every class, etc.

    Otherwise crops of one photograph, or the images of one hard class, may fill the strip.
    """
    classes = np.asarray(labels)[order]
    rank = pd.Series(classes).groupby(classes).cumcount().to_numpy()
    return order[np.argsort(rank, kind="stable")]
