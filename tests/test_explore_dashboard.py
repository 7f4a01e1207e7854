"""The tabs Lens, Map and Codes of the dashboard in a real browser, and their common selection."""

import json
import re
import urllib.request
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from browser import SharedPage, chromium, free_port, lasso, opened, served, visit
from playwright.sync_api import TimeoutError, expect

import workbench as wb

pytestmark = pytest.mark.browser
RUNS = "run=soft-4&run=soft-2"


@pytest.fixture(scope="module")
def dashboard(trained, tmp_path_factory):
    port, log = free_port(), tmp_path_factory.mktemp("log") / "dashboard.log"
    command = (
        "workbench",
        "dashboard",
        str(trained),
        "--port",
        str(port),
        "--no-browser",
        "--no-token",
    )
    with served(*command, port=port, log=log) as address:
        yield address


@pytest.fixture(scope="module")
def shared_page(dashboard):
    """Load the page of the tests that need no new one, which takes longer than most of them."""
    with opened(f"{dashboard}/?{RUNS}&analysis=probes") as (page, seen):
        yield SharedPage(page, seen)


def test_figure_without_points_has_no_lasso(shared_page):
    page, _ = shared_page.show(f"{RUNS}&analysis=probes")
    page.locator(".js-plotly-plot:visible").first.hover()
    page.get_by_role("button", name="Pan").wait_for()
    assert page.get_by_role("button", name=re.compile("Select")).count() == 0


def test_lens_shows_two_runs_side_by_side(shared_page, trained):
    lens = wb.lens(trained / "soft-4", trained / "soft-2", over="tokens")
    page, seen = shared_page.show(f"{RUNS}&tab=lens")
    caption = page.locator(".wb-lens .told")
    page.get_by_text("soft-2 · difference × 4").wait_for()
    assert f"{lens.image_grid.error[0, 2]:.4f}" in caption.text_content()
    # soft-2 has only two tokens.
    assert f"{lens.compared_grids[0].error[0, 1]:.4f}" in caption.text_content()
    page.locator(".wb-lens .panels canvas").first.click()
    page.keyboard.press("[")
    page.keyboard.press("[")
    page.keyboard.press("ArrowDown")
    page.wait_for_url("**lens.row=1&lens.show=8&lens.stop=0*")
    assert f"{lens.image_grid.error[1, 0]:.4f}" in caption.text_content()
    assert f"{lens.compared_grids[0].error[1, 0]:.4f}" in caption.text_content()
    # Each error is below its picture.
    picture, note = (
        page.locator(".wb-lens canvas[role=img]").nth(2),
        page.locator(".wb-lens .note").nth(1),
    )
    assert f"{lens.compared_grids[0].error[1, 0]:.4f}" in note.text_content()
    above, below = picture.bounding_box(), note.bounding_box()
    assert abs(above["x"] - below["x"]) < 2 and 0 <= below["y"] - above["y"] - above["height"] < 9
    page.keyboard.press(".")
    page.keyboard.press("f")
    page.keyboard.press("f")
    assert page.locator(".wb-lens figcaption").text_content() == "soft-2 · tokens: 1"
    address = page.url
    assert seen.errors == [] and seen.outside == []
    with opened(address) as (page, _):
        page.locator(".wb-lens .told", has_text=f"{lens.image_grid.error[1, 0]:.4f}").wait_for()


def test_lasso_becomes_csv_code_and_link(shared_page, trained):
    page, seen = shared_page.show(f"{RUNS}&tab=map&map.method=pca")
    page.get_by_text("drag a loop").wait_for()
    lasso(page, page.locator(".wb-map .plane"))
    summary = page.get_by_text(re.compile(r"\d+ of 360 images of soft-4 are selected"))
    summary.wait_for()
    count = page.locator(".wb-map .told").text_content().split(" ")[0]
    assert summary.text_content().startswith(f"{count} of 360")
    assert int(count) > 3
    with page.expect_download() as download:
        page.get_by_text("CSV").click()
    table = pd.read_csv(download.value.path())
    page.get_by_role("button", name="Python").click()
    namespace = {}
    exec(page.locator("pre", has_text="wb.select").text_content(), namespace)
    assert namespace["selected"].table()["image"].tolist() == table["image"].tolist()
    assert len(table) == int(count)
    address = page.url
    (selection,) = parse_qs(urlsplit(address).query)["selection"]
    assert len(json.loads(selection)["polygon"]) == 3  # without the points between the corners
    page.get_by_role("tab", name="Codes", exact=True).click()
    page.get_by_text(f"tokens per code in {count} selected images").wait_for()
    assert seen.errors == [] and seen.outside == []
    with opened(address) as (page, _):
        page.locator(".wb-map .told", has_text=f"{count} of 360 selected").wait_for()
        page.get_by_text(f"{count} of 360 images of soft-4 are selected").wait_for()
        page.get_by_role("button", name="clear", exact=True).click()
        page.get_by_text("Nothing is selected").wait_for()
        page.get_by_text("drag a loop").wait_for()
        assert "selection" not in page.url


PLOT = """(kind) => {
  const findPlots = (root) => [...root.querySelectorAll("*")].flatMap((element) => [
    ...(element._fullData && element.offsetWidth ? [element] : []),
    ...(element.shadowRoot ? findPlots(element.shadowRoot) : []),
  ]);
  const isOfKind = (trace) => trace.meta === kind;
  const plot = findPlots(document).find((element) => element._fullData.some(isOfKind));
  if (!plot) return null;
  const full = plot._fullData.find(isOfKind), { left, top } = plot.getBoundingClientRect();
  const axis = (name) => plot._fullLayout[full[`${name}axis`].replace(name, `${name}axis`)];
  const marked = plot._fullData.flatMap((trace) =>
    [...(trace.selectedpoints ?? [])].map((i) => trace.customdata[i]));
  return { x: left + axis("x")._offset, y: top + axis("y")._offset, width: axis("x")._length,
    height: axis("y")._length, marked };
}"""


def box_select(page, kind: str, width: float, height: float) -> None:
    """Select a fraction of a plot from its upper left corner, until the address has a selection.

    `kind` is that of the plot's points: image, code or run.
    """
    page.wait_for_function(PLOT, arg=kind)
    for _ in range(10):  # content above the figure may still load and move the figure
        page.locator(".js-plotly-plot:visible").first.hover()
        page.get_by_role("button", name="Box Select").click()
        plot = page.evaluate(PLOT, kind)
        page.mouse.move(plot["x"] + 2, plot["y"] + 2)
        page.mouse.down()
        right, bottom = plot["x"] + width * plot["width"], plot["y"] + height * plot["height"]
        page.mouse.move(right, bottom, steps=5)
        page.mouse.up()
        with suppress(TimeoutError):
            page.wait_for_url("**selection=*", timeout=8000)
            return


def test_box_in_a_figure_selects_images_everywhere(shared_page):
    page, seen = shared_page.show(f"{RUNS}&analysis=latent_maps&method=pca")
    page.get_by_text("Nothing is selected").wait_for()
    box_select(page, "image", 0.5, 0.5)
    summary = page.get_by_text(re.compile(r"\d+ of 360 images of soft-4 are selected"))
    summary.wait_for()
    ids = json.loads(parse_qs(urlsplit(page.url).query)["selection"][0])["ids"]
    count = summary.text_content()
    assert count.startswith(f"{len(ids)} of 360")
    # The figure has two panels.
    all_marked = f"(count) => ({PLOT})('image').marked.length === 2 * count"
    page.wait_for_function(all_marked, arg=len(ids))
    address = page.url
    page.get_by_role("button", name="Toggle theme").click()  # redraws the figure
    page.wait_for_function(all_marked, arg=len(ids))
    assert page.url == address
    page.get_by_role("tab", name="Codes", exact=True).click()
    page.locator(".wb-codes .cells canvas").wait_for()
    page.get_by_text(count).locator("visible=true").wait_for()
    assert seen.errors == [] and seen.outside == []
    shared_page.show(f"tab=map&map.method=pca&{urlsplit(address).query}")
    page.locator(".wb-map .told", has_text=f"{len(ids)} of 360 selected").wait_for()
    # A search selects one image, which opens among its most similar images.
    page.get_by_label("Find points by class").fill("#7")
    page.keyboard.press("Enter")
    page.locator(".wb-map .told", has_text="1 of 360 selected").wait_for()
    page.get_by_role("button", name="similar images").click()
    page.locator(".wb-cards .wb-caption", has_text="#7").first.wait_for()
    page.wait_for_url("**analysis=similar_images*image=7*")
    assert page.locator(".wb-card").count() == 2 and seen.errors == []
    shared_page.show(urlsplit(address).query)
    page.get_by_text(count).wait_for()
    page.wait_for_function(all_marked, arg=len(ids))
    page.get_by_role("button", name="clear", exact=True).click()
    page.get_by_text("Nothing is selected").wait_for()
    page.wait_for_function(f"() => ({PLOT})('image').marked.length === 0")
    assert "selection" not in page.url and seen.errors == []


def test_box_over_codes_selects_their_images(shared_page, trained):
    page, seen = shared_page.show(f"{RUNS}&analysis=codebook_usage")
    page.get_by_text("Nothing is selected").wait_for()
    box_select(page, "code", 0.4, 0.3)
    where = json.loads(parse_qs(urlsplit(page.url).query)["selection"][0])["where"]
    selected = wb.select(trained / "soft-4", where=where)
    assert where.startswith("code = 0, 1")
    page.get_by_text(f"{len(selected.indices)} of 360 images of soft-4 are selected").wait_for()
    assert seen.errors == []


def test_visitors_have_separate_selections(dashboard):
    with chromium() as browser:
        (first, errors_of_first), (second, errors_of_second) = (
            visit(browser, f"{dashboard}/?{RUNS}&tab=map&map.method=pca") for _ in range(2)
        )
        for page in (first, second):
            page.get_by_text("drag a loop").wait_for()
        before = second.url
        lasso(first, first.locator(".wb-map .plane"))
        first.get_by_text(re.compile(r"\d+ of 360 images of soft-4 are selected")).wait_for()
        first.get_by_role("combobox", name=re.compile("^Primary run")).click()
        first.get_by_role("menuitem", name="soft-2", exact=True).click()
        first.wait_for_url("**/?run=soft-2&run=soft-4&*")
        first.get_by_role("tab", name="Codebook", exact=True).click()
        first.wait_for_url("**analysis=codebook_usage*")
        assert second.url == before
        assert second.locator(".wb-map .told", has_text="drag a loop").is_visible()
        second.get_by_role("tab", name="Codes", exact=True).click()
        second.wait_for_url("**/?run=soft-4&run=soft-2&*tab=codes*")
        second.get_by_text("Nothing is selected").locator("visible=true").wait_for()
        assert "selection=" in first.url and "selection" not in second.url
        assert errors_of_first.errors == [] and errors_of_second.errors == []


def test_selected_code_opens_in_the_lens(shared_page, trained):
    book = wb.codebook(trained / "soft-4", selected=[0])
    page, seen = shared_page.show(f"{RUNS}&tab=codes")
    page.locator(".wb-codes .cells canvas").click(position={"x": 5, "y": 5})
    count = len(book.selected_indices)
    page.get_by_text(f"{count} of 360 images of soft-4 are selected").wait_for()
    page.get_by_role("button", name="open in lens").click()
    first = page.locator(".wb-lens .strip .cell").first
    expect(first).to_have_text(re.compile(f"^#{book.selected_indices[0]} "))
    assert seen.errors == [] and seen.outside == []


def test_report_of_collected_views(dashboard, shared_page, trained):
    page, _ = shared_page.show(f"{RUNS}&tab=codes")
    page.locator(".wb-codes .cells canvas").wait_for()
    page.get_by_role("button", name="add to report").click()
    page.get_by_text("Codes of soft-4, soft-2").wait_for()
    for label, text in (
        ("Title", "Two books"),
        ("Note", "*Compare* them."),
        ("Author", "A. B."),
    ):
        page.get_by_label(label, exact=True).first.fill(text)
        page.get_by_label(label, exact=True).first.press("Tab")
    page.get_by_role("button", name="Write report").click()
    link = page.get_by_role("link", name=re.compile(r"views-.*\.html"))
    link.wait_for()
    address = f"{dashboard}/{link.get_attribute('href')}"
    with urllib.request.urlopen(address) as response:
        # Scripts of a report must not act as the user of the dashboard.
        assert "sandbox allow-scripts" in response.headers["Content-Security-Policy"]
    with opened(address) as (page, seen):
        page.frame_locator("iframe").get_by_text("of 32 codes are used").wait_for()
        assert seen.errors == [] and seen.outside == []
    (manifest,) = (trained / "reports").glob("views-*.manifest.json")
    parameters = json.loads(manifest.read_text())["parameters"]
    assert (parameters["title"], parameters["author"]) == ("Two books", "A. B.")
    assert parameters["notes"] == ["*Compare* them."]
    assert parameters["views"] == ["run=soft-4&run=soft-2&analysis=image_comparison&tab=codes"]
