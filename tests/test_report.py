"""Reports: one file that draws every figure with the network off; parameters are checked before anything runs."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from browser import drawn, lasso, opened
from nbformat.v4 import new_code_cell, new_notebook, new_output
from plotly.offline import get_plotlyjs
from template import OPEN, template

from workbench import analysis
from workbench.analysis.base import mime_bundle
from workbench.core.errors import RunError, UserError
from workbench.hosts.js import static
from workbench.hosts.reports import manifest as manifests
from workbench.hosts.reports import page as report_page
from workbench.hosts.reports.from_views import EXPLORED
from workbench.hosts.reports.manifest import read
from workbench.hosts.reports.page import to_html
from workbench.hosts.reports.report import check_parameters, find_template, parameters_of, report
from workbench.launch.in_process import train
from workbench.storage.run import Run
from workbench.workspace.controls import coerce_controls

TEMPLATE = find_template("tokenizer")
TEMPLATES = sorted(TEMPLATE.parent.glob("*.ipynb"))
NAMES = [path.stem for path in TEMPLATES]
TINY = {"num_tokens": 2, "steps": 20, "width": 16, "depth": 1, "warmup_steps": 5}
MARKED = """() => [...document.querySelectorAll("figure[data-of] .js-plotly-plot")]
  .flatMap((figure) => figure._fullData).filter((trace) => trace.meta === "image" && trace.selectedpoints)
  .flatMap((trace) => [...trace.selectedpoints].map((i) => trace.customdata[i][0] ?? trace.customdata[i]))"""


def typed(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "workbench", *map(str, words)], capture_output=True, text=True
    )


def asked(runs: Path, adaptive: Path, new: Path) -> dict[str, dict[str, object]]:
    """What every template is given here."""
    leading, others = {"run": runs / "soft-4"}, f"{runs / 'soft-2'},{runs / 'plain'}"
    return {
        "tokenizer": leading | {"others": f"{others},{runs / 'flow'}"},
        "comparison": leading | {"others": others},
        "codebook": leading,
        "adaptive": {"run": adaptive},
        "generator": {"run": runs / "flow"},
        "training": {"folder": new, "recipe": "softvq-digits", "codebook_size": 16} | TINY,
    }


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory) -> Path:
    """A run that chooses how many tokens an image gets."""
    folder = tmp_path_factory.mktemp("adaptive") / "karl"
    train("karl-digits", folder, **TINY | {"num_tokens": 4})
    return folder


@pytest.fixture(scope="module")
def pages(trained, adaptive, tmp_path_factory) -> dict[str, Path]:
    """A page of every template, made as from a shell."""
    folder = tmp_path_factory.mktemp("a report & more")
    given = asked(trained, adaptive, folder / "new")

    def make(name: str) -> tuple[str, Path]:
        words = [word for name, value in given[name].items() for word in (f"--{name}", value)]
        done = typed("report", name, *words, "--out", folder / f"{name}.html")
        assert done.returncode == 0, done.stderr
        return name, Path(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(make, given))


@pytest.fixture
def small(tmp_path):
    """A template of a few cells."""
    return lambda *cells: str(template(tmp_path / "small.ipynb", OPEN, *cells))


# Every template


def test_there_is_a_page_of_every_template(pages):
    assert sorted(pages) == NAMES


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_from_disk_with_the_network_off(pages, name):
    told = read(pages[name])
    figures = told["done"] - sum(section["name"] in EXPLORED for section in told["sections"])
    with opened(pages[name].as_uri(), width=900) as (page, seen):
        page.wait_for_function(
            f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {figures}"
        )
        page.wait_for_timeout(500)
        assert drawn(page) == page.locator(".js-plotly-plot").count() == figures > 1
        assert seen.errors == [] and seen.outside == []
        assert (
            len(page.locator("nav a").all()) == len(told["sections"]) == page.locator("h2").count()
        )
        labels = [figure.get_attribute("aria-label") for figure in page.locator("figure").all()]
        assert len(labels) == figures and all(len(label) > 5 for label in labels)
        assert page.get_by_text("pages.show").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 900


@pytest.mark.browser
def test_the_contents_lead_to_every_section_and_print_unfolds_what_is_folded(pages):
    with opened(pages["adaptive"].as_uri()) as (page, _):
        page.wait_for_timeout(1000)
        assert page.locator("nav a").all_inner_texts() == page.locator("h2").all_inner_texts()
        page.locator("nav a").last.click()
        assert page.locator("h2").last.is_visible()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[open]").count() == 0


@pytest.mark.browser
def test_a_report_follows_a_dark_system_and_stays_light_on_paper(pages):
    with opened(pages["adaptive"].as_uri(), dark=True) as (page, _):
        page.locator(".xtick text").first.wait_for()

        def inks() -> list[str]:
            style = "(node, name) => getComputedStyle(node)[name]"
            told = (
                (".js-plotly-plot .main-svg", "backgroundColor"),
                (".xtick text", "fill"),
                ("body", "color"),
            )
            return [page.locator(where).first.evaluate(style, name) for where, name in told]

        assert inks() == ["rgba(0, 0, 0, 0)", "rgb(224, 224, 224)", "rgb(232, 232, 232)"]
        page.emulate_media(media="print")
        assert inks() == ["rgb(255, 255, 255)", "rgb(42, 63, 95)", "rgb(27, 27, 27)"]


def test_the_report_of_a_tokenizer_holds_every_analysis(pages):
    assert {s["name"] for s in read(pages["tokenizer"])["sections"]} == {
        *analysis.analyses(),
        "map",
        "codes",
    }


@pytest.mark.browser
def test_in_a_report_a_loop_tells_the_codes_inside_and_a_code_marks_its_images_on_the_map_and_the_figures(
    pages, trained
):
    held = np.asarray(Run(trained / "soft-4").evidence().codes)
    with opened(pages["tokenizer"].as_uri()) as (page, seen):
        points, codes = (
            page.frame_locator(f'iframe[title^="{what}"]') for what in ("Latent map", "Codebook")
        )
        figure = page.locator("figure", has=page.get_by_text("Latent map, trust")).locator(
            ".js-plotly-plot"
        )

        def shows(images: int) -> np.ndarray:
            """The images that the figures mark, when the map marks as many."""
            points.get_by_text(f"{images} of {len(held)} selected").wait_for()
            page.wait_for_function(f"new Set(({MARKED})()).size === {images}")
            return np.unique(page.evaluate(MARKED)).astype(int)

        def shows_nothing() -> None:
            points.get_by_text("drag a loop").wait_for()
            page.wait_for_function(f"({MARKED})().length === 0")
            assert codes.locator(".picked").text_content() == ""

        codes.get_by_text("hover over a code").wait_for()
        page.wait_for_function(
            "[...document.querySelectorAll('.js-plotly-plot')].every((one) => one._fullLayout)"
        )
        lasso(page, points.locator(".plane"))
        inside = int(
            points.get_by_text(re.compile(r"\d+ of 360 selected")).text_content().split(" ")[0]
        )
        often = np.bincount(held[shows(inside)].ravel(), minlength=32)
        codes.get_by_text(f"{inside} selected images hold {(often > 0).sum()} codes:").wait_for()
        codes.get_by_text(f"code {often.argmax()} · {often.max()} of its").first.wait_for()

        codes.get_by_role("button", name="by use").click()
        codes.locator(".cells canvas").click(position={"x": 5, "y": 5})
        codes.get_by_text("1 picked:").wait_for()
        code = int(codes.locator(".picked b").text_content().removeprefix("code "))
        holding = np.flatnonzero((held == code).any(axis=1))
        assert often[code] == often.max()
        np.testing.assert_array_equal(shows(len(holding)), holding)
        page.keyboard.press("Escape")
        shows_nothing()

        figure.evaluate("(figure) => Plotly.relayout(figure, { dragmode: 'lasso' })")
        lasso(page, figure.locator(".nsewdrag"))
        codes.get_by_text(re.compile(r"\d+ selected images hold")).wait_for()
        shows(int(codes.locator(".within").text_content().split(" ")[0]))
        page.keyboard.press("Escape")
        shows_nothing()
        assert seen.errors == [] and seen.outside == []


FRAMED = """(figure) => {
  const frames = figure._fullData.find((trace) => trace.meta === "code" && trace.selectedpoints);
  return frames ? [...frames.selectedpoints].map((i) => frames.customdata[i]) : [];
}"""
ACROSS = """(figure) => {
  const trace = figure._fullData.find((one) => one.meta === "code"), { left, top } = figure.getBoundingClientRect();
  const [x, y] = ["x", "y"].map((name) => figure._fullLayout[trace[`${name}axis`].replace(name, `${name}axis`)]);
  return [-0.4, 1.4].map((at) => [left + x._offset + x.c2p(at), top + y._offset + y.c2p(at)]);
}"""


APART = """(figure) => {
  const { xaxis, yaxis, customdata, index } = figure._fullData.find((one) => one.meta === "image");
  const across = figure._fullLayout[xaxis.replace("x", "xaxis")], up = figure._fullLayout[yaxis.replace("y", "yaxis")];
  const places = figure.calcdata[index].map(({ x, y }) => [across.c2p(x), up.c2p(y)]);
  const apart = ([x, y]) => places.map(([u, v]) => Math.hypot(u - x, v - y)).sort((a, b) => a - b)[1];
  const alone = places.map(apart);
  const shown = [...customdata.keys()].filter((i) => customdata[i] < 24);
  const best = shown.reduce((a, b) => alone[b] > alone[a] ? b : a), { left, top } = figure.getBoundingClientRect();
  return [customdata[best], left + across._offset + places[best][0], top + up._offset + places[best][1]];
}"""


@pytest.mark.browser
def test_in_a_report_cells_of_the_grid_of_codes_are_boxed_and_framed_like_points(pages):
    with opened(pages["codebook"].as_uri()) as (page, seen):
        figure = page.locator("figure", has=page.get_by_text("codes used, as evenly")).locator(
            ".js-plotly-plot"
        )
        codes = page.frame_locator('iframe[title^="Codebook"]')
        codes.get_by_text("hover over a code").wait_for()
        figure.scroll_into_view_if_needed()
        figure.evaluate("(figure) => Plotly.relayout(figure, { dragmode: 'select' })")
        (left, top), (right, bottom) = figure.evaluate(ACROSS)  # around two rows of two cells
        page.mouse.move(left, top)
        page.mouse.down()
        page.mouse.move(right, bottom, steps=4)
        page.mouse.up()
        codes.get_by_text("4 picked:").wait_for()
        side = figure.evaluate(
            "(figure) => figure._fullData.find((one) => one.meta === 'code').z[0].length"
        )
        assert sorted(figure.evaluate(FRAMED)) == [0, 1, side, side + 1]
        codes.locator(".cells canvas").click(
            position={"x": 5, "y": 5}
        )  # one of them, which is let go
        codes.get_by_text("3 picked:").wait_for()
        page.wait_for_function(
            f"(figure) => ({FRAMED})(figure).length === 3", arg=figure.element_handle()
        )
        assert seen.errors == []


@pytest.mark.browser
def test_in_a_report_a_point_opens_its_image_in_the_lens_and_a_picture_there_marks_its_point(pages):
    with opened(pages["adaptive"].as_uri()) as (page, seen):
        figure = page.locator("figure", has=page.get_by_text("What further tokens are")).locator(
            ".js-plotly-plot"
        )
        lens = page.frame_locator('iframe[title^="Lens"]')
        lens.locator(".strip .cell").first.wait_for()
        page.wait_for_function(
            "[...document.querySelectorAll('.js-plotly-plot')].every((one) => one._fullLayout)"
        )
        figure.scroll_into_view_if_needed()
        image, x, y = figure.evaluate(
            APART
        )  # of those in the lens the one that is farthest from any other
        page.mouse.move(x, y)
        page.mouse.click(x, y)
        lens.get_by_text("1 image selected, 1 of them in this lens").wait_for()
        assert lens.locator(".told").text_content().startswith(f"#{image} ")
        other = 5 if image != 5 else 6
        lens.get_by_role("button", name=re.compile(f"^#{other} ")).click()
        page.wait_for_function(f"[...new Set(({MARKED})())].join() === '{other}'")
        page.keyboard.press("Escape")
        page.wait_for_function(f"({MARKED})().length === 0")
        assert lens.locator(".within").is_hidden() and seen.errors == []


@pytest.mark.parametrize("name", NAMES)
def test_it_is_one_file_of_at_most_8_mb_that_names_no_other_host(pages, name):
    text = pages[name].read_text(encoding="utf-8")
    assert read(pages[name])["bytes"] == pages[name].stat().st_size <= 8_000_000
    assert (
        '<script src="' not in text and "sendChartToCloud" in text
    )  # asked for only where it is removed


def test_training_from_a_report_leaves_a_run_like_any_other(pages):
    run = Run(pages["training"].parent / "new")
    assert run.status()["state"] == "finished" and run.config["changes"]["num_tokens"] == 2
    sections = read(pages["training"])["sections"]
    assert sections[0]["name"] == "losses" and sections[0]["said"].startswith(
        "From step 10 to 20 the weighted terms"
    )


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_what_a_template_shows_exists_and_takes_the_controls_it_is_given(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    calls = []
    for cell in cells:
        if cell["cell_type"] == "code":
            calls += [
                node
                for node in ast.walk(ast.parse("".join(cell["source"])))
                if isinstance(node, ast.Call)
            ]
    shown = [call for call in calls if ast.unparse(call.func) == "pages.show"]
    assert shown
    for call in shown:
        values = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        coerce_controls(
            analysis.get(call.args[0].value),
            values | {k.arg: 0 for k in call.keywords if k.arg == "seed"},
        )


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_section_of_a_template_says_how_to_read_it(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for before, cell in zip(cells, cells[1:], strict=False):
        if "pages.show(" in "".join(cell["source"]):
            heading, _, words = "".join(before["source"]).partition("\n\n")
            assert (
                before["cell_type"] == "markdown"
                and heading.startswith("## ")
                and words.endswith(".")
            )


# What lies beside it


def test_the_results_hold_every_number_of_every_section(pages, trained):
    long = pd.read_parquet(pages["codebook"].with_name("codebook.results.parquet"))
    assert list(long.columns) == ["section", "row", "column", "value", "text"]
    evidence = Run(trained / "soft-4").evidence()
    whole = analysis.get("code_dropping")(
        **evidence.kwargs_for(analysis.get("code_dropping"))
    ).table()
    part = long[long.section == "code_dropping"]
    wide = part.pivot(index="row", columns="column", values="value")[whole.columns]
    np.testing.assert_array_equal(wide.to_numpy(), whole.to_numpy(float))
    verdict = long[(long.section == "codebook_usage") & (long.column == "verdict")]
    assert verdict.value.isna().all() and verdict.text.notna().all()


def test_the_manifest_tells_how_the_report_was_made(pages, trained):
    told, run = read(pages["codebook"]), Run(trained / "soft-4")
    assert (
        told["parameters"] == {"run": str(run.folder), "step": 0, "seed": 0} and told["seconds"] > 0
    )
    assert {"python", "workbench", "numpy", "papermill", "torch"} <= told["versions"].keys()
    (about,) = told["runs"]
    assert (about["name"], about["step"], about["seed"]) == (
        "soft-4",
        60,
        run.config["training"]["seed"],
    )
    assert about["data"]["fingerprint"] == run.evidence().provenance["fingerprint"]
    inner = hashlib.sha256(run.checkpoint(60).read_bytes()).digest()
    assert (
        about["checkpoint"] == hashlib.sha256(b"step-000060.safetensors" + inner).hexdigest()[:32]
    )
    states = [section["state"] for section in told["sections"]]
    assert told["done"] == states.count("done") and told["done"] + told["absent"] == len(states)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_parameters_and_seed_give_the_same_tables(
    pages, trained, adaptive, tmp_path, name
):
    for folder in (
        trained,
        adaptive.parent,
    ):  # copied without the results that are kept beside runs
        shutil.copytree(
            folder, tmp_path / folder.name, ignore=shutil.ignore_patterns(".results", "reports")
        )
    given = asked(
        tmp_path / trained.name, tmp_path / adaptive.parent.name / "karl", tmp_path / "new"
    )
    again = report(name, tmp_path / "again.html", progress=False, **given[name])
    before, after = (pd.read_parquet(manifests.beside(page)[1]) for page in (pages[name], again))
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    assert before.section.nunique() == read(again)["done"]


def test_a_section_that_is_shown_twice_has_two_names(pages):
    names = [section["name"] for section in read(pages["comparison"])["sections"]]
    assert len(set(names)) == len(names) and "metric_comparison, metric=features" in names


# What cannot be shown


def test_a_report_of_what_a_run_lacks_says_so_where_the_figure_would_be(trained, tmp_path, small):
    source = small('pages.show("codebook_usage")', 'pages.show("samples")')
    out = report(source, tmp_path / "plain.html", run=str(trained / "plain"))
    assert "Codebook usage needs codes and codebook; plain has none." in out.read_text(
        encoding="utf-8"
    )
    assert "0 of 2 sections done, 2 not applicable" in out.read_text(encoding="utf-8")


def test_sections_that_fail_leave_a_readable_report_and_exit_code_1(trained, tmp_path, small):
    raising = "pages._section('dog', lambda: 1 / 0)"
    source = small(
        "## Dog",
        raising,
        "## Codes",
        'pages.show("codebook_usage")',
        "## Cat",
        "1 / 0",
        "## Bird",
        "2",
    )
    done = typed("report", source, "--run", trained / "soft-4", "--out", tmp_path / "r.html")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        f"1 of 4 sections of small are done, in {tmp_path / 'r.html'}; dog failed: ZeroDivisionError"
        in done.stderr
    )
    states = {s["name"]: s["state"] for s in read(tmp_path / "r.html")["sections"]}
    assert states == {"dog": "failed", "codebook_usage": "done", "cat": "failed", "bird": "missed"}
    text = re.sub(
        r"<[^>]+>", "", (tmp_path / "r.html").read_text(encoding="utf-8").partition("<main>")[2]
    )
    assert (
        "1 of 4 sections done. What they show is valid. Failed: dog, cat. Not reached: 1." in text
    )
    assert "ZeroDivisionError: division by zero" in text and "\x1b" not in text
    assert set(pd.read_parquet(tmp_path / "r.results.parquet").section) == {"codebook_usage"}


def test_a_process_that_dies_loses_only_what_came_after(trained, tmp_path, small):
    source = small(
        'pages.show("codebook_usage")', "## Crash", "import os\nos._exit(9)", "## Later", "1"
    )
    with pytest.raises(
        UserError, match="1 of 3 sections .* crash failed: Its process ended: out of memory"
    ):
        report(source, tmp_path / "r.html", run=str(trained / "soft-4"))
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count("<figure") == 1
    assert read(tmp_path / "r.html")["missed"] == 1


def test_figures_that_make_a_page_too_large_give_way_to_a_sentence(monkeypatch):
    figures = [
        go.Figure(go.Scatter(y=list(range(n))), layout_title=f"of {n} points")
        for n in (10, 20_000, 20)
    ]
    outputs = [new_output("display_data", mime_bundle(figure)) for figure in figures]
    module = static("lens", {"rows": "many " * 60_000}, {}, height=600, title="A lens & more")
    outputs.append(new_output("display_data", {"text/html": module}))
    most = len(get_plotlyjs().encode()) + 250_000
    monkeypatch.setattr(report_page, "LARGEST", most)
    page = to_html(new_notebook(cells=[new_code_cell(outputs=outputs)]), "", "", "Small")
    assert len(page.encode()) <= most and page.count("<figure") == 2
    assert "The figure “of 20000 points” (0.1 MB) is left out to keep this file small" in page
    assert "The figure “A lens &amp; more” (0.3 MB) is left out" in page and "<iframe" not in page
    monkeypatch.setattr(report_page, "LARGEST", 1_000_000)
    with pytest.raises(
        UserError, match=r"Small would take 4\.\d MB, more than 1; report on fewer images"
    ):
        to_html(new_notebook(), "", "", "Small")


def test_a_run_named_like_code_is_shown_as_text(trained, tmp_path, small):
    hostile = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(trained / "plain", hostile)
    source = small('pages.show("reconstruction")', 'pages.show("samples")', 'pages.show("checks")')
    text = report(source, tmp_path / "out.html", run=str(hostile)).read_text(encoding="utf-8")
    assert "<img src=x onerror" not in text and "&lt;img src=x onerror" in text


# Parameters


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rnu": "x"}, "tokenizer.ipynb has others, run, seed, step. Did you mean `run`?"),
        ({"run": "SOFT", "seed": "many"}, "parameter seed is of type int; got `many`"),
        ({"run": "SOFT", "seed": 1000}, "parameter seed takes 0 to 999; got `1000`"),
        ({"run": "SOFT", "step": 1.5}, "parameter step is of type int; got `1.5`"),
        ({"run": "SOFT", "step": 45}, "soft-4 has no evidence of step 45 yet"),
        ({}, "tokenizer reports on a run: give --run runs/NAME"),
    ],
)
def test_parameters_are_checked_by_name_and_type_before_anything_runs(trained, given, sentence):
    given = {
        name: str(trained / "soft-4") if value == "SOFT" else value for name, value in given.items()
    }
    with pytest.raises(UserError, match=re.escape(sentence)):
        check_parameters(TEMPLATE, given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "training trains into a folder: give --folder runs/NAME"),
        (
            {"recipe": "softvq-digit", "folder": "a"},
            "There is no recipe `softvq-digit`; there is .*softvq-digits`",
        ),
        ({"folder": "a", "num_tokens": "four"}, "parameter num_tokens is of type int; got `four`"),
        ({"folder": "a", "lr": "nan"}, "parameter lr is of type float; got `nan`"),
    ],
)
def test_what_a_training_is_given_is_checked_before_it_starts(given, sentence):
    with pytest.raises(UserError, match=sentence):
        check_parameters(find_template("training"), given)


def test_names_that_a_training_does_not_declare_are_settings_of_its_recipe():
    values = check_parameters(
        find_template("training"), {"folder": "a", "width": "32", "data": Path("images")}
    )
    assert values["settings"] == {"width": "32", "data": "images"}


def test_a_setting_that_the_recipe_does_not_have_is_told_in_a_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"training failed: There is no setting `wdith`.*Did you mean `width`"
    ):
        report(
            "training", tmp_path / "r.html", folder=str(tmp_path / "new"), wdith=16, progress=False
        )
    assert not (tmp_path / "new").exists()


def test_the_runs_a_report_names_are_opened_before_anything_runs(trained, tmp_path):
    with pytest.raises(RunError, match="There is no run `soft-3`.*Did you mean `soft-2`|`soft-4`"):
        check_parameters(TEMPLATE, {"run": str(trained / "soft-3")})
    with pytest.raises(RunError, match="soft-9"):
        check_parameters(
            TEMPLATE, {"run": str(trained / "soft-4"), "others": str(trained / "soft-9")}
        )
    shutil.copytree(trained / "plain", tmp_path / "soft-4")
    with pytest.raises(UserError, match="Two of the runs are called soft-4"):
        check_parameters(
            TEMPLATE, {"run": str(trained / "soft-4"), "others": str(tmp_path / "soft-4")}
        )


def test_text_from_a_command_line_becomes_the_declared_type(trained):
    words = {
        "run": str(trained / "soft-4"),
        "step": "60",
        "others": f"{trained / 'soft-2'}, {trained / 'plain'}",
    }
    values = check_parameters(TEMPLATE, words)
    assert values["step"] == 60 and values["others"] == [
        str(trained / "soft-2"),
        str(trained / "plain"),
    ]


def test_a_template_may_declare_choices_and_bounds(tmp_path):
    lines = (
        'kind: Literal["a", "b"] = "a"\nshare: Annotated[float, Range(0, 1)] = 0.5\non: bool = True'
    )
    source = template(tmp_path / "own.ipynb", "1", parameters=lines)
    assert check_parameters(source, {"kind": "b", "share": np.float32(0.25), "on": "false"}) == {
        "kind": "b",
        "share": 0.25,
        "on": False,
    }
    with pytest.raises(UserError, match="There is no kind `c`; there is a, b"):
        check_parameters(source, {"kind": "c"})
    with pytest.raises(UserError, match="parameter share takes 0 to 1; got `2`"):
        check_parameters(source, {"share": 2})


def test_an_unknown_template_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean `tokenizer`"):
        find_template("tokeniser")
    with pytest.raises(UserError, match="none.ipynb does not exist"):
        find_template("none.ipynb")


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            "step: int = len([])",
            r"own.ipynb: parameter step must start as a plain value.*got `len\(\[\]\)`",
        ),
        (
            "step: complex = 0",
            "own.ipynb: parameter step is declared `complex`; write one of str, int",
        ),
        ("step: int =", "own.ipynb: line 1 of its parameters is not Python"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_refused_and_not_run(tmp_path, parameters, sentence):
    with pytest.raises(UserError, match=sentence):
        parameters_of(template(tmp_path / "own.ipynb", parameters=parameters))


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "text.ipynb").write_text("not json", encoding="utf-8")
    with pytest.raises(UserError, match="text.ipynb is not a notebook"):
        report(str(tmp_path / "text.ipynb"), tmp_path / "out.html")


def test_of_a_widget_a_report_keeps_the_page_beside_it_and_nothing_else():
    widget = {
        "application/vnd.jupyter.widget-view+json": {
            "model_id": "x",
            "version_major": 2,
            "version_minor": 0,
        }
    }
    told = ({**widget, "text/html": "<p>for readers</p>"}, {**widget, "text/plain": "HBox()"})
    cell = new_code_cell("", outputs=[new_output("display_data", data=data) for data in told])
    text = to_html(new_notebook(cells=[cell]), "", "", "title")
    assert "<p>for readers</p>" in text and "HBox" not in text and "model_id" not in text
