"""Analyses in a process of their own: shared, followed, stopped; a worker that is lost is replaced."""

import os
import signal
import time
import weakref
from concurrent.futures import CancelledError

import numpy as np
import pandas as pd
import pytest

from workbench.core.errors import NotApplicable, UserError
from workbench.hosts.reports import write_views_report
from workbench.workspace.compute import ComputeJob, ComputeQueue
from workbench.workspace.tab_content import tab_content
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

QUICK = ViewState(("soft-4",), analysis="codebook_usage")
LONG = ViewState(("soft-4",), analysis="mixture_modes", controls={"max_modes": 64, "components": 16})
MAP = ViewState(("soft-4",), analysis="latent_map", controls={"method": "umap"})


@pytest.fixture(scope="module")
def jobs(trained):
    jobs = ComputeQueue(trained, write_report=write_views_report)
    yield jobs
    jobs.close()


def asked(jobs: ComputeQueue, state: ViewState, who: str = "me", turn: int = 0) -> ComputeJob:
    """A job of its own for every turn, whatever was computed before."""
    return jobs.ask(
        (state.analysis, turn) if turn else Workspace(jobs.folder).key(state), state, who
    )


def wait_for(told, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def unkept(trained):
    """Nothing is found on disk, so that what is long takes long."""
    import shutil

    shutil.rmtree(trained / ".results", ignore_errors=True)


def test_a_worker_computes_what_is_computed_here(jobs, trained):
    there = asked(jobs, QUICK).future.result(60).table()
    pd.testing.assert_frame_equal(there, Workspace(trained).result(QUICK).table())


def test_what_was_computed_once_is_there_at_once(jobs):
    first = asked(jobs, QUICK).future.result(60)
    again = asked(jobs, QUICK, who="somebody else")
    assert again.future.done() and again.future.result() is first


def test_a_job_that_has_ended_is_held_by_nobody(jobs):
    """It knows the page that asked for it."""
    job = asked(jobs, QUICK, turn=7)
    job.future.result(60)
    ended = weakref.ref(job)
    del job
    wait_for(lambda: ended() is None)


def test_what_a_lens_shows_is_computed_there_and_not_held_here(jobs, trained):
    state = ViewState(("soft-4",), tab="lens", tab_options={"over": "tokens", "show": 2})
    job = asked(jobs, state, turn=1)
    there, here = job.future.result(60), tab_content(Workspace(trained), state)
    assert (
        job.name == "lens" and there.data == here.data and there.content.axes == here.content.axes
    )
    assert np.array_equal(there.content.image_grid.shown, here.content.image_grid.shown)
    assert not asked(jobs, state, turn=1).future.done()  # its pictures are many: they are made anew
    wrong = state.change(tab_options={"over": "tokesn"})
    with pytest.raises(UserError, match="Did you mean `tokens`"):
        asked(jobs, wrong, turn=2).future.result(60)


def test_a_sentence_of_the_worker_is_a_sentence_here(jobs):
    with pytest.raises(
        NotApplicable, match="Codebook usage needs codes and codebook; plain has none"
    ):
        asked(jobs, ViewState(("plain",), analysis="codebook_usage")).future.result(60)


def test_two_who_ask_for_the_same_wait_for_one_job_and_one_may_leave(jobs, unkept):
    jobs.ask("first", LONG, "me")
    mine, yours = asked(jobs, QUICK, "me", turn=1), asked(jobs, QUICK, "you", turn=1)
    assert mine is yours and jobs.of("you") == [mine]
    jobs.leave(mine, "me")
    assert not yours.future.done() and len(jobs.of("me")) == 1
    jobs.leave(jobs.of("me")[0], "me")
    assert yours.future.result(60).codebooks


@pytest.fixture
def patient(monkeypatch):
    """A busy machine may take a worker longer to stop by itself than a person would wait."""
    monkeypatch.setattr("workbench.workspace.compute.PATIENCE", 30.0)


def test_a_job_tells_how_far_it_is_and_ends_when_nobody_waits_any_more(jobs, unkept, patient):
    job, worker = asked(jobs, LONG, turn=2), jobs._worker.process.pid
    assert job.said().startswith("waits") or job.running
    wait_for(lambda: job.share)
    assert 0 < job.share < 1 and "s" in job.said()
    jobs.leave(job, "me")
    with pytest.raises(CancelledError):
        job.future.result(0)
    assert asked(jobs, QUICK, turn=2).future.result(60).codebooks
    assert jobs._worker.process.pid == worker  # it stopped by itself


def test_a_report_of_views_is_written_by_the_worker_and_one_that_is_stopped_leaves_nothing(
    jobs, trained, patient
):
    views = tuple(QUICK.change(runs=(name,)) for name in ("soft-4", "soft-2"))
    job = jobs.ask("report", views, "me")
    page = job.future.result(60)
    assert page.parent == trained / "reports" and job.name == "report" and job.of == "2 views"
    before = set(page.parent.iterdir())
    stopped = jobs.ask("another", (LONG, *views), "me")
    wait_for(lambda: stopped.running)
    jobs.leave(stopped, "me")
    assert (
        asked(jobs, QUICK, turn=6).future.result(60).codebooks
    )  # its turn comes when the other has ended
    assert set(page.parent.iterdir()) == before


def test_a_worker_that_does_not_stop_is_replaced(jobs, unkept):
    job, worker = asked(jobs, LONG, turn=3), jobs._worker.process.pid
    wait_for(lambda: job.share)
    os.kill(worker, signal.SIGSTOP)  # as if it were stuck
    jobs.leave(job, "me")
    assert asked(jobs, QUICK, turn=3).future.result(60).codebooks
    assert jobs._worker.process.pid != worker


def test_a_map_tells_how_far_its_layout_is_and_can_be_stopped(jobs, unkept, patient):
    job = asked(jobs, MAP, turn=5)
    wait_for(lambda: job.share)
    worker = jobs._worker.process.pid
    jobs.leave(job, "me")
    assert (
        asked(jobs, QUICK, turn=5).future.result(60).codebooks
        and jobs._worker.process.pid == worker
    )


def test_a_worker_that_dies_says_so_and_is_replaced(jobs, unkept):
    job = asked(jobs, LONG, turn=4)
    wait_for(lambda: job.share)
    jobs._worker.process.kill()
    with pytest.raises(
        UserError, match="ended, perhaps for want of memory; another has been started"
    ):
        job.future.result(60)
    assert asked(jobs, QUICK, turn=4).future.result(60).codebooks


def test_time_left_is_a_range_by_the_middle_half_of_the_latest_parts():
    job = ComputeJob("key", QUICK)
    assert job.left() is None and job.share is None
    job.begin()
    now = time.monotonic()
    # Ten parts of 100 so far: most took one second, the last four two.
    at = [0, 1, 2, 3, 4, 5, 6, 8, 10, 12]
    job._ticks.extend((now - 12 + seconds, done, 100) for done, seconds in enumerate(at, 1))
    low, high = job.left()
    assert job.share == 0.1
    assert low == pytest.approx(90 * 1, abs=0.5) and high == pytest.approx(90 * 2, abs=0.5)
    assert job.said() == "10 %, 90–180 s left"


def test_below_ten_seconds_one_number_is_enough_and_a_second_pass_starts_afresh():
    job = ComputeJob("key", QUICK)
    job.begin()
    now = time.monotonic()
    job._ticks.extend((now - 8 + done, done, 10) for done in range(1, 9))
    assert job.said() == "80 %, about 2 s left"
    job.tell(1, 10)
    assert job.share == 0.1 and job.left() is None
