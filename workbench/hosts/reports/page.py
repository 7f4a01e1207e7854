"""The HTML page of an executed notebook: code hidden, plotly.js inside, no outside request."""

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from workbench.analysis.plotting.style import TOOLBAR_COLORS
from workbench.core.errors import UserError
from workbench.core.glossary import group_title
from workbench.hosts.js import dark_figures, source
from workbench.hosts.reports.rendering import TEMPLATE_FOLDER, asset, render
from workbench.hosts.reports.sections import METADATA_KEY, headings_in

MAX_PAGE_BYTES = 8_000_000
RESERVED_BYTES = 200_000  # for text, tables, stylesheet and scripts next to figures and plotly.js
THUMBNAIL_SIZE = (360, 240)  # pixels
INJECTED_CELL_TAGS = {"papermill-error-cell-tag", "injected-parameters"}
DARK_SCREEN = "@media screen and (prefers-color-scheme: dark)"  # paper stays light
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
PLOTLY_MIME = "application/vnd.plotly.v1+json"
HTML_MIME = "text/html"
MARKDOWN_MIME = "text/markdown"
PNG_ADDRESS = "data:image/png;base64,"
MODULE_IFRAME = re.compile(r'<iframe srcdoc="[^"]*" title="([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A figure or module as HTML, where it is stored, and its title."""

    data: dict[str, Any]  # of the cell output that shows it
    html: str
    title: str


@dataclass(kw_only=True)
class ContentsEntry:
    """A heading in the table of contents."""

    id: str  # of the element before the heading
    heading: str
    group: str = ""  # title of the group that begins with this entry
    applies: bool = True  # False if the section does not apply to the run


def to_html(
    notebook: Any, *, title: str, header: str = "", footer: str = "", template: str = ""
) -> str:
    """Return the HTML page of a notebook.

    If the page would be too large, the largest figures and modules are replaced by a notice.

    Parameters
    ----------
    notebook : NotebookNode
        Executed notebook, nbformat 4. It is changed in place.
    title : str
        Title of the page, as plain text.
    header, footer : str
        HTML before and after the notebook.
    template : str
        Name of the template, which the style sheet depends on.

    Returns
    -------
    str
        HTML of at most `MAX_PAGE_BYTES` bytes.

    Raises
    ------
    UserError
        If the page is too large even without figures.
    """
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs

    plotly_js = get_plotlyjs()
    _remove_hidden_parts(notebook)
    contents = _number_headings(notebook)
    _place_figures(notebook, MAX_PAGE_BYTES - len(plotly_js.encode()) - RESERVED_BYTES)
    exporter = HTMLExporter(
        template_name="report",
        extra_template_basedirs=[str(TEMPLATE_FOLDER / "nbconvert")],
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(notebook)
    page = render(
        "report",
        title=title,
        kind=template,
        contents=contents,
        header=header,
        body=body,
        footer=footer,
        style=asset("report.css") + dark_figures(DARK_SCREEN),
        plotly_js=plotly_js,
        figures_js=source("pdf") + asset("figures.js"),
        script=source("brush") + asset("report.js"),
    )
    size = len(page.encode())
    if size > MAX_PAGE_BYTES:
        raise UserError(
            f"The page of {title} takes {size / 1e6:.1f} MB; at most {MAX_PAGE_BYTES / 1e6:.0f} MB "
            "are allowed. Report on fewer images."
        )
    return page


def thumbnail(notebook: Any) -> bytes | None:
    """Return the first image inside a figure as a small PNG, or None if no figure has one.

    Parameters
    ----------
    notebook : NotebookNode
        Executed notebook whose figures are still Plotly mime bundles.
    """
    for output in _outputs_with(notebook, PLOTLY_MIME):
        for trace in output.data[PLOTLY_MIME]["data"]:
            address = str(trace.get("source", ""))
            if trace.get("type") == "image" and address.startswith(PNG_ADDRESS):
                return _cropped_png(base64.b64decode(address.removeprefix(PNG_ADDRESS)))
    return None


def _cropped_png(png: bytes) -> bytes:
    """Return the top left corner of a PNG in the size of a thumbnail."""
    from PIL import Image

    width, height = THUMBNAIL_SIZE
    image = Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGBA")
    image = image.crop(image.getbbox())
    scale = max(1, min(image.width // width, image.height // height))
    corner = image.crop((0, 0, width * scale, height * scale)).resize(THUMBNAIL_SIZE)
    canvas = Image.new("RGB", THUMBNAIL_SIZE, "white")
    canvas.paste(corner, mask=corner.getchannel("A"))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _remove_hidden_parts(notebook: Any) -> None:
    """Remove widgets, which need a kernel, and the cells that papermill inserted."""
    notebook.metadata.pop("widgets", None)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if not INJECTED_CELL_TAGS & set(cell.metadata.get("tags", ()))
    ]
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _is_static(output)]


def _is_static(output: Any) -> bool:
    """Return False for a widget without static HTML; otherwise drop the widget of the output."""
    data = output.get("data", {})
    had_widget = data.pop(WIDGET_MIME, None) is not None
    return not had_widget or HTML_MIME in data


def _number_headings(notebook: Any) -> list[ContentsEntry]:
    """Give each cell or output with a heading an id, and return the table of contents."""
    contents: list[ContentsEntry] = []
    group = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            contents += _contents_of(cell, cell.source, len(contents))
        for output in cell.get("outputs", []):
            markdown = output.get("data", {}).get(MARKDOWN_MIME, "")
            contents += _contents_of(output, markdown, len(contents))
            record = output.get("metadata", {}).get(METADATA_KEY, {})
            if record.get("group", group) != group:
                group = record["group"]
                contents[-1].group = group_title(group)
            if contents and record.get("state") == "not_applicable":
                contents[-1].applies = False
    return contents


def _contents_of(node: Any, markdown: str, number: int) -> list[ContentsEntry]:
    """Return the entries of the headings in a Markdown text, and give its node an id."""
    headings = headings_in(markdown)
    section_id = f"section-{number}"
    if headings:
        node.metadata["section_id"] = section_id
    return [ContentsEntry(id=section_id, heading=heading) for heading in headings]


def _outputs_with(notebook: Any, mime: str) -> Iterator[Any]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if mime in output.get("data", {}):
                yield output


def _place_figures(notebook: Any, max_bytes: int) -> None:
    """Turn figures into HTML, and the largest figures and modules into a notice if needed."""
    modules = [
        Fragment(
            data=output.data,
            html=output.data[HTML_MIME],
            title=Markup(match[1]).unescape(),
        )
        for output in _outputs_with(notebook, HTML_MIME)
        if (match := MODULE_IFRAME.match(output.data[HTML_MIME]))
    ]
    rest = sum(
        len(output.data[HTML_MIME])  # tables, and cards with pictures
        for output in _outputs_with(notebook, HTML_MIME)
        if PLOTLY_MIME not in output.data
    ) - sum(len(module.html) for module in modules)
    fragments = [_figure(output) for output in _outputs_with(notebook, PLOTLY_MIME)] + modules
    total = rest + sum(len(fragment.html) for fragment in fragments)
    for fragment in sorted(fragments, key=lambda fragment: len(fragment.html), reverse=True):
        fragment.data[HTML_MIME] = fragment.html
        if total > max_bytes:
            size = len(fragment.html)
            total -= size
            message = (
                f"The figure “{fragment.title}” ({size / 1e6:.1f} MB) was omitted to keep this "
                "file small. Its numbers are in the results file."
            )
            fragment.data[HTML_MIME] = render("notice", message=message)


def _figure(output: Any) -> Fragment:
    """Return a Plotly figure as HTML, with its title as the text for screen readers."""
    from plotly.io import to_html as figure_html

    bundle: Mapping[str, Any] = output.data.pop(PLOTLY_MIME)
    record = output.get("metadata", {}).get(METADATA_KEY, {})
    layout = bundle["layout"] | {"modebar": TOOLBAR_COLORS}  # titles stay readable behind it
    html = figure_html(
        {"data": bundle["data"], "layout": layout},
        full_html=False,
        include_plotlyjs=False,
        config={**(bundle.get("config") or {}), "responsive": True},
        validate=False,  # plotly did so when it made the figure
    )
    text = layout.get("title", {}).get("text") or "figure"
    title = Markup(text.replace("<br>", " ")).striptags()
    scopes = record.get("id_scopes")
    return Fragment(
        data=output.data,
        html=render(
            "figure",
            label=title,
            figure=html,
            id_scopes=json.dumps(scopes) if scopes else "",
        ),
        title=title,
    )
