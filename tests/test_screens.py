"""Canvases of the JavaScript modules are compared with reviewed screenshots in tests/screens.

The canvases have no text, because text is rendered differently on each machine. WRITE_SCREENS=1
rewrites the screenshots, which must then be reviewed.
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from browser import opened
from PIL import Image

from workbench.analysis.latents.point_colors import NAME_COLORS
from workbench.explore.image_grid import ImageGrid
from workbench.hosts.js import static
from workbench.workspace.encoding import base64_array, thumbnail_sheet
from workbench.workspace.lens_data import module_data
from workbench.workspace.map_layout import point_data

pytestmark = pytest.mark.browser
SCREENS = Path(__file__).parent / "screens"
IMAGES = (255 * np.random.default_rng(0).random((12, 8, 8, 3))).astype(np.uint8)


def lens() -> tuple[dict, dict, str]:
    images = np.stack([IMAGES[:3] // 2, IMAGES[:3] // 4 * 3, IMAGES[:3]], axis=1)
    grid = ImageGrid("tokens", ("1", "2", "4"), ("a", "b", "c"), IMAGES[:3], images)
    return module_data(grid), {"row": 1, "stop": 1}, ".panels canvas >> nth=2"


def latentmap() -> tuple[dict, dict, str]:
    random = np.random.default_rng(1)
    group = random.integers(0, 4, 2000)
    points = random.normal(size=(2000, 2)) * 0.4 + np.array([[0, 0], [3, 0], [0, 3], [3, 3]])[group]
    colors = {
        "color": base64_array(group.astype(np.uint8)),
        "palette": NAME_COLORS[:4],
        "groups": list("0123"),
    }
    texts = {"titles": [], "names": None, "places": None, "thumbs": None, "caption": ""}
    data = {**point_data(points), **colors, **texts}
    return data, {"polygon": None, "ids": [], "hidden": [], "labels": False}, ".plane"


def codegrid() -> tuple[dict, dict, str]:
    codes = np.arange(48)
    counts = np.random.default_rng(2).geometric(0.05, 48) * (codes % 7 > 0)
    examples = np.tile(np.arange(6), (48, 1))
    arrays = {
        "codes": codes,
        "counts": counts,
        "examples": examples,
        "marks": np.zeros_like(examples),
    }
    data = {name: base64_array(array.astype(np.int32)) for name, array in arrays.items()}
    data |= {
        "n": 48,
        "total": int(counts.sum()),
        "each": 6,
        "size": 48,
        "grid": None,
        "caption": "",
    }
    data["thumbs"] = thumbnail_sheet(IMAGES, np.arange(12))
    return data, {"selected": [3], "sort": "number"}, ".cells canvas"


def rgb_pixels(file: Path | io.BytesIO) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"), np.int16)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("module", [lens, latentmap, codegrid], ids=lambda module: module.__name__)
def test_module_matches_its_screenshot(module, dark, tmp_path):
    data, view, selector = module()
    page = tmp_path / "page.html"
    fragment = static(
        module.__name__, json.loads(json.dumps(data)), view, height=600, title="a module"
    )
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{fragment}</body>")
    with opened(page.as_uri(), width=1000, dark=dark) as (browser, seen):
        canvas = browser.frame_locator("iframe").locator(selector)
        canvas.wait_for()
        browser.wait_for_timeout(500)
        canvas.first.scroll_into_view_if_needed()
        pixels = rgb_pixels(io.BytesIO(canvas.first.screenshot()))
        assert seen.errors == []
    path = SCREENS / f"{module.__name__}-{'dark' if dark else 'light'}.png"
    if os.environ.get("WRITE_SCREENS"):
        Image.fromarray(pixels.astype(np.uint8)).save(path, optimize=True)
    expected = rgb_pixels(path)
    assert pixels.shape == expected.shape
    assert pixels.std() > 10  # the canvas is not empty
    # Renderers may round differently.
    assert (np.abs(pixels - expected).max(axis=2) > 40).mean() < 0.01
