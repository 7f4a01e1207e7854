"""The comparison of latent spaces: one row per tokenizer, and one column per perspective.

The columns are those of every analysis whose result is a `PerspectiveResult`. A value is comparable
with that of the first run that has one if all conditions of the two are equal, among them the
images on which they were measured.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Annotated, Any

import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import distinct_names
from workbench.analysis.perspectives import Direction, Perspective, PerspectiveResult
from workbench.analysis.result_cache import composed_result
from workbench.analysis.runs.expectation import Expectation, expectation
from workbench.core.errors import NotApplicable, UserError
from workbench.core.progress import Cancelled, report_progress
from workbench.storage.analysis_arguments import kwargs_for
from workbench.storage.evidence import Evidence

FINGERPRINT_LETTERS = 6
RECONSTRUCTION = "PSNR"
MAX_PSNR_DIFFERENCE_DB = 0.5  # of tokenizers whose reconstruction is about equal
MAX_REASONS = 3  # in the summary; the table has all


@dataclass(frozen=True, eq=False, kw_only=True)
class Cell:
    """A perspective of one run.

    Attributes
    ----------
    run : str
        Name of the run.
    perspective : Perspective or None
        None if the analysis does not apply to the run.
    reason : str
        Reason why the value is missing or not comparable; empty if it is comparable.
    """

    run: str
    perspective: Perspective | None
    reason: str

    @property
    def value(self) -> float:
        """The value; NaN if it is missing."""
        return math.nan if self.perspective is None else self.perspective.value

    @property
    def is_missing(self) -> bool:
        """True if there is no value."""
        return math.isnan(self.value)

    @property
    def is_comparable(self) -> bool:
        """True if there is a value that can be compared with that of the reference run."""
        return not self.is_missing and not self.reason


@dataclass(frozen=True, eq=False, kw_only=True)
class Column:
    """One perspective of all runs.

    Attributes
    ----------
    name : str
        Name of the perspective.
    analysis : str
        Name of the analysis that computes and draws it.
    reference : Perspective
        The value that the others are compared with: that of the first run that has one.
    cells : tuple of Cell
        One per run.
    """

    name: str
    analysis: str
    reference: Perspective
    cells: tuple[Cell, ...]

    @property
    def better(self) -> Direction | None:
        """Direction of better generation, if evidence supports one."""
        return self.reference.better

    @property
    def best(self) -> str:
        """The best run, if there is a direction and its interval overlaps no other."""
        cells = [cell for cell in self.cells if cell.is_comparable]
        if self.better is None or len(cells) < 2:
            return ""
        sign = 1 if self.better == "higher" else -1
        first, *rest = sorted(cells, key=lambda cell: -sign * cell.value)
        is_apart = all(_is_apart(first.perspective, other.perspective) for other in rest)
        return first.run if is_apart else ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Diffusability(Result):
    """Perspectives of the latent spaces of several tokenizers.

    Attributes
    ----------
    runs : tuple of str
        The tokenizers; values are compared with those of the first.
    columns : tuple of Column
        One column per perspective.
    not_measured : tuple of str
        Name of each analysis without a value for any run, and the reason.
    expectation : Expectation
        The expected order of generation, or the reason why there is none.
    """

    runs: tuple[str, ...]
    columns: tuple[Column, ...]
    not_measured: tuple[str, ...]
    expectation: Expectation

    def incomparable(self) -> list[str]:
        """Return a phrase per reason why values are gray: run, perspectives and difference."""
        names: dict[tuple[str, str], list[str]] = {}
        for column in self.columns:
            for cell in column.cells:
                if not cell.is_missing and not cell.is_comparable:
                    names.setdefault((cell.run, cell.reason), []).append(column.name)
        return [
            f"{', '.join(columns)} of {run} ({reason})" for (run, reason), columns in names.items()
        ]

    @property
    def psnr_difference(self) -> float:
        """Largest difference in PSNR between comparable runs, in dB; 0 if it was not measured."""
        values = [
            cell.value
            for column in self.columns
            if column.name == RECONSTRUCTION
            for cell in column.cells
            if cell.is_comparable
        ]
        return max(values) - min(values) if values else 0.0

    def table(self) -> pd.DataFrame:
        """Return one row per run and perspective: value, interval, null, direction and reason."""
        rows = []
        for column in self.columns:
            for cell in column.cells:
                perspective = cell.perspective or replace(
                    column.reference, value=math.nan, low=math.nan, high=math.nan, null=math.nan
                )
                rows.append(
                    {
                        "run": cell.run,
                        "perspective": column.name,
                        "value": perspective.value,
                        "low": perspective.low,
                        "high": perspective.high,
                        "null": perspective.null,
                        "null of": perspective.null_case,
                        "better": column.better or "unknown",
                        "comparable": cell.is_comparable,
                        "reason": cell.reason,
                        "direction": column.reference.reason,
                        "analysis": column.analysis,
                    }
                )
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State in which directed perspectives a run is best, and what cannot be compared."""
        return " ".join([*self._verdicts(), self._expectation(), *self._cautions()])

    def _verdicts(self) -> list[str]:
        if len(self.runs) < 2:
            return [f"Select other tokenizers to compare {self.runs[0]} with."]
        directed = [column for column in self.columns if column.better is not None]
        wins = [
            f"{column.best} has the {'lowest' if column.better == 'lower' else 'highest'}"
            f" {column.name}"
            for column in directed
            if column.best
        ]
        if not wins:
            return [
                f"No tokenizer is ahead: of {len(self.columns)} perspectives, {len(directed)} have"
                " a published direction, and none of them separates comparable runs."
            ]
        return [
            f"{', '.join(wins)}.",
            f"Only {len(directed)} of {len(self.columns)} perspectives have a published direction,"
            " which holds among tokenizers of one shape and reconstruction.",
        ]

    def _expectation(self) -> str:
        sentence = self.expectation.short_sentence()
        if self.expectation.is_expected or not self.expectation.measurement:
            return sentence
        return f"{sentence} Generation prediction names the measurement that decides."

    def _cautions(self) -> list[str]:
        sentences = []
        if self.psnr_difference > MAX_PSNR_DIFFERENCE_DB:
            sentences.append(
                f"These runs differ by {self.psnr_difference:.1f} dB in PSNR, so that the"
                " directions may not hold among them."
            )
        reasons = self.incomparable()
        if reasons:
            reason_text = "; ".join(reasons[:MAX_REASONS])
            if len(reasons) > MAX_REASONS:
                reason_text += f"; and {len(reasons) - MAX_REASONS} more"
            sentences.append(f"Gray, not comparable with {self.runs[0]}: {reason_text}.")
        if self.not_measured:
            names = (item.partition(":")[0] for item in self.not_measured)
            sentences.append(f"Not measured: {', '.join(names)}; their own pages have the reason.")
        return sentences


def diffusability(
    evidences: Sequence[Evidence],
    partners: Sequence[Evidence] = (),
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> Diffusability:
    """Compare the latent spaces of tokenizers by all perspectives, each with its null value.

    Parameters
    ----------
    evidences : sequence of Evidence
        Runs without latents, such as generators, have no row.
    partners : sequence of Evidence, optional
        Generators of these tokenizers, which calibrate the expected order of generation.
    seed : int
        Seed of the analyses.

    Returns
    -------
    Diffusability
        One column per perspective, with the direction of better generation only if published
        evidence supports one.

    Raises
    ------
    NotApplicable
        If no run has latents, or no analysis applies to any run.
    """
    tokenizers = [e for e in evidences if e.latents is not None]
    if not tokenizers:
        raise NotApplicable("Diffusability needs the latents of a tokenizer; no run has any.")
    functions = _perspective_analyses()
    runs = distinct_names(tokenizers)
    columns: list[Column] = []
    not_measured = []
    for done, (name, function) in enumerate(functions.items(), 1):
        measured = [_measure(function, evidence, seed) for evidence in tokenizers]
        added = _columns(name, runs, measured)
        columns += added
        if not added:
            not_measured.append(f"{name.replace('_', ' ')}: {measured[0][1]}")
        report_progress(done, len(functions))
    if not columns:
        raise NotApplicable(f"Diffusability was not measured: {' '.join(not_measured)}")
    return Diffusability(
        runs=runs,
        columns=tuple(columns),
        not_measured=tuple(not_measured),
        expectation=expectation(evidences, partners, seed=seed),
    )


def _perspective_analyses() -> dict[str, Callable[..., PerspectiveResult]]:
    from workbench.analysis import analyses  # it imports this module

    return {
        name: function
        for name, function in analyses().items()
        if issubclass(signature(function).return_annotation, PerspectiveResult)
    }


def _measure(
    function: Callable[..., PerspectiveResult], evidence: Evidence, seed: int
) -> tuple[dict[str, Perspective], str]:
    """Return the perspectives of a run by name, or none and the reason."""
    controls: dict[str, Any] = {}
    if "seed" in signature(function).parameters:
        controls["seed"] = seed
    try:
        result = composed_result(function, kwargs_for(function, [evidence]), **controls)
    except Cancelled:
        raise
    except UserError as error:
        return {}, str(error)
    images = ("images measured", _images(evidence))
    return {
        p.name: replace(p, conditions=(*p.conditions, images)) for p in result.perspectives()
    }, ""


def _images(evidence: Evidence) -> str:
    """Describe the images of some evidence, such that equal texts mean equal images."""
    provenance = evidence.provenance
    fingerprint = str(provenance.get("fingerprint", "unknown"))[:FINGERPRINT_LETTERS]
    count = 0 if evidence.latents is None else len(evidence.latents)
    return f"{count:,} of {provenance.get('data', 'unnamed data')} ({fingerprint})"


def _columns(
    analysis: str,
    runs: Sequence[str],
    measured: Sequence[tuple[dict[str, Perspective], str]],
) -> list[Column]:
    names = dict.fromkeys(name for perspectives, _ in measured for name in perspectives)
    columns = []
    for name in names:
        present = [p[name] for p, _ in measured if name in p and not math.isnan(p[name].value)]
        if not present:
            continue
        cells = [
            _cell(run, perspectives.get(name), reason, present[0])
            for run, (perspectives, reason) in zip(runs, measured, strict=True)
        ]
        columns.append(
            Column(name=name, analysis=analysis, reference=present[0], cells=tuple(cells))
        )
    return columns


def _cell(run: str, perspective: Perspective | None, reason: str, reference: Perspective) -> Cell:
    if perspective is None:
        return Cell(run=run, perspective=None, reason=reason or "Its evidence does not allow it.")
    if math.isnan(perspective.value):
        return Cell(run=run, perspective=perspective, reason=perspective.reason)
    return Cell(run=run, perspective=perspective, reason=perspective.incomparability(reference))


def _is_apart(a: Perspective | None, b: Perspective | None) -> bool:
    """Return whether the intervals of two values do not overlap; a missing interval is a point."""
    if a is None or b is None:
        return False
    low_a, high_a = _interval(a)
    low_b, high_b = _interval(b)
    return high_a < low_b or high_b < low_a


def _interval(perspective: Perspective) -> tuple[float, float]:
    if math.isnan(perspective.low) or math.isnan(perspective.high):
        return perspective.value, perspective.value
    return perspective.low, perspective.high
