"""Lenses, maps and codebooks show the same in code, in a static page, in a notebook and in Panel."""

import base64
import json
import re
import shutil

import numpy as np
import plotly.graph_objects as go
import pytest
from browser import free_port, lasso, opened, served
from skimage.measure import points_in_poly
from skimage.metrics import peak_signal_noise_ratio

import workbench as wb
from workbench.analysis.plotting.style import apply_theme
from workbench.core.errors import NotApplicable, RunError, UserError
from workbench.explore.loaded_run import LoadedRun
from workbench.hosts.js import source, static
from workbench.hosts.js.jupyter import STYLE
from workbench.hosts.notebook.lens_view import LensView
from workbench.storage.run import Run
from workbench.workspace.encoding import base64_array, png_url
from workbench.workspace.map_layout import point_data, snap_to_grid
from workbench.workspace.selection import points_in_polygon

MODULES = ("lens", "latentmap", "codegrid")


def rebuilt(code: str):
    elsewhere: dict = {}
    exec(code, elsewhere)
    return next(elsewhere[name] for name in ("lens", "map", "codebook") if name in elsewhere)


# -- the lens ------------------------------------------------------------------------------------------------------


def test_lens_shows_the_evidence_at_the_full_budget(trained):
    lens, evidence = wb.lens(trained / "soft-4"), Run(trained / "soft-4").evidence()
    assert lens.state.over == "tokens" and lens.selected["tokens"] == "4"
    np.testing.assert_array_equal(lens.images["reference"], evidence.images[0])
    np.testing.assert_array_equal(lens.images["shown"], evidence.reconstructions[0])
    psnr = peak_signal_noise_ratio(
        np.asarray(evidence.images[0]), np.asarray(evidence.reconstructions[0])
    )
    assert lens.table["psnr"][lens.image_grid.axis_values.index("4")] == pytest.approx(psnr)


def test_lens_code_makes_the_same_images(trained):
    lens = wb.lens(
        trained / "soft-4", over="token swapped", order="worst", show=3, step=30, row=2, stop=1
    )
    again = rebuilt(lens.code())
    assert again.state == lens.state and again.table.equals(lens.table)
    for name, array in lens.images.items():
        np.testing.assert_array_equal(again.images[name], array)


def test_runs_are_compared_without_a_model(trained, tmp_path):
    for name in ("soft-4", "soft-2"):
        (tmp_path / name).mkdir()
        shutil.copytree(trained / name / "evidence", tmp_path / name / "evidence")
        shutil.copy(trained / name / "config.json", tmp_path / name)
    lens = wb.lens(tmp_path / "soft-4", tmp_path / "soft-2")
    assert lens.axes == ("run",) and lens.image_grid.axis_values == (
        "soft-4 · step 60",
        "soft-2 · step 60",
    )
    assert lens.figure.layout.annotations[1].text == "run soft-4 · step 60"


def test_runs_with_the_same_axis_are_compared_along_it(trained):
    lens = wb.lens(
        trained / "soft-4", trained / "soft-2", trained / "flow", over="tokens", indices=[5, 3]
    )
    (other,), (told,) = lens.compared_grids, lens.data()["beside"]
    assert (
        lens.image_grid.axis_values == ("1", "2", "4")
        and other.axis_values == ("1", "2")
        and told["at"] == [0, 1, 1]
    )
    for frames, name in ((lens.image_grid, "soft-4"), (other, "soft-2")):
        np.testing.assert_array_equal(
            frames.images[:, -1], Run(trained / name).evidence().reconstructions[[5, 3]]
        )
    assert (
        wb.lens(trained / "soft-4", trained / "soft-2", over="token dropped").compared_grids == []
    )


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


def test_lens_widgets_change_state_and_images(trained):
    lens = wb.lens(trained / "soft-4", show=2)
    view = LensView(lens)
    view.task.wait()
    before = json.loads(view.module.data)
    view.widgets["over"].value = "code"
    view.task.wait()
    assert (
        view.widgets["token"] in view.row.children
        and json.loads(view.module.data)["axis"] == "code of token 0"
    )
    view.widgets["token"].value = 3
    view.task.wait()
    assert lens.state.token == 3 and json.loads(view.module.data)["axis"] == "code of token 3"
    view.module.view = json.dumps({"row": 1, "stop": 2, "mode": "wipe", "gain": 4})
    assert lens.position == (1, 2) and lens.selected["row"] == before["rows"][1]
    view.widgets["over"].value = "tokens"
    view.task.wait()
    assert view.widgets["token"] not in view.row.children and lens.position == (0, 2)


def test_generator_intervals_use_the_selected_class(trained):
    lens = wb.lens(trained / "flow", over="interval", label=2)
    subject = LoadedRun.load(Run(trained / "flow"))
    np.testing.assert_array_equal(lens.image_grid.images, subject.explore("interval", [2]).images)
    view = LensView(lens)
    assert (
        view.widgets["label"] in view.row.children and view.widgets["show"] not in view.row.children
    )
    view.widgets["label"].value = 7
    view.task.wait()
    assert lens.state.label == 7 and "One class, 7, and" in json.loads(view.module.data)["note"]
    with pytest.raises(UserError):
        _ = wb.lens(trained / "flow", over="interval", label=10).image_grid


def test_large_lenses_show_fewer_rows(trained, monkeypatch):
    monkeypatch.setattr("workbench.workspace.lens.MAX_PIXEL_VALUES", 3 * 5 * 64)
    assert len(wb.lens(trained / "soft-4", show=8).image_grid.rows) == 3


# -- the map -------------------------------------------------------------------------------------------------------


def test_points_in_polygon_match_scikit_image():
    random = np.random.default_rng(0)
    points, turns = random.normal(size=(2000, 2)), np.linspace(0, 2 * np.pi, 20, endpoint=False)
    star = (
        np.stack([np.cos(turns), np.sin(turns)], axis=1)
        * np.where(np.arange(20) % 2, 0.6, 1.8)[:, None]
    )
    np.testing.assert_array_equal(points_in_polygon(points, star), points_in_poly(points, star))
    assert not points_in_polygon(points, star[:2]).any() and not points_in_polygon(points, []).any()


def test_map_selects_points_in_its_polygon(trained):
    whole = wb.latent_map(trained / "soft-4", method="pca")
    assert len(whole.selected) == len(whole.selected_indices) == len(whole.images) == 0
    x, y = whole.table["x"].median(), whole.table["y"].median()
    some = wb.latent_map(
        trained / "soft-4", method="pca", polygon=[(x, y), (1e3, y), (1e3, 1e3), (x, 1e3)]
    )
    corner = whole.table[(whole.table["x"] > x) & (whole.table["y"] > y)]
    assert set(some.selected_indices) == set(corner["image"]) and 0 < len(some.selected) < len(
        whole.table
    )
    np.testing.assert_array_equal(
        some.images, Run(trained / "soft-4").evidence().images[some.selected_indices]
    )
    assert rebuilt(some.code()).selected.equals(some.selected)


def test_point_positions_are_accurate_to_the_grid():
    points = np.random.default_rng(0).normal(size=(50, 2)) * [100, 1]
    x0, y0, x1, y1 = point_data(points)["box"]
    assert x1 - x0 == pytest.approx(y1 - y0)  # one scale on both axes
    assert np.abs(snap_to_grid(points) - points).max() <= (x1 - x0) / 65535 / 2 * 1.001


def test_map_colors_follow_the_controls(trained):
    from workbench.hosts.notebook.latent_map_view import MapView

    shown = wb.latent_map(trained / "soft-4", method="pca", polygon=[(-9, -9), (9, -9), (0, 9)])
    view = MapView(shown)
    view.task.wait()
    assert json.loads(view.module.data)["groups"] == [str(digit) for digit in range(10)]
    view.controls["color_by"].value = "error"
    view.task.wait()
    low, high, what = json.loads(view.module.data)["scale"]
    assert low < high and "PSNR" in what and shown.state.polygon is not None
    view.controls["seed"].value = 1
    view.task.wait()
    # Another layout: the polygon would hold other points
    assert shown.state.polygon is None and json.loads(view.module.view)["polygon"] is None
    with pytest.raises(NotApplicable, match="needs active"):
        _ = wb.latent_map(trained / "soft-4", color_by="tokens").result


# -- the codebook --------------------------------------------------------------------------------------------------


def test_codebook_counts_tokens_and_finds_images(trained):
    codes = np.asarray(Run(trained / "soft-4").evidence().codes)
    common = int(np.bincount(codes.ravel()).argmax())
    book = wb.codebook(trained / "soft-4", selected=[common])
    assert (
        book.table["tokens"].sum() == codes.size
        and book.selected["tokens"][0] == (codes == common).sum()
    )
    np.testing.assert_array_equal(
        book.selected_indices, np.flatnonzero((codes == common).any(axis=1))
    )
    assert rebuilt(book.code()).selected.equals(book.selected)


def test_code_examples_contain_the_code(trained):
    book = wb.codebook(trained / "soft-4")
    data, codes = book.data(), np.asarray(book.evidence.codes)
    examples, marks = (
        np.frombuffer(base64.b64decode(data[name]), "<i4").reshape(-1, data["each"])
        for name in ("examples", "marks")
    )
    for code, (images, tokens) in enumerate(zip(examples, marks, strict=True)):
        there = images >= 0
        assert there.sum() == min(data["each"], (codes == code).any(axis=1).sum())
        assert (codes[images[there], tokens[there]] == code).all() and len(
            set(images[there])
        ) == there.sum()


def test_missing_codes_are_refused(trained):
    with pytest.raises(NotApplicable):
        _ = wb.codebook(trained / "plain").table
    with pytest.raises(UserError) as error:
        wb.codebook(trained / "soft-4", selected=[32])
    assert "32" in str(error.value)


# -- on one question -----------------------------------------------------------------------------------------------


def test_shortcuts_offer_related_analyses(trained):
    budget = wb.budget(trained / "soft-4", trained / "soft-2", metric="l1")
    assert budget.state.analysis == "token_budget" and "marginal_token_value" in budget.analyses
    assert set(budget.table["run"]) == {"soft-4", "soft-2"} and "l1" in budget.table
    assert "settings_comparison" in wb.compare(trained / "soft-4").analyses
    assert wb.modes(trained / "soft-4").state.analysis == "mixture_modes"
    assert "codebook_usage" not in {*budget.analyses, *wb.modes(trained / "soft-4").analyses}
    with pytest.raises(UserError):
        wb.compare()


def test_views_are_pages_without_a_kernel(trained):
    run = trained / "soft-4"
    for view in (wb.lens(run, show=2), wb.latent_map(run, method="pca"), wb.codebook(run)):
        assert view._repr_html_().startswith("<iframe")
    assert "plain" in wb.codebook(trained / "plain")._repr_html_()


# -- in a browser --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_modules_fetch_and_evaluate_nothing(name):
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
def test_lens_works_without_a_kernel(trained, page_of):
    lens = wb.lens(trained / "soft-4", show=3)
    with opened(page_of(lens._repr_html_())) as (page, seen):
        inner = page.frame_locator("iframe")
        told = inner.locator(".told")
        inner.get_by_text("difference × 4").wait_for()
        assert (
            f"{lens.image_grid.error[0, 2]:.4f}" in told.text_content()
            and "4 of 4 tokens" in told.text_content()
        )
        inner.locator(".panels canvas").first.click()
        page.keyboard.press("[")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert (
            f"{lens.image_grid.error[2, 1]:.4f}" in told.text_content()
            and "2 of 4 tokens" in told.text_content()
        )
        shown = inner.locator(".panels canvas")
        page.keyboard.press("f")
        assert shown.count() == 1 and inner.locator("figcaption").text_content() == "original"
        page.keyboard.press("f")
        assert inner.locator("figcaption").text_content() == "tokens: 2"
        page.keyboard.press("w")
        assert "original | tokens: 2" in inner.locator("figcaption").text_content()
        page.keyboard.press("Escape")
        before = shown.nth(2).screenshot()
        shown.nth(0).hover()
        page.mouse.wheel(0, -400)
        assert shown.nth(2).screenshot() != before  # one zoom for all
        page.keyboard.press("0")
        assert shown.nth(2).screenshot() == before
        box = shown.first.bounding_box()  # an eighth of it is a pixel
        page.mouse.move(box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 2.5 / 8)
        original, decoded = (
            lens.image_grid.reference[2, 2, 3, 0],
            lens.image_grid.images[2, 1, 2, 3, 0],
        )
        said = f"pixel 3, 2: original {original}, here {decoded}, difference {abs(int(original) - decoded) / 255:.3f}"
        assert inner.locator(".probe").text_content() == said
        assert seen.errors == [] and seen.outside == []


@pytest.mark.browser
def test_page_follows_the_theme_and_waits_while_hidden(
    trained, page_of
):
    frame = wb.codebook(trained / "soft-4")._repr_html_()
    shown = f'<script>document.body.dataset.jpThemeLight = "false"</script>{frame}<div hidden>{frame}</div>'
    with opened(page_of(shown)) as (page, seen):
        first, second = (page.frame_locator("iframe >> nth=" + str(i)) for i in (0, 1))
        first.get_by_text("of 32 codes are used").wait_for()
        assert (
            first.locator("html").evaluate("root => getComputedStyle(root).colorScheme") == "dark"
        )
        assert second.locator("#root > *").count() == 0
        page.evaluate("() => document.querySelector('[hidden]').removeAttribute('hidden')")
        second.get_by_text("of 32 codes are used").wait_for()
        assert seen.errors == [] and seen.outside == []


@pytest.mark.browser
def test_names_with_markup_are_escaped(page_of):
    bad = "</script><img src=x onerror=alert(1)>"
    pixel = png_url(np.zeros((1, 1, 1), np.uint8))
    data = {
        "axis": bad,
        "stops": [bad],
        "rows": [bad],
        "against": bad,
        "note": bad,
        "size": [1, 1],
        "notes": [[bad]],
    }
    data |= {"active": None, "reference": pixel, "shown": pixel}
    with opened(page_of(static("lens", data, {}, height=300, title=bad))) as (page, seen):
        inner = page.frame_locator("iframe")
        inner.get_by_text(bad).first.wait_for()
        assert inner.locator("img").count() == 0 and seen.errors == []


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_figures_follow_a_dark_jupyterlab(page_of, dark):
    figure = apply_theme(
        go.Figure(go.Bar(y=[1, 2], marker_color="#0072B2")).update_layout(title="a figure")
    )
    light = f"<script>document.body.dataset.jpThemeLight = '{str(not dark).lower()}'</script>"
    drawn = figure.to_html(full_html=False, include_plotlyjs=True)
    with opened(page_of(f"<style>{STYLE}</style>{light}{drawn}")) as (page, _):
        page.locator(".xtick text").first.wait_for()

        def style(selector: str, name: str) -> str:
            return page.locator(selector).first.evaluate(f"node => getComputedStyle(node).{name}")

        assert style(".main-svg", "backgroundColor") == (
            "rgba(0, 0, 0, 0)" if dark else "rgb(255, 255, 255)"
        )
        for ink in (".xtick text", ".gtitle"):
            assert style(ink, "fill") == ("rgb(224, 224, 224)" if dark else "rgb(42, 63, 95)")
        assert style(".ygrid", "stroke") == ("rgb(60, 60, 60)" if dark else "rgb(235, 240, 248)")
        assert style(".bars .point path", "fill") == "rgb(0, 114, 178)"


@pytest.mark.browser
def test_lasso_of_a_million_points_matches_python(page_of):
    points = np.random.default_rng(0).normal(size=(1_000_000, 2)).astype(np.float32)
    colour = {
        "color": base64_array(np.zeros(len(points), np.uint8)),
        "palette": ["#0072B2"],
        "groups": ["images"],
    }
    plain = {"titles": [], "names": None, "places": None, "thumbs": None, "caption": "a million"}
    fragment = static(
        "latentmap", {**point_data(points), **colour, **plain}, {}, height=600, title="map"
    )
    with opened(page_of(fragment)) as (page, seen):
        inner = page.frame_locator("iframe")
        inner.get_by_text("drag a loop").wait_for()
        lasso(page, inner.locator(".plane"), 0.2)
        inner.get_by_text("of 1,000,000 selected").wait_for()
        box = inner.locator(".plane").bounding_box()
        x0, y0, x1, _ = point_data(points)["box"]
        unit = (x1 - x0) / (0.94 * min(box["width"], box["height"]))  # of the map in a pixel
        right, up = 0.2 * box["width"] * unit, 0.2 * box["height"] * unit
        x, y = points.T.astype(float) - [[x0 + (x1 - x0) / 2], [y0 + (x1 - x0) / 2]]
        told = inner.locator(".told").text_content().split(" ")[0].replace(",", "")
        assert int(told) == pytest.approx(
            ((x > 0) & (y > 0) & (x / right + y / up < 1)).sum(), rel=0.01
        )
        assert seen.errors == [] and seen.outside == []


PANEL = """
import sys
from pathlib import Path
import panel as pn
import workbench as wb
from workbench.hosts.js.panel import component
import json

run = sys.argv[1]
lens = wb.lens(run, show=3)
shown = component("lens")(data=json.dumps(lens.data()), view=json.dumps(lens.view()))
chosen = wb.latent_map(run, method="pca")
points = component("latentmap")(data=json.dumps(chosen.data()), view=json.dumps(chosen.view()))
def count(view):
    told = wb.latent_map(run, method="pca", polygon=json.loads(view).get("polygon"))
    return f"python counts {len(told.selected)}"
said = pn.pane.Str(pn.bind(lambda view: f"python hears stop {json.loads(view)['stop']}", shown.param.view))
counted = pn.pane.Str(pn.bind(count, points.param.view))
page = pn.Column(said, counted, shown, points, width=960)
page.servable()
"""


@pytest.mark.browser
def test_modules_work_in_panel(trained, tmp_path):
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
        page.get_by_text("python hears stop 1").wait_for()
        lasso(page, page.locator(".wb-map .plane"), 0.3)
        told = page.locator(".wb-map .told").text_content()
        page.get_by_text(f"python counts {told.split(' ')[0]}").wait_for()
        assert int(told.split(" ")[0]) > 3 and seen.outside == []
