"""What the JavaScript modules draw, beside pictures of it that somebody has looked at (tests/screens).

Only canvases: no letters, which every machine draws its own way. WRITE_SCREENS=1 writes them anew, to be looked at.
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from browser import opened
from PIL import Image

from workbench.explore.image_grid import ImageGrid
from workbench.hosts.js import static
from workbench.workspace.encoding import base64_array, thumbnail_sheet
from workbench.workspace.lens_data import module_data
from workbench.workspace.map_layout import CLASS_COLORS, point_data

pytestmark = pytest.mark.browser
SCREENS = Path(__file__).parent / "screens"
IMAGES = (255 * np.random.default_rng(0).random((12, 8, 8, 3))).astype(np.uint8)


def lens() -> tuple[dict, dict, str]:
    shown = np.stack([IMAGES[:3] // 2, IMAGES[:3] // 4 * 3, IMAGES[:3]], axis=1)
    frames = ImageGrid("tokens", ("1", "2", "4"), ("a", "b", "c"), IMAGES[:3], shown)
    return module_data(frames), {"row": 1, "stop": 1}, ".panels canvas >> nth=2"


def latentmap() -> tuple[dict, dict, str]:
    random = np.random.default_rng(1)
    group = random.integers(0, 4, 2000)
    points = random.normal(size=(2000, 2)) * 0.4 + np.array([[0, 0], [3, 0], [0, 3], [3, 3]])[group]
    colours = {
        "color": base64_array(group.astype(np.uint8)),
        "palette": CLASS_COLORS[:4],
        "groups": list("0123"),
    }
    plain = {"titles": [], "names": None, "places": None, "thumbs": None, "caption": ""}
    return (
        {**point_data(points), **colours, **plain},
        {"polygon": None, "ids": [], "hidden": []},
        ".plane",
    )


def codegrid() -> tuple[dict, dict, str]:
    codes, counts = (
        np.arange(48),
        np.random.default_rng(2).geometric(0.05, 48) * (np.arange(48) % 7 > 0),
    )
    shown = np.tile(np.arange(6), (48, 1))
    arrays = {"codes": codes, "counts": counts, "examples": shown, "marks": np.zeros_like(shown)}
    told = {name: base64_array(array.astype(np.int32)) for name, array in arrays.items()}
    told |= {
        "n": 48,
        "total": int(counts.sum()),
        "each": 6,
        "size": 48,
        "grid": None,
        "caption": "",
    }
    return (
        {**told, "thumbs": thumbnail_sheet(IMAGES, np.arange(12))},
        {"selected": [3], "sort": "number"},
        ".cells canvas",
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("module", [lens, latentmap, codegrid], ids=lambda module: module.__name__)
def test_a_module_draws_what_it_drew_when_somebody_looked(module, dark, tmp_path):
    data, view, where = module()
    page = tmp_path / "page.html"
    fragment = static(
        module.__name__, json.loads(json.dumps(data)), view, height=600, title="a module"
    )
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{fragment}</body>")
    with opened(page.as_uri(), width=1000, dark=dark) as (browser, seen):
        drawn = browser.frame_locator("iframe").locator(where)
        drawn.wait_for()
        browser.wait_for_timeout(500)
        drawn.first.scroll_into_view_if_needed()
        got = np.asarray(Image.open(io.BytesIO(drawn.first.screenshot())).convert("RGB"), np.int16)
        assert seen.errors == []
    kept = SCREENS / f"{module.__name__}-{'dark' if dark else 'light'}.png"
    if os.environ.get("WRITE_SCREENS"):
        Image.fromarray(got.astype(np.uint8)).save(kept, optimize=True)
    wanted = np.asarray(Image.open(kept).convert("RGB"), np.int16)
    assert got.shape == wanted.shape
    assert got.std() > 10  # something is drawn
    assert (np.abs(got - wanted).max(axis=2) > 40).mean() < 0.01  # a renderer's rounding, no more
