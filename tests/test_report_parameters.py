"""Parameters of reports: lists of runs whose names contain commas, and imported runs."""

import torch.nn.functional as F

from workbench.hosts.reports.manifest import build_manifest
from workbench.hosts.reports.sweep import parse_grid
from workbench.hosts.reports.template import check_parameters, find_template, split_at_commas
from workbench.launch.evaluate import evaluate
from workbench.tokenizers.pretrained.wrapped import wrap


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
    run = build_manifest(template, values, [{"folder": "a", "step": 0}])["runs"][0]
    assert (run["num_tokens"], run["step"], run["checkpoint"]) == (16, 0, None)
    assert run["imported"]["kind"] == "tokenizer" and run["data"]["n"] == 20
