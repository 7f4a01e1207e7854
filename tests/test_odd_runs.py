"""Damaged, special and odd files of one run: the healthy run next to it is always listed."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from workbench import cli
from workbench.core.errors import RunError, UserError
from workbench.hosts.notebook.explorer import open as open_explorer
from workbench.storage.run import Run
from workbench.workspace.live import LiveModel
from workbench.workspace.run_table import filter_runs, with_settings
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

OLD_RUN = Path(__file__).parent / "fixtures" / "runs-v1" / "softvq"
EVIDENCE = "evidence/step-000004"
FILES = (
    *("config.json", "status.json", "log.jsonl", "events.jsonl", "control.json"),
    *("control/000001.json", f"{EVIDENCE}/provenance.json", f"{EVIDENCE}/images.npy"),
)
MAX_SECONDS = 10
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
DAMAGES = st.one_of(
    st.tuples(st.just("truncate"), st.floats(0, 1)),
    st.tuples(st.just("change a value"), st.tuples(st.integers(0, 10**6), VALUES)),
    st.tuples(st.just("JSON"), VALUES),
    st.tuples(st.just("bytes"), st.binary(max_size=200)),
    st.tuples(st.just("nesting"), st.sampled_from(["[", '{"a":', '[{"step":'])),
)


DETERMINISTIC = settings(
    derandomize=True,
    deadline=MAX_SECONDS * 1000,
    database=None,
    suppress_health_check=list(HealthCheck),
)
COMPARISON = ViewState(runs=("healthy", "odd"), analysis="metric_comparison")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two copies of a run of format 1: `odd` is damaged by the tests, `healthy` is not."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("healthy", "odd"):
        shutil.copytree(OLD_RUN, folder / name)
    return folder


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Give a file another content during the block."""
    original = path.read_bytes() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink()
        if original is not None:
            path.write_bytes(original)


def damaged(content: bytes, kind: str, value) -> bytes:
    """Return the content of a file with one kind of damage."""
    if kind == "truncate":
        return content[: int(value * len(content))]
    if kind == "bytes":
        return value
    if kind == "nesting":
        return value.encode() * 100_000 + b"\n"
    if kind == "JSON":
        return (json.dumps(value) + "\n").encode()
    place, replacement = value
    try:
        lines = [json.loads(line) for line in content.splitlines()]
    except ValueError:
        try:
            lines = [json.loads(content)]
        except ValueError:
            return json.dumps(replacement).encode()
    changed = [with_changed_value(line, place, replacement) for line in lines]
    return "".join(json.dumps(line) + "\n" for line in changed).encode()


def with_changed_value(record, place: int, value):
    """Return JSON in which one value is another one."""
    if not isinstance(record, dict) or not record:
        return value
    name = sorted(record)[place % len(record)]
    inner = record[name]
    if isinstance(inner, dict) and inner and place % 2:
        return record | {name: with_changed_value(inner, place // 2, value)}
    return record | {name: value}


def look_at(folder: Path, *, draw: bool = True) -> Workspace:
    """Read all that the list of runs, the Live tab and an analysis show of every run.

    Parameters
    ----------
    folder : Path
    draw : bool
        Whether to draw the figure of the Live tab, which takes most of the time.
    """
    workspace = Workspace(folder)
    table = workspace.table()
    assert "healthy" in set(table["run"])
    assert set(table["run"]) == set(workspace.runs)
    assert "odd" in workspace.runs or any("odd" in sentence for sentence in workspace.refused)
    with_settings(table, workspace.runs.values(), differing=False)
    filter_runs(with_settings(table, workspace.runs.values()), "kind = SoftVQ")
    view = workspace.default_view()
    with contextlib.suppress(UserError):
        workspace.about(view)
    for run in list(workspace.runs.values()):
        with contextlib.suppress(UserError):
            model = LiveModel(run)
            model.refresh()
            assert model.header_html
            model.preview_png()
            if draw and run.name == "odd":
                model.figure()
            run.evidence()
            run.commands()
            run.history()
    return workspace


@pytest.mark.slow
@settings(DETERMINISTIC, max_examples=120)
@given(name=st.sampled_from(FILES), damage=DAMAGES)
def test_no_damage_hides_the_healthy_run(folder, name, damage):
    path = folder / "odd" / name
    content = path.read_bytes() if path.exists() else b'{"id": 1, "command": "stop"}'
    with replaced(path, damaged(content, *damage)):
        look_at(folder, draw=name.endswith(".jsonl"))


@pytest.mark.slow
@settings(DETERMINISTIC, max_examples=40)
@given(name=st.sampled_from(FILES[-2:]), damage=DAMAGES)
def test_damaged_evidence_is_compared_or_named(folder, name, damage):
    path = folder / "odd" / name
    with replaced(path, damaged(path.read_bytes(), *damage)), contextlib.suppress(UserError):
        result = Workspace(folder).result(COMPARISON)
        assert result.left_out or len(result.table()) == 1


@pytest.fixture
def runs(tmp_path):
    for name in ("healthy", "odd"):
        shutil.copytree(OLD_RUN, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "loop"])
@pytest.mark.parametrize("name", FILES)
def test_special_file_never_blocks(runs, name, kind):
    path = runs / "odd" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    look_at(runs)


def test_every_host_lists_the_refused_run(runs):
    (runs / "odd" / "status.json").write_text('{"state": "running", "step": "three"}')
    answer = CliRunner().invoke(cli.app, ["list", str(runs)])
    assert answer.exit_code == 0 and "healthy" in answer.output
    assert "odd/status.json is damaged" in answer.output
    assert "odd/status.json is damaged" in open_explorer(runs)._repr_html_()


@pytest.mark.parametrize("suffix", [" (copy)", ".bak", "-old", "x"])
def test_copies_of_evidence_are_ignored(runs, suffix):
    evidence = runs / "odd" / "evidence"
    shutil.copytree(evidence / "step-000004", evidence / f"step-000009{suffix}")
    (evidence / "step-000010").write_text("a file")
    workspace = look_at(runs)
    assert workspace.collected("odd") == [4] and workspace.run("odd").evidence().step == 4


@pytest.mark.parametrize("place", [".", "odd/evidence"])
def test_link_to_itself_hides_no_run(runs, place):
    link = runs / place / "step-000009"
    link.symlink_to(link.name)
    workspace = look_at(runs)
    assert set(workspace.runs) == {"healthy", "odd"} and not workspace.refused
    assert workspace.collected("odd") == [4]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"odd\xe9", r"odd\xe9"),  # not UTF-8
        (b"odd\x1b]0;title\x07", r"odd\x1b]0;title\x07"),  # a command to the terminal
        ("odd\u202efig.exe".encode(), r"odd\u202efig.exe"),  # shown as another name
    ],
)
def test_name_that_cannot_be_shown_is_refused(runs, name, shown):
    odd = Path(os.fsdecode(os.fsencode(runs) + b"/" + name))
    (runs / "odd").rename(odd)
    workspace = look_at(runs)
    assert set(workspace.runs) == {"healthy"} and shown in workspace.refused[0]
    with pytest.raises(RunError) as error:  # as a folder of its own
        Workspace(odd)
    assert shown in str(error.value)


def test_names_of_the_folders_above_are_not_checked(runs):
    above = runs.parent / "soft\u00adhyphen"
    runs.rename(above)
    assert set(Workspace(above).runs) == {"healthy", "odd"}
    assert set(Workspace(above / "odd").runs) == {"odd"}


def test_unreadable_status_is_refused(runs, monkeypatch):
    def refuse(path, *arguments, **keywords):
        if path.parent.name == "odd" and path.name == "status.json":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **keywords)

    original = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    workspace = look_at(runs)
    assert "permission denied" in workspace.refused[0]


@pytest.mark.parametrize("reader", ["status", "evidence_steps"])
def test_any_error_of_one_run_is_a_refusal(runs, monkeypatch, reader):
    def fail(run: Run):
        if run.name == "odd":
            raise ZeroDivisionError("unexpected")
        return original(run)

    member = getattr(Run, reader)
    original = member.fget if isinstance(member, property) else member
    monkeypatch.setattr(Run, reader, property(fail) if isinstance(member, property) else fail)
    workspace = look_at(runs)
    assert set(workspace.runs) == {"healthy"} and "unexpected" in workspace.refused[0]


def test_any_error_of_a_row_is_a_refusal(runs, monkeypatch):
    def fail(workspace: Workspace, run: Run) -> dict:
        if run.name == "odd":
            raise ZeroDivisionError("unexpected")
        return original(workspace, run)

    original = Workspace._row
    monkeypatch.setattr(Workspace, "_row", fail)
    workspace = Workspace(runs)
    assert workspace.table()["run"].tolist() == ["healthy"] and "odd" in workspace.refused[0]


def test_linked_run_has_the_name_of_its_link(runs, tmp_path):
    other = Path(shutil.copytree(runs / "odd", tmp_path / "elsewhere" / "healthy"))
    shutil.rmtree(runs / "odd")
    (runs / "odd").symlink_to(other)
    workspace = look_at(runs)
    assert set(workspace.runs) == {"healthy", "odd"} and not workspace.refused
    assert workspace.run("odd").evidence().provenance["run"] == "odd"


def test_run_that_disappears_is_refused(runs):
    workspace = Workspace(runs)
    model = LiveModel(workspace.run("odd"))
    shutil.rmtree(runs / "odd")
    assert workspace.table()["run"].tolist() == ["healthy"] and "odd" in workspace.refused[0]
    model.refresh()
    assert "does not exist any more" in model.header_html and not model.accepts_commands


def test_null_number_of_tokens_is_no_obstacle(runs):
    path = runs / "odd" / "config.json"
    config = json.loads(path.read_text())
    config["settings"]["tokens"] = None
    path.write_text(json.dumps(config))
    look_at(runs)


def test_single_odd_run_has_a_sentence(runs):
    (runs / "odd" / "config.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="nested too deeply"):
        Run(runs / "odd")
    with pytest.raises(RunError, match="nested too deeply"):
        Workspace(runs / "odd")
