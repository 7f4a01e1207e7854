"""The arguments of an analysis, from the evidence of runs."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.errors import NotApplicable
from workbench.core.glossary import analysis_title
from workbench.storage.evidence_arrays import ARRAYS, axes_of

if TYPE_CHECKING:
    from workbench.storage.evidence import Evidence

LOGS_PARAMETER = "training_logs"  # of an analysis of logs
PARTNERS = "partners"  # parameter of an analysis that also reads generators or tokenizers


def kwargs_for(
    analysis: Callable[..., Any],
    evidences: Sequence["Evidence"],
    partners: Sequence["Evidence"] = (),
) -> dict[str, Any]:
    """Return the arguments of an analysis that evidence provides, by the names of its positional
    parameters.

    An analysis that requires pictures gets only the images that have pictures, which are the first
    ones, of all arrays.

    Parameters
    ----------
    analysis : callable
        The analysis. Its keyword-only parameters are controls, and are not provided here.
    evidences : sequence of Evidence
        The evidence of one or more runs. The parameter `evidences` receives all of them, and
        `training_logs` the logs of all runs that have one; any other parameter receives the
        attribute of that name of the first.
    partners : sequence of Evidence
        The evidence of generators that were trained on these runs, or of their tokenizers. The
        parameter `partners` receives it.

    Raises
    ------
    NotApplicable
        If a parameter without a default is missing in the evidence.
    """
    parameters = [
        parameter
        for parameter in inspect.signature(analysis).parameters.values()
        if parameter.kind is not parameter.KEYWORD_ONLY
    ]
    values = {
        parameter.name: _value(parameter.name, evidences, partners) for parameter in parameters
    }
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    missing = [name for name in required if values[name] is None]
    if missing:
        raise NotApplicable(_missing_sentence(analysis, missing, evidences[0]))
    arguments = {name: value for name, value in values.items() if value is not None}
    for name in required:
        if "picture" in axes_of(name):
            num_pictures = values[name].shape[axes_of(name).index("picture")]
            return {
                name: _first_images(name, value, num_pictures) for name, value in arguments.items()
            }
    return arguments


def _value(name: str, evidences: Sequence["Evidence"], partners: Sequence["Evidence"]) -> Any:
    """Return the argument of a parameter; None if no evidence has it."""
    if name == "evidences":
        return tuple(evidences)
    if name == PARTNERS:
        return tuple(partners)
    if name == LOGS_PARAMETER:
        logs = [evidence.training_log for evidence in evidences]
        return tuple(log for log in logs if log is not None) or None
    return getattr(evidences[0], name)


def _missing_sentence(
    analysis: Callable[..., Any], missing: Sequence[str], evidence: "Evidence"
) -> str:
    """Return why an analysis cannot be computed: the known reasons, or what the arrays contain."""
    beginning = f"{analysis_title(analysis.__name__)} cannot be computed for {evidence.run_name}"
    reasons = dict.fromkeys(evidence.reason_for_missing(name) for name in missing)
    sentences = [reason for reason in reasons if reason]
    if sentences:
        return f"{beginning}: {' '.join(sentences)}"
    contents = "; ".join(_content(name) for name in missing)
    return f"{beginning}, whose evidence lacks: {contents}."


def _content(name: str) -> str:
    """Return what an array of evidence contains, as a part of a sentence."""
    spec = ARRAYS.get(name)
    if spec is None:
        return name.replace("_", " ")
    text = re.split("[.;]", spec.meaning)[0]
    is_acronym = text[:2].isupper()
    return text if is_acronym else text[0].lower() + text[1:]


def _first_images(name: str, value: Any, count: int) -> Any:
    """Return the first images of an array; any other value as it is."""
    axes = axes_of(name)
    if "image" not in axes:
        return value
    return value[(slice(None),) * axes.index("image") + (slice(count),)]


def array_names(analysis: Callable[..., Any]) -> set[str] | None:
    """Return the names of the arrays that an analysis reads from evidence; None for all arrays.

    An analysis of `evidences` may read any array of any run.
    """
    names = {
        parameter.name
        for parameter in inspect.signature(analysis).parameters.values()
        if parameter.kind is not parameter.KEYWORD_ONLY
    }
    return None if "evidences" in names else names & ARRAYS.keys()


def reads_logs(analysis: Callable[..., Any]) -> bool:
    """Return True if an analysis reads the logs of training, which need no evidence."""
    return LOGS_PARAMETER in inspect.signature(analysis).parameters
