"""An executed template as one HTML page: code hidden, figures drawn by a plotly.js inside, nothing from outside."""

import base64
import html
import io
import itertools
import re
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.views.esm import dark_figures

HERE = Path(__file__).parent
LARGEST = 8_000_000  # bytes a page may have
MARKERS = {"papermill-error-cell-tag", "injected-parameters"}  # of cells that papermill puts in
DARK = "@media screen and (prefers-color-scheme: dark)"  # on paper it stays light
WIDGET, FIGURE = "application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"


def to_html(notebook: Any, head: str, foot: str, title: str) -> str:
    """The page of a notebook (nbformat 4), between two fragments. Raises UserError where it is larger than LARGEST.

    Where figures alone are too many bytes, the largest give way to a sentence.
    """
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs

    notebook.metadata.pop("widgets", None)
    notebook.cells = [cell for cell in notebook.cells if not MARKERS & set(cell.metadata.get("tags", ()))]
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [_quiet(output) for output in cell.outputs if _shows(output)]
    script = get_plotlyjs()
    _draw(notebook, LARGEST - len(script.encode()) - 200_000)
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, contents = _contents(head + exporter.from_notebook_node(notebook)[0] + foot)
    style, print_script = ((HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    style += dark_figures(DARK)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{style}</style>'
        f"<script>{script}</script></head>\n"
        f'<body><nav aria-label="contents"><ol>{contents}</ol></nav><main>{body}</main>'
        f"<script>{print_script}</script></body></html>\n"
    )
    if (size := len(page.encode())) > LARGEST:
        most = LARGEST / 1e6
        raise UserError(f"{title} would take {size / 1e6:.1f} MB, more than {most:.0f}; report on fewer images.")
    return page


def thumbnail(notebook: Any, size: tuple[int, int] = (360, 240)) -> bytes | None:
    """The first picture inside a figure as a small PNG; None where no figure holds one."""
    from PIL import Image

    for data in _figures(notebook):
        for trace in data[FIGURE]["data"]:
            source = str(trace.get("source", ""))
            if trace.get("type") == "image" and source.startswith("data:image/png;base64,"):
                picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGBA")
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
    return marked, "".join(f'<li><a href="#section-{i}">{text}</a></li>' for i, text in enumerate(heads))


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


def _figures(notebook: Any) -> list[dict[str, Any]]:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return [output.data for output in outputs if FIGURE in output.get("data", {})]


def _draw(notebook: Any, room: int) -> None:
    """Turn every figure into a fragment that draws it; the largest into a sentence, until `room` bytes hold all."""
    drawn = [(data, *_drawn(data.pop(FIGURE))) for data in _figures(notebook)]
    left_out, total = set(), sum(len(fragment) for _, fragment, _ in drawn)
    for i in sorted(range(len(drawn)), key=lambda i: -len(drawn[i][1])):
        if total <= room:
            break
        total -= len(drawn[i][1])
        left_out.add(i)
    for i, (data, fragment, text) in enumerate(drawn):
        label = html.escape(text, quote=True)
        size = f"{len(fragment) / 1e6:.1f} MB"
        said = f"The figure “{label}” ({size}) is left out to keep this file small; its numbers are in the results."
        figure = f'<figure role="img" aria-label="{label}">{fragment}</figure>'
        data["text/html"] = f'<p class="absent">{said}</p>' if i in left_out else figure


def _drawn(told: dict[str, Any]) -> tuple[str, str]:
    """A figure's JSON as a fragment of HTML, and its title as the text for those who cannot see it."""
    import plotly.graph_objects as go

    figure = go.Figure(data=told["data"], layout=told["layout"], skip_invalid=False)
    config = {**(told.get("config") or {}), "responsive": True}
    fragment = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    return fragment, re.sub(r"<[^>]+>", " ", figure.layout.title.text or "figure")
