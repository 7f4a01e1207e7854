"""HTML from Jinja templates, in which values are escaped."""

import html
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment, Template

CODE = re.compile("`([^`]+)`")


@cache
def environment(folder: Path | None = None) -> "Environment":
    """Return the environment of the templates in a folder.

    Values are escaped unless they are `markupsafe.Markup`, and an unknown variable is an error.

    Parameters
    ----------
    folder : Path, optional
        The folder with the templates; none for templates that are given as text.

    Returns
    -------
    jinja2.Environment
        The same object for the same folder.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=None if folder is None else FileSystemLoader(folder),
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


def render_text(source: str, **values: Any) -> str:
    """Render a short template that is given as text.

    Parameters
    ----------
    source : str
        The template: a constant, never a text that depends on data.
    **values
        Variables of the template. Text is escaped.

    Returns
    -------
    str
        HTML.

    Examples
    --------
    >>> render_text("<b>{{ name }}</b>", name="a<b")
    '<b>a&lt;b</b>'
    """
    return _template(source).render(**values)


@cache
def _template(source: str) -> "Template":
    return environment().from_string(source)
