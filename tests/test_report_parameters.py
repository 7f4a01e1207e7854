"""Parameters of reports: lists of runs whose names contain commas, and imported runs."""

from contextlib import nullcontext

import pytest
import torch.nn.functional as F

from workbench.core.errors import UserError
from workbench.hosts.reports.from_views import views_report
from workbench.hosts.reports.header import conclusion_html, footer_html, header_html
from workbench.hosts.reports.manifest import build_manifest, section_entries
from workbench.hosts.reports.own_text import markdown_html, split_text
from workbench.hosts.reports.sweep import parse_grid
from workbench.hosts.reports.template import check_parameters, find_template, split_at_commas
from workbench.launch.evaluate import evaluate
from workbench.tokenizers.pretrained.wrapped import wrap

TEXT = {
    "title": "My title",
    "author": "An Author",
    "note": "**why**",
    "conclusion": "*use it*",
}


def test_commas_in_names_of_folders_do_not_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "lr=1e-3,codes=64", "lr=1e-3", "x,y,z"):
        (tmp_path / name).mkdir()
    assert split_at_commas("a, lr=1e-3,codes=64,x,y,z") == ["a", "lr=1e-3,codes=64", "x,y,z"]
    assert split_at_commas("lr=1e-3,a") == ["lr=1e-3", "a"]
    assert split_at_commas("missing,other") == ["missing", "other"]
    assert split_at_commas(",".join(["long"] * 200)) == ["long"] * 200
    assert parse_grid("run=a,lr=1e-3,codes=64;seed=0,1")[2] == {
        "run": "lr=1e-3,codes=64",
        "seed": "0",
    }


def test_reports_take_imported_runs_and_names_with_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = wrap(
        lambda x: F.avg_pool2d(x, 2), lambda z: F.interpolate(z, scale_factor=2.0), channels=1
    )
    for name in ("a", "lr=1e-3,codes=64"):
        evaluate(tokenizer, "digits", name, limit=20)
    template = find_template("tokenizer")
    values = check_parameters(template, {"run": "a", "compare_with": "lr=1e-3,codes=64"})
    assert values["compare_with"] == ["lr=1e-3,codes=64"]
    with pytest.raises(UserError, match="tokenizer"):  # not a generator
        check_parameters(find_template("generator"), {"run": "a"})
    evaluate(tokenizer, "digits", "other", limit=15)
    for others, is_refused in (("other", True), ("other,lr=1e-3,codes=64", False)):
        context = pytest.raises(UserError) if is_refused else nullcontext()
        with context:
            check_parameters(find_template("brief"), {"run": "a", "compare_with": others})
    records = [{"folder": name, "step": 0} for name in ("a", "other")]
    manifest = build_manifest(template, values | TEXT, records) | section_entries([])
    manifest |= {"created": "2026-01-01T00:00:00", "seconds": 1.0}
    header = header_html(manifest)
    assert "different images" in header and "<strong>why</strong>" in header
    assert "An Author" in header and "<h1>My title</h1>" in header
    assert "<em>use it</em>" in conclusion_html(manifest)
    same = manifest | {"runs": manifest["runs"][:1]}
    assert "different images" not in header_html(same)
    assert TEXT["note"] not in footer_html(manifest)
    run = manifest["runs"][0]
    assert (run["num_tokens"], run["step"], run["checkpoint"]) == (16, 0, None)
    assert run["imported"]["kind"] == "tokenizer" and run["data"]["n"] == 20
    tokenizer = {"name": "vae", "imported": {"address": "softvq:folder"}}
    generator = run | {"imported": None, "tokenizer": tokenizer}
    assert "on vae, imported from softvq:folder" in header_html(manifest | {"runs": [generator]})


def test_own_text_is_separated_and_sanitized():
    assert split_text({"title": "t", "run": "a", "note": ""}) == ({"title": "t"}, {"run": "a"})
    html = markdown_html(
        "# T\n<script>x</script>\n\n[a](javascript:x) [b](https://b.org) ![c](https://c.org/c.png)"
    )
    assert "<h3>T</h3>" in html and '<a href="https://b.org">b</a>' in html
    assert "<script" not in html and "javascript:" not in html and "<img" not in html


def test_more_notes_than_views_are_refused(tmp_path):
    with pytest.raises(UserError, match="2 notes"):
        views_report(folder=tmp_path, views=["run=a"], notes=["one", "two"])
