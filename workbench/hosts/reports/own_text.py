"""The text that the author of a report writes: title, author, note and conclusion.

Notes and conclusions are Markdown. They may come from an address or a file, so that their HTML is
sanitized: no scripts, no pictures from elsewhere and no links other than to web pages and mail.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

TEXT_PARAMETERS = {
    "title": "title of the report",
    "author": "name of the author",
    "note": "text below the title, as Markdown",
    "conclusion": "text at the end, as Markdown",
}
TAGS = frozenset(
    ("a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p")
    + ("pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul")
)
LINK_ATTRIBUTES = {"a": ["href", "title"]}
PROTOCOLS = frozenset(("http", "https", "mailto"))


def split_text(parameters: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the text of a report, and its other parameters."""
    text = {name: str(parameters[name]) for name in TEXT_PARAMETERS if parameters.get(name)}
    analysis_parameters = {
        name: value for name, value in parameters.items() if name not in TEXT_PARAMETERS
    }
    return text, analysis_parameters


def markdown_html(text: str) -> Markup:
    """Return Markdown as sanitized HTML.

    Examples
    --------
    >>> str(markdown_html("**A**<script>x</script>"))
    '<p><strong>A</strong>&lt;script&gt;x&lt;/script&gt;</p>\\n'
    """
    import bleach
    import mistune

    # Headings of a note are below those of the report.
    parse = mistune.create_markdown(escape=True, plugins=["table", "strikethrough"])
    html = str(parse(text))
    for level in (2, 1):
        html = html.replace(f"<h{level}>", "<h3>").replace(f"</h{level}>", "</h3>")
    cleaned = bleach.clean(
        html, tags=TAGS, attributes=LINK_ATTRIBUTES, protocols=PROTOCOLS, strip=True
    )
    return Markup(cleaned)  # noqa: S704  sanitized in the line before
