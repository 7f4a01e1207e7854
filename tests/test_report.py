"""Reports: one file that draws every figure without network; parameters are checked first."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from browser import count_figures, lasso, opened
from forked_kernel import forked_kernels, real_kernels
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from plotly.offline import get_plotlyjs
from template import OPEN, template

from workbench import analysis
from workbench.analysis.base import mime_bundle
from workbench.core.errors import RunError, UserError
from workbench.hosts.dashboard import settings_service
from workbench.hosts.js import static
from workbench.hosts.reports import manifest as report_manifest
from workbench.hosts.reports import page as report_page
from workbench.hosts.reports.from_views import INTERACTIVE_TABS
from workbench.hosts.reports.manifest import read_manifest, results_path
from workbench.hosts.reports.page import to_html
from workbench.hosts.reports.report import check_parameters, find_template, parameters_of, report
from workbench.hosts.reports.sections import failure_html
from workbench.launch.in_process import train
from workbench.storage.run import Run
from workbench.workspace.controls import coerce_controls

TEMPLATE = find_template("tokenizer")
TEMPLATES = sorted(TEMPLATE.parent.glob("*.ipynb"))
NAMES = [path.stem for path in TEMPLATES]
NOT_APPLICABLE = "//h2[starts-with(., 'Not applicable')]/following::p[@class='absent']"
TINY = {"num_tokens": 2, "steps": 20, "width": 16, "depth": 1, "warmup_steps": 5}
MAX_BYTES = 8_000_000

ALL_DRAWN = """[...document.querySelectorAll(".js-plotly-plot")].every(
  (figure) => figure._fullLayout)"""
# No figure is cut off by its column.
ALL_FIT = """[...document.querySelectorAll("figure")].every(
  (figure) => figure.querySelector(".main-svg").clientWidth <= figure.clientWidth)"""
# Ids of the images that figures mark as selected.
MARKED_IMAGES = """() => [...document.querySelectorAll("figure[data-of] .js-plotly-plot")]
  .flatMap((figure) => figure._fullData)
  .filter((trace) => trace.meta === "image" && trace.selectedpoints)
  .flatMap((trace) => [...trace.selectedpoints].map(
    (i) => trace.customdata[i][0] ?? trace.customdata[i]))"""
# Index of the last figure whose points are images.
LAST_FIGURE_OF_IMAGES = """() => [...document.querySelectorAll(".js-plotly-plot")].findLastIndex(
  (figure) => figure._fullData.some((trace) => trace.meta === "image"))"""
# Codes that the figure frames.
FRAMED_CODES = """(figure) => {
  const frames = figure._fullData.find((trace) => trace.meta === "code" && trace.selectedpoints);
  return frames ? [...frames.selectedpoints].map((i) => frames.customdata[i]) : [];
}"""
# Corners, on the screen, of the first two rows and columns of a grid of codes.
CELL_CORNERS = """(figure) => {
  const trace = figure._fullData.find((each) => each.meta === "code");
  const { left, top } = figure.getBoundingClientRect();
  const axis = (name) => figure._fullLayout[trace[`${name}axis`].replace(name, `${name}axis`)];
  const x = axis("x"), y = axis("y");
  return [-0.4, 1.4].map((at) => [left + x._offset + x.c2p(at), top + y._offset + y.c2p(at)]);
}"""
# Image and position of the point that is farthest from all others, among the first 24 images.
ISOLATED_POINT = """(figure) => {
  const trace = figure._fullData.find((each) => each.meta === "image");
  const { xaxis, yaxis, customdata, index } = trace;
  const x = figure._fullLayout[xaxis.replace("x", "xaxis")];
  const y = figure._fullLayout[yaxis.replace("y", "yaxis")];
  const points = figure.calcdata[index].map((point) => [x.c2p(point.x), y.c2p(point.y)]);
  const distances = points.map(([u, v]) => points
    .map(([s, t]) => Math.hypot(u - s, v - t)).sort((a, b) => a - b)[1]);
  const candidates = [...customdata.keys()].filter((i) => customdata[i] < 24);
  const best = candidates.reduce((a, b) => distances[b] > distances[a] ? b : a);
  const { left, top } = figure.getBoundingClientRect();
  return [
    customdata[best], left + x._offset + points[best][0], top + y._offset + points[best][1],
  ];
}"""


def workbench_command(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "workbench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def parameters_by_template(runs: Path, adaptive: Path, new: Path) -> dict[str, dict[str, object]]:
    """Return the parameters of every template in these tests."""
    primary = {"run": runs / "soft-4"}
    others = f"{runs / 'soft-2'},{runs / 'plain'}"
    return {
        "tokenizer": primary | {"compare_with": f"{others},{runs / 'flow'}"},
        "brief": primary | {"compare_with": others},
        "comparison": primary | {"compare_with": others},
        "codebook": primary,
        "adaptive": {"run": adaptive},
        "generator": {"run": runs / "flow"},
        "training": {"folder": new, "recipe": "softvq-digits", "codebook_size": 16} | TINY,
    }


@pytest.fixture(scope="module", autouse=True)
def fast_kernels() -> Iterator[None]:
    """Fork the kernels of these tests, apart from those of other processes."""
    with forked_kernels():
        yield


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory) -> Path:
    """Return a run that chooses the number of tokens per image."""
    folder = tmp_path_factory.mktemp("adaptive") / "karl"
    train("karl-digits", folder, **TINY | {"num_tokens": 4})
    return folder


@pytest.fixture(scope="module")
def pages(trained, adaptive, tmp_path_factory) -> dict[str, Path]:
    """Return a page of every template.

    One after the other: results of the first are read again for the others.
    """
    folder = tmp_path_factory.mktemp("a report & more")
    parameters = parameters_by_template(trained, adaptive, folder / "new")
    pages = {}
    for name, values in parameters.items():
        page, values = folder / f"{name}.html", {key: str(value) for key, value in values.items()}
        pages[name] = report(name, page, progress=False, **values)
    return pages


@pytest.fixture
def small_template(tmp_path):
    """Return a function that writes a template of a few cells."""
    return lambda *cells: str(template(tmp_path / "small.ipynb", OPEN, *cells))


# Every template


@pytest.mark.slow
@pytest.mark.kernel
def test_every_template_has_a_page(pages):
    assert sorted(pages) == NAMES


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_without_network(pages, name):
    manifest = read_manifest(pages[name])
    sections = manifest["sections"]
    num_headings = len(sections)
    without_figure = {*INTERACTIVE_TABS, "decision", "image_comparison", "similar_images"}
    if name == "brief":
        num_headings = 2  # the figures and the caveats have one together
        without_figure.add("checks")
    num_figures = manifest["done"] - sum(each["name"] in without_figure for each in sections)
    with opened(pages[name].as_uri(), width=900) as (page, seen):
        page.wait_for_function(
            f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {num_figures}"
        )
        page.wait_for_timeout(500)
        assert count_figures(page) == page.locator(".js-plotly-plot").count() == num_figures > 1
        assert seen.errors == [] and seen.outside == []
        listed = page.locator(NOT_APPLICABLE).count()  # under one heading
        num_headings += bool(listed) - listed
        assert page.locator("nav a").count() == page.locator("h2").count() == num_headings
        labels = [figure.get_attribute("aria-label") for figure in page.locator("figure").all()]
        assert len(labels) == num_figures and all(len(label) > 5 for label in labels)
        assert page.get_by_text("report.show").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 900
        assert page.evaluate(ALL_FIT)
        if name == "brief":
            page.locator(".js-plotly-plot").first.hover()
            with page.expect_download() as download:
                page.locator("[data-title='Download figure as PDF']").first.click()
            content = download.value.path().read_bytes()
            assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.browser
def test_contents_link_to_sections_and_print_unfolds(pages):
    with opened(pages["adaptive"].as_uri()) as (page, _):
        page.wait_for_timeout(1000)
        assert page.locator("nav a").all_inner_texts() == page.locator("h2").all_inner_texts()
        page.locator("nav a").last.click()
        assert page.locator("h2").last.is_visible()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[open]").count() == 0


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.browser
def test_report_is_dark_on_a_dark_system_but_light_on_paper(pages):
    properties = (
        (".js-plotly-plot .main-svg", "backgroundColor"),
        (".xtick text", "fill"),
        ("body", "color"),
    )
    with opened(pages["adaptive"].as_uri(), dark=True) as (page, _):
        page.locator(".xtick text").first.wait_for()

        def colors() -> list[str]:
            style = "(node, name) => getComputedStyle(node)[name]"
            return [page.locator(css).first.evaluate(style, name) for css, name in properties]

        assert colors() == ["rgba(0, 0, 0, 0)", "rgb(224, 224, 224)", "rgb(232, 232, 232)"]
        page.emulate_media(media="print")
        assert colors() == ["rgb(255, 255, 255)", "rgb(42, 63, 95)", "rgb(27, 27, 27)"]


@pytest.mark.slow
@pytest.mark.kernel
def test_tokenizer_report_contains_every_analysis(pages):
    sections = read_manifest(pages["tokenizer"])["sections"]
    names = {section["name"] for section in sections}
    assert names == {*analysis.analyses(), "map", "codes"}


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.browser
def test_lasso_and_code_selection_are_linked(pages, trained):
    evidence_codes = np.asarray(Run(trained / "soft-4").evidence().codes)
    num_images = len(evidence_codes)
    with opened(pages["tokenizer"].as_uri()) as (page, seen):
        latent_map = page.frame_locator('iframe[title^="Latent map"]')
        codes = page.frame_locator('iframe[title^="Codebook"]')
        figure = page.locator("figure[aria-label^='Latent map'] .js-plotly-plot").first

        def marked_images(count: int) -> np.ndarray:
            """Return the images marked in figures once the map shows the same number."""
            latent_map.get_by_text(f"{count} of {num_images} selected").wait_for()
            page.wait_for_function(f"new Set(({MARKED_IMAGES})()).size === {count}")
            return np.unique(page.evaluate(MARKED_IMAGES)).astype(int)

        def expect_no_selection() -> None:
            page.wait_for_function(f"({MARKED_IMAGES})().length === 0")
            assert latent_map.get_by_text(" selected").count() == 0
            assert codes.locator(".picked").text_content() == ""

        codes.locator(".cells canvas").wait_for()
        page.wait_for_function(ALL_DRAWN)
        lasso(page, latent_map.locator(".plane"))
        selected = latent_map.get_by_text(re.compile(rf"\d+ of {num_images} selected"))
        num_selected = int(selected.text_content().split(" ")[0])
        images = marked_images(num_selected)
        counts = np.bincount(evidence_codes[images].ravel(), minlength=32)
        codes.locator(".within", has_text=f"{num_selected} selected images").wait_for()
        assert str((counts > 0).sum()) in codes.locator(".within").text_content()
        most_frequent = f"code {counts.argmax()} · {counts.max()} of "
        codes.get_by_text(most_frequent).first.wait_for()

        codes.get_by_role("button", name="by use").click()
        codes.locator(".cells canvas").click(position={"x": 5, "y": 5})
        codes.locator(".picked b").wait_for()
        code = int(codes.locator(".picked b").text_content().removeprefix("code "))
        images_with_code = np.flatnonzero((evidence_codes == code).any(axis=1))
        assert counts[code] == counts.max()
        np.testing.assert_array_equal(marked_images(len(images_with_code)), images_with_code)
        page.keyboard.press("Escape")
        expect_no_selection()

        figure.evaluate("(figure) => Plotly.relayout(figure, { dragmode: 'lasso' })")
        lasso(page, figure.locator(".nsewdrag"))
        codes.locator(".within", has_text=re.compile(r"\d+ selected images")).wait_for()
        marked_images(int(codes.locator(".within").text_content().split(" ")[0]))
        page.keyboard.press("Escape")
        expect_no_selection()

        card = page.locator("div[data-of] [data-image]").first
        card.click()
        assert marked_images(1).tolist() == [int(card.get_attribute("data-image"))]
        card.click()
        expect_no_selection()
        assert seen.errors == [] and seen.outside == []


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.browser
def test_cells_of_a_code_grid_are_selected_by_a_box(pages):
    with opened(pages["codebook"].as_uri()) as (page, seen):
        figure = page.locator("figure .js-plotly-plot").first
        codes = page.frame_locator('iframe[title^="Codebook"]')
        codes.locator(".cells canvas").wait_for()
        figure.scroll_into_view_if_needed()
        figure.evaluate("(figure) => Plotly.relayout(figure, { dragmode: 'select' })")
        (left, top), (right, bottom) = figure.evaluate(CELL_CORNERS)
        page.mouse.move(left, top)
        page.mouse.down()
        page.mouse.move(right, bottom, steps=4)
        page.mouse.up()
        codes.locator(".picked", has_text="4 ").wait_for()
        columns = figure.evaluate(
            "(figure) => figure._fullData.find((trace) => trace.meta === 'code').z[0].length"
        )
        assert sorted(figure.evaluate(FRAMED_CODES)) == [0, 1, columns, columns + 1]
        codes.locator(".cells canvas").click(position={"x": 5, "y": 5})  # deselects one of them
        codes.locator(".picked", has_text="3 ").wait_for()
        page.wait_for_function(
            f"(figure) => ({FRAMED_CODES})(figure).length === 3", arg=figure.element_handle()
        )
        assert seen.errors == []


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.browser
def test_points_and_lens_images_are_linked(pages):
    with opened(pages["adaptive"].as_uri()) as (page, seen):
        lens = page.frame_locator('iframe[title^="Lens"]')
        lens.locator(".strip .cell").first.wait_for()
        page.wait_for_function(ALL_DRAWN)
        figure = page.locator(".js-plotly-plot").nth(page.evaluate(LAST_FIGURE_OF_IMAGES))
        figure.scroll_into_view_if_needed()
        image, x, y = figure.evaluate(ISOLATED_POINT)
        page.mouse.move(x, y)
        page.mouse.click(x, y)
        lens.locator(".within", has_text="1 image selected").wait_for()
        assert lens.locator(".told").text_content().startswith(f"#{image} ")
        other = 5 if image != 5 else 6
        lens.get_by_role("button", name=re.compile(f"^#{other} ")).click()
        page.wait_for_function(f"[...new Set(({MARKED_IMAGES})())].join() === '{other}'")
        page.keyboard.press("Escape")
        page.wait_for_function(f"({MARKED_IMAGES})().length === 0")
        assert lens.locator(".within").is_hidden() and seen.errors == []


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.parametrize("name", NAMES)
def test_report_is_one_small_file(pages, name):
    text = pages[name].read_text(encoding="utf-8")
    assert read_manifest(pages[name])["bytes"] == pages[name].stat().st_size <= MAX_BYTES
    assert '<script src="' not in text
    assert "sendChartToCloud" in text  # in the list of removed buttons


@pytest.mark.slow
@pytest.mark.kernel
def test_training_report_leaves_an_ordinary_run(pages):
    run = Run(pages["training"].parent / "new")
    assert run.status()["state"] == "finished" and run.config.changes["num_tokens"] == 2
    losses = read_manifest(pages["training"])["sections"][0]
    assert losses["name"] == "losses" and losses["state"] == "done"


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_calls_are_valid_and_outputs_stripped(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    nodes = [node for source in code_cells(path) for node in ast.walk(ast.parse(source))]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    show_calls = [call for call in calls if ast.unparse(call.func) == "report.show"]
    assert show_calls
    for call in show_calls:
        controls = {}
        for keyword in call.keywords:
            if keyword.arg == "side_by_side":
                continue  # of the report, not of the analysis
            if isinstance(keyword.value, ast.Constant):
                controls[keyword.arg] = keyword.value.value
        coerce_controls(analysis.get(call.args[0].value), controls)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_section_of_a_template_is_explained(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for previous, cell in zip(cells, cells[1:], strict=False):
        if re.search(r"report\.(show|brief)\(", "".join(cell["source"])):
            heading, _, text = "".join(previous["source"]).partition("\n\n")
            assert previous["cell_type"] == "markdown"
            assert heading.startswith("## ") and text.endswith(".")


# Files next to a report


@pytest.mark.slow
@pytest.mark.kernel
def test_results_contain_every_number(pages, trained):
    long = pd.read_parquet(results_path(pages["codebook"]))
    assert list(long.columns) == ["section", "row", "column", "value", "text"]
    evidence = Run(trained / "soft-4").evidence()
    code_dropping = analysis.get("code_dropping")
    table = code_dropping(**evidence.kwargs_for(code_dropping)).table()
    rows = long[long.section == "code_dropping"]
    wide = rows.pivot(index="row", columns="column", values="value")[table.columns]
    np.testing.assert_array_equal(wide.to_numpy(), table.to_numpy(float))
    verdict = long[(long.section == "codebook_usage") & (long.column == "verdict")]
    assert verdict.value.isna().all() and verdict.text.notna().all()


@pytest.mark.slow
@pytest.mark.kernel
def test_manifest_records_provenance(pages, trained):
    manifest, run = read_manifest(pages["codebook"]), Run(trained / "soft-4")
    expected = {"run": str(run.folder), "step": 0, "seed": 0, "trust": []}
    assert manifest["parameters"] == expected
    assert manifest["seconds"] > 0
    packages = {"python", "workbench", "numpy", "papermill", "torch"}
    assert packages <= manifest["versions"].keys()
    (entry,) = manifest["runs"]
    assert entry["name"] == "soft-4" and entry["step"] == 60
    assert entry["seed"] == run.config.training["seed"]
    assert entry["data"]["fingerprint"] == run.evidence().provenance["fingerprint"]
    content = hashlib.sha256(run.checkpoint(60).read_bytes()).digest()
    digest = hashlib.sha256(b"step-000060.safetensors" + content).hexdigest()
    assert entry["checkpoint"] == digest[:32]
    states = [section["state"] for section in manifest["sections"]]
    assert manifest["done"] == states.count("done")
    assert manifest["done"] + manifest["not_applicable"] == len(states)


@pytest.fixture
def hostile_folder(tmp_path, monkeypatch) -> Path:
    """Make a folder the current one whose git configuration and modules write `marker`."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    marker = folder / "marker"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    with (folder / ".git" / "config").open("a") as config:
        config.write(f'[core]\n\tfsmonitor = "touch {marker}; false"\n')
    for module in ("workbench", "numpy", "ipykernel", "plotly", "multiprocessing"):
        text = f"open({str(marker)!r}, 'a').write(__name__)\nraise ImportError(__name__)\n"
        (folder / f"{module}.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return folder


@pytest.mark.slow
@pytest.mark.kernel
def test_current_folder_runs_no_code(trained, small_template, hostile_folder):
    source = small_template(
        "import sys\nassert '' not in sys.path", 'report.show("codebook_usage")'
    )
    with real_kernels():
        page = report(source, hostile_folder / "page.html", progress=False, run=trained / "soft-4")
    assert [section["state"] for section in read_manifest(page)["sections"]] == ["done"]
    assert not (hostile_folder / "marker").exists()


def test_new_processes_run_no_code_of_the_current_folder(hostile_folder):
    pipe = settings_service._start(())
    pipe.send(("describe", "no-such-recipe"))
    assert isinstance(pipe.recv(), UserError)
    pipe.close()
    assert not (hostile_folder / "marker").exists()


def test_git_is_run_only_in_the_checkout_of_the_package(hostile_folder, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(hostile_folder / ".git"))
    is_checkout = (report_manifest.CHECKOUT / ".git").exists()
    assert (report_manifest.build_manifest(TEMPLATE, {}, [])["git"] is not None) == is_checkout
    # Even in a hostile checkout no program of its configuration is started.
    monkeypatch.setattr(report_manifest, "CHECKOUT", hostile_folder)
    report_manifest.build_manifest(TEMPLATE, {}, [])
    assert not (hostile_folder / "marker").exists()


@pytest.mark.slow
@pytest.mark.kernel
# Two templates are computed by another process; the contract test computes each analysis twice.
@pytest.mark.parametrize("name", ["codebook", "comparison"])
def test_equal_parameters_give_equal_tables(pages, trained, adaptive, tmp_path, name):
    # Without the results that are cached in run folders.
    ignore = shutil.ignore_patterns(".results", "reports")
    for folder in (trained, adaptive.parent):
        shutil.copytree(folder, tmp_path / folder.name, ignore=ignore)
    parameters = parameters_by_template(
        tmp_path / trained.name, tmp_path / adaptive.parent.name / "karl", tmp_path / "new"
    )
    repeated = report(name, tmp_path / "again.html", progress=False, **parameters[name])
    first, second = (pd.read_parquet(results_path(page)) for page in (pages[name], repeated))
    # Commands name the folder of the runs.
    first["text"] = first["text"].str.replace(str(trained), str(tmp_path / trained.name))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert first.section.nunique() == read_manifest(repeated)["done"]


@pytest.mark.slow
@pytest.mark.kernel
def test_repeated_section_has_a_name_of_its_own(pages):
    names = [section["name"] for section in read_manifest(pages["comparison"])["sections"]]
    assert len(set(names)) == len(names) and "metric_comparison, metric=features" in names


# Sections that cannot be shown


@pytest.mark.slow
@pytest.mark.kernel
def test_inapplicable_sections_are_explained(trained, tmp_path, small_template):
    source = small_template('report.show("codebook_usage")', 'report.show("samples")')
    page = report(source, tmp_path / "plain.html", run=str(trained / "plain"))
    text = page.read_text(encoding="utf-8")
    sections = read_manifest(page)["sections"]
    assert [section["state"] for section in sections] == ["not_applicable", "not_applicable"]
    assert all(section["summary"] in text for section in sections)
    assert "0 of 2 sections done, 2 not applicable" in text


@pytest.mark.slow
@pytest.mark.kernel
def test_failed_sections_leave_the_others_readable(trained, tmp_path, small_template):
    source = small_template(
        "## Dog",
        "report._add('dog', lambda: 1 / 0)",
        "## Codes",
        'report.show("codebook_usage")',
        "## Cat",
        "1 / 0",
        "## Bird",
        "2",
    )
    page = tmp_path / "r.html"
    process = workbench_command("report", source, "--run", trained / "soft-4", "--out", page)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "\r" not in process.stderr  # lines of progress, because this is no terminal
    assert "1 of 4 sections" in process.stderr and str(page) in process.stderr
    assert "dog failed: ZeroDivisionError" in process.stderr
    states = {section["name"]: section["state"] for section in read_manifest(page)["sections"]}
    assert states == {"dog": "failed", "codebook_usage": "done", "cat": "failed", "bird": "not_run"}
    text = page.read_text(encoding="utf-8").partition("<main>")[2]
    banner = re.sub(r"<[^>]+>", "", text).partition("Failed:")[2][:60]
    assert "dog, cat." in banner and "Not run: 1." in banner
    assert "ZeroDivisionError: division by zero" in text and "\x1b" not in text
    assert set(pd.read_parquet(results_path(page)).section) == {"codebook_usage"}


@pytest.mark.slow
@pytest.mark.kernel
def test_dead_kernel_loses_only_later_sections(trained, tmp_path, small_template):
    source = small_template(
        'report.show("codebook_usage")', "## Crash", "import os\nos._exit(9)", "## Later", "1"
    )
    page = tmp_path / "r.html"
    with pytest.raises(UserError) as error:
        report(source, page, run=str(trained / "soft-4"))
    assert "1 of 3 sections" in str(error.value) and "crash failed" in str(error.value)
    assert page.read_text(encoding="utf-8").count("<figure") == 1
    assert read_manifest(page)["not_run"] == 1


def test_largest_figures_are_omitted_from_a_large_page(monkeypatch):
    figures = [
        go.Figure(go.Scatter(y=list(range(n))), layout_title=f"of {n} points")
        for n in (10, 20_000, 20)
    ]
    outputs = [new_output("display_data", mime_bundle(figure)) for figure in figures]
    module = static("lens", {"rows": "many " * 60_000}, {}, height=600, title="A lens & more")
    outputs.append(new_output("display_data", {"text/html": module}))
    cards = "<p>" + "card " * 30_000 + "</p>"  # stay, and leave less room for figures
    outputs.append(new_output("display_data", {"text/html": cards}))
    max_bytes = len(get_plotlyjs().encode()) + 250_000 + len(cards)
    monkeypatch.setattr(report_page, "MAX_PAGE_BYTES", max_bytes)
    page = to_html(new_notebook(cells=[new_code_cell(outputs=outputs)]), title="Small")
    assert len(page.encode()) <= max_bytes and page.count("<figure") == 2
    assert "“of 20000 points” (0.1 MB)" in page
    assert "“A lens &amp; more” (0.3 MB)" in page and "<iframe" not in page
    monkeypatch.setattr(report_page, "MAX_PAGE_BYTES", 1_000_000)
    with pytest.raises(UserError) as error:
        to_html(new_notebook(), title="Small")
    assert "Small" in str(error.value) and "1 MB" in str(error.value)


def test_markup_in_titles_and_messages_is_escaped():
    hostile = "<img src=x onerror=alert(1)>"
    figure = go.Figure(layout_title="a &lt;img src=x onerror=alert(2)&gt;<br>b")
    outputs = [
        new_output("display_data", mime_bundle(figure)),
        new_output("display_data", {"text/html": failure_html(hostile, hostile)}),
        new_output("stream", name="stderr", text=hostile),
    ]
    page = to_html(new_notebook(cells=[new_code_cell(outputs=outputs)]), title=hostile)
    assert hostile not in page and "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 4
    assert 'aria-label="a &lt;img src=x onerror=alert(2)&gt; b"' in page


def test_equal_headings_have_different_targets():
    output = new_output("display_data", {"text/markdown": "## Codes"})
    cells = [new_markdown_cell("## Codes"), new_code_cell(outputs=[output])]
    page = to_html(new_notebook(cells=cells), title="Small")
    targets = re.findall(r'<a href="#(section-\d)">Codes</a>', page)
    assert targets == ["section-0", "section-1"]
    assert all(page.count(f'id="{target}"') == 1 for target in targets)


@pytest.mark.slow
@pytest.mark.kernel
def test_run_name_with_markup_is_shown_as_text(trained, tmp_path, small_template):
    hostile = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(trained / "plain", hostile)
    names = ("reconstruction", "samples", "checks")
    source = small_template(*(f'report.show("{name}")' for name in names))
    text = report(source, tmp_path / "out.html", run=str(hostile)).read_text(encoding="utf-8")
    assert "<img src=x onerror" not in text and "&lt;img src=x onerror" in text


# Parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"rnu": "x"}, ["`rnu` of the template tokenizer.", "Did you mean `run`"]),
        ({"run": "SOFT", "seed": "many"}, ["seed", "`many`"]),
        ({"run": "SOFT", "seed": 1000}, ["seed", "999", "`1000`"]),
        ({"run": "SOFT", "step": 1.5}, ["step", "1.5"]),
        ({"run": "SOFT", "step": 45}, ["soft-4", "45"]),
        ({}, ["--run"]),
    ],
)
def test_parameters_are_checked_before_running(trained, values, parts):
    soft = str(trained / "soft-4")
    values = {name: soft if value == "SOFT" else value for name, value in values.items()}
    with pytest.raises(UserError) as error:
        check_parameters(TEMPLATE, values)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({}, ["--folder"]),
        ({"recipe": "softvq-digit", "folder": "a"}, ["`softvq-digit`", "`softvq-digits`"]),
        ({"folder": "a", "num_tokens": "four"}, ["num_tokens", "`four`"]),
        ({"folder": "a", "lr": "nan"}, ["lr", "nan"]),
    ],
)
def test_training_parameters_are_checked_before_training(values, parts):
    with pytest.raises(UserError) as error:
        check_parameters(find_template("training"), values)
    assert all(part in str(error.value) for part in parts)


def test_undeclared_training_parameters_become_settings():
    values = {"folder": "a", "width": "32", "data": Path("images")}
    checked = check_parameters(find_template("training"), values)
    assert checked["settings"] == {"width": "32", "data": "images"}


@pytest.mark.slow
@pytest.mark.kernel
def test_unknown_setting_of_a_recipe_fails(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(UserError) as error:
        report("training", tmp_path / "r.html", folder=str(folder), wdith=16, progress=False)
    assert "training failed" in str(error.value) and "Did you mean `width`" in str(error.value)
    assert not folder.exists()


@pytest.mark.slow
def test_named_runs_are_opened_before_running(trained, tmp_path):
    soft = str(trained / "soft-4")
    with pytest.raises(RunError) as error:
        check_parameters(TEMPLATE, {"run": str(trained / "soft-3")})
    assert "`soft-3`" in str(error.value) and "Did you mean `soft-" in str(error.value)
    with pytest.raises(RunError) as error:
        check_parameters(TEMPLATE, {"run": soft, "compare_with": str(trained / "soft-9")})
    assert "soft-9" in str(error.value)
    shutil.copytree(trained / "plain", tmp_path / "soft-4")
    with pytest.raises(UserError) as error:
        check_parameters(TEMPLATE, {"run": soft, "compare_with": str(tmp_path / "soft-4")})
    assert "soft-4" in str(error.value)


@pytest.mark.slow
def test_text_is_converted_to_the_declared_type(trained):
    others = [str(trained / "soft-2"), str(trained / "plain")]
    words = {"run": str(trained / "soft-4"), "step": "60", "compare_with": ", ".join(others)}
    values = check_parameters(TEMPLATE, words)
    assert values["step"] == 60 and values["compare_with"] == others


def test_template_declares_choices_and_bounds(tmp_path):
    declarations = """
kind: Literal["a", "b"] = "a"
share: Annotated[float, Range(0, 1)] = 0.5
on: bool = True
""".strip()
    source = template(tmp_path / "own.ipynb", "1", parameters=declarations)
    values = {"kind": "b", "share": np.float32(0.25), "on": "false"}
    assert check_parameters(source, values) == {"kind": "b", "share": 0.25, "on": False}
    for name, value in (("kind", "c"), ("share", 2)):
        with pytest.raises(UserError) as error:
            check_parameters(source, {name: value})
        assert name in str(error.value) and str(value) in str(error.value)


def test_unknown_template_suggests_the_nearest():
    with pytest.raises(UserError) as error:
        find_template("tokeniser")
    assert "Did you mean `tokenizer`" in str(error.value)
    with pytest.raises(UserError) as error:
        find_template("none.ipynb")
    assert "none.ipynb" in str(error.value)


@pytest.mark.parametrize(
    ("parameters", "parts"),
    [
        ("step: int = len([])", ["parameter step", "`len([])`"]),
        ("step: complex = 0", ["parameter step", "`complex`"]),
        ("step: int =", ["line 1"]),
    ],
)
def test_invalid_declaration_raises_and_is_not_executed(tmp_path, parameters, parts):
    source = template(tmp_path / "own.ipynb", parameters=parameters)
    with pytest.raises(UserError) as error:
        parameters_of(source)
    assert all(part in str(error.value) for part in ("own.ipynb", *parts))


def test_file_that_is_not_a_notebook_raises(tmp_path):
    (tmp_path / "text.ipynb").write_text("not json", encoding="utf-8")
    with pytest.raises(UserError) as error:
        report(str(tmp_path / "text.ipynb"), tmp_path / "out.html")
    assert "text.ipynb" in str(error.value)


def test_static_html_replaces_a_widget():
    view = {"model_id": "x", "version_major": 2, "version_minor": 0}
    widget = {"application/vnd.jupyter.widget-view+json": view}
    bundles = ({**widget, "text/html": "<p>for readers</p>"}, {**widget, "text/plain": "HBox()"})
    outputs = [new_output("display_data", data=data) for data in bundles]
    text = to_html(new_notebook(cells=[new_code_cell("", outputs=outputs)]), title="title")
    assert "<p>for readers</p>" in text and "HBox" not in text and "model_id" not in text
