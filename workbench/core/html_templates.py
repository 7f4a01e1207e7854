"""HTML from Jinja templates, in which values are escaped."""

import html
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

CODE = re.compile("`([^`]+)`")


@cache
def environment(folder: Path) -> "Environment":
    """Return the environment of the templates in a folder.

    Values are escaped unless they are `markupsafe.Markup`, and an unknown variable is an error.

    Parameters
    ----------
    folder : Path
        The folder with the templates.

    Returns
    -------
    jinja2.Environment
        The same object for the same folder.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def marked(text: str) -> str:
    """Return a text as HTML: escaped, and parts in backticks as code.

    Examples
    --------
    >>> marked("Run `a < b`.")
    'Run <code>a &lt; b</code>.'
    """
    return CODE.sub(r"<code>\1</code>", html.escape(text))


def render(template: Path, **values: Any) -> str:
    """Render a template.

    Parameters
    ----------
    template : Path
        A file with the suffix `.html.j2`.
    **values
        Variables of the template. Text is escaped.

    Returns
    -------
    str
        HTML.
    """
    return environment(template.parent).get_template(template.name).render(**values)
