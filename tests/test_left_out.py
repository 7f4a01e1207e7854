"""Comparisons of many runs, and of runs that cannot be read: nothing is dropped silently."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from workbench.core.errors import RunError, UserError
from workbench.hosts.dashboard.app import Session
from workbench.hosts.notebook.explorer import open as open_explorer
from workbench.hosts.reports.report import report
from workbench.storage.analysis_arguments import array_names
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

NUM_RUNS = 500
MAX_OPEN_FILES = 256
NUM_IMAGES = 24


def create_run(folder: Path, seed: int) -> None:
    """Create a run with evidence; its images are large enough to be mapped and not read."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (NUM_IMAGES, 32, 32, 3), np.uint8)
    noise = generator.integers(0, 2, images.shape, np.uint8)
    settings = {"num_tokens": 4, "dim": 8}
    run = Run.create(folder, {"class": "workbench.tokenizers.autoencoder:AE", "settings": settings})
    run.report("finished", 5, steps=5)
    provenance = {"run": folder.name, "step": 5, "data": "digits", "fingerprint": "a"}
    provenance |= {"n": NUM_IMAGES, "of": NUM_IMAGES, "class": "a:AE", "settings": settings}
    arrays = {"images": images, "reconstructions": images ^ noise}
    Evidence(provenance=provenance, **arrays).save(run.evidence_folder(5))


@pytest.fixture
def runs(tmp_path):
    """Three runs on the same images; an array of `c` is truncated."""
    create_run(tmp_path / "a", 0)
    for name in ("b", "c"):
        shutil.copytree(tmp_path / "a", tmp_path / name)
        path = tmp_path / name / "evidence" / "step-000005" / "provenance.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"run": name}))
    array = tmp_path / "c" / "evidence" / "step-000005" / "reconstructions.npy"
    array.write_bytes(array.read_bytes()[:-4])
    return tmp_path


COMPARISON = ViewState(runs=("a", "b", "c"), analysis="metric_comparison")


@pytest.mark.slow
def test_many_runs_compare_with_few_open_files(tmp_path):
    create_run(tmp_path / "r000", 0)
    source = tmp_path / "r000" / "evidence" / "step-000005" / "provenance.json"
    provenance = json.loads(source.read_text())
    for number in range(1, NUM_RUNS):
        folder = tmp_path / f"r{number:03d}"
        shutil.copytree(tmp_path / "r000", folder, copy_function=os.link)
        path = folder / "evidence" / "step-000005" / "provenance.json"
        path.unlink()
        path.write_text(json.dumps(provenance | {"run": folder.name}))
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, ({MAX_OPEN_FILES}, {MAX_OPEN_FILES}))
        from workbench.workspace.view_state import ViewState
        from workbench.workspace.workspace import Workspace
        workspace = Workspace({str(tmp_path)!r})
        view = ViewState(runs=tuple(workspace.runs), analysis="metric_comparison")
        result = workspace.result(view)
        print(len(workspace.runs), len(result.table()) + 1, len(result.left_out))
    """
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert answer.stdout.split() == [str(NUM_RUNS), str(NUM_RUNS), "0"], answer.stderr


def test_result_names_a_run_that_cannot_be_read(runs):
    result = Workspace(runs).result(COMPARISON)
    assert [item.run for item in result.left_out] == ["c"]
    assert "reconstructions.npy" in result.left_out[0].reason
    assert result.full_summary().startswith("Incomplete: 1 selected run is missing here. c: ")
    assert result.full_summary() in result._repr_html_().replace("&#x27;", "'")
    assert set(result.table()["run"]) == {"b"}


def test_result_names_a_run_without_evidence(runs):
    shutil.rmtree(runs / "c" / "evidence")
    result = Workspace(runs).result(COMPARISON)
    assert "no evidence yet" in result.left_out[0].reason


def test_a_primary_run_without_evidence_does_not_hide_the_others(runs):
    view = COMPARISON.change(runs=("c", "a", "b"))
    shutil.rmtree(runs / "c" / "evidence")
    workspace = Workspace(runs)
    result = workspace.result(view)
    assert [item.run for item in result.left_out] == ["c"]
    assert set(result.table()["run"]) == {"b"}
    assert set(result.run_colors) == {"a", "b", "c"}
    with pytest.raises(RunError):  # an analysis of one run has nothing to show
        workspace.result(view.change(analysis="reconstruction"))


def test_result_is_complete_after_repair(runs):
    workspace = Workspace(runs)
    assert workspace.result(COMPARISON).left_out
    array = runs / "c" / "evidence" / "step-000005" / "reconstructions.npy"
    shutil.copy(runs / "b" / "evidence" / "step-000005" / "reconstructions.npy", array)
    assert not workspace.result(COMPARISON).left_out


def test_analysis_of_one_run_does_not_read_the_others(runs):
    result = Workspace(runs).result(COMPARISON.change(analysis="reconstruction"))
    assert not result.left_out


def test_array_names_follow_the_signature():
    def one(latents, grid=None, *, images=1):
        """An analysis."""

    def several(evidences):
        """An analysis of several runs."""

    assert array_names(one) == {"latents"} and array_names(several) is None


def test_hosts_name_the_missing_run(runs):
    explorer = open_explorer(runs).show("metric_comparison", runs=["a", "b", "c"])
    assert "Incomplete: 1 selected run" in explorer._repr_html_()
    session = Session(runs)
    session.state.open_analysis("metric_comparison", runs=("a", "b", "c"))
    assert "Incomplete: 1 selected run" in session.analyses["metric_comparison"].summary.object


@pytest.mark.slow
def test_report_of_an_incomplete_comparison_fails(runs):
    page = runs / "comparison.html"
    with pytest.raises(UserError, match="incomplete.* c: "):
        report(
            "comparison",
            page,
            run=str(runs / "a"),
            compare_with=[str(runs / "b"), str(runs / "c")],
            progress=False,
        )
    manifest = json.loads((runs / "comparison.manifest.json").read_text())
    assert [item["run"] for item in manifest["left_out"]] == ["c"]
    assert "reconstructions.npy" in manifest["left_out"][0]["reason"]
    assert [run["name"] for run in manifest["runs"]] == ["a", "b"]
    assert "Incomplete: 1 selected run" in page.read_text()


def test_report_of_views_fails_too(runs):
    with pytest.raises(UserError, match="incomplete"):
        report("views", runs / "views.html", folder=runs, views=[COMPARISON])
    manifest = json.loads((runs / "views.manifest.json").read_text())
    assert [item["run"] for item in manifest["left_out"]] == ["c"]


def test_damaged_primary_run_is_refused(runs):
    with pytest.raises(RunError, match="reconstructions.npy"):
        Workspace(runs).result(COMPARISON.change(runs=("c", "a")))
