"""Numbered checks of runs: what is probably wrong, by which rule, and what to do.

A rule is a function named `tk..._name` in one of the rule modules. It takes an Evidence, and also
the evidence of the primary run if it has a parameter `primary`, and that of all runs if it has a
parameter `others`. It returns a Finding, returns None if nothing is wrong, or raises NotApplicable.
Its docstring states when it reports.

To mute checks of a run permanently, list their codes under "mute" in the provenance.json of its
evidence. The numbers 8 to 11 are reserved for checks that need more than evidence: averaged
weights, the gap between training and held-out images, limits of the mode count, and the
trustworthiness of a map.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.diagnosis import (
    codebook_rules,
    generator_rules,
    image_rules,
    latent_rules,
    training_rules,
)
from workbench.analysis.diagnosis.findings import Finding
from workbench.analysis.diagnosis.remedies import REMEDIES
from workbench.analysis.plotting import table
from workbench.analysis.runs.settings import run_names
from workbench.core.errors import UserError, unknown
from workbench.core.mapped_memory import release_mapped_pages
from workbench.core.progress import Cancelled, report_progress
from workbench.storage.evidence import Evidence

RULE_MODULES = (codebook_rules, latent_rules, image_rules, generator_rules, training_rules)
RULE_PREFIX = "tk"
Status = Literal["error", "warning", "info", "passed", "muted", "not applicable"]
# From the most to the least severe.
SYMBOLS: dict[Status, str] = {
    "error": "✖",
    "warning": "▲",
    "info": "●",
    "passed": "✓",
    "muted": "○",
    "not applicable": "–",
}
STATUSES: tuple[Status, ...] = tuple(SYMBOLS)
FINDING_STATUSES: tuple[Status, ...] = ("error", "warning", "info")
PLURALS = {"error": "errors", "warning": "warnings"}
# Names that cannot be derived from the name of the function of the rule.
NAMES = {
    "no better than gaussians": "no better than Gaussians",
    "over fitting": "overfitting",
    "under sampled": "under-sampled",
}
MAX_SUMMARIZED_FINDINGS = 3
MAX_NAMED_RUNS = 3
DOCUMENTATION = "docs/concepts/checks.md"
COLUMN_WIDTHS = (13, 14, 18, 44, 38)
Rule = Callable[..., Finding | None]


@dataclass(frozen=True)
class Check:
    """The outcome of one rule for one run."""

    code: str  # for example TK001
    name: str  # for example "dead codes"
    run: str
    status: Status  # the severity of a finding, if there is one
    finding: Finding | None  # also present if the check is muted
    rule: str  # the condition of the rule, as text

    @property
    def documentation(self) -> str:
        """The section of the documentation that explains the check."""
        return f"{DOCUMENTATION}#{self.code.lower()}"


@dataclass(frozen=True)
class Group:
    """The same outcome of one rule for one or more runs."""

    check: Check  # that of the first run
    runs: tuple[str, ...]

    @property
    def run_text(self) -> str:
        """The names of the runs, or of the first few and their number."""
        if len(self.runs) <= MAX_NAMED_RUNS:
            return ", ".join(self.runs)
        return f"{len(self.runs)} runs: {', '.join(self.runs[:MAX_NAMED_RUNS])}, …"


@dataclass(frozen=True, kw_only=True)
class Checks(Result):
    """Outcomes of all rules for all runs, the most severe first."""

    checks: tuple[Check, ...]
    show: Literal["findings", "all"]

    @property
    def findings(self) -> tuple[Check, ...]:
        """The checks with an error, a warning or an info."""
        return tuple(check for check in self.checks if check.status in FINDING_STATUSES)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The findings, of which equal ones of several runs are grouped."""
        return _grouped(self.findings)

    @property
    def counts(self) -> dict[Status, int]:
        """Number of checks by status."""
        counter = Counter(check.status for check in self.checks)
        return {status: counter[status] for status in STATUSES}

    def figure(self) -> go.Figure:
        """Draw a table of the findings, or of all checks."""
        groups = self.groups
        if self.show == "all" or not groups:
            groups = _grouped(self.checks)
        displayed = [group.check for group in groups]
        observations = []
        advice = []
        for check in displayed:
            if check.finding:
                observations.append(check.finding.observation)
                advice.append(check.finding.advice.replace("`", ""))  # cells have no code
            else:
                observations.append(f"Rule: {check.rule}")
                advice.append("–")
        columns = {
            "": [f"{SYMBOLS[check.status]} {check.status}" for check in displayed],
            "run": [group.run_text for group in groups],
            "check": [f"{check.code} {check.name}" for check in displayed],
            "observation": observations,
            "advice": advice,
        }
        noun = "finding" if len(self.findings) == 1 else "findings"
        title = f"Checks: {len(self.findings)} {noun}"
        subtitle = " · ".join(self._status_counts())
        return table.draw(columns, COLUMN_WIDTHS, title=title, subtitle=subtitle)

    def table(self) -> pd.DataFrame:
        """Return one row per check and run."""
        rows = []
        for check in self.checks:
            finding = check.finding or Finding(severity="info", observation="", advice="")
            numbers = [f"{name} {value:.4g}" for name, value in finding.numbers.items()]
            rows.append(
                {
                    "code": check.code,
                    "check": check.name,
                    "run": check.run,
                    "status": check.status,
                    "observation": finding.observation,
                    "numbers": ", ".join(numbers),
                    "advice": finding.advice,
                    "rule": check.rule,
                    "documentation": check.documentation,
                }
            )
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State the number of checks by status, the most severe findings, and advice for errors.

        Advice may be a command, which cannot be copied out of the cells of the figure.
        """
        counts = f"{', '.join(self._status_counts())}."
        observations = []
        for group in self.groups[:MAX_SUMMARIZED_FINDINGS]:
            finding = group.check.finding
            if finding is None:
                continue
            text = finding.observation
            if finding.severity == "error":
                text = f"{text} {finding.advice}"
            observations.append(f"{group.check.code} {group.run_text}: {text.rstrip('.')}")
        if not observations:
            return f"{counts} There are no findings."
        num_more = len(self.groups) - len(observations)
        if num_more > 0:
            observations.append(f"and {num_more} more")
        return f"{counts} {'; '.join(observations)}."

    def _status_counts(self) -> list[str]:
        texts = []
        for status, count in self.counts.items():
            if count:
                noun = PLURALS.get(status, status) if count > 1 else status
                texts.append(f"{count} {noun}")
        return texts


def checks(
    evidences: Sequence[Evidence], *, show: Literal["findings", "all"] = "findings"
) -> Checks:
    """Apply every rule to every run.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of the runs. The first is the primary run, with which the others must be
        comparable.
    show : {"findings", "all"}, default "findings"
        Show only findings in the figure, or all checks.

    Returns
    -------
    Checks
        The outcome of each rule for each run.

    Raises
    ------
    UserError
        If a run mutes a check that does not exist.

    Examples
    --------
    >>> from workbench.storage.evidence import Evidence
    >>> result = checks([Evidence({"run": "a", "step": 1})])
    >>> {check.status for check in result.checks}
    {'not applicable'}
    """
    outcomes: list[Check] = []
    names = run_names(evidences)
    for done, (evidence, name) in enumerate(zip(evidences, names, strict=True), 1):
        outcomes += _withhold(
            [_apply(code, rule, evidence, evidences, name) for code, rule in rules().items()]
        )
        report_progress(done, len(evidences))
    outcomes.sort(key=lambda check: STATUSES.index(check.status))
    return Checks(checks=tuple(outcomes), show=show)


def rules() -> dict[str, Rule]:
    """Return every rule by its code, in ascending order.

    Examples
    --------
    >>> list(rules())[:2]
    ['TK001', 'TK002']
    """
    by_code = {}
    for module in RULE_MODULES:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith(RULE_PREFIX):
                by_code[name.partition("_")[0].upper()] = function
    return dict(sorted(by_code.items()))


def check_name(rule: Rule) -> str:
    """Return the name of the check of a rule, as it is shown."""
    name = rule.__name__.partition("_")[2].replace("_", " ")
    return NAMES.get(name, name)


def wording(rule: Rule) -> str:
    """Return the condition of a rule: its docstring, with the values of its constants."""
    constants = vars(inspect.getmodule(rule))
    doc = " ".join((inspect.getdoc(rule) or "").split())
    return doc.format_map(constants).replace(" %", "%").replace("%", " %")


def _withhold(run_checks: Sequence[Check]) -> list[Check]:
    """Return the checks of one run, without the findings that another finding makes invalid."""
    reported = {check.code for check in run_checks if check.finding is not None}
    return [
        replace(check, status="not applicable", finding=None)
        if reported.intersection(REMEDIES[check.code].withheld_by)
        else check
        for check in run_checks
    ]


def _grouped(outcomes: Sequence[Check]) -> tuple[Group, ...]:
    """Return equal outcomes of several runs as one group, in the order of their first run."""
    groups: dict[tuple[str, ...], list[Check]] = {}
    for check in outcomes:
        texts = ("", "")
        if check.finding is not None:
            texts = (check.finding.observation, check.finding.advice)
        groups.setdefault((check.code, check.status, *texts), []).append(check)
    return tuple(
        Group(check=checks_of_group[0], runs=tuple(check.run for check in checks_of_group))
        for checks_of_group in groups.values()
    )


def _apply(
    code: str, rule: Rule, evidence: Evidence, evidences: Sequence[Evidence], run: str
) -> Check:
    muted_codes = evidence.provenance.get("mute", ())
    for muted_code in muted_codes:
        if muted_code not in rules():
            raise unknown("check", muted_code, rules())
    available = {"primary": evidences[0], "others": evidences}
    parameters = inspect.signature(rule).parameters
    arguments = {name: value for name, value in available.items() if name in parameters}
    finding: Finding | None = None
    status: Status = "passed"
    try:
        finding = rule(evidence, **arguments)
    except Cancelled:
        raise
    except UserError:
        status = "not applicable"
    finally:
        release_mapped_pages()
    if finding is not None and finding.imported_advice and evidence.is_imported:
        finding = replace(finding, advice=finding.imported_advice)
    if finding is not None:
        status = "muted" if code in muted_codes else finding.severity
    return Check(
        code=code,
        name=check_name(rule),
        run=run,
        status=status,
        finding=finding,
        rule=wording(rule),
    )
