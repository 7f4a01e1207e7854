"""The Jinja environment of every HTML page and fragment in this package."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE_FOLDER = Path(__file__).parent
TEMPLATE_FOLDER = PACKAGE_FOLDER / "templates"


@cache
def environment() -> "Environment":
    """Return the Jinja environment: values are escaped unless they are `markupsafe.Markup`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


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
    return environment().get_template(f"{template}.html.j2").render(**values)


def asset(name: str) -> str:
    """Return the text of a stylesheet or script of this package, to be placed inside a page."""
    return (PACKAGE_FOLDER / name).read_text(encoding="utf-8")
