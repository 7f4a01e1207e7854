"""Sentences of a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.analysis.generation.distance_names import distance_name, network_title
from workbench.analysis.runs.candidates import CANDIDATE_METRICS
from workbench.core.counted import counted

if TYPE_CHECKING:
    from workbench.analysis.runs.candidates import Candidate, Comparison, Measurement
    from workbench.analysis.runs.decision import Decision

DISTANCES = {"rfd": "r", "gfd": "g"}
MAX_NAMES = 3


def summary(result: Decision) -> str:
    """Return the answer, its price in other metrics, and what was not measured."""
    if result.versus is None:
        sentences = [_state_of(result)]
    else:
        sentences = [_answer(result), _fallback(result)]
        sentences += [_other_metric(result, comparison) for comparison in result.also]
        sentences += result.warnings
    sentences += [_problems(result.recommended), _missing_generation(result)]
    if result.excluded:
        sentences.append(f"Not ranked: {'; '.join(result.excluded)}.")
    return " ".join(filter(None, sentences))


def metric_label(metric: str, feature_extractor: str) -> str:
    """Return the name of a metric; a Fréchet distance is named after its network.

    Examples
    --------
    >>> metric_label("gfd", "inception"), metric_label("rfd", "hog"), metric_label("psnr", "")
    ('gFID', 'rFD (HOG)', 'PSNR')
    """
    if metric not in DISTANCES or not feature_extractor:
        return CANDIDATE_METRICS[metric].label
    name = distance_name(DISTANCES[metric], feature_extractor)
    return name if name.endswith("FID") else f"{name} ({network_title(feature_extractor)})"


def value_text(metric: str, value: float, *, signed: bool = False, decimals: int = 1) -> str:
    """Return a value in the precision of its metric, without its unit.

    `decimals` is the precision of PSNR.

    Examples
    --------
    >>> value_text("psnr", 27.66), value_text("probe", 0.934), value_text("psnr", 3, signed=True)
    ('27.7', '93', '+3.0')
    """
    sign = "+" if signed else ""
    if metric == "psnr":
        return f"{value:{sign}.{decimals}f}"
    if metric == "probe":
        return f"{100 * value:{sign}.0f}"
    if metric in DISTANCES:
        return f"{value:{sign}#.3g}".rstrip(".")
    return f"{value:{sign}.3f}"


def measured_text(result: Decision, metric: str, measurement: Measurement) -> str:
    """Return a metric by name with its unit and interval."""
    label = metric_label(metric, result.feature_extractor)
    low, high = value_text(metric, measurement.low), value_text(metric, measurement.high)
    value = value_text(metric, measurement.value)
    return f"{label} {value}{_unit(metric)} ({low} to {high})"


def tokens_text(candidate: Candidate) -> str:
    """Return the number of tokens of a run.

    Adaptive runs have a mean number of tokens.
    """
    unit = "token" if candidate.tokens == 1 else "tokens"
    return f"{candidate.tokens:,.4g} {unit}"


def _unit(metric: str) -> str:
    return {"psnr": " dB", "probe": " %"}.get(metric, "")


def _state_of(result: Decision) -> str:
    run = result.recommended
    numbers = [measured_text(result, metric, m) for metric, m in run.measurements.items()]
    if run.codes_used is not None:
        numbers.append(f"{run.codes_used:,} of {run.codebook_size:,} codes used")
    advice = " Select a second run on the same images to compare it with"
    advice += f", or train one: `{result.suggestion}`." if result.suggestion else "."
    return f"{run.run} with {tokens_text(run)} per image: {', '.join(numbers)}.{advice}"


def _answer(result: Decision) -> str:
    reasons = {"psnr": _by_reconstruction, "gfd": _by_generation, "probe": _by_probe}
    return f"Choose {result.recommended.run}: {reasons[result.basis](result)}{_price(result)}."


def _fallback(result: Decision) -> str:
    """State that the metric of the goal was not measured."""
    metric = {"best generation": "gfd", "best probe": "probe"}.get(result.goal, result.basis)
    if metric == result.basis:
        return ""
    label = metric_label(metric, result.feature_extractor)
    return f"Reconstruction decides, because fewer than two runs have a {label}."


def _by_reconstruction(result: Decision) -> str:
    versus = result.versus
    assert versus is not None
    numbers = f"PSNR {_difference(versus)}"
    if result.goal == "cheapest within 1 dB":
        alternative = result.alternative
        if versus.difference > 0 and alternative is not None:  # the recommended run is the best
            is_cheaper = alternative.tokens < result.recommended.tokens
            reason = "no cheaper run is within 1 dB" if is_cheaper else "no run has fewer tokens"
            return f"{reason}; compared with {versus.reference}, {numbers}"
        return f"it is within 1 dB of {versus.reference}, the best run ({numbers}),"
    if versus.verdict == "undecided":
        return f"it reconstructs as well as {versus.reference} ({numbers})"
    share = f"{100 * versus.better_share:.0f} % of {result.n:,} images"
    return f"it reconstructs better than {versus.reference} on {share} ({numbers})"


def _by_generation(result: Decision) -> str:
    versus = result.versus
    assert versus is not None
    values = _against(result, versus)
    if versus.verdict == "undecided":
        return (
            f"its samples are as close to real images as those of {versus.reference} ({values},"
            f" difference {_difference(versus)})"
        )
    return (
        f"its samples are closer to real images than those of {versus.reference} ({values},"
        f" difference {_difference(versus)})"
    )


def _by_probe(result: Decision) -> str:
    versus = result.versus
    assert versus is not None
    values = _against(result, versus)
    if versus.verdict == "undecided":
        return f"a linear probe separates the classes as well as in {versus.reference} ({values})"
    return f"a linear probe separates the classes better than in {versus.reference} ({values})"


def _price(result: Decision) -> str:
    """Return the tokens of the recommended run in comparison with the alternative."""
    alternative = result.alternative
    assert alternative is not None
    is_comparable = min(result.recommended.tokens, alternative.tokens) > 0
    if alternative.tokenizer == result.recommended.tokenizer or not is_comparable:
        return ""
    ratio = result.recommended.tokens / alternative.tokens
    if ratio == 1:
        return f" with as many tokens ({result.recommended.tokens:,.4g})"
    names = {2.0: "twice", 0.5: "half", 0.25: "a quarter of"}
    share = names.get(ratio, f"{ratio:.2g} times")
    preposition = "at" if ratio > 1 else "with"
    numbers = f"{result.recommended.tokens:,.4g} against {alternative.tokens:,.4g}"
    return f" {preposition} {share} the tokens ({numbers})"


def _other_metric(result: Decision, comparison: Comparison) -> str:
    """Compare the recommended run with the best other run in a metric that did not decide."""
    if comparison.metric == "psnr":
        verb = "reconstruct"
        is_worse = comparison.verdict == "worse"
        numbers = f"PSNR {_difference(_reversed(comparison) if is_worse else comparison)}"
    else:
        verb = "generate"
        numbers = _against(result, comparison)
    if comparison.verdict == "better":
        return f"It also {verb}s best (compared with {comparison.reference}: {numbers})."
    if comparison.verdict == "undecided":
        return f"It {verb}s as well as {comparison.reference} ({numbers})."
    caution = ""
    if comparison.metric == "gfd" and result.goal != "best generation":
        caution = ", so that it may be preferable for training a generator"
    return f"But {comparison.reference} {verb}s better ({numbers}){caution}."


def _problems(candidate: Candidate) -> str:
    """Return the errors and warnings of the checks of a run."""
    counts = {"error": candidate.findings["error"], "warning": candidate.findings["warning"]}
    parts = [counted(n, name) for name, n in counts.items() if n]
    if not parts:
        return ""
    codebook = ""
    if candidate.codebook_verdict == "collapsed":
        codebook = "its codebook is collapsed; "
    return f"Before using {candidate.run}: {codebook}{' and '.join(parts)} in Checks."


def _missing_generation(result: Decision) -> str:
    """Name the runs without a generator, and the command that trains one where it can be."""
    missing = next((item for item in result.missing if item.metric == "gfd"), None)
    if missing is None:
        return ""
    sentences = [f"Generation was not measured for {_names(missing.runs)}."]
    if result.expectation is not None:
        sentences.append(result.expectation.short_sentence())
    if missing.command:
        count = len(missing.runs) - len(missing.without_command)
        each = "" if count == 1 else ", and likewise for the others"
        sentences.append(f"To know, run `{missing.command}`{each}.")
    if missing.without_command:
        sentences.append(
            f"No command can train a generator on {_names(missing.without_command)}, because it"
            " cannot load the model or the codewords; evaluate the model by an address, such as"
            " python:module:function."
        )
    return " ".join(sentences)


def _names(runs: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    names = ", ".join(runs[:MAX_NAMES])
    if len(runs) > MAX_NAMES:
        names += f" and {len(runs) - MAX_NAMES} more"
    return names


def _against(result: Decision, comparison: Comparison) -> str:
    """Return the values of both runs of a comparison."""
    values = [
        value_text(comparison.metric, result.candidate(run).measurements[comparison.metric].value)
        for run in (comparison.run, comparison.reference)
    ]
    label = metric_label(comparison.metric, result.feature_extractor)
    return f"{label} {' against '.join(values)}{_unit(comparison.metric)}"


def _reversed(comparison: Comparison) -> Comparison:
    """Return the difference of the reference to the run."""
    return replace(
        comparison,
        difference=-comparison.difference,
        low=-comparison.high,
        high=-comparison.low,
    )


def _difference(comparison: Comparison) -> str:
    metric = comparison.metric
    decimals = 1
    if metric == "psnr" and abs(comparison.difference) < 1:
        decimals = 2
    value = value_text(metric, comparison.difference, signed=True, decimals=decimals)
    low = value_text(metric, comparison.low, decimals=decimals)
    high = value_text(metric, comparison.high, decimals=decimals)
    return f"{value}{_unit(metric)}, {low} to {high}"
