"""An executed template as one HTML page: code hidden, figures drawn by a plotly.js inside, nothing from outside."""

import base64
import html
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError
from workbench.hosts.js import dark_figures, source
from workbench.hosts.reports.sections import KEY

HERE = Path(__file__).parent
LARGEST = 8_000_000  # bytes a page may have
MARKERS = {"papermill-error-cell-tag", "injected-parameters"}  # of cells that papermill puts in
DARK = "@media screen and (prefers-color-scheme: dark)"  # on paper it stays light
WIDGET, FIGURE = "application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"
MODULE = re.compile(r'<iframe srcdoc="[^"]*" title="([^"]*)"')


def to_html(notebook: Any, head: str, foot: str, title: str) -> str:
    """The page of a notebook (nbformat 4), between two fragments. Raises UserError where it is larger than LARGEST.

    Where figures and modules alone are too many bytes, the largest give way to a sentence.
    """
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs

    notebook.metadata.pop("widgets", None)
    notebook.cells = [
        cell for cell in notebook.cells if not MARKERS & set(cell.metadata.get("tags", ()))
    ]
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [_quiet(output) for output in cell.outputs if _shows(output)]
    script = get_plotlyjs()
    _draw(notebook, LARGEST - len(script.encode()) - 200_000)
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, contents = _contents(head + exporter.from_notebook_node(notebook)[0] + foot)
    style, own_script = (
        (HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    style += dark_figures(DARK)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{style}</style>'
        f"<script>{script}</script></head>\n"
        f'<body><nav aria-label="contents"><ol>{contents}</ol></nav><main>{body}</main>'
        f"<script>{source('brush')}{own_script}</script></body></html>\n"
    )
    if (size := len(page.encode())) > LARGEST:
        most = LARGEST / 1e6
        raise UserError(
            f"{title} would take {size / 1e6:.1f} MB, more than {most:.0f}; report on fewer images."
        )
    return page


def thumbnail(notebook: Any, size: tuple[int, int] = (360, 240)) -> bytes | None:
    """The first picture inside a figure as a small PNG; None where no figure holds one."""
    from PIL import Image

    for output in _showing(notebook, FIGURE):
        for trace in output.data[FIGURE]["data"]:
            source = str(trace.get("source", ""))
            if trace.get("type") == "image" and source.startswith("data:image/png;base64,"):
                picture = Image.open(
                    io.BytesIO(base64.b64decode(source.partition(",")[2]))
                ).convert("RGBA")
                picture = picture.crop(picture.getbbox())
                scale = max(1, min(picture.width // size[0], picture.height // size[1]))
                cut = picture.crop((0, 0, size[0] * scale, size[1] * scale)).resize(size)
                shown = Image.new("RGB", size, "white")
                shown.paste(cut, mask=cut.getchannel("A"))
                buffer = io.BytesIO()
                shown.save(buffer, "PNG", optimize=True)
                return buffer.getvalue()
    return None


def _contents(body: str) -> tuple[str, str]:
    """The body with a mark at every section's heading, and links to them."""
    heads, numbers = re.findall(r"<h2[^>]*>(.*?)</h2>", body), itertools.count()
    marked = re.sub(r"<h2[^>]*>", lambda _: f'<h2 id="section-{next(numbers)}">', body)
    return marked, "".join(
        f'<li><a href="#section-{i}">{text}</a></li>' for i, text in enumerate(heads)
    )


def _shows(output: Any) -> bool:
    """Whether an output shows anything without a kernel: a widget alone does not, the page beside it does."""
    data = output.get("data", {})
    return data.pop(WIDGET, None) is None or "text/html" in data


def _quiet(output: Any) -> Any:
    """An output as it is shown: what was said on the way, such as a warning, is folded."""
    if output.output_type != "stream" or output.name != "stderr":
        return output
    folded = f"<details><summary>messages</summary><pre>{html.escape(output.text)}</pre></details>"
    return type(output)(output_type="display_data", data={"text/html": folded}, metadata={})


def _showing(notebook: Any, kind: str) -> list[Any]:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return [output for output in outputs if kind in output.get("data", {})]


def _draw(notebook: Any, room: int) -> None:
    """Turn every figure into a fragment that draws it; the largest, of modules too, into a sentence, until `room`
    bytes hold all."""
    drawn = [(output.data, *_drawn(output)) for output in _showing(notebook, FIGURE)]
    others = [(output.data, output.data["text/html"]) for output in _showing(notebook, "text/html")]
    drawn += [(data, text, found[1]) for data, text in others if (found := MODULE.match(text))]
    total = sum(len(fragment) for _, fragment, _ in drawn)
    for data, fragment, label in sorted(drawn, key=lambda one: -len(one[1])):
        data["text/html"] = fragment
        if total > room:
            total -= len(fragment)
            size = f"{len(fragment) / 1e6:.1f} MB"
            said = f"The figure “{label}” ({size}) is left out to keep this file small; its numbers are in the results."
            data["text/html"] = f'<p class="absent">{said}</p>'


def _drawn(output: Any) -> tuple[str, str]:
    """A figure as a fragment of HTML, and its title, escaped, as the text for those who cannot see it."""
    import plotly.graph_objects as go

    told, of = output.data.pop(FIGURE), output.get("metadata", {}).get(KEY, {}).get("of")
    figure = go.Figure(data=told["data"], layout=told["layout"], skip_invalid=False)
    config = {**(told.get("config") or {}), "responsive": True}
    fragment = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    label = html.escape(re.sub(r"<[^>]+>", " ", figure.layout.title.text or "figure"), quote=True)
    shared = f' data-of="{html.escape(json.dumps(of))}"' if of else ""
    return f'<figure role="img" aria-label="{label}"{shared}>{fragment}</figure>', label
