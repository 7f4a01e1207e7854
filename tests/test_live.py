"""Watch and control a run while it trains: from its files, in the dashboard and in JupyterLab."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import free_port, opened, served
from playwright.sync_api import expect
from waiting import wait_for

import workbench as wb
from workbench.core.errors import UserError
from workbench.core.progress import format_duration_range
from workbench.storage.run import Run
from workbench.storage.training_log import TrainingLog
from workbench.workspace.live import LiveModel, request_multipliers
from workbench.workspace.live_figure import curves
from workbench.workspace.run_snapshot import (
    RunFollower,
    command_reply,
    hint,
    preview_png,
    seconds_left,
    status_line,
)

LONG = {"steps": 100_000, "save_every": 100}
TINY = {
    "num_tokens": 4,
    "width": 16,
    "depth": 1,
    "codebook_size": 16,
    "batch_size": 16,
    "warmup_steps": 5,
    "collect": False,
}


@pytest.fixture
def run(tmp_path) -> Run:
    """A run with a log of ten steps per second; this process appears to train it."""
    run = Run.create(
        tmp_path / "a",
        {"class": "workbench.tokenizers.ae:AE", "settings": {}, "training": {"steps": 1000}},
    )
    for step in range(10, 310, 10):
        run.log(step, pixel=1 / step, align=-0.5, gradient=1.0, lr=1e-3, time=step / 10)
    run.report("running", 300, steps=1000, weights={"pixel": 1.0, "align": 1.0}, lr=1.0, answered=0)
    return run


# Reading


def test_follower_reads_only_new_lines(run):
    follower = RunFollower(run)
    assert len(follower.snapshot().history) == 30
    with (run.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 310, "pix')
    assert follower.snapshot().history["step"].max() == 300
    run.log(320, pixel=0.1)
    assert follower.snapshot().history["step"].max() == 320
    run.rewind(100)
    assert follower.snapshot().history["step"].tolist() == list(range(10, 110, 10))
    whole = run.history().drop(columns="time")
    pd.testing.assert_frame_equal(follower.snapshot().history.drop(columns="time"), whole)


def test_remaining_time_from_recent_speeds(run):
    snapshot = RunFollower(run).snapshot()
    assert seconds_left(snapshot) == pytest.approx((70, 70))
    parts = status_line(snapshot).split(" · ")
    assert parts[0] == "running" and parts[2:] == ["step 300 of 1,000", "10 steps/s", "70 s left"]
    run.log(310, pixel=0.1, time=130.0)  # a pause, or a slow evaluation, is one record of many
    assert seconds_left(RunFollower(run).snapshot()) == pytest.approx((69, 69))


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (40, 50, "40–50 s"),
        (70, 70.2, "70 s"),
        (2400, 2820, "40–47 min"),
        (5400, 9000, "1.5–2.5 h"),
    ],
)
def test_duration_ranges_have_natural_units(low, high, text):
    assert format_duration_range(low, high) == text


def test_finished_run_is_never_written_to(run):
    run.report("finished", 300, steps=300, weights={"pixel": 1.0, "align": 1.0}, lr=1.0)
    model = LiveModel(run)
    before = sorted(path.name for path in run.folder.rglob("*"))
    model.send("stop")
    model.set_multipliers({"lr": 0.5})
    assert model.message.startswith("✗") and not model.accepts_commands
    assert sorted(path.name for path in run.folder.rglob("*")) == before


def test_curves_show_all_numbers_and_events(run):
    run.event("weight", 100, term="align", value=0.5)
    run.event("saved", 200)
    figure = curves(RunFollower(run).snapshot(), log=True, smoothing=0.5)
    titles = [note.text for note in figure.layout.annotations]
    names = ["loss", "pixel", "align", "learning rate", "gradient norm", "images per second"]
    assert all(name in title for name, title in zip(names, titles, strict=False))
    assert "linear" in titles[2]
    assert titles[6:] == ["align × 0.5"]
    assert {shape.x0 for shape in figure.layout.shapes} == {100}
    assert figure.layout.yaxis2.type == "log" and figure.layout.yaxis3.type == "linear"
    smooth, alpha = [figure.data[3].y[0]], 0.5
    for value in figure.data[2].y[1:]:
        smooth.append(alpha * value + (1 - alpha) * smooth[-1])
    assert figure.data[3].y[-1] == pytest.approx(smooth[-1], rel=1e-6)
    # The multiplier is divided out: a change of it is no jump of the term.
    assert figure.data[4].y[9] == -0.5 and figure.data[4].y[10] == -1.0


def test_runs_are_overlaid_on_a_chosen_axis(run, tmp_path):
    run.event("weight", 100, term="align", value=0.5)
    config = {"class": "workbench.tokenizers.ae:AE", "training": {"steps": 1000, "batch_size": 8}}
    other = Run.create(tmp_path / "b", {**config, "settings": {}})
    for step in range(10, 410, 10):
        other.log(step, pixel=2 / step, time=step)
    generator = Run.create(tmp_path / "g", {**config, "settings": {}})
    generator.log(10, velocity=2.0, time=1.0)
    model = LiveModel(run, compare_with=[other, generator], x="images")
    figure = model.figure()
    loss = [trace for trace in figure.data if trace.yaxis == "y"]
    assert [(trace.name, trace.x[-1]) for trace in loss] == [("a", 300), ("b", 3200)]
    assert loss[0].line.color != loss[1].line.color
    # The loss of a generator is another quantity.
    assert [trace.name for trace in figure.data if trace.yaxis == "y2"] == ["g"]
    labels = [note.text for note in figure.layout.annotations if note.showarrow]
    assert [label.split()[-1] for label in labels] == ["a", "b", "g"]
    model.x = "minutes"
    assert [shape.x0 for shape in model.figure().layout.shapes][0] == pytest.approx(9 / 60)
    key = model.figure_key
    other.log(410, pixel=0.1, time=410)
    model.refresh()
    assert model.figure_key != key and not model.is_finished


def test_long_logs_are_averaged(run):
    for step in range(310, 40_010, 10):
        run.log(step, pixel=1 / step, align=-0.5, gradient=1.0, lr=1e-3, time=step / 10)
    snapshot = RunFollower(run).snapshot()
    curve = curves(snapshot).data[1].y
    assert len(curve) == 1000
    assert curve.mean() == pytest.approx(snapshot.history["pixel"].mean())
    table = wb.analysis.training_curves([TrainingLog.read(run.folder)]).table().set_index("curve")
    assert table.last_step["pixel"] == 40_000 and table["last"]["pixel"] == 1 / 40_000


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("new", "command"),
        ("stopped", "step 200"),
        ("interrupted", "step 200"),
        ("failed", "The pixel term became nan by step 10"),
        ("finished", ""),
    ],
)
def test_hint_gives_the_next_step(run, state, advice):
    run.event("failed", 10, why="The pixel term became nan by step 10")
    (run.folder / "step-000200.safetensors").touch()
    run.report(state, 300, steps=1000)
    snapshot = RunFollower(run).snapshot()
    assert advice in hint(snapshot)
    assert status_line(snapshot) == f"{state} · step 300 of 1,000"


def test_live_model_follows_the_latest_preview(run):
    model = LiveModel(run)
    assert model.preview_step == 0 and model.settings == {"log": False, "smoothing": 0.0}
    run.save_samples(20, np.zeros((16, 8, 8, 1), np.uint8))
    model.refresh()
    assert model.preview_step == 20 and model.preview_png().startswith(b"\x89PNG")
    run.save_samples(40, np.zeros((16, 8, 8, 1), np.uint8))
    model.refresh()
    assert model.preview_step == 40
    model.select_preview(20)
    run.save_samples(60, np.zeros((16, 8, 8, 1), np.uint8))
    model.refresh()
    assert model.preview_step == 20 and model.settings["step"] == 20
    model.select_preview(60)
    assert "step" not in model.settings
    with pytest.raises(UserError) as error:
        model.select_preview(30)
    assert "30" in str(error.value)


def test_live_model_reports_commands(run):
    model = LiveModel(run)
    assert [command.label for command in model.commands][:2] == ["pause", "stop"]
    model.send("sample")
    model.refresh()
    assert run.commands()[-1]["command"] == "sample"
    run.event("sample", 301, id=run.commands()[-1]["id"])
    model.refresh()
    assert model.message == "✓ sample at step 301"
    run.report("paused", 301)
    model.refresh()
    assert model.commands[0].label == "resume" and model.accepts_commands
    model.send("pause")
    assert run.commands()[-1]["command"] == "resume"
    run.report("finished", 301)
    model.refresh()
    assert model.is_finished and not model.accepts_commands


def test_live_model_sends_changed_multipliers(run):
    model = LiveModel(run)
    assert model.take_changed_multipliers() == {"lr": 1.0, "pixel": 1.0, "align": 1.0}
    assert model.take_changed_multipliers() == {}
    model.set_multipliers({"lr": "0.5", "pixel": "1", "align": "1"})
    assert [(r["command"], r["value"]) for r in run.commands()] == [("lr", 0.5)]
    model.set_multipliers({"lr": "fast"})
    assert "fast" in model.message
    run.report("running", 310, lr=0.5)
    model.refresh()
    assert model.take_changed_multipliers() == {"lr": 0.5}


def test_live_model_draws_only_after_changes(run):
    model = LiveModel(run)
    key = model.figure_key
    model.refresh()
    assert model.figure_key == key
    model.smoothing = 0.5
    assert model.figure_key != key
    assert len(model.figure().data[1].x) == 30


def test_axis_of_a_watch_follows_the_training(run):
    def update() -> tuple[float, float]:
        seen.model.refresh()
        seen._update()
        return seen.curves.layout.xaxis.range

    def log(step: int) -> None:
        run.log(step, pixel=1 / step, align=-0.5, gradient=1.0, lr=1e-3, time=step / 10)

    seen = wb.watch(run)
    assert update() == (10, 300)
    log(500)
    assert update() == (10, 500) == tuple(seen.curves.data[0].x[[0, -1]])
    assert seen.curves.data[0].customdata[-1] == 500
    seen.curves.layout.xaxis.range = (100, 200)  # a zoom
    log(900)
    assert update() == (100, 200)
    seen.x.value = "minutes"
    assert update() == tuple(seen.curves.data[0].x[[0, -1]])
    assert {axis.title.text for axis in seen.curves.select_xaxes()} == {"minutes of training", ""}


def test_watch_code_restores_the_view(run):
    for step in (20, 40):
        run.save_samples(step, np.zeros((16, 8, 8, 1), np.uint8))
    seen = wb.watch(run)
    assert seen.state == {"log": False, "smoothing": 0.0} and seen.selected == 40
    seen.log.value, seen.smoothing.value, seen.step.value = True, 0.5, 20
    again: dict = {}
    exec(seen.code().replace("wb.watch", "seen = wb.watch"), again)
    assert again["seen"].state == seen.state == {"log": True, "smoothing": 0.5, "step": 20}
    assert again["seen"].selected == 20
    with pytest.raises(UserError) as error:
        wb.watch(run, step=30)
    assert "30" in str(error.value)


def test_text_of_a_run_is_escaped(run):
    run.event("failed", 10, why="<img src=x onerror=alert(1)>")
    run.report("failed", 300, steps=1000)
    header = LiveModel(run).header_html
    assert "<img" not in header and "&lt;img" in header
    run.save_samples(20, np.zeros((16, 8, 8, 1), np.uint8))
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps(config | {"class": 'x"><script>'}))
    assert "<script>" not in wb.watch(run.folder).images.value


def test_preview_of_damaged_images_is_empty(run):
    run.save_samples(20, np.zeros((16, 8, 8, 1), np.uint8))
    run.save_samples(40, np.zeros((16, 8, 8, 3), np.uint8))
    assert RunFollower(run).snapshot().preview_steps == (20, 40)
    assert preview_png(run, 20).startswith(b"\x89PNG") and preview_png(run, 40).startswith(
        b"\x89PNG"
    )
    (run.folder / "samples" / "step-000040.npy").write_bytes(b"torn")
    assert preview_png(run, 40) == b"" == preview_png(run, 60)


# Commands


def test_apply_requests_only_changed_values(run):
    assert request_multipliers(run, {"lr": 1.0, "pixel": 1.0, "align": 1.0}) == []
    assert request_multipliers(run, {"lr": 0.5, "pixel": 1.0, "align": 0.0}) == [1, 2]
    assert [(r["command"], r.get("term"), r["value"]) for r in run.commands()] == [
        ("lr", None, 0.5),
        ("weight", "align", 0.0),
    ]
    with pytest.raises(UserError):
        request_multipliers(run, {"lr": -1.0})


def test_command_reply_follows_the_request(run):
    number = run.ask("weight", term="align", value=0.5)
    assert "waiting" in command_reply(RunFollower(run).snapshot(), number)
    run.report("running", 300, answered=number)
    assert "received" in command_reply(RunFollower(run).snapshot(), number)
    run.event("weight", 301, id=number, term="align", value=0.5)
    assert command_reply(RunFollower(run).snapshot(), number) == "✓ align × 0.5 at step 301"
    run.event("refused", 301, id=2, why="There is no term `x`.")
    assert command_reply(RunFollower(run).snapshot(), 2) == "✗ There is no term `x`."
    run.report("stopped", 301)
    assert "stopped" in command_reply(RunFollower(run).snapshot(), 3)


@pytest.mark.slow
def test_watching_needs_no_torch(run):
    script = f"""
import sys
import workbench as wb
watch = wb.watch({str(run.folder)!r})
watch._repr_html_(), watch.figure, watch.table
assert "torch" not in sys.modules
print(watch.code())
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (
        ended.stdout == f"import workbench as wb\n\nwatch = wb.watch({str(run.folder)!r})\nwatch\n"
    )


# Training in another process


@pytest.mark.slow
def test_refused_start_leaves_no_files(tmp_path):
    with pytest.raises(UserError) as error:
        wb.start("softvq-digits", tmp_path / "new" / "a", tokns=4)
    assert "tokns" in str(error.value) and list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError):
        wb.start("softvq-digits", tmp_path / "file" / "a")


@pytest.mark.slow
def test_run_outlives_its_starter(tmp_path):
    """The starter is killed with its whole process group, as a closed laptop's kernel is."""
    script = f"""
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import workbench as wb
settings = {{"width": 16, "num_tokens": 4, "depth": 1, "batch_size": 16, "betas": (0.9, 0.9)}}
wb.start("ae-digits", {str(tmp_path / "a")!r}, steps=100_000, **settings)
print("begun", flush=True)
time.sleep(600)
"""
    starter = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert starter.stdout.readline() == "begun\n"
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    run = Run(tmp_path / "a")
    wait_for(lambda: run.status()["step"] > 20)
    with pytest.raises(UserError, match="`pixl`.*`pixel`"):
        run.ask("weight", term="pixl", value=2)
    number = run.ask("stop")
    wait_for(lambda: run.status()["state"] == "stopped")
    assert run.status()["answered"] == number and run.config.training["betas"] == [0.9, 0.9]
    log = run.folder / "train.log"  # its last line follows the status
    wait_for(lambda: "Stopped at step" in log.read_text())


# The dashboard


@contextmanager
def paused_training(folder: Path) -> Iterator[Run]:
    """Start a run that really trains, pause it until a page is open, and stop it afterwards."""
    run = wb.start("softvq-digits", folder, **TINY, **LONG)
    wait_for(lambda: run.status()["step"] > 110)
    run.ask("pause")
    wait_for(lambda: run.status()["state"] == "paused")
    yield run
    run.ask("stop")
    wait_for(lambda: run.status()["state"] in ("stopped", "failed", "interrupted"))


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    with paused_training(tmp_path_factory.mktemp("live") / "runs" / "a") as run:
        yield run


@pytest.fixture(scope="module")
def live_tab(training):
    """The Live tab on a run that trains; at the end, neither page nor server may have failed."""
    port, log = free_port(), training.folder.parents[1] / "log"
    command = (
        "workbench",
        "dashboard",
        str(training.folder.parent),
        "--port",
        str(port),
        "--no-browser",
        "--no-token",
    )
    with (
        served(*command, port=port, log=log, path="/static/js/bokeh.min.js") as address,
        opened(f"{address}/?run=a&tab=live") as (page, seen),
    ):
        page.get_by_role("tab", name="Live", selected=True).wait_for()
        page.get_by_text(re.compile(r"paused · heartbeat \d+ s ago")).wait_for()
        page.wait_for_selector(".js-plotly-plot .main-svg")
        training.ask("resume")
        page.get_by_text(re.compile(r"running · heartbeat \d+ s ago")).wait_for()
        yield page
        assert seen.errors == [] and seen.outside == []
        assert "Traceback" not in log.read_text()


def kill_while_it_logs(run: Run) -> None:
    """SIGKILL, in the middle of writing a line of the log."""
    process = run.status()["pid"]
    os.kill(process, signal.SIGSTOP)  # so that no whole line comes after
    with (run.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 99999, "pix')
    os.kill(process, signal.SIGKILL)


def field(page, name: str):
    return page.locator(".MuiFormControl-root").filter(has_text=f"{name} ×").locator("input")


@pytest.mark.slow
@pytest.mark.browser
def test_live_tab_follows_and_controls_a_run(live_tab, training):
    page, before = live_tab, training.status()["step"]
    num_events = len(training.events())
    # Another user changes a weight in a terminal.
    terminal_id = training.ask("weight", term="pixel", value=0.25)
    expect(field(page, "pixel")).to_have_value("0.25", timeout=60_000)
    for name in ("lr", "entropy"):
        field(page, name).fill("0.5")
        field(page, name).press("Tab")
    page.get_by_role("button", name="apply").click()
    page.get_by_text(re.compile(r"✓ lr × 0.5 at step [\d,]+ · ✓ entropy × 0.5 at step")).wait_for()
    page.get_by_role("button", name="pause").click()
    page.get_by_text(re.compile(r"paused · heartbeat")).wait_for()
    for name in ("sample", "evaluate"):
        page.get_by_role("button", name=f"{name} now").click()
        page.get_by_text(re.compile(rf"✓ {name} at step")).wait_for()
    page.get_by_role("button", name="resume").click()
    page.get_by_text(re.compile(r"running · heartbeat")).wait_for()
    page.get_by_role("button", name="stop").click()
    page.get_by_text(
        re.compile(r"Training was stopped\. .* from its last checkpoint, step [\d,]+\.")
    ).wait_for()
    events = training.events()[num_events:]
    done = [event for event in events if event.get("id", terminal_id) != terminal_id]
    commands = ["lr", "weight", "pause", "sample", "evaluate", "resume", "stop"]
    assert [event["event"] for event in done] == commands
    assert done[0]["step"] > before
    assert done[1] | {"term": "entropy", "value": 0.5} == done[1]
    # Sampling and evaluation happen at the step of the pause.
    steps = {event["step"] for event in done[2:5]}
    assert steps == {training.evidence().step}
    assert training.steps[-1] == training.status()["step"] == done[-1]["step"]

    # The same page follows the resumed run, whose overrides are repeated.
    wb.start("softvq-digits", training.folder, **TINY, **LONG)
    page.get_by_text(re.compile(r"running · heartbeat")).wait_for()
    for name, value in (("lr", "0.5"), ("entropy", "0.5"), ("pixel", "0.25")):
        expect(field(page, name)).to_have_value(value, timeout=60_000)


@pytest.mark.slow
@pytest.mark.browser
def test_live_tab_of_a_killed_run(live_tab, training):
    kill_while_it_logs(training)
    live_tab.get_by_text(re.compile(r"interrupted · step [\d,]+ of 100,000")).wait_for()
    live_tab.get_by_text(re.compile(rf"checkpoint, step {training.steps[-1]:,}\.")).wait_for()
    expect(live_tab.get_by_role("button", name="stop")).to_be_disabled(timeout=60_000)
    last = int(training.history()["step"].iloc[-1])  # the torn line is none
    figure = live_tab.locator(".js-plotly-plot").first
    live_tab.wait_for_function(
        "([e, last]) => e.calcdata[0].at(-1).x === last", arg=[figure.element_handle(), last]
    )
