"""Reports: one file that draws every figure with the network off; parameters are checked before anything runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from browser import drawn, opened

from workbench import analysis
from workbench.errors import RunError, UserError
from workbench.views.report import check_parameters, find_template, parameters_of, report

pytestmark = pytest.mark.xdist_group("report")
TEMPLATE = find_template("tokenizer")


@pytest.fixture(scope="module")
def page_file(trained, tmp_path_factory) -> Path:
    others = [str(trained / name) for name in ("soft-2", "plain", "flow")]
    out = tmp_path_factory.mktemp("report") / "a report & more.html"
    return report("tokenizer", out, run=str(trained / "soft-4"), others=others)


@pytest.mark.browser
def test_every_figure_is_drawn_from_disk_with_the_network_off(page_file):
    with opened(page_file.as_uri()) as (page, seen):
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length > 0")
        page.wait_for_timeout(1500)
        assert drawn(page) == page.locator(".js-plotly-plot").count() == len(analysis.analyses())
        assert seen.errors == [] and seen.outside == []
        contents = page.locator("nav a").all_inner_texts()
        assert contents == [name.replace("_", " ").capitalize() for name in analysis.analyses()]
        page.locator("nav a").last.click()
        assert page.locator("h2").last.is_visible()


@pytest.mark.browser
def test_code_is_hidden_figures_have_words_and_nothing_runs_off_a_narrow_page(page_file):
    with opened(page_file.as_uri(), width=900) as (page, _):
        page.wait_for_timeout(1500)
        assert page.get_by_text("pages.show").count() == 0
        labels = [figure.get_attribute("aria-label") for figure in page.locator("figure").all()]
        assert len(labels) == len(analysis.analyses()) and all(len(label) > 5 for label in labels)
        assert page.evaluate("document.documentElement.scrollWidth") <= 900


def test_it_is_one_file_of_at_most_8_mb_that_names_no_other_host(page_file):
    text = page_file.read_text(encoding="utf-8")
    assert page_file.stat().st_size <= 8_000_000
    assert '<script src="' not in text and "sendChartToCloud" in text  # asked for only where it is removed
    assert [p.name for p in page_file.parent.iterdir()] == [page_file.name]


def test_a_report_of_what_a_run_lacks_says_so_where_the_figure_would_be(trained, tmp_path):
    text = report("tokenizer", tmp_path / "plain.html", run=str(trained / "plain")).read_text(encoding="utf-8")
    assert "Codebook usage needs codes and codebook; plain has none." in text
    assert "Samples needs samples; plain has none." in text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rnu": "x"}, "tokenizer.ipynb has others, run, seed, step. Did you mean `run`?"),
        ({"run": "SOFT", "seed": "many"}, "parameter seed is of type int; got `many`"),
        ({"run": "SOFT", "step": 1.5}, "parameter step is of type int; got `1.5`"),
        ({}, "tokenizer reports on a run: give --run runs/NAME"),
    ],
)
def test_parameters_are_checked_by_name_and_type_before_anything_runs(trained, given, sentence):
    given = {name: str(trained / "soft-4") if value == "SOFT" else value for name, value in given.items()}
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        check_parameters(TEMPLATE, given)


def test_the_runs_a_report_names_are_opened_before_anything_runs(trained):
    with pytest.raises(RunError, match="There is no run `soft-3`.*Did you mean `soft-2`|`soft-4`"):
        check_parameters(TEMPLATE, {"run": str(trained / "soft-3")})
    with pytest.raises(RunError, match="soft-9"):
        check_parameters(TEMPLATE, {"run": str(trained / "soft-4"), "others": str(trained / "soft-9")})


def test_text_from_a_command_line_becomes_the_declared_type(trained):
    words = {"run": str(trained / "soft-4"), "step": "60", "others": f"{trained / 'soft-2'}, {trained / 'plain'}"}
    values = check_parameters(TEMPLATE, words)
    assert values["step"] == 60 and values["others"] == [str(trained / "soft-2"), str(trained / "plain")]


def test_every_template_declares_typed_parameters_and_holds_no_output():
    for template in TEMPLATE.parent.glob("*.ipynb"):
        assert all(p.kind in ("str", "int", "float", "bool", "list") for p in parameters_of(template))
        cells = json.loads(template.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_an_unknown_template_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean `tokenizer`"):
        find_template("tokeniser")
    with pytest.raises(UserError, match="none.ipynb does not exist"):
        find_template("none.ipynb")


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "text.ipynb").write_text("not json", encoding="utf-8")
    with pytest.raises(UserError, match="text.ipynb is not a notebook"):
        report(str(tmp_path / "text.ipynb"), tmp_path / "out.html")


def test_a_parameter_that_is_not_a_plain_value_is_refused_and_not_run(tmp_path):
    book = TEMPLATE.read_text(encoding="utf-8").replace("step: int = 0 ", "step: int = len([]) ")
    (tmp_path / "odd.ipynb").write_text(book, encoding="utf-8")
    with pytest.raises(UserError, match=r"odd.ipynb: parameter step must start as a plain value.*got `len\(\[\]\)`"):
        parameters_of(tmp_path / "odd.ipynb")


def test_a_section_that_fails_is_named_and_leaves_no_half_report(trained, tmp_path):
    book = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    book["cells"][2]["source"] = 'raise ValueError("the dog ate it")'
    (tmp_path / "bad.ipynb").write_text(json.dumps(book), encoding="utf-8")
    with pytest.raises(UserError, match="of bad failed: ValueError: the dog ate it"):
        report(str(tmp_path / "bad.ipynb"), tmp_path / "out.html", run=str(trained / "soft-4"))
    assert [p.name for p in tmp_path.iterdir()] == ["bad.ipynb"]


def test_a_run_named_like_code_is_shown_as_text(trained, tmp_path):
    import shutil

    hostile = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(trained / "plain", hostile)
    text = report("tokenizer", tmp_path / "out.html", run=str(hostile)).read_text(encoding="utf-8")
    assert "<img src=x onerror" not in text


def test_the_command_line_prints_the_path_last(trained, tmp_path):
    command = [sys.executable, "-m", "workbench", "report", "tokenizer", "--run", str(trained / "soft-2")]
    ended = subprocess.run([*command, "--out", str(tmp_path / "r.html")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == str(tmp_path / "r.html") and (tmp_path / "r.html").exists()
