"""The queue of trainings, the check of settings, and the dashboard's form."""

import multiprocessing
import os
import re
import shutil
from types import SimpleNamespace

import psutil
import pytest
from browser import free_port, opened, served
from playwright.sync_api import expect
from polling import wait_until

from workbench.core.errors import UserError
from workbench.hosts.dashboard.settings_service import SettingsService
from workbench.launch import stored_queue, training_queue
from workbench.launch.settings import check_settings
from workbench.launch.stored_queue import read_queue
from workbench.launch.training_queue import TrainingQueue, check_resumable, log_tail
from workbench.storage.process import current_process
from workbench.storage.run import Run

CLASS = {"class": "workbench.tokenizers.ae:AE", "settings": {}, "training": {"steps": 100}}


class Processes:
    """Processes that end when a test says so, in place of trainings."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.codes: dict[str, int] = {}

    def launch(self, target, out, *, settings, collect=True):
        if target.name == "refused":
            raise UserError("num_tokens must be at least 1, got 0.")
        run = Run.create(out, CLASS | {"changes": settings})
        self.started.append(run.name)
        return SimpleNamespace(run=run, process=Process(self.codes, run.name))


class Process:
    def __init__(self, codes: dict[str, int], name: str) -> None:
        self.codes = codes
        self.name = name

    @property
    def returncode(self) -> int | None:
        return self.codes.get(self.name)

    def poll(self) -> int | None:
        return self.returncode


@pytest.fixture
def processes(monkeypatch):
    processes = Processes()
    monkeypatch.setattr(training_queue, "launch", processes.launch)
    monkeypatch.setattr(training_queue, "POLL_INTERVAL_S", 0.01)
    return processes


def test_queue_runs_at_most_its_limit_in_order(processes, tmp_path):
    queue = TrainingQueue(tmp_path, limit=2)
    trainings = queue.submit("ae-digits", {name: {"seed": 1} for name in "abc"})
    wait_until(lambda: len(processes.started) == 2)
    assert processes.started == ["a", "b"] and trainings[2].state == "waiting"
    assert Run(tmp_path / "a").config.changes == {"seed": 1}
    processes.codes["a"] = 0
    wait_until(lambda: processes.started == ["a", "b", "c"])
    processes.codes["b"] = 1
    wait_until(lambda: trainings[1].state == "ended")
    assert trainings[0].error == "" and "code 1" in trainings[1].error
    queue.close()


def test_queue_goes_on_after_the_run_of_a_failed_training_was_deleted(processes, tmp_path):
    queue = TrainingQueue(tmp_path, limit=1)
    first, _ = queue.submit("ae-digits", {"a": {}, "b": {}})
    wait_until(lambda: processes.started == ["a"])
    shutil.rmtree(tmp_path / "a")
    processes.codes["a"] = 1
    wait_until(lambda: processes.started == ["a", "b"])
    assert first.state == "ended" and "code 1" in first.error
    processes.codes["b"] = 0
    queue.close()


def test_trainings_that_wait_are_held_by_the_next_queue(processes, tmp_path):
    first = TrainingQueue(tmp_path, limit=0)
    trainings = first.submit("ae-digits", {"a": {"seed": "1"}, "b": {}, "c": {}})
    first.stop(trainings[2])
    first.close()
    queue = TrainingQueue(tmp_path)
    held = queue.trainings
    assert [(one.name, one.state) for one in held] == [("a", "held"), ("b", "held")]
    with pytest.raises(UserError):
        queue.submit("ae-digits", {"b": {}})
    queue.start(held[0])
    wait_until(lambda: processes.started == ["a"] and len(read_queue(tmp_path)) == 1)
    assert Run(tmp_path / "a").config.changes == {"seed": "1"}
    queue.stop(held[1])
    assert read_queue(tmp_path) == () and not (tmp_path / "queue.json").exists()
    queue.close()


def test_queues_of_two_processes_keep_each_others_trainings(processes, tmp_path, monkeypatch):
    here = current_process()
    living = here | {"pid": os.getppid(), "born": psutil.Process(os.getppid()).create_time()}
    first, second = TrainingQueue(tmp_path, limit=0), TrainingQueue(tmp_path, limit=0)
    first.submit("ae-digits", {"a": {}})
    monkeypatch.setattr(stored_queue, "current_process", lambda: living)
    second.submit("ae-digits", {"b": {}})
    with pytest.raises(UserError):
        second.submit("ae-digits", {"a": {}})
    assert [one.name for one in read_queue(tmp_path)] == ["a", "b"]
    monkeypatch.setattr(stored_queue, "current_process", lambda: here | {"pid": 2**31 - 1})
    assert TrainingQueue(tmp_path).trainings == ()  # both owners live
    second._trainings.clear()
    monkeypatch.setattr(stored_queue, "current_process", lambda: here)
    first.close()
    assert [one.name for one in TrainingQueue(tmp_path, limit=0).trainings] == ["a"]
    (tmp_path / "queue.json").write_text(
        '[{"name": "a", "target": "x", "settings": {}, "owner": {"host": "x", "time": "now"}}]'
    )
    assert "damaged" in TrainingQueue(tmp_path).problem


@pytest.mark.parametrize("name", ['"../a"', "1", '"a", "other": 1'])
def test_damaged_stored_queue_is_kept_and_reported(processes, tmp_path, name):
    text = f'[{{"name": {name}, "target": "ae-digits", "settings": {{}}}}]'
    (tmp_path / "queue.json").write_text(text)
    queue = TrainingQueue(tmp_path, limit=0)
    assert "queue.json" in queue.problem and queue.trainings == ()
    queue.submit("ae-digits", {"b": {}})
    assert (tmp_path / "queue.json").read_text() == text
    queue.close()


def test_refused_training_says_why_and_the_next_one_starts(processes, tmp_path):
    queue = TrainingQueue(tmp_path)
    (refused,) = queue.submit("refused", {"a": {}})
    queue.submit("ae-digits", {"b": {}})
    wait_until(lambda: processes.started == ["b"])
    assert refused.state == "refused" and refused.error.startswith("num_tokens must be")
    queue.close()


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a" * 200, "used", "waiting"])
def test_names_that_are_not_valid_or_in_use_are_refused(processes, tmp_path, name):
    (tmp_path / "used").mkdir()
    queue = TrainingQueue(tmp_path, limit=0)
    queue.submit("ae-digits", {"waiting": {}})
    with pytest.raises(UserError):
        queue.submit("ae-digits", {"fine": {}, name: {}})
    assert [training.name for training in queue.trainings] == ["waiting"]
    queue.stop(queue.trainings[0])
    assert queue.trainings == ()
    queue.close()


def test_only_stopped_runs_are_resumed_unless_trained_longer(tmp_path):
    run = Run.create(tmp_path / "a", CLASS)
    check_resumable(run)
    run.report("running", 10, steps=100)
    with pytest.raises(UserError):
        check_resumable(run)
    run.report("finished", 100, steps=100)
    check_resumable(run, 200)
    with pytest.raises(UserError):
        check_resumable(run, 100)


def test_log_tail_has_the_last_state_of_a_bar(tmp_path):
    (tmp_path / "train.log").write_bytes(b"first\n 1%\r 2%\r\nlast\n\n")
    assert log_tail(tmp_path) == "first\n 2%\nlast"
    assert log_tail(tmp_path, 1) == "last"
    assert log_tail(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("settings", "subject"),
    [
        ({"num_tokens": "4", "lr": "0.001"}, None),
        ({"num_tokens": "four"}, "num_tokens"),
        ({"num_tokens": "0"}, "num_tokens"),
        ({"batch_size": "0"}, "batch_size"),
        ({"codebok_size": "4"}, "codebok_size"),
        ({"logits": "sine"}, "logits"),
    ],
)
def test_problems_of_settings_are_found_before_a_process_starts(settings, subject):
    problems = check_settings("softvq-digits", settings)
    assert list(problems) == ([] if subject is None else [subject])


@pytest.mark.slow
def test_settings_are_read_in_a_process_that_ends_with_the_server():
    service = SettingsService()
    settings = service.describe("ae-digits").result(120)
    assert {"steps", "num_tokens"} <= {setting.name for setting in settings}
    (problems,) = service.check("ae-digits", [{"dim": "0"}]).result(120)
    assert list(problems) == ["dim"]
    with pytest.raises(UserError):
        service.describe("none").result(120)
    (process,) = multiprocessing.active_children()
    service.close()
    process.join(20)
    assert process.exitcode == 0


@pytest.mark.browser
@pytest.mark.slow
def test_runs_are_started_stopped_resumed_and_cloned_in_the_dashboard(tmp_path):
    port, log = free_port(), tmp_path / "dashboard.log"
    folder = tmp_path / "runs"
    folder.mkdir()
    command = ("workbench", "dashboard", str(folder), "--port", str(port), "--no-browser")
    tiny = {"steps": "100000", "save_every": "5", "batch_size": "4", "width": "8", "heads": "1"}
    with (
        served(*command, "--no-token", port=port, log=log) as address,
        opened(f"{address}/?tab=train&train.recipe=ae-digits") as (page, seen),
    ):

        def fill(label: str, value: str) -> None:
            field = page.get_by_label(label, exact=True).first
            field.fill(value)
            field.press("Tab")

        def state(text: str) -> None:
            page.get_by_text(re.compile(text)).first.wait_for()

        fill("steps", "many")
        state("steps must be an integer")
        for label, value in tiny.items():
            fill(label, value)
        fill("Name of the run", "first")
        page.get_by_role("button", name="Start training").click()
        state("running, step")
        fill("Several values", "lr=0.001,0.002")
        page.get_by_role("button", name="Start 2 trainings").click()
        state("lr=0.002 · waiting")
        assert [one.name for one in read_queue(folder)] == ["first-2-lr=0.001", "first-2-lr=0.002"]
        for value in ("0.002", "0.001"):
            page.get_by_role("button", name="remove", exact=True).first.click()
            expect(page.get_by_text(f"lr={value} · waiting")).to_have_count(0)
        assert read_queue(folder) == ()
        page.get_by_role("button", name="stop", exact=True).click()
        state("stopped, step")
        changes = Run(folder / "first").config.changes
        assert changes["width"] == 8 and changes["steps"] == 100_000 and "depth" not in changes
        stopped_at = Run(folder / "first").status()["step"]

        page.goto(f"{address}/?tab=train&train.clone=first")
        expect(page.get_by_label("width", exact=True)).to_have_value("8", timeout=60_000)
        fill("num_tokens", "2")
        page.get_by_role("button", name="Start training").click()
        state("first-2 · running, step")
        page.get_by_role("button", name="Resume", exact=True).click()
        state("first · waiting")
        page.get_by_role("button", name="stop", exact=True).first.click()
        wait_until(lambda: Run(folder / "first").status()["state"] == "running")
        page.get_by_role("button", name="stop", exact=True).first.click()
        wait_until(lambda: Run(folder / "first").status()["state"] == "stopped")
        assert Run(folder / "first").status()["step"] >= stopped_at
        assert Run(folder / "first-2").config.changes == changes | {"num_tokens": 2}
        assert seen.errors == []
