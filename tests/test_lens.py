"""Tests of lenses, latent maps and codebooks: values, generated code, static pages and Panel."""

import base64
import json
import re
import shutil

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from browser import free_port, lasso, opened, served
from skimage.measure import points_in_poly
from skimage.metrics import peak_signal_noise_ratio

import workbench as wb
from workbench.analysis.plotting.run_colors import RUN_COLORS
from workbench.analysis.plotting.style import apply_theme
from workbench.core.errors import NotApplicable, RunError, UserError
from workbench.core.image_url import png_url
from workbench.explore.loaded_run import LoadedRun
from workbench.hosts.js import source, static
from workbench.hosts.js.jupyter import STYLE
from workbench.hosts.notebook.lens_view import LensView
from workbench.storage.run import Run
from workbench.workspace.encoding import base64_array
from workbench.workspace.map_layout import point_data, snap_to_grid
from workbench.workspace.selection import points_in_polygon

MODULES = ("lens", "latentmap", "codegrid")


def run_code(code: str):
    """Run the code of a view, and return the view that it creates."""
    namespace: dict = {}
    exec(code, namespace)
    return next(namespace[name] for name in ("lens", "map", "codebook") if name in namespace)


# -- the lens ------------------------------------------------------------------------


def test_lens_at_full_budget_shows_the_evidence(trained):
    lens = wb.lens(trained / "soft-4")
    evidence = Run(trained / "soft-4").evidence()
    assert lens.state.over == "tokens"
    assert lens.selected["tokens"] == "4"
    np.testing.assert_array_equal(lens.images["reference"], evidence.images[0])
    np.testing.assert_array_equal(lens.images["shown"], evidence.reconstructions[0])
    psnr = peak_signal_noise_ratio(
        np.asarray(evidence.images[0]), np.asarray(evidence.reconstructions[0])
    )
    assert lens.table["psnr"][lens.image_grid.axis_values.index("4")] == pytest.approx(psnr)


def test_code_of_a_lens_creates_the_same_images(trained):
    lens = wb.lens(
        trained / "soft-4", over="token swapped", order="worst", show=3, step=30, row=2, stop=1
    )
    copy = run_code(lens.code())
    assert copy.state == lens.state
    assert copy.table.equals(lens.table)
    for name, array in lens.images.items():
        np.testing.assert_array_equal(copy.images[name], array)


def test_comparing_runs_needs_no_checkpoint(trained, tmp_path):
    for name in ("soft-4", "soft-2"):
        (tmp_path / name).mkdir()
        shutil.copytree(trained / name / "evidence", tmp_path / name / "evidence")
        shutil.copy(trained / name / "config.json", tmp_path / name)
    lens = wb.lens(tmp_path / "soft-4", tmp_path / "soft-2")
    assert lens.axes == ("run",)
    assert lens.image_grid.axis_values == ("soft-4 · step 60", "soft-2 · step 60")
    assert lens.figure.layout.annotations[1].text == "run soft-4 · step 60"


def test_runs_move_together_along_a_shared_axis(trained):
    lens = wb.lens(
        trained / "soft-4", trained / "soft-2", trained / "flow", over="tokens", indices=[5, 3]
    )
    (grid,), (data,) = lens.compared_grids, lens.data()["beside"]
    assert len(set(lens.data()["colors"])) == 2
    assert lens.image_grid.axis_values == ("1", "2", "4")
    assert grid.axis_values == ("1", "2")
    assert data["at"] == [0, 1, 1]
    for image_grid, name in ((lens.image_grid, "soft-4"), (grid, "soft-2")):
        reconstructions = Run(trained / name).evidence().reconstructions[[5, 3]]
        np.testing.assert_array_equal(image_grid.images[:, -1], reconstructions)
    without_shared_axis = wb.lens(trained / "soft-4", trained / "soft-2", over="token dropped")
    assert without_shared_axis.compared_grids == []


def test_worst_images_come_first(trained):
    evidence = Run(trained / "soft-4").evidence()
    difference = np.asarray(evidence.images, float) - np.asarray(evidence.reconstructions, float)
    worst = np.abs(difference).mean(axis=(1, 2, 3)).argsort()[::-1][:2]
    np.testing.assert_array_equal(
        wb.lens(trained / "soft-4", order="worst", show=2).image_grid.reference,
        evidence.images[worst],
    )


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"over": "tokns"}, "tokens"),
        ({"ordre": "worst"}, "order"),
        ({"order": "wurst"}, "worst"),
        ({"show": 0}, "show"),
        ({"step": 31}, "31"),
        ({"seed": 10**30}, "seed"),
        ({"indices": [360]}, "360"),
    ],
)
def test_invalid_lens_settings_are_refused(trained, settings, culprit):
    with pytest.raises(UserError) as error:
        _ = wb.lens(trained / "soft-4", **settings).image_grid
    assert culprit in str(error.value)


def test_lens_needs_a_run_with_evidence(trained, tmp_path):
    with pytest.raises(UserError):
        wb.lens()
    ignored = shutil.ignore_patterns("evidence")
    shutil.copytree(trained / "soft-4", tmp_path / "bare", ignore=ignored)
    with pytest.raises(RunError) as error:
        wb.lens(tmp_path / "bare")
    assert "workbench collect" in str(error.value)


def test_widgets_change_state_and_images_of_a_lens(trained):
    lens = wb.lens(trained / "soft-4", show=2)
    view = LensView(lens)
    view.task.wait()
    rows = json.loads(view.module.data)["rows"]
    view.widgets["over"].value = "code"
    view.task.wait()
    assert view.widgets["token"] in view.row.children
    assert json.loads(view.module.data)["axis"] == "code of token 0"
    view.widgets["token"].value = 3
    view.task.wait()
    assert lens.state.token == 3
    assert json.loads(view.module.data)["axis"] == "code of token 3"
    view.module.view = json.dumps({"row": 1, "stop": 2, "mode": "wipe", "gain": 4})
    assert lens.position == (1, 2)
    assert lens.selected["row"] == rows[1]
    view.widgets["over"].value = "tokens"
    view.task.wait()
    assert view.widgets["token"] not in view.row.children
    assert lens.position == (0, 2)


def test_guidance_intervals_of_the_selected_class(trained):
    lens = wb.lens(trained / "flow", over="interval", label=2)
    run = LoadedRun.load(Run(trained / "flow"))
    np.testing.assert_array_equal(lens.image_grid.images, run.explore("interval", [2]).images)
    view = LensView(lens)
    assert view.widgets["label"] in view.row.children
    assert view.widgets["show"] not in view.row.children
    view.widgets["label"].value = 7
    view.task.wait()
    assert lens.state.label == 7
    assert "7" in json.loads(view.module.data)["note"]
    with pytest.raises(UserError):
        _ = wb.lens(trained / "flow", over="interval", label=10).image_grid


def test_number_of_rows_is_limited_by_pixels(trained, monkeypatch):
    monkeypatch.setattr("workbench.workspace.lens.MAX_PIXEL_VALUES", 3 * 5 * 64)
    assert len(wb.lens(trained / "soft-4", show=8).image_grid.rows) == 3


# -- the map -------------------------------------------------------------------------


def test_points_in_polygon_match_scikit_image():
    random = np.random.default_rng(0)
    points = random.normal(size=(2000, 2))
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    radii = np.where(np.arange(20) % 2, 0.6, 1.8)
    star = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    np.testing.assert_array_equal(points_in_polygon(points, star), points_in_poly(points, star))
    assert not points_in_polygon(points, star[:2]).any()
    assert not points_in_polygon(points, []).any()


def test_map_selects_the_points_in_its_polygon(trained):
    full_map = wb.latent_map(trained / "soft-4", method="pca")
    assert len(full_map.selected) == len(full_map.selected_indices) == len(full_map.images) == 0
    x, y = full_map.table["x"].median(), full_map.table["y"].median()
    polygon = [(x, y), (1e3, y), (1e3, 1e3), (x, 1e3)]
    lassoed = wb.latent_map(trained / "soft-4", method="pca", polygon=polygon)
    corner = full_map.table[(full_map.table["x"] > x) & (full_map.table["y"] > y)]
    assert set(lassoed.selected_indices) == set(corner["image"])
    assert 0 < len(lassoed.selected) < len(full_map.table)
    images = Run(trained / "soft-4").evidence().images
    np.testing.assert_array_equal(lassoed.images, images[lassoed.selected_indices])
    assert run_code(lassoed.code()).selected.equals(lassoed.selected)


def test_grid_of_points_has_16_bit_precision():
    points = np.random.default_rng(0).normal(size=(50, 2)) * [100, 1]
    x0, y0, x1, y1 = point_data(points)["box"]
    assert x1 - x0 == pytest.approx(y1 - y0)  # one scale on both axes
    assert np.abs(snap_to_grid(points) - points).max() <= (x1 - x0) / 65535 / 2 * 1.001


def test_a_run_has_one_color_in_a_notebook(trained):
    runs = [trained / "soft-4", trained / "soft-2"]
    colors = wb.open(trained).workspace.run_colors
    assert wb.compare(*runs).workspace.run_colors == colors
    assert wb.lens(*runs).run_colors == wb.lens(*reversed(runs)).run_colors == colors
    assert wb.watch(runs[1]).model.run_colors == colors


def test_runs_of_one_color_in_their_folder_have_two_where_they_are_shown_together(
    trained, tmp_path
):
    for index in range(len(RUN_COLORS) + 1):
        shutil.copytree(trained / "soft-2", tmp_path / f"run-{index}")
    first, last = tmp_path / "run-0", tmp_path / f"run-{len(RUN_COLORS)}"
    every = wb.open(tmp_path).workspace.run_colors
    assert every["run-0"] == every[last.name]
    assert len(set(wb.compare(first, last).workspace.run_colors.values())) == 2
    assert wb.lens(first, tmp_path / "run-3").run_colors == every


def test_colors_of_a_map_follow_its_controls(trained):
    from workbench.hosts.notebook.latent_map_view import MapView

    latent_map = wb.latent_map(
        trained / "soft-4", method="pca", polygon=[(-9, -9), (9, -9), (0, 9)]
    )
    view = MapView(latent_map)
    view.task.wait()
    assert json.loads(view.module.data)["groups"] == [str(digit) for digit in range(10)]
    view.controls["color_by"].value = "error"
    view.task.wait()
    low, high, label = json.loads(view.module.data)["scale"]
    assert low < high
    assert "PSNR" in label
    assert latent_map.state.polygon is not None
    view.controls["seed"].value = 1
    view.task.wait()
    # The seed changes the layout, and the polygon would contain other points.
    assert latent_map.state.polygon is None
    assert json.loads(view.module.view)["polygon"] is None
    with pytest.raises(NotApplicable) as error:
        _ = wb.latent_map(trained / "soft-4", color_by="tokens").result
    assert "active" in str(error.value)


# -- the codebook --------------------------------------------------------------------


def test_codebook_counts_tokens_and_finds_images_of_a_code(trained):
    codes = np.asarray(Run(trained / "soft-4").evidence().codes)
    most_common = int(np.bincount(codes.ravel()).argmax())
    codebook = wb.codebook(trained / "soft-4", selected=[most_common])
    assert codebook.table["tokens"].sum() == codes.size
    assert codebook.selected["tokens"][0] == (codes == most_common).sum()
    image_indices = np.flatnonzero((codes == most_common).any(axis=1))
    np.testing.assert_array_equal(codebook.selected_indices, image_indices)
    assert run_code(codebook.code()).selected.equals(codebook.selected)


def test_examples_of_a_code_are_images_with_that_code(trained):
    codebook = wb.codebook(trained / "soft-4")
    data, codes = codebook.data(), np.asarray(codebook.evidence.codes)
    examples, marks = (
        np.frombuffer(base64.b64decode(data[name]), "<i4").reshape(-1, data["each"])
        for name in ("examples", "marks")
    )
    for code, (images, tokens) in enumerate(zip(examples, marks, strict=True)):
        is_filled = images >= 0
        count = is_filled.sum()
        assert count == min(data["each"], (codes == code).any(axis=1).sum())
        assert (codes[images[is_filled], tokens[is_filled]] == code).all()
        assert len(set(images[is_filled])) == count


def test_codebook_refuses_runs_without_codes_and_unknown_codes(trained):
    with pytest.raises(NotApplicable):
        _ = wb.codebook(trained / "plain").table
    with pytest.raises(UserError) as error:
        wb.codebook(trained / "soft-4", selected=[32])
    assert "32" in str(error.value)


# -- explorers of one topic ----------------------------------------------------------


def test_topic_explorers_offer_analyses_of_their_topic(trained):
    budget = wb.budget(trained / "soft-4", trained / "soft-2", metric="l1")
    assert budget.state.analysis == "token_budget"
    assert "marginal_token_value" in budget.analyses
    assert set(budget.table["run"]) == {"soft-4", "soft-2"}
    assert "l1" in budget.table
    compared = wb.compare(trained / "soft-4", trained / "soft-2")
    assert "settings_comparison" in compared.analyses and compared.state.analysis == "decision"
    assert set(compared.runs["run"]) == {"soft-4", "soft-2"}  # not the others of the folder
    assert compared.result.candidate("soft-4").generators == ("flow",)  # although not selected
    assert "Choose" in compared._repr_html_()
    assert wb.modes(trained / "soft-4").state.analysis == "mixture_modes"
    assert "codebook_usage" not in {*budget.analyses, *wb.modes(trained / "soft-4").analyses}
    with pytest.raises(UserError):
        wb.compare()


def test_views_are_pages_without_a_kernel(trained):
    run = trained / "soft-4"
    for view in (wb.lens(run, show=2), wb.latent_map(run, method="pca"), wb.codebook(run)):
        assert view._repr_html_().startswith("<iframe")
    assert "plain" in wb.codebook(trained / "plain")._repr_html_()


# -- in a browser --------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_module_makes_no_requests_and_evaluates_no_text(name):
    text = source(name)
    assert not re.search(r"https?://|import\(|\beval\b|innerHTML|fetch\(", text)
    assert text.rstrip().endswith("export default { render };")


@pytest.fixture
def page_of(tmp_path):
    def write(fragment: str) -> str:
        page = tmp_path / "page.html"
        page.write_text(f"<!doctype html><meta charset=utf-8><body>{fragment}</body>")
        return page.as_uri()

    return write


@pytest.mark.browser
def test_lens_works_in_a_static_page(trained, page_of):
    lens = wb.lens(trained / "soft-4", show=3)
    with opened(page_of(lens._repr_html_())) as (page, seen):
        inner = page.frame_locator("iframe")
        caption = inner.locator(".told")
        inner.get_by_text("difference × 4").wait_for()
        assert f"{lens.image_grid.error[0, 2]:.4f}" in caption.text_content()
        assert "4 of 4 tokens" in caption.text_content()
        inner.locator(".panels canvas").first.click()
        page.keyboard.press("[")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert f"{lens.image_grid.error[2, 1]:.4f}" in caption.text_content()
        assert "2 of 4 tokens" in caption.text_content()
        panels = inner.locator(".panels canvas")
        page.keyboard.press("f")
        assert panels.count() == 1
        assert inner.locator("figcaption").text_content() == "original"
        page.keyboard.press("f")
        assert inner.locator("figcaption").text_content() == "tokens: 2"
        page.keyboard.press("w")
        assert "original | tokens: 2" in inner.locator("figcaption").text_content()
        page.keyboard.press("Escape")
        assert len({panel.bounding_box()["y"] for panel in panels.all()}) == 1
        color_bar = inner.locator(".ramp").bounding_box()
        stops = inner.locator(".panels + *").bounding_box()
        assert color_bar["y"] + color_bar["height"] <= stops["y"]
        unzoomed = panels.nth(2).screenshot()
        panels.nth(0).hover()
        page.mouse.wheel(0, -400)
        assert panels.nth(2).screenshot() != unzoomed  # the panels share one zoom
        page.keyboard.press("0")
        assert panels.nth(2).screenshot() == unzoomed
        box = panels.first.bounding_box()  # eight image pixels wide
        page.mouse.move(box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 2.5 / 8)
        original = int(lens.image_grid.reference[2, 2, 3, 0])
        decoded = int(lens.image_grid.images[2, 1, 2, 3, 0])
        probe = inner.locator(".probe").text_content()
        assert probe.startswith("pixel 3, 2: ")
        numbers = re.findall(r"[\d.]+", probe)[2:]
        assert numbers == [str(original), str(decoded), f"{abs(original - decoded) / 255:.3f}"]
        assert seen.errors == [] and seen.outside == []


@pytest.mark.browser
def test_module_adopts_jupyterlab_theme_and_waits_until_visible(trained, page_of):
    frame = wb.codebook(trained / "soft-4")._repr_html_()
    dark = '<script>document.body.dataset.jpThemeLight = "false"</script>'
    with opened(page_of(f"{dark}{frame}<div hidden>{frame}</div>")) as (page, seen):
        first, second = (page.frame_locator("iframe >> nth=" + str(i)) for i in (0, 1))
        first.get_by_text("of 32 codes are used").wait_for()
        color_scheme = "root => getComputedStyle(root).colorScheme"
        assert first.locator("html").evaluate(color_scheme) == "dark"
        assert second.locator("#root > *").count() == 0
        page.evaluate("() => document.querySelector('[hidden]').removeAttribute('hidden')")
        second.get_by_text("of 32 codes are used").wait_for()
        assert seen.errors == [] and seen.outside == []


@pytest.mark.browser
def test_markup_in_names_is_escaped(page_of):
    markup = "</script><img src=x onerror=alert(1)>"
    pixel = png_url(np.zeros((1, 1, 1), np.uint8))
    data = {
        "axis": markup,
        "stops": [markup],
        "rows": [markup],
        "against": markup,
        "note": markup,
        "size": [1, 1],
        "notes": [[markup]],
    }
    data |= {"active": None, "reference": pixel, "shown": pixel}
    with opened(page_of(static("lens", data, {}, height=300, title=markup))) as (page, seen):
        inner = page.frame_locator("iframe")
        inner.get_by_text(markup).first.wait_for()
        assert inner.locator("img").count() == 0 and seen.errors == []


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_figures_follow_the_theme_of_jupyterlab(page_of, dark):
    figure = apply_theme(
        go.Figure(go.Bar(y=[1, 2], marker_color="#0072B2")).update_layout(title="a figure")
    )
    light = f"<script>document.body.dataset.jpThemeLight = '{str(not dark).lower()}'</script>"
    html = figure.to_html(full_html=False, include_plotlyjs=True)
    background = "rgba(0, 0, 0, 0)" if dark else "rgb(255, 255, 255)"
    ink = "rgb(224, 224, 224)" if dark else "rgb(42, 63, 95)"
    grid = "rgb(60, 60, 60)" if dark else "rgb(235, 240, 248)"
    menu = "<div class='widget-dropdown'><select><option>a</option></select></div>"
    with opened(page_of(f"<style>{STYLE}</style>{light}{menu}{html}")) as (page, _):
        page.locator(".xtick text").first.wait_for()

        def style(selector: str, name: str) -> str:
            return page.locator(selector).first.evaluate(f"node => getComputedStyle(node).{name}")

        assert style(".main-svg", "backgroundColor") == background
        assert ("e0e0e0" in style("select", "backgroundImage")) == dark
        for text in (".xtick text", ".gtitle"):
            assert style(text, "fill") == ink
        assert style(".ygrid", "stroke") == grid
        # The colors of the data stay.
        assert style(".bars .point path", "fill") == "rgb(0, 114, 178)"
        assert style(".modebar-group", "backgroundColor").endswith(", 0)") or not dark
        # A figure of a person's own, with the ink of another light template.
        simple = json.dumps(pio.templates["simple_white"].layout.to_plotly_json())
        page.evaluate(f"Plotly.relayout(document.querySelector('.js-plotly-plot'), {simple})")
        ink = "rgb(224, 224, 224)" if dark else "rgb(36, 36, 36)"
        assert style(".xtick text", "fill") == ink and style(".xlines-above", "stroke") == ink


@pytest.mark.browser
def test_lasso_on_a_million_points_counts_like_python(page_of):
    points = np.random.default_rng(0).normal(size=(1_000_000, 2)).astype(np.float32)
    colors = {
        "color": base64_array(np.zeros(len(points), np.uint8)),
        "palette": ["#0072B2"],
        "groups": ["images"],
    }
    texts = {"titles": [], "names": None, "places": None, "thumbs": None, "caption": "a million"}
    data = {**point_data(points), **colors, **texts}
    fragment = static("latentmap", data, {}, height=600, title="map")
    with opened(page_of(fragment)) as (page, seen):
        inner = page.frame_locator("iframe")
        inner.get_by_text("drag a loop").wait_for()
        lasso(page, inner.locator(".plane"), 0.2)
        inner.get_by_text("of 1,000,000 selected").wait_for()
        box = inner.locator(".plane").bounding_box()
        x0, y0, x1, _ = point_data(points)["box"]
        width, height = np.ptp(points, axis=0)
        unit = max(width / box["width"], height / box["height"]) / 0.94  # map units per pixel
        right, up = 0.2 * box["width"] * unit, 0.2 * box["height"] * unit
        x, y = points.T.astype(float) - [[x0 + (x1 - x0) / 2], [y0 + (x1 - x0) / 2]]
        count = inner.locator(".told").text_content().split(" ")[0].replace(",", "")
        is_inside = (x > 0) & (y > 0) & (x / right + y / up < 1)
        assert int(count) == pytest.approx(is_inside.sum(), rel=0.01)
        assert seen.errors == [] and seen.outside == []


PANEL = """
import json
import sys

import panel as pn

import workbench as wb
from workbench.hosts.js.panel import component

run = sys.argv[1]
lens = wb.lens(run, show=3)
lens_module = component("lens")(data=json.dumps(lens.data()), view=json.dumps(lens.view()))
points = wb.latent_map(run, method="pca")
map_module = component("latentmap")(data=json.dumps(points.data()), view=json.dumps(points.view()))


def stop(view):
    return f"stop in python: {json.loads(view)['stop']}"


def count(view):
    selected = wb.latent_map(run, method="pca", polygon=json.loads(view).get("polygon")).selected
    return f"points in python: {len(selected)}"


stop_pane = pn.pane.Str(pn.bind(stop, lens_module.param.view))
count_pane = pn.pane.Str(pn.bind(count, map_module.param.view))
pn.Column(stop_pane, count_pane, lens_module, map_module, width=960).servable()
"""


@pytest.mark.browser
def test_modules_work_in_panel_and_update_python(trained, tmp_path):
    (tmp_path / "served_page.py").write_text(PANEL)
    port = free_port()
    command = ["panel", "serve", str(tmp_path / "served_page.py"), f"--port={port}"]
    command += [f"--allow-websocket-origin=127.0.0.1:{port}", "--args", str(trained / "soft-4")]
    with (
        served(*command, port=port, log=tmp_path / "panel.log", path="/served_page") as address,
        opened(f"{address}/served_page") as (page, seen),
    ):
        page.get_by_text("difference × 4").wait_for()
        page.locator(".wb-lens .panels canvas").first.click()
        page.keyboard.press("[")
        page.get_by_text("stop in python: 1").wait_for()
        lasso(page, page.locator(".wb-map .plane"), 0.3)
        count = page.locator(".wb-map .told").text_content().split(" ")[0]
        page.get_by_text(f"points in python: {count}").wait_for()
        assert int(count) > 3 and seen.outside == []
