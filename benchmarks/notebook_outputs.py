"""Execute the notebooks and store their outputs in them, small enough for GitHub.

Figures and widgets are stored as still pictures, because GitHub and the documentation site run no
JavaScript of an output. The runs are trained into `build/notebooks/runs`, which is emptied first:
all outputs are of one execution.

Usage: `python -m benchmarks.notebook_outputs [NAME...]`, with the beginnings of names of notebooks
"""

import base64
import copy
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from PIL.ImageColor import getrgb
from playwright.sync_api import Page, sync_playwright
from plotly.offline import get_plotlyjs
from scipy.spatial import KDTree

from workbench.analysis.plotting.run_colors import RUN_COLORS

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build" / "notebooks"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
PLOTLY_MIME = "application/vnd.plotly.v1+json"
# Features without a download, so that the numbers are the same on every machine.
ENVIRONMENT = {"WORKBENCH_FEATURE_EXTRACTOR": "hog", "HF_HUB_OFFLINE": "1"}
CELL_TIMEOUT_S = 1800
WIDTH_PX = 800
DEFAULT_HEIGHT_PX = 450  # of a figure whose layout has none, as in a notebook
SETTLE_MS = 1500  # until a frame has drawn its images and has its final height
# Colors of PNG and quality of JPEG; the first pair with which a notebook is small enough is used.
QUALITIES = ((128, 80), (64, 65), (48, 50), (32, 40))
MAX_BYTES = 200_000  # of a notebook
# A palette of the frequent colors alone turns the dots of runs gray, and tints the background.
KEPT_COLORS = ("white", "black", *RUN_COLORS)
# Elements that show nothing without their scripts or styles, which GitHub removes.
PICTURED = re.compile(r"<(iframe|svg|img|canvas)\b")
STYLE = re.compile(r"<style\b.*?</style>", re.DOTALL)
PAGE = f"""<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 4px; width: {WIDTH_PX}px; font: 14px system-ui, sans-serif; }}
table {{ border-collapse: collapse; font-size: 12px; }}
td, th {{ padding: 2px 8px; text-align: right; }}
details {{ display: none; }}
</style>"""
DRAW = """async ([figure, width, height]) => {
  const { data, layout } = figure;
  return await Plotly.toImage({ data, layout }, { format: "png", width, height });
}"""

WIDEN = """() => {
  const widths = [...document.querySelectorAll("body *")].map((each) => each.scrollWidth);
  document.body.style.width = `${Math.max(document.body.clientWidth - 8, ...widths)}px`;
}"""


class Stills:
    """Takes pictures of outputs in a browser.

    Parameters
    ----------
    page : Page
        A page of the browser.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    def of_figure(self, figure: dict[str, Any]) -> Image.Image:
        """Draw a Plotly figure."""
        self.page.set_content(PAGE)
        self.page.add_script_tag(content=get_plotlyjs())
        height = figure["layout"].get("height") or DEFAULT_HEIGHT_PX
        width = figure["layout"].get("width") or WIDTH_PX
        address = self.page.evaluate(DRAW, [figure, width, height])
        return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))

    def of_html(self, html: str) -> Image.Image:
        """Show HTML and take a picture of all of it, also of what would have to be scrolled."""
        self.page.set_content(PAGE + html, wait_until="load")
        self.page.wait_for_timeout(SETTLE_MS)
        self.page.evaluate(WIDEN)
        return Image.open(io.BytesIO(self.page.locator("body").screenshot()))


@contextmanager
def stills() -> Iterator[Stills]:
    """Start a browser for pictures."""
    with sync_playwright() as playwright:
        executable = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        viewport = {"width": WIDTH_PX + 8, "height": 900}
        yield Stills(browser.new_page(viewport=viewport, color_scheme="light"))
        browser.close()


def png_bundle(image: Image.Image, text: str) -> dict[str, str]:
    """Return a picture as an output."""
    return {"image/png": _base64(image.convert("RGB"), format="PNG"), "text/plain": text}


def compressed(bundle: dict[str, str], num_colors: int, jpeg_quality: int) -> dict[str, str]:
    """Return a picture as PNG with a palette, or as JPEG if that is smaller."""
    image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).convert("RGB")
    frequent = image.quantize(num_colors - len(KEPT_COLORS), kmeans=2).getpalette() or []
    palette = [byte for color in KEPT_COLORS for byte in getrgb(color)] + frequent
    # Pillow maps to a palette approximately, which would tint white.
    _, nearest = KDTree(np.reshape(palette, (-1, 3))).query(np.asarray(image))
    indexed = Image.fromarray(nearest.astype(np.uint8))
    indexed.putpalette(palette)
    files = {
        "image/png": _base64(indexed, format="PNG", optimize=True),
        "image/jpeg": _base64(image, format="JPEG", optimize=True, quality=jpeg_quality),
    }
    mime = min(files, key=lambda name: len(files[name]))
    return {mime: files[mime], "text/plain": bundle.get("text/plain", "")}


def _base64(image: Image.Image, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, **options)
    return base64.b64encode(file.getvalue()).decode()


def small_bundle(bundle: dict[str, Any], pictures: Stills) -> dict[str, Any] | None:
    """Return the small form of an output; None if it only shows something next to a kernel."""
    if PLOTLY_MIME in bundle:
        figure = bundle[PLOTLY_MIME]
        title = figure["layout"].get("title") or {}
        text = re.sub("<[^>]*>", "", title.get("text") or "figure")
        return png_bundle(pictures.of_figure(figure), text)
    if WIDGET_MIME in bundle:
        return None
    html = bundle.get("text/html", "")
    if not html:
        return bundle
    text = bundle.get("text/plain", "")
    if PICTURED.search(html):
        return png_bundle(pictures.of_html(html), text)
    return {"text/html": STYLE.sub("", html), "text/plain": text}


def store_outputs(path: Path, pictures: Stills) -> None:
    """Execute one notebook, and write it with small outputs."""
    notebook = nbformat.read(path, as_version=4)
    metadata = notebook.metadata.copy()
    folder = BUILD / "cells"  # the notebooks train into ../runs
    folder.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
    )
    client.execute(env=os.environ | ENVIRONMENT)
    notebook.metadata = metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = small_outputs(cell.outputs, pictures)
    nbformat.write(notebook, BUILD / path.name)
    nbformat.write(fitting(notebook), path)


def fitting(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook whose pictures are as good as the size of the file allows."""
    for num_colors, jpeg_quality in QUALITIES:
        small = copy.deepcopy(notebook)
        for cell in small.cells:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    data = compressed(output.data, num_colors, jpeg_quality)
                    output.data = nbformat.from_dict(data)
        if len(nbformat.writes(small).encode()) < MAX_BYTES:
            return small
    raise ValueError(f"The outputs need more than {MAX_BYTES} bytes. Show fewer pictures.")


def small_outputs(outputs: list[NotebookNode], pictures: Stills) -> list[NotebookNode]:
    """Return the outputs of a cell in their small form."""
    small = []
    for output in outputs:
        if "data" in output:
            bundle = small_bundle(output["data"], pictures)
            if bundle is None:
                continue
            output = nbformat.from_dict({**output, "data": bundle, "metadata": {}})
        small.append(output)
    return small


def main(*names: str) -> None:
    """Execute the notebooks, one after the other from no run on, and print their sizes."""
    shutil.rmtree(BUILD, ignore_errors=True)
    with stills() as pictures:
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            if not names or path.name.startswith(names):
                store_outputs(path, pictures)
                print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
