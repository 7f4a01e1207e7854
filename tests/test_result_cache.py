"""The cache returns equal results, and misses if anything that a result depends on has changed."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from test_analysis_contract import evidence, several

from workbench.analysis import get, result_serialization
from workbench.analysis.base import Result
from workbench.analysis.codebook.distances import code_distances
from workbench.analysis.codebook.usage import CodebookUsage, codebook_usage
from workbench.analysis.result_cache import (
    cache_key,
    cached_result,
    code_fingerprint,
    evict_oldest,
    lookup,
)
from workbench.core.errors import UserError
from workbench.storage.evidence import Evidence


def counted(analysis: Callable[..., Result]) -> tuple[Callable[..., Result], list[int]]:
    """Return the analysis, and a list that grows by one entry per computation."""
    calls: list[int] = []

    def counting(*inputs: Any, **controls: Any) -> Result:
        calls.append(1)
        return analysis(*inputs, **controls)

    counting.__name__ = analysis.__name__
    counting.__annotations__ = {"return": CodebookUsage}
    return counting, calls


def inputs() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {"codes": random.integers(0, 8, (20, 4)), "codebook": random.normal(size=(1, 8, 2))}


def entries(cache_dir: Path) -> list[Path]:
    return [path for path in cache_dir.iterdir() if path.is_dir()]


def test_result_is_computed_once(tmp_path):
    analysis, calls = counted(codebook_usage)
    first, again = (
        cached_result(tmp_path / ".results", analysis, inputs(), {"log": True}) for _ in range(2)
    )
    assert len(calls) == 1
    assert again.summary() == first.summary()
    np.testing.assert_array_equal(again.codebooks[0].counts, first.codebooks[0].counts)


def test_composed_results_are_cached_with_their_default_controls(tmp_path):
    cache, runs = tmp_path / ".results", (evidence(60),)
    cached_result(cache, get("checks"), {"evidences": runs}, {"show": "all"})
    arguments = runs[0].kwargs_for(code_distances)
    assert lookup(cache, code_distances, arguments, {"seed": 0}) is not None
    assert lookup(cache, code_distances, arguments, {"seed": 1}) is None


def test_key_depends_on_arrays_controls_and_code(tmp_path):
    hashes, changed = tmp_path / "hashes.json", inputs()
    changed["codes"][3, 2] += 1
    key = cache_key("usage", inputs(), {"log": True}, hashes=hashes)
    assert cache_key("usage", inputs(), {"log": True}, hashes=hashes) == key
    assert cache_key("usage", changed, {"log": True}, hashes=hashes) != key
    assert cache_key("usage", inputs(), {"log": False}, hashes=hashes) != key
    assert cache_key("distances", inputs(), {"log": True}, hashes=hashes) != key
    assert cache_key("usage", inputs(), {"log": True}, code="another", hashes=hashes) != key


def test_key_depends_on_every_run(tmp_path):
    runs, hashes = several(12)[:2], tmp_path / "hashes.json"
    variants = [
        replace(runs[1], labels=1 - runs[1].labels),
        replace(runs[1], provenance=runs[1].provenance | {"step": 2}),
    ]
    keys = {
        cache_key("a", {"evidences": (runs[0], other)}, {}, hashes=hashes)
        for other in (runs[1], *variants)
    }
    assert len(keys) == 3


def test_code_fingerprint_depends_on_names_and_content(tmp_path):
    fingerprints = []
    for name, text in (("a.py", "x = 1\n"), ("a.py", "x = 2\n"), ("b.py", "x = 2\n")):
        folder = tmp_path / str(len(fingerprints))
        folder.mkdir()
        (folder / name).write_text(text)
        fingerprints.append(code_fingerprint(folder))
    assert len(set(fingerprints)) == 3


def test_hash_of_a_file_is_stored_until_it_changes(tmp_path):
    path, hashes = tmp_path / "codes.npy", tmp_path / "hashes.json"

    def key_of(codes: np.ndarray) -> str:
        return cache_key("usage", {"codes": codes}, {}, hashes=hashes)

    np.save(path, np.zeros((50, 4), np.int32))
    mapped = np.load(path, mmap_mode="r")
    first = key_of(mapped)
    assert key_of(np.zeros((50, 4), np.int32)) == first  # an array in memory has the same key
    assert len(json.loads(hashes.read_text())) == 1
    modified = hashes.stat().st_mtime_ns
    assert key_of(np.load(path, mmap_mode="r")) == first and hashes.stat().st_mtime_ns == modified
    np.save(tmp_path / "new.npy", np.ones((50, 4), np.int32))
    (tmp_path / "new.npy").replace(path)
    assert key_of(np.load(path, mmap_mode="r")) != first
    assert key_of(mapped) == first  # mapped before the file was replaced


@pytest.mark.parametrize("file", ["result.json", "0.npy"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_damaged_entry_is_computed_again(file, damage, tmp_path):
    analysis, calls = counted(codebook_usage)
    cache_dir = tmp_path / ".results"
    first = cached_result(cache_dir, analysis, inputs(), {})
    path = entries(cache_dir)[0] / file
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(raw if damage == "changed" else raw[:-9])
    assert cached_result(cache_dir, analysis, inputs(), {}).summary() == first.summary()
    assert len(calls) == 2
    cached_result(cache_dir, analysis, inputs(), {})
    assert len(calls) == 2


def test_file_can_name_classes_of_analyses_only(tmp_path):
    @dataclass(frozen=True)
    class Unknown(Result):
        def figure(self) -> go.Figure:
            return go.Figure()

        def table(self) -> pd.DataFrame:
            return pd.DataFrame()

        def summary(self) -> str:
            return "."

    with pytest.raises(TypeError, match="Unknown"):
        result_serialization.write(Unknown(), tmp_path)
    result_serialization.write(codebook_usage(**inputs()), tmp_path)
    rename_class(tmp_path, "subprocess:Popen")
    assert result_serialization.read(tmp_path) is None


def rename_class(folder: Path, name: str) -> None:
    """Replace the class of a stored result, with a valid digest."""
    content = json.loads((folder / "result.json").read_text())
    content["result"]["class"] = name
    unsigned = {key: content[key] for key in ("result", "arrays")}
    content["digest"] = result_serialization._json_digest(unsigned)
    (folder / "result.json").write_text(json.dumps(content))


def test_entry_of_a_removed_class_is_a_miss(tmp_path):
    analysis, calls = counted(codebook_usage)
    cache_dir = tmp_path / ".results"
    first = cached_result(cache_dir, analysis, inputs(), {})
    rename_class(entries(cache_dir)[0], "workbench.analysis.usage:Usage")
    assert cached_result(cache_dir, analysis, inputs(), {}).summary() == first.summary()
    assert len(calls) == 2


def test_special_numbers_and_text_are_restored(tmp_path):
    result = codebook_usage(**inputs())
    special = replace(
        result.codebooks[0],
        gini=float("nan"),
        top_share=float("inf"),
        chao1=np.float32(1 / 3),
        verdict='<b>"é"',
    )
    result_serialization.write(CodebookUsage(codebooks=(special,), log=True), tmp_path)
    stored = result_serialization.read(tmp_path).codebooks[0]
    assert np.isnan(stored.gini) and stored.top_share == float("inf") and stored.verdict == '<b>"é"'
    assert type(stored.chao1) is np.float32 and stored.chao1 == special.chao1


def test_result_is_computed_without_a_writable_cache(tmp_path):
    (tmp_path / ".results").write_text("a file, not a folder")
    assert (
        cached_result(tmp_path / ".results", codebook_usage, inputs(), {}).codebooks[0].tokens == 80
    )
    assert (
        cached_result(tmp_path / "gone" / ".results", codebook_usage, inputs(), {})
        .codebooks[0]
        .tokens
        == 80
    )
    assert (tmp_path / ".results").is_file()
    assert not (tmp_path / "gone").exists()


def test_oldest_results_are_evicted(tmp_path):
    for i, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.npy").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (i, i))
    evict_oldest(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


def test_entry_is_not_listed_as_a_run(tmp_path):
    from workbench.storage.run_search import find_runs

    cached_result(tmp_path / ".results", codebook_usage, inputs(), {})
    assert len(entries(tmp_path / ".results")) == 1
    assert find_runs(tmp_path) == ([], [])


def test_errors_are_not_cached(tmp_path):
    evidence = Evidence({"run": "a", "step": 1})
    with pytest.raises(UserError):
        cached_result(tmp_path / ".results", get("token_budget"), {"evidences": (evidence,)}, {})
    assert not list(tmp_path.glob(".results/*/"))


@pytest.mark.slow
def test_new_evidence_makes_a_new_entry(trained, tmp_path):
    from workbench.workspace.view_state import ViewState
    from workbench.workspace.workspace import Workspace

    shutil.copytree(trained / "soft-2", tmp_path / "soft-2")
    state = ViewState(runs=("soft-2",), analysis="codebook_usage")
    first = Workspace(tmp_path).result(state)
    (entry,) = entries(tmp_path / ".results")
    written = entry.stat().st_mtime_ns
    assert Workspace(tmp_path).result(state).summary() == first.summary()
    assert [path.stat().st_mtime_ns for path in entries(tmp_path / ".results")] == [written]
    evidence = Workspace(tmp_path).run("soft-2").evidence()
    replace(evidence, codes=np.zeros_like(evidence.codes)).save(
        tmp_path / "soft-2" / "evidence" / f"step-{evidence.step:06d}"
    )
    assert Workspace(tmp_path).result(state).codebooks[0].used == 1
    assert len(entries(tmp_path / ".results")) == 2
