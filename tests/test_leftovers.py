"""Killed writers: nothing is lost, and the next writer removes what they left."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

from workbench.core.errors import RunError
from workbench.storage import evidence_files
from workbench.storage.atomic import write_text
from workbench.storage.evidence import Evidence, verify_evidence
from workbench.storage.leftovers import (
    FOREIGN_AGE_S,
    previous_path,
    remove_leftovers,
    scratch_folder,
    temporary_path,
)
from workbench.storage.run import Run

FILE_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
MAX_OPERATIONS = 60

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def killed_at(operation: int, write: Callable[[], None]) -> bool:
    """Write in a process that is killed before a file operation; False if it had fewer."""
    process = os.fork()
    if process == 0:
        count = 0

        def kill(event: str, _: object) -> None:
            nonlocal count
            if event in FILE_OPERATIONS:
                count += 1
                if count == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        try:
            write()
        finally:
            os._exit(0)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(folder: Path, value: int) -> None:
    provenance = {"run": "a", "step": 5, "seed": value}
    codes = np.full((3, 2), value, np.int32)
    Evidence(provenance=provenance, codes=codes, labels=np.arange(3)).save(folder)


def value_of(evidence: Evidence) -> int:
    assert (evidence.codes == evidence.provenance["seed"]).all()
    return evidence.provenance["seed"]


def test_evidence_survives_a_kill_at_every_file_operation(tmp_path):
    run = Run.create(tmp_path / "a", {"class": "workbench.tests:Table", "settings": {}})
    folder = run.evidence_folder(5)
    save(folder, 0)
    values = set()
    for operation in range(1, MAX_OPERATIONS):
        if not killed_at(operation, lambda: save(folder, 1)):
            break
        values.add(value_of(run.evidence()))
        save(folder, 0)
        assert names_in(folder.parent) == ["step-000005"]
    assert operation > 8 and values == {0, 1}


def test_text_survives_a_kill_at_every_file_operation(tmp_path):
    path = tmp_path / "status.json"
    write_text(path, "old")
    for operation in range(1, MAX_OPERATIONS):
        if not killed_at(operation, lambda: write_text(path, "new")):
            break
        assert path.read_text() in ("old", "new")
        write_text(path, "old")
        assert names_in(tmp_path) == ["status.json"]
    assert operation > 2


def test_first_evidence_of_a_killed_writer_is_not_believed(tmp_path):
    folder = tmp_path / "evidence" / "step-000005"
    assert killed_at(4, lambda: save(folder, 1))
    with pytest.raises(RunError, match="no evidence"):
        Evidence.open(folder)


def test_files_of_a_living_writer_stay(tmp_path):
    unfinished = temporary_path(tmp_path / "a.json")
    unfinished.write_text("{")
    write_text(tmp_path / "b.json", "{}")
    assert unfinished.exists()
    # Another process with the same number, that started at another time.
    pid = os.getpid()
    impostor = unfinished.with_name(unfinished.name.replace(f".{pid}-", f".{pid}-1"))
    unfinished.rename(impostor)
    write_text(tmp_path / "b.json", "{}")
    assert not impostor.exists()


def test_files_of_another_machine_stay_for_a_day(tmp_path):
    foreign = tmp_path / ".a.json.17-1700000000000-00000000-01234567"
    unnamed = tmp_path / ".a.json.0123456789abcdef"
    for path in (foreign, unnamed):
        path.write_text("{")
    remove_leftovers(tmp_path)
    assert foreign.exists() and unnamed.exists()
    day_ago = time.time() - FOREIGN_AGE_S - 1
    for path in (foreign, unnamed):
        os.utime(path, (day_ago, day_ago))
    remove_leftovers(tmp_path)
    assert not names_in(tmp_path)


def test_names_of_others_are_left_alone(tmp_path):
    names = [".gitignore", ".step-000005.17", ".a.json.swp", "a.1-1-00000000-01234567"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == sorted(names)


def test_only_copy_is_never_removed(tmp_path):
    moved = tmp_path / ".step-000005.0123456789abcdef"  # a version before wrote such names
    moved.mkdir()
    os.utime(moved, (0, 0))
    remove_leftovers(tmp_path)
    assert moved.exists()


def test_reader_waits_for_a_living_writer(tmp_path):
    run = Run.create(tmp_path / "a", {"class": "workbench.tests:Table", "settings": {}})
    folder = run.evidence_folder(5)
    save(folder, 3)
    moved = previous_path(folder)
    folder.rename(moved)
    timer = Timer(0.1, moved.rename, [folder])
    timer.start()
    assert run.evidence_steps == [5]
    assert value_of(run.evidence()) == 3
    timer.join()


def test_evidence_that_is_replaced_while_it_is_verified_is_whole(tmp_path, monkeypatch):
    folder = tmp_path / "step-000005"
    save(folder, 3)
    check_file = evidence_files._check_file

    def replace_once(path: Path, digest: str) -> None:
        monkeypatch.setattr(evidence_files, "_check_file", check_file)
        save(folder, 4)
        check_file(path, digest)

    monkeypatch.setattr(evidence_files, "_check_file", replace_once)
    verify_evidence(folder)


def test_evidence_that_returns_between_two_looks_is_found(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "a", {"class": "workbench.tests:Table", "settings": {}})
    save(run.evidence_folder(5), 3)
    looks = iter([[], [5]])  # a writer moves the folder away, and back before the other look
    monkeypatch.setattr("workbench.storage.run.steps_in", lambda folder: next(looks))
    assert run.evidence_steps == [5]


def test_scratch_folder_of_a_killed_process_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def work() -> None:
        with scratch_folder("report") as folder:
            (folder / "page.html").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed_at(MAX_OPERATIONS, work)
    assert len(names_in(tmp_path)) == 1
    with scratch_folder("report") as folder:
        assert names_in(tmp_path) == [folder.name]
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not names_in(tmp_path)
