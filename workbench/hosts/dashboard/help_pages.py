"""Pages that explain the checks and the words on the screen; the dashboard links to them."""

import html
from typing import Any

from workbench.analysis.diagnosis.checks import rules, wording
from workbench.analysis.diagnosis.remedies import REMEDIES
from workbench.core.glossary import BUTTONS, CHOICES, COLUMNS, CONTROLS, OTHERS, Term

CHECKS_ADDRESS = "help/checks"
GLOSSARY_ADDRESS = "help/glossary"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 760px }}
body {{ margin: 24px auto; padding: 0 16px }}
h2 {{ font-size: 18px; margin: 28px 0 4px }} p {{ margin: 4px 0 }} dt {{ font-weight: 600 }}
dd {{ margin: 0 0 12px }} :target {{ outline: 3px solid #0072b2; outline-offset: 6px }}
</style><h1>{title}</h1>{body}</html>"""
INTRODUCTION = (
    "A check applies one rule to the evidence or to the log of a run. An <b>error</b> is a fault"
    " that makes the run unusable, a <b>warning</b> probably costs quality or makes a number"
    " misleading, and an <b>info</b> limits what can be concluded."
)


def check_link(code: str) -> str:
    """Return a link to the explanation of a check, as HTML."""
    address = f"{CHECKS_ADDRESS}#{code.lower()}"
    return f'<a href="{address}" target="_blank" style="color: inherit">{html.escape(code)}</a>'


def checks_page() -> str:
    """Return the page of all checks: when each reports, and what it advises."""
    sections = [f"<p>{INTRODUCTION}</p>"]
    for code, rule in rules().items():
        name = rule.__name__.partition("_")[2].replace("_", " ")
        sections.append(f'<section id="{code.lower()}"><h2>{code}: {html.escape(name)}</h2>')
        sections.append(f"<p>{html.escape(wording(rule))}</p>")
        changes = REMEDIES[code].changes
        if changes:
            advice = ", ".join(f"{direction} the {name}" for name, direction in changes.items())
            sections.append(f"<p><em>Advice: {html.escape(advice)}.</em></p>")
        withheld_by = REMEDIES[code].withheld_by
        if withheld_by:
            sections.append(f"<p>Withheld while {' or '.join(withheld_by)} has a finding.</p>")
        sections.append("</section>")
    return PAGE.format(title="Checks", body="".join(sections))


def glossary_page() -> str:
    """Return the page of all columns, controls, buttons and menu entries."""
    parts = []
    buttons = {label: Term(label, definition) for label, definition in BUTTONS.items()}
    groups = {
        "Columns and metrics": COLUMNS,
        "Controls": CONTROLS,
        "Buttons": buttons,
        "Other words": OTHERS,
    }
    for title, terms in groups.items():
        parts.append(f"<h2>{title}</h2><dl>{''.join(map(_definition, terms.values()))}</dl>")
    rows = "".join(
        f"<dt>{html.escape(label)}</dt><dd><code>{html.escape(value)}</code> in code</dd>"
        for value, label in CHOICES.items()
    )
    parts.append(f"<h2>Menus</h2><dl>{rows}</dl>")
    return PAGE.format(title="Glossary", body="".join(parts))


def help_pages() -> list[tuple[str, Any, dict[str, Any]]]:
    """Return the tornado routes of the pages."""
    from tornado.web import RequestHandler

    class HelpHandler(RequestHandler):
        def initialize(self, page: Any) -> None:
            self.page = page

        def get(self) -> None:
            self.finish(self.page())

    return [
        (rf"/{CHECKS_ADDRESS}", HelpHandler, {"page": checks_page}),
        (rf"/{GLOSSARY_ADDRESS}", HelpHandler, {"page": glossary_page}),
    ]


def _definition(term: Term) -> str:
    text = html.escape(term.tooltip or "–")
    return f"<dt>{html.escape(term.label)}</dt><dd>{text}</dd>"
