"""Foundations: errors, progress and cancellation, remaining time, atomic folders, doctests."""

import doctest
import importlib

import pytest

from workbench.core.errors import RunError, missing_extra, unknown
from workbench.core.progress import (
    Cancelled,
    ProgressEstimate,
    progress_listener,
    report_progress,
    tqdm_kwargs,
    track,
)
from workbench.storage.atomic import atomic_folder, atomic_path

DOCTESTED = (
    "workbench.core.coerce",
    "workbench.core.errors",
    "workbench.core.progress",
    "workbench.launch.recipes",
    "workbench.storage.control",
    "workbench.storage.evidence",
    "workbench.training.config",
)


@pytest.mark.parametrize("name", DOCTESTED)
def test_examples_of_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0


# Errors


def test_unknown_name_suggests_the_closest():
    message = str(unknown("recipe", "softvq-digit", ["softvq-digits", "ae-digits"]))
    assert "`softvq-digit`" in message and "Did you mean `softvq-digits`?" in message
    assert "Did you mean" not in str(unknown("recipe", "zzz", ["softvq-digits"]))


def test_missing_package_names_the_distribution():
    message = str(missing_extra("panel", "dashboard", "The dashboard"))
    assert "panel" in message and "'visual-tokenizer-workbench[dashboard]'" in message


# Progress


def test_listener_receives_progress_only_inside_its_block():
    reports = []
    report_progress(1, 2)
    with progress_listener(lambda done, total: reports.append((done, total))):
        assert list(track("abc")) == ["a", "b", "c"]
        report_progress(3, 3)
    report_progress(1, 2)
    assert reports == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_listener_cancels_the_computation():
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Cancelled("Stopped.")

    finished = []
    with pytest.raises(Cancelled), progress_listener(stop):
        for part in track(range(5)):
            finished.append(part)
    assert finished == [0, 1]


def test_progress_bar_of_a_library_is_forwarded():
    assert tqdm_kwargs() == {"disable": True}
    reports = []
    with progress_listener(lambda done, total: reports.append((done, total))):
        tqdm_kwargs()["file"].write("\r 40%|####      | 4/10 [00:01<00:02]")
    assert reports == [(4, 10)]


# Remaining time


def estimate_of(times: list[float], **options) -> ProgressEstimate:
    estimate = ProgressEstimate(total=10, **options)
    for done, time_s in enumerate(times):
        estimate.report(done, time_s=time_s)
    return estimate


def test_estimate_needs_enough_intervals():
    assert ProgressEstimate(total=10).fraction is None
    assert estimate_of([0, 1]).seconds_left() is None
    assert estimate_of([0, 1], min_intervals=1).seconds_left() == (9, 9)
    assert estimate_of([0, 1, 2]).seconds_left() == (8, 8)


def test_estimate_is_an_interval_of_the_latest_speeds():
    estimate = estimate_of([0, 1, 2, 3, 7])
    low, high = estimate.seconds_left()
    assert (low, high) == (6, pytest.approx(6 * 1.75)) and estimate.fraction == 0.4
    assert estimate.seconds_left(now_s=9) == (4, pytest.approx(6 * 1.75 - 2))
    assert estimate.seconds_left(now_s=99) == (0, 0)


def test_estimate_forgets_old_reports():
    estimate = ProgressEstimate(total=100, max_reports=2)
    for done, time_s in ((0, 0), (1, 50), (2, 51), (3, 52)):
        estimate.report(done, time_s=time_s)
    assert estimate.seconds_left() == (97, 97)


def test_estimate_starts_again_with_another_pass():
    estimate = estimate_of([0, 1, 2])
    estimate.report(0, time_s=3)
    assert estimate.fraction == 0 and estimate.seconds_left() is None
    estimate.reset()
    assert estimate.fraction is None


def test_estimate_keeps_fractions_if_the_total_changes():
    estimate = estimate_of([0, 1, 2])
    estimate.report(60, 200, time_s=3)
    assert estimate.fraction == 0.3
    assert estimate.seconds_left() == (pytest.approx(7), pytest.approx(7))


# Atomic files and folders


def test_failed_block_keeps_the_previous_content(tmp_path):
    (tmp_path / "file").write_text("before")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "content").write_text("before")
    with pytest.raises(KeyError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("after")
        raise KeyError
    with pytest.raises(KeyError), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "content").write_text("after")
        raise KeyError
    assert (tmp_path / "file").read_text() == "before"
    assert (tmp_path / "folder" / "content").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / name).write_text("content")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="folder"), atomic_folder(tmp_path / "file" / "folder"):
        pass
