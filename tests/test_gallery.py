"""The gallery: one page over many reports that sorts and filters without a server."""

import json
from pathlib import Path

import pytest
from browser import opened
from template import OPEN, template

from workbench.core.errors import UserError
from workbench.hosts.reports.gallery import find_reports, gallery
from workbench.hosts.reports.manifest import manifest_path, read_manifest
from workbench.hosts.reports.report import report

HOSTILE = "<script>alert(1)</script> & \"'"


def write_report(folder: Path, name: str, **changes: object) -> Path:
    """Write the files of a report without computing it."""
    page = folder / name / "reports" / "tokenizer.html"
    page.parent.mkdir(parents=True)
    page.write_text("<h1>x</h1>", encoding="utf-8")
    run = {
        "name": changes.pop("run", name),
        "kind": "AE",
        "num_tokens": changes.pop("num_tokens", 4),
        "psnr": changes.pop("psnr", None),
    }
    section = {
        "name": "reconstruction",
        "state": "done",
        "summary": f"All about {name}.",
        "seconds": 1,
    }
    manifest = {
        "format": 2,
        "template": "tokenizer",
        "parameters": {},
        "runs": [run],
        "sections": [section],
        "done": 1,
        "not_applicable": 0,
        "failed": 0,
        "not_run": 0,
        "created": "2026-01-01T00:00:00+00:00",
        "seconds": 3.0,
    }
    manifest_path(page).write_text(json.dumps(manifest | changes), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory) -> Path:
    """Return a folder with one computed report and three synthetic ones."""
    folder = tmp_path_factory.mktemp("many reports #1")
    source = template(folder / "own.ipynb", OPEN, 'report.show("reconstruction")')
    page = folder / "computed report" / "own.html"
    report(str(source), page, run=str(trained / "soft-4"), progress=False)
    low = {"codebook_size": 64, "seed": 0, "settings": {"width": "32"}}
    write_report(folder, "low", psnr=10.5, num_tokens=2, parameters=low)
    write_report(
        folder,
        "high",
        psnr=99.0,
        num_tokens=16,
        created="2020-01-01T00:00:00+00:00",
        parameters={"codebook_size": 256},
    )
    write_report(folder, "bad", run=HOSTILE, failed=1, parameters={"note": HOSTILE})
    gallery(folder)
    return folder


def card_titles(page) -> list[str]:
    titles = page.locator("article:visible h2").all_inner_texts()
    return [title.replace("\n", " ") for title in titles]


@pytest.mark.browser
@pytest.mark.kernel
def test_cards_are_searched_filtered_and_sorted(folder):
    with opened((folder / "index.html").as_uri()) as (page, seen):
        newest_first = card_titles(page)
        assert newest_first[0] == "soft-4" and newest_first[-1] == "high"
        assert len(newest_first) == 4
        page.select_option("[name=sort]", "psnr")
        assert card_titles(page)[0] == "high" and card_titles(page)[-1] == HOSTILE
        page.select_option("[name=sort]", "tokens")
        assert card_titles(page)[0] == "low"
        page.keyboard.press("/")
        page.locator("[name=find]").fill("codebook_size=64 width=32")
        assert card_titles(page) == ["low"]
        assert page.locator("output").inner_text() == "1 of 4 reports"
        page.locator("[name=find]").fill("no such report")
        assert card_titles(page) == [] and page.locator(".empty").is_visible()
        page.locator("[name=find]").fill("")
        page.select_option("[name=template]", "own")
        assert card_titles(page) == ["soft-4"] and page.locator(".empty").is_hidden()
        thumbnail = "document.querySelector('article:not([hidden]) img').naturalWidth"
        assert page.evaluate(thumbnail) == 360
        assert seen.errors == [] and seen.outside == []


@pytest.mark.browser
@pytest.mark.kernel
@pytest.mark.parametrize("dark", [False, True])
def test_card_links_to_its_report_in_a_narrow_window(folder, dark):
    with opened((folder / "index.html").as_uri(), width=500, dark=dark) as (page, seen):
        assert page.evaluate("document.documentElement.scrollWidth") <= 500
        page.locator("article a", has_text="soft-4").click()
        page.wait_for_url("**/own.html")
        assert page.locator("h1").inner_text() == "Own: soft-4"
        assert seen.errors == [] and seen.outside == []


@pytest.mark.kernel
def test_markup_in_names_is_escaped(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text


@pytest.mark.kernel
def test_card_shows_parameters_and_progress(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "codebook_size=64 width=32" in text
    assert "1 of 1 sections done, 1 failed" in text
    assert "PSNR" in text


def test_incomplete_reports_are_excluded(tmp_path):
    write_report(tmp_path, "complete")
    write_report(tmp_path, "newer", format=99)
    torn = write_report(tmp_path, "torn")
    manifest_path(torn).write_text('{"format"', encoding="utf-8")
    write_report(tmp_path, "deleted").unlink()
    assert [page.parents[1].name for page, _ in find_reports(tmp_path)] == ["complete"]


def test_manifest_of_format_1_is_migrated(tmp_path):
    page = write_report(tmp_path, "old")
    old = {
        "format": 1,
        "template": "tokenizer",
        "runs": [{"name": "a", "tokens": 8}],
        "sections": [{"name": "codes", "state": "absent", "said": "No codes.", "seconds": 1}],
        "done": 0,
        "absent": 1,
        "failed": 0,
        "missed": 0,
        "made": "2025-01-01T00:00:00+00:00",
    }
    manifest_path(page).write_text(json.dumps(old), encoding="utf-8")
    manifest = read_manifest(page)
    assert manifest["runs"] == [{"name": "a", "num_tokens": 8}]
    assert manifest["sections"][0]["state"] == "not_applicable"
    assert manifest["sections"][0]["summary"] == "No codes."
    assert manifest["not_applicable"] == 1 and manifest["not_run"] == 0
    assert manifest["created"] == old["made"]


def test_folder_without_reports_raises(tmp_path):
    with pytest.raises(UserError) as error:
        gallery(tmp_path)
    assert "workbench report" in str(error.value)
    with pytest.raises(UserError):
        gallery(tmp_path / "none")
