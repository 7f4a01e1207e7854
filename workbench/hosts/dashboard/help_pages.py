"""Pages that explain the checks and the words on the screen; the dashboard links to them."""

from pathlib import Path
from typing import Any

from workbench.analysis.diagnosis.checks import check_name, rules, wording
from workbench.analysis.diagnosis.remedies import REMEDIES
from workbench.core.glossary import BUTTONS, CHOICES, COLUMNS, CONTROLS, OTHERS, Term
from workbench.core.html_templates import render

CHECKS_ADDRESS = "help/checks"
GLOSSARY_ADDRESS = "help/glossary"
TEMPLATES = Path(__file__).parent / "templates"


def checks_page() -> str:
    """Return the page of all checks: when each reports, and what it advises."""
    checks = [
        {
            "code": code,
            "name": check_name(rule),
            "wording": wording(rule),
            "advice": [
                f"{direction} the {setting}"
                for setting, direction in REMEDIES[code].changes.items()
            ],
            "withheld_by": REMEDIES[code].withheld_by,
        }
        for code, rule in rules().items()
    ]
    return render(TEMPLATES / "checks_help.html.j2", checks=checks)


def glossary_page() -> str:
    """Return the page of all columns, controls, buttons and menu entries."""
    groups = {
        "Columns and metrics": COLUMNS.values(),
        "Controls": CONTROLS.values(),
        "Buttons": [Term(label, definition) for label, definition in BUTTONS.items()],
        "Other words": OTHERS.values(),
    }
    return render(TEMPLATES / "glossary_help.html.j2", groups=groups, choices=CHOICES)


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
