"""The gallery: every report of a folder on one page, found, sorted and filtered without a server."""

import json

import pytest
from browser import opened
from template import OPEN, template

from workbench.core.errors import UserError
from workbench.hosts.reports.gallery import gallery, reports_in
from workbench.hosts.reports.manifest import beside
from workbench.hosts.reports.report import report

HOSTILE = "<script>alert(1)</script> & \"'"


def pretend(folder, name: str, **told: object) -> None:
    """A report's files as another day left them."""
    page = folder / name / "reports" / "tokenizer.html"
    page.parent.mkdir(parents=True)
    page.write_text("<h1>x</h1>", encoding="utf-8")
    run = {
        "name": told.pop("run", name),
        "kind": "AE",
        "tokens": told.pop("tokens", 4),
        "psnr": told.pop("psnr", None),
    }
    sections = [
        {"name": "reconstruction", "state": "done", "said": f"All about {name}.", "seconds": 1}
    ]
    manifest = {
        "format": 1,
        "template": "tokenizer",
        "parameters": {},
        "runs": [run],
        "sections": sections,
        "done": 1,
    }
    manifest |= {
        "absent": 0,
        "failed": 0,
        "missed": 0,
        "made": "2026-01-01T00:00:00+00:00",
        "seconds": 3.0,
    }
    beside(page)[0].write_text(json.dumps(manifest | told), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """One real report, and three whose manifests tell of better and worse runs."""
    folder = tmp_path_factory.mktemp("many reports #1")
    source = template(folder / "own.ipynb", OPEN, 'pages.show("reconstruction")')
    report(
        str(source), folder / "real one" / "own.html", run=str(trained / "soft-4"), progress=False
    )
    pretend(
        folder,
        "low",
        psnr=10.5,
        tokens=2,
        parameters={"codebook_size": 64, "seed": 0, "settings": {"width": "32"}},
    )
    pretend(
        folder,
        "high",
        psnr=99.0,
        tokens=16,
        made="2020-01-01T00:00:00+00:00",
        parameters={"codebook_size": 256},
    )
    pretend(folder, "bad", run=HOSTILE, failed=1, parameters={"note": HOSTILE})
    gallery(folder)
    return folder


def cards(page) -> list[str]:
    return [
        title.replace("\n", " ") for title in page.locator("article:visible h2").all_inner_texts()
    ]


@pytest.mark.browser
def test_cards_are_found_filtered_and_sorted_with_the_network_off(folder):
    with opened((folder / "index.html").as_uri()) as (page, seen):
        assert (
            cards(page)[0] == "soft-4" and cards(page)[-1] == "high" and len(cards(page)) == 4
        )  # newest first
        page.select_option("[name=sort]", "psnr")
        assert cards(page) == ["high", "low", "soft-4", HOSTILE] or cards(page) == [
            "high",
            "soft-4",
            "low",
            HOSTILE,
        ]
        page.select_option("[name=sort]", "tokens")
        assert cards(page)[0] == "low"
        page.keyboard.press("/")
        page.locator("[name=find]").fill("codebook_size=64 width=32")
        assert cards(page) == ["low"] and page.locator("output").inner_text() == "1 of 4 reports"
        page.locator("[name=find]").fill("")
        page.select_option("[name=template]", "own")
        assert cards(page) == ["soft-4"]
        assert (
            page.evaluate("document.querySelector('article:not([hidden]) img').naturalWidth") == 360
        )
        assert seen.errors == [] and seen.outside == []


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_card_leads_to_its_report_and_the_page_fits_a_narrow_window(folder, dark):
    with opened((folder / "index.html").as_uri(), width=500, dark=dark) as (page, seen):
        assert page.evaluate("document.documentElement.scrollWidth") <= 500
        page.locator("article a", has_text="soft-4").click()
        page.wait_for_url("**/own.html")
        assert page.locator("h1").inner_text() == "Own: soft-4"
        assert seen.errors == [] and seen.outside == []


def test_what_came_from_elsewhere_is_shown_as_text(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text


def test_a_card_tells_what_a_report_was_given_and_what_became_of_it(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert (
        "codebook_size=64 width=32" in text
        and "1 of 1 sections done, 1 failed" in text
        and "PSNR" in text
    )


def test_a_report_without_a_sound_manifest_or_page_is_left_out(folder, tmp_path):
    pretend(tmp_path, "a")
    pretend(tmp_path, "newer", format=99)
    pretend(tmp_path, "torn")
    beside(tmp_path / "torn" / "reports" / "tokenizer.html")[0].write_text(
        '{"format"', encoding="utf-8"
    )
    pretend(tmp_path, "gone")
    (tmp_path / "gone" / "reports" / "tokenizer.html").unlink()
    assert [page.parents[1].name for page, _ in reports_in(tmp_path)] == ["a"]


def test_a_folder_without_reports_says_how_to_make_one(tmp_path):
    with pytest.raises(
        UserError, match="holds no report. Make one with: workbench report tokenizer --run"
    ):
        gallery(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        gallery(tmp_path / "none")
