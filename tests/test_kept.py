"""Results on disk: the same when they are opened, and computed anew when anything they depend on has changed."""

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
from test_analysis_contract import several

from workbench.analysis import get, result_serialization
from workbench.analysis.base import Result
from workbench.analysis.codebook.usage import CodebookUsage, codebook_usage
from workbench.analysis.result_cache import cache_key, cached_result, code_fingerprint, evict_oldest
from workbench.storage.evidence import Evidence


def counted(analysis: Callable[..., Result]) -> tuple[Callable[..., Result], list[int]]:
    """The analysis, and a list that grows each time it is computed."""
    times: list[int] = []

    def computed(*given: Any, **named: Any) -> Result:
        times.append(1)
        return analysis(*given, **named)

    computed.__name__ = analysis.__name__
    computed.__annotations__ = {"return": CodebookUsage}
    return computed, times


def given() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {"codes": random.integers(0, 8, (20, 4)), "codebook": random.normal(size=(1, 8, 2))}


def entries(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()]


def test_a_result_is_computed_once_and_then_opened(tmp_path):
    computed, times = counted(codebook_usage)
    first, again = (
        cached_result(tmp_path / ".results", computed, given(), {"log": True}) for _ in range(2)
    )
    assert len(times) == 1
    assert again.summary() == first.summary()
    np.testing.assert_array_equal(again.codebooks[0].counts, first.codebooks[0].counts)


def test_another_number_in_an_array_another_control_or_other_code_have_another_key(tmp_path):
    hashes, one, other = tmp_path / "hashes.json", given(), given()
    other["codes"][3, 2] += 1
    mine = cache_key("usage", one, {"log": True}, hashes=hashes)
    assert cache_key("usage", given(), {"log": True}, hashes=hashes) == mine
    assert cache_key("usage", other, {"log": True}, hashes=hashes) != mine
    assert cache_key("usage", one, {"log": False}, hashes=hashes) != mine
    assert cache_key("distances", one, {"log": True}, hashes=hashes) != mine
    assert cache_key("usage", one, {"log": True}, code="another", hashes=hashes) != mine


def test_any_array_and_any_word_of_several_runs_has_a_part_in_the_key(tmp_path):
    runs, hashes = several(12)[:2], tmp_path / "hashes.json"
    others = [
        replace(runs[1], labels=1 - runs[1].labels),
        replace(runs[1], provenance=runs[1].provenance | {"step": 2}),
    ]
    keys = {
        cache_key("a", {"evidences": (runs[0], other)}, {}, hashes=hashes) for other in (runs[1], *others)
    }
    assert len(keys) == 3


def test_the_codes_fingerprint_changes_with_a_letter_of_a_file_and_with_its_name(tmp_path):
    found = []
    for name, text in (("a.py", "x = 1\n"), ("a.py", "x = 2\n"), ("b.py", "x = 2\n")):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        (folder / name).write_text(text)
        found.append(code_fingerprint(folder))
    assert len(set(found)) == 3


def test_an_array_in_a_file_is_hashed_once_and_again_when_the_file_is_another(tmp_path):
    path, hashes = tmp_path / "codes.npy", tmp_path / "hashes.json"

    def named(codes: np.ndarray) -> str:
        return cache_key("usage", {"codes": codes}, {}, hashes=hashes)

    np.save(path, np.zeros((50, 4), np.int32))
    before = np.load(path, mmap_mode="r")
    first = named(before)
    assert named(np.zeros((50, 4), np.int32)) == first  # where it lies does not matter
    assert len(json.loads(hashes.read_text())) == 1
    said = hashes.stat().st_mtime_ns
    assert named(np.load(path, mmap_mode="r")) == first and hashes.stat().st_mtime_ns == said
    _saved(tmp_path / "aside.npy", np.ones((50, 4), np.int32)).replace(path)
    assert named(np.load(path, mmap_mode="r")) != first
    assert (
        named(before) == first
    )  # mapped before the file was replaced: what is hashed is what is seen


def _saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("file", ["result.json", "0.npy"])
@pytest.mark.parametrize("harm", ["gone", "short", "changed"])
def test_a_damaged_entry_is_computed_anew_and_mended(file, harm, tmp_path):
    computed, times = counted(codebook_usage)
    place = tmp_path / ".results"
    first = cached_result(place, computed, given(), {})
    path = entries(place)[0] / file
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.unlink() if harm == "gone" else path.write_bytes(raw if harm == "changed" else raw[:-9])
    assert cached_result(place, computed, given(), {}).summary() == first.summary()
    assert len(times) == 2
    cached_result(place, computed, given(), {})
    assert len(times) == 2


def test_a_file_can_name_no_class_but_those_of_the_analyses(tmp_path):
    @dataclass(frozen=True)
    class Elsewhere(Result):
        def figure(self) -> go.Figure:
            return go.Figure()

        def table(self) -> pd.DataFrame:
            return pd.DataFrame()

        def summary(self) -> str:
            return "."

    with pytest.raises(TypeError, match="A result that is kept holds no Elsewhere"):
        result_serialization.write(Elsewhere(), tmp_path)
    result_serialization.write(codebook_usage(**given()), tmp_path)
    told = json.loads((tmp_path / "result.json").read_text())
    told["result"]["of"] = "subprocess:Popen"
    told["digest"] = result_serialization._of_text({x: told[x] for x in ("result", "arrays")})
    (tmp_path / "result.json").write_text(json.dumps(told))
    assert result_serialization.read(tmp_path) is None


def test_numbers_keep_their_kind_and_nan_and_infinity_their_value(tmp_path):
    result = codebook_usage(**given())
    odd = replace(
        result.codebooks[0],
        gini=float("nan"),
        top_share=float("inf"),
        chao1=np.float32(1 / 3),
        verdict='<b>"é"',
    )
    result_serialization.write(CodebookUsage(codebooks=(odd,), log=True), tmp_path)
    found = result_serialization.read(tmp_path).codebooks[0]
    assert np.isnan(found.gini) and found.top_share == float("inf") and found.verdict == '<b>"é"'
    assert type(found.chao1) is np.float32 and found.chao1 == odd.chao1


def test_where_nothing_can_be_written_a_result_is_computed_all_the_same(tmp_path):
    (tmp_path / ".results").write_text("a file, not a folder")
    assert (
        cached_result(tmp_path / ".results", codebook_usage, given(), {}).codebooks[0].tokens == 80
    )
    assert (
        cached_result(tmp_path / "gone" / ".results", codebook_usage, given(), {})
        .codebooks[0]
        .tokens
        == 80
    )
    assert (tmp_path / ".results").is_file()
    assert not (tmp_path / "gone").exists()


def test_beyond_the_room_the_oldest_go(tmp_path):
    for i, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.npy").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (i, i))
    evict_oldest(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


def test_an_entry_leaves_nothing_beside_it_and_is_no_run(tmp_path):
    from workbench.storage.run import find_runs

    cached_result(tmp_path / ".results", codebook_usage, given(), {})
    assert len(entries(tmp_path / ".results")) == 1
    assert find_runs(tmp_path) == ([], [])


def test_a_refusal_is_not_kept(tmp_path):
    evidence = Evidence({"run": "a", "step": 1})
    with pytest.raises(ValueError, match="no selected run has all three"):
        cached_result(tmp_path / ".results", get("token_budget"), {"evidences": (evidence,)}, {})
    assert not list(tmp_path.glob(".results/*/"))


def test_a_bench_opened_again_opens_the_result_and_evidence_collected_anew_makes_another(
    trained, tmp_path
):
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
