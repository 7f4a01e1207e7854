"""Templates, stylesheets and scripts of reports."""

from pathlib import Path
from typing import Any

from workbench.core import html_templates

PACKAGE_FOLDER = Path(__file__).parent
TEMPLATE_FOLDER = PACKAGE_FOLDER / "templates"


def render(template: str, **values: Any) -> str:
    """Render a template.

    Parameters
    ----------
    template : str
        Name of the template without `.html.j2`, such as `gallery`.
    **values
        Variables of the template. Strings are escaped.

    Returns
    -------
    str
        HTML.
    """
    return html_templates.render(TEMPLATE_FOLDER / f"{template}.html.j2", **values)


def asset(name: str) -> str:
    """Return the text of a stylesheet or script of this package, to be placed inside a page."""
    return (PACKAGE_FOLDER / name).read_text(encoding="utf-8")
