"""The compute queue: jobs are shared, followed and stopped, and a lost worker is replaced."""

import os
import shutil
import signal
import time
import weakref
from concurrent.futures import CancelledError

import numpy as np
import pandas as pd
import pytest
from waiting import wait_for

from workbench.core.errors import NotApplicable, UserError
from workbench.hosts.reports import write_views_report
from workbench.workspace.compute import ComputeJob, ComputeQueue
from workbench.workspace.compute_worker import ReportRequest
from workbench.workspace.tab_content import tab_content
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

pytestmark = pytest.mark.slow
QUICK = ViewState(("soft-4",), analysis="codebook_usage")
LONG = ViewState(
    ("soft-4",), analysis="mixture_modes", controls={"max_modes": 64, "components": 16}
)
MAP = ViewState(("soft-4",), analysis="latent_map", controls={"method": "umap"})


@pytest.fixture(scope="module")
def queue(trained):
    queue = ComputeQueue(trained, write_report=write_views_report)
    yield queue
    queue.close()


def submit(queue: ComputeQueue, view: ViewState, owner: str = "me", number: int = 0) -> ComputeJob:
    """Submit a view; another number is another job."""
    key = (view.analysis, number) if number else Workspace(queue.folder).key(view)
    return queue.submit(key, view, owner)


@pytest.fixture
def empty_cache(trained):
    """Without results on disk, long computations take long."""
    shutil.rmtree(trained / ".results", ignore_errors=True)


@pytest.fixture
def patient(monkeypatch):
    """On a busy machine a worker may take longer to stop than a person would wait."""
    monkeypatch.setattr("workbench.workspace.compute.STOP_TIMEOUT_S", 30.0)


def test_worker_computes_the_same_result(queue, trained):
    table = submit(queue, QUICK).future.result(60).table()
    pd.testing.assert_frame_equal(table, Workspace(trained).result(QUICK).table())


def test_results_are_cached(queue):
    first = submit(queue, QUICK).future.result(60)
    second = submit(queue, QUICK, owner="somebody else")
    assert second.future.done() and second.future.result() is first


def test_finished_jobs_are_released(queue):
    """A job refers to the page that submitted it."""
    job = submit(queue, QUICK, number=7)
    job.future.result(60)
    reference = weakref.ref(job)
    del job
    wait_for(lambda: reference() is None)


def test_lens_content_is_computed_but_not_cached(queue, trained):
    view = ViewState(("soft-4",), tab="lens", tab_options={"over": "tokens", "show": 2})
    job = submit(queue, view, number=1)
    received, expected = job.future.result(60), tab_content(Workspace(trained), view)
    assert job.name == "lens" and received.data == expected.data
    assert received.content.axes == expected.content.axes
    grids = received.content.image_grid, expected.content.image_grid
    np.testing.assert_array_equal(grids[0].images, grids[1].images)
    assert not submit(queue, view, number=1).future.done()  # its images are large
    with pytest.raises(UserError) as error:
        submit(queue, view.change(tab_options={"over": "tokesn"}), number=2).future.result(60)
    assert "`tokens`" in str(error.value)


def test_errors_of_the_worker_are_raised_here(queue):
    with pytest.raises(NotApplicable) as error:
        submit(queue, ViewState(("plain",), analysis="codebook_usage")).future.result(60)
    assert "plain" in str(error.value)


def test_owners_share_a_job_until_the_last_releases_it(queue, empty_cache):
    queue.submit("first", LONG, "me")
    first, second = (submit(queue, QUICK, owner, number=1) for owner in ("me", "you"))
    assert first is second and queue.pending_for("you") == [first]
    queue.release(first, "me")
    assert not second.future.done() and len(queue.pending_for("me")) == 1
    queue.release(queue.pending_for("me")[0], "me")
    assert second.future.result(60).codebooks


def test_jobs_report_progress_and_stop_when_released(queue, empty_cache, patient):
    job, worker = submit(queue, LONG, number=2), queue._worker.process.pid
    assert job.status_text().startswith("waiting") or job.is_running
    wait_for(lambda: job.fraction)
    assert 0 < job.fraction < 1 and "s" in job.status_text()
    queue.release(job, "me")
    with pytest.raises(CancelledError):
        job.future.result(0)
    assert submit(queue, QUICK, number=2).future.result(60).codebooks
    assert queue._worker.process.pid == worker  # it stopped by itself


def test_worker_writes_reports_of_views(queue, trained, patient):
    views = tuple(QUICK.change(runs=(name,)) for name in ("soft-4", "soft-2"))
    job = queue.submit("report", ReportRequest(views=views), "me")
    page = job.future.result(60)
    assert page.parent == trained / "reports"
    assert (job.name, job.subject) == ("report", "2 views")
    before = set(page.parent.iterdir())
    stopped = queue.submit("another", ReportRequest(views=(LONG, *views)), "me")
    wait_for(lambda: stopped.is_running)
    queue.release(stopped, "me")
    assert submit(queue, QUICK, number=6).future.result(60).codebooks
    assert set(page.parent.iterdir()) == before


def test_reports_need_a_writer(trained):
    queue = ComputeQueue(trained)
    try:
        with pytest.raises(UserError):
            queue.submit("report", ReportRequest(views=(QUICK,)), "me").future.result(60)
    finally:
        queue.close()


def test_stuck_worker_is_replaced(queue, empty_cache):
    job, worker = submit(queue, LONG, number=3), queue._worker.process.pid
    wait_for(lambda: job.fraction)
    os.kill(worker, signal.SIGSTOP)
    queue.release(job, "me")
    assert submit(queue, QUICK, number=3).future.result(60).codebooks
    assert queue._worker.process.pid != worker


def test_map_layout_reports_progress_and_stops(queue, empty_cache, patient):
    job = submit(queue, MAP, number=5)
    wait_for(lambda: job.fraction)
    worker = queue._worker.process.pid
    queue.release(job, "me")
    assert submit(queue, QUICK, number=5).future.result(60).codebooks
    assert queue._worker.process.pid == worker


def test_dead_worker_is_replaced(queue, empty_cache):
    job = submit(queue, LONG, number=4)
    wait_for(lambda: job.fraction)
    queue._worker.process.kill()
    with pytest.raises(UserError):
        job.future.result(60)
    assert submit(queue, QUICK, number=4).future.result(60).codebooks


def job_with_reports(times_s, total: int) -> ComputeJob:
    """Return a running job whose parts 1, 2, ... ended at these times."""
    job = ComputeJob("key", QUICK)
    job.start()
    now = time.monotonic()
    for done, seconds in enumerate(times_s, 1):
        job.estimate.report(done, total, time_s=now - times_s[-1] + seconds)
    return job


def test_remaining_time_is_a_range_of_recent_parts():
    # Most parts took one second, the last ones two.
    job = job_with_reports([0, 1, 2, 3, 4, 5, 6, 8, 10, 12], total=100)
    assert job.fraction == 0.1
    assert job.estimate.seconds_left() == pytest.approx((90, 180), abs=0.5)
    assert job.status_text() == "10 %, 1.5–3.0 min left"


def test_short_remaining_time_is_one_number():
    job = job_with_reports(list(range(1, 9)), total=10)
    assert job.status_text() == "80 %, about 2 s left"
    job.report(1, 10)  # a second pass over the data
    assert job.fraction == 0.1 and job.estimate.seconds_left() is None


def test_a_generator_that_was_trained_later_changes_the_result_of_its_tokenizer(trained, tmp_path):
    view = ViewState(("soft-4",), analysis="decision")
    shutil.copytree(trained / "soft-4", tmp_path / "soft-4")
    queue = ComputeQueue(tmp_path)
    try:
        assert submit(queue, view).future.result(60).candidates[0].generators == ()
        shutil.copytree(trained / "flow", tmp_path / "flow")
        assert submit(queue, view).future.result(60).candidates[0].generators == ("flow",)
    finally:
        queue.close()
