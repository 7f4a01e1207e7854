"""Numbered findings about runs: what is likely wrong, by which rule, and what to do.

A rule is a function called tk..._name in one of the rules' modules: of an Evidence (and, where it asks for it, of the
`leading` one) it makes a Finding, None where all is well, or raises NotApplicable. To mute checks of a run for good,
list their codes under "mute" in the provenance.json of its evidence. Numbers 8 to 11 are kept for checks that need
more than evidence: averaged weights, the gap between training and held-out images, edges of the mode count, trust in
a map.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.checks import codebook_rules, generator_rules, image_rules, latent_rules
from workbench.analysis.checks.findings import Finding
from workbench.analysis.plotting import table
from workbench.analysis.runs.settings import run_names
from workbench.core.errors import UserError, unknown
from workbench.core.progress import Cancelled, report_progress
from workbench.storage.evidence import Evidence

MODULES = (codebook_rules, latent_rules, image_rules, generator_rules)
PREFIX = "tk"
SYMBOLS = {
    "error": "✖",
    "warning": "▲",
    "info": "●",
    "passed": "✓",
    "muted": "○",
    "not applicable": "–",
}
STATUSES = tuple(SYMBOLS)  # the worst first
Rule = Callable[..., Finding | None]


@dataclass(frozen=True)
class Check:
    """One rule, asked of one run."""

    code: str  # TK001
    name: str  # dead codes
    run: str
    status: str  # one of STATUSES; that of a finding is its severity
    finding: Finding | None  # also of a muted one
    rule: str  # when it speaks, in plain words


@dataclass(frozen=True)
class Checks(Result):
    """All rules, asked of all runs; findings first, the worst of them first."""

    checks: tuple[Check, ...]
    show: Literal["findings", "all"]

    @property
    def findings(self) -> tuple[Check, ...]:
        """What should be looked at."""
        return tuple(c for c in self.checks if c.status in ("error", "warning", "info"))

    @property
    def counts(self) -> dict[str, int]:
        """How many checks have each status."""
        counted = Counter(c.status for c in self.checks)
        return {status: counted[status] for status in STATUSES}

    def figure(self) -> go.Figure:
        """A table of the findings, or of all checks; severity is a symbol and a word."""
        shown = self.checks if self.show == "all" or not self.findings else self.findings
        columns = {
            "": [f"{SYMBOLS[c.status]} {c.status}" for c in shown],
            "run": [c.run for c in shown],
            "check": [f"{c.code} {c.name}" for c in shown],
            "what was found": [
                c.finding.found if c.finding else f"Looked for: {c.rule}" for c in shown
            ],
            "what to do": [c.finding.advice if c.finding else "–" for c in shown],
        }
        title = f"Checks: {len(self.findings)} finding{'' if len(self.findings) == 1 else 's'}"
        return table.draw(columns, [13, 14, 18, 44, 38], title=title, subtitle=self._caption())

    def table(self) -> pd.DataFrame:
        """One row a check and run: its status, what was found, what to do, the rule and its numbers as text."""
        rows = []
        for c in self.checks:
            finding = c.finding or Finding("info", "", "")
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in finding.numbers.items())
            rows.append(
                (c.code, c.name, c.run, c.status, finding.found, numbers, finding.advice, c.rule)
            )
        return pd.DataFrame(
            rows, columns=["code", "check", "run", "status", "found", "numbers", "advice", "rule"]
        )

    def summary(self) -> str:
        """How many checks found something, the worst of it, and how many passed."""
        worst = "; ".join(
            f"{c.code} {c.run}: {c.finding.found.rstrip('.')}" for c in self.findings[:3]
        )
        more = f"; and {len(self.findings) - 3} more" if len(self.findings) > 3 else ""
        lead = f"{worst}{more}." if worst else "Nothing was found."
        return f"{self._caption().replace(' · ', ', ')}. {lead}"

    def _caption(self) -> str:
        many = {"error": "errors", "warning": "warnings"}
        told = (
            (n, many.get(status, status) if n > 1 else status) for status, n in self.counts.items()
        )
        return " · ".join(f"{n} {status}" for n, status in told if n)


def checks(
    evidences: Sequence[Evidence], *, show: Literal["findings", "all"] = "findings"
) -> Checks:
    """Ask every rule of every run; `show` says what the figure holds. Raises UserError for a muted code that is none.

    The first run is the one that others must be comparable with.
    """
    asked = []
    for done, (evidence, name) in enumerate(zip(evidences, run_names(evidences), strict=True), 1):
        asked += [
            _asked(code, rule, evidence, evidences[0], name) for code, rule in rules().items()
        ]
        report_progress(done, len(evidences))
    return Checks(tuple(sorted(asked, key=lambda c: STATUSES.index(c.status))), show)


def rules() -> dict[str, Rule]:
    """Every rule by its code, in order: the functions of the rules' modules whose names begin with tk."""
    found = [f for module in MODULES for f in vars(module).values() if inspect.isfunction(f)]
    numbered = {
        f.__name__.partition("_")[0].upper(): f for f in found if f.__name__.startswith(PREFIX)
    }
    return dict(sorted(numbered.items()))


def wording(rule: Rule) -> str:
    """When a rule speaks: its docstring, with the values of its constants."""
    return inspect.getdoc(rule).format_map(rule.__globals__).replace("%", " %")


def _asked(code: str, rule: Rule, evidence: Evidence, leading: Evidence, run: str) -> Check:
    muted = evidence.provenance.get("mute", ())
    for told in muted:
        if told not in rules():
            raise unknown("check", told, rules())
    given = {"leading": leading} if "leading" in inspect.signature(rule).parameters else {}
    try:
        finding = rule(evidence, **given)
        status = "passed" if finding is None else finding.severity
    except Cancelled:
        raise
    except UserError:
        finding, status = None, "not applicable"
    name = rule.__name__.partition("_")[2].replace("_", " ")
    return Check(
        code, name, run, "muted" if finding and code in muted else status, finding, wording(rule)
    )
