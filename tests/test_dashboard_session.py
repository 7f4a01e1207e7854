"""One visitor's session of the dashboard, without a browser."""

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from panel_material_ui import Button, FileDownload
from panel_material_ui.widgets.base import MaterialWidget

from workbench.core.errors import UserError
from workbench.hosts.dashboard.app import Session
from workbench.hosts.dashboard.state import DashboardState
from workbench.launch.training_queue import TrainingQueue
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

MARKUP = "<img src=x onerror=document.title=1>[a](javascript:1)"
N_RUNS = 200


def update_json(path: Path, **values: object) -> None:
    """Replace a JSON file, which may be linked to another one, with some values changed."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    path.write_text(json.dumps(content | values), encoding="utf-8")


def copy_runs(source: Path, folder: Path) -> Path:
    """Copy runs; one gets evidence of a second step, and a copy of one is named like markup."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".results"))
    evidence = folder / "soft-4" / "evidence"
    shutil.copytree(evidence / "step-000060", evidence / "step-000030")
    update_json(evidence / "step-000030" / "provenance.json", step=30)
    copy = folder / MARKUP
    shutil.copytree(folder / "soft-2", copy)
    provenance = copy / "evidence" / "step-000060" / "provenance.json"
    update_json(provenance, run=MARKUP, data="<b>data</b>")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    update_json(copy / "config.json", training=config["training"] | {MARKUP: 1})
    return folder


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    return copy_runs(trained, tmp_path_factory.mktemp("copies") / "runs")


# The state


def test_equal_view_notifies_nobody():
    state = DashboardState(ViewState(("a", "b"), tab="overview"))
    views = []
    state.param.watch(lambda event: views.append(event.new), "view")
    state.make_primary("a")
    state.select_runs(("a", "b"))
    state.open_tab("overview")
    assert views == []
    state.make_primary("b")
    assert [view.runs for view in views] == [("b", "a")]


def test_cell_of_a_comparison_opens_the_analysis_of_its_run():
    state = DashboardState(ViewState(("a", "b"), step=30, analysis="diffusability"))
    state.open_analysis_of_run("velocity_variance", "a")
    assert (state.view.analysis, state.view.runs, state.view.step) == (
        "velocity_variance",
        ("a", "b"),
        30,
    )
    state.open_analysis_of_run("spatial_structure", "b")
    assert (state.view.analysis, state.view.runs, state.view.step) == (
        "spatial_structure",
        ("b", "a"),
        None,
    )


def test_state_remembers_controls_of_each_tab():
    state = DashboardState(ViewState(("a",)))
    state.open_analysis("token_budget", controls={"metric": "mse"})
    state.open_tab("overview")
    assert state.view.tab_options == {}
    state.change(tab_options={"metric": "l1"})
    state.open_group(("token_budget", "token_order"))
    assert state.view.analysis == "token_budget" and state.view.controls == {"metric": "mse"}
    state.open_tab("overview")
    assert state.view.tab_options == {"metric": "l1"}


def test_step_is_kept_with_its_primary_run():
    state = DashboardState(ViewState(("a",), step=30))
    state.select_runs(("a", "b"))
    assert state.view.step == 30 and state.primary == "a"
    state.select_runs(("b", "a"))
    assert state.view.step is None
    state.change(step=10)
    state.make_primary("a")
    assert state.view.step is None and state.view.runs == ("a", "b")


def test_deferred_changes_are_applied_in_order():
    actions = []
    state = DashboardState(ViewState(("a", "b")), actions.append)
    state.make_primary("b")
    state.update(lambda view: view.change(runs=view.runs[:1]))
    assert state.view.runs == ("a", "b")
    for action in actions:
        action()
    assert state.view.runs == ("b",)


# The session


def test_changes_wait_until_the_page_has_loaded(trained, monkeypatch):
    """Panel loses changes of a page that is still being built."""
    import panel as pn
    from bokeh.document import Document
    from panel.io.state import set_curdoc

    on_load, calls = [], []
    monkeypatch.setattr(pn.state, "onload", on_load.append)
    monkeypatch.setattr(pn.state, "on_session_destroyed", lambda action: None)
    session = Session(trained)
    with set_curdoc(Document()):
        session.page()
    figure = session.pages["overview"].budget.figure
    session.lifecycle.after_load(lambda: calls.append("while loading"))
    session.press("2")
    # A request for the page alone computes nothing.
    assert calls == [] and figure.object is None and len(session.state.view.runs) == 4
    on_load[0]()
    assert figure.object is not None and len(session.state.view.runs) == 3
    session.lifecycle.after_load(lambda: calls.append("afterwards"))
    assert calls == ["while loading", "afterwards"]


def test_closed_page_is_not_kept(trained, monkeypatch):
    import panel as pn
    from bokeh.document import Document
    from panel.io.state import set_curdoc

    closers = []
    monkeypatch.setattr(pn.state, "onload", lambda action: None)
    monkeypatch.setattr(pn.state, "on_session_destroyed", closers.append)
    with set_curdoc(Document()):
        page = weakref.ref(Session(trained).page())
    closers.pop()(None)
    gc.collect()
    assert page() is None


def test_history_is_followed_without_a_new_address(runs):
    session = Session(runs)
    addresses = []
    session.address.write = addresses.append
    session.state.open_analysis("token_budget")
    session.state.change(runs=("soft-4",))
    assert len(addresses) == 2
    session.follow("?" + addresses[0])
    assert session.state.view.to_query() == addresses[0] and len(addresses) == 2
    session.state.change(runs=("soft-4",))
    assert addresses[2] == addresses[1]


def test_deleted_primary_run_is_replaced(runs, tmp_path):
    shutil.copytree(runs / "soft-2", tmp_path / "a")
    shutil.copytree(runs / "soft-4", tmp_path / "b")
    session = Session(tmp_path)
    session.state.select_runs(("b", "a"))
    session.state.open_tab("live")
    shutil.rmtree(tmp_path / "b")
    session.pages["live"].refresh()
    assert "b does not exist any more" in session.pages["live"].header.object
    session.refresh()
    assert session.notice.visible and session.notice.object.startswith("b is no longer shown")
    assert session.state.view.runs == ("a",) and session.primary_run.run.value == "a"
    session.refresh()
    session.state.open_analysis("reconstruction")
    assert session.analyses["reconstruction"].result.result is not None


def test_last_run_is_deleted(runs, tmp_path):
    shutil.copytree(runs / "soft-2", tmp_path / "a")
    session = Session(tmp_path)
    shutil.rmtree(tmp_path / "a")
    session.refresh()
    assert session.state.view.runs == () and "a is no longer" in session.notice.object


def test_damaged_run_is_refused_while_looked_at(runs, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(runs / "soft-2", tmp_path / name)
    session = Session(tmp_path)
    session.state.select_runs(("b", "a"))
    (tmp_path / "b" / "status.json").write_text('{"state": "running", "step": "x"}')
    session.refresh()
    assert session.state.view.runs == ("a",)
    assert "status.json is damaged" in session.refused.select()[-1].object


@pytest.mark.slow
def test_session_needs_no_torch(trained):
    script = f"""
import sys
import weakref
from workbench.hosts.dashboard.app import Session
session = Session({str(trained)!r})
session.page()
undefined = []  # columns without a tooltip
for name in session.analyses:
    few = {{"max_modes": 3}} if name == "mixture_modes" else {{}}
    session.state.open_analysis(name, runs=("soft-4", "soft-2", "flow"), controls=few)
    tab = session.analyses[name]
    is_drawn = tab.figure.object is not None or tab.pictures.body.visible
    is_page = tab.result.result is not None and tab.result.result.replaces_figure
    assert is_drawn or is_page or tab.result.message.object, name
    for column, text in tab.table.header_tooltips.items():
        if not text and name != "setting_effects" and column not in session.workspace.runs:
            undefined.append(f"{{name}}.{{column}}")
assert "torch" not in sys.modules
assert undefined == [], undefined
print(sum(tab.figure.object is not None for tab in session.analyses.made.values()))
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    assert int(process.stdout.split()[-1]) > 20


def test_visitors_have_separate_views(trained):
    first, second = Session(trained), Session(trained)
    first.state.open_analysis("token_budget", runs=("soft-2",))
    assert second.state.view.analysis == "image_comparison"
    assert second.state.view.runs != ("soft-2",)


def test_damaged_saved_views_show_a_message(trained, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(trained / "plain", folder / "plain")
    file = folder / "views.json"
    file.write_text("[1, {")
    session = Session(folder)
    assert session.saved_views.views == {}
    session.saved_views.save("")  # under a name made from the view
    assert list(session.saved_views.views.values()) == [session.state.view.to_query()]
    file.unlink()
    file.mkdir()
    session.saved_views.save("a view")
    assert "views.json" in session.saved_views.message.object
    assert session.saved_views.views == {}


def test_invalid_filter_leaves_every_run_in_the_list(runs):
    session = Session(runs)
    run_list = session.runs
    every = list(run_list.all_runs["run"])
    run_list.filter.value_input = "no such text"
    assert len(run_list.table.value) == 0
    run_list.filter.value_input = "no such column < 3"
    assert list(run_list.table.value["run"]) == every
    assert "PSNR (dB)" in run_list.message.object
    session.state.open_tab("table", tab_options={"where": "no such column < 3"})
    page = session.pages["table"]
    assert list(page.table.value["run"]) == every and "PSNR (dB)" in page.message.object


def test_ten_steps_stop_at_the_ends(trained, tmp_path):
    evidence = tmp_path / "runs" / "plain" / "evidence"
    shutil.copytree(trained / "plain", evidence.parent)
    # Another test may have collected evidence of other steps.
    for folder in evidence.glob("step-*[!6]0"):
        shutil.rmtree(folder)
    for step in range(1, 15):
        folder = evidence / f"step-{step:06d}"
        shutil.copytree(evidence / "step-000060", folder, copy_function=os.link)
        update_json(folder / "provenance.json", step=step)
    session = Session(tmp_path / "runs")
    for key, step in (
        ("Shift+ArrowLeft", 5),
        ("Shift+ArrowLeft", 1),
        ("ArrowRight", 2),
        ("Shift+ArrowRight", 12),
        ("Shift+ArrowRight", None),
    ):
        session.press(key)
        assert session.state.view.step == step


def test_empty_folder_shows_a_command(tmp_path):
    assert "workbench train softvq-photos" in Session(tmp_path)._main()[0].object


def test_damaged_runs_are_listed(tmp_path):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{")
    guide, refused, _ = Session(tmp_path)._main()
    assert "workbench train" in guide.object
    assert "torn/config.json" in refused.select()[-1].object


def test_missing_evidence_shows_next_step(runs):
    session = Session(runs)
    session.state.open_analysis("codebook_usage", runs=("plain",))
    message = session.analyses["codebook_usage"].result.message
    assert "plain" in message.object and "primary run" in message.object
    session.state.change(runs=("soft-4",), step=45)
    assert "45" in message.object and "workbench collect" in message.object
    session.state.change(runs=(), step=None)
    assert "No run is selected" in message.object


def test_link_cannot_leave_the_folder(runs):
    outside = runs.parent / "outside"
    shutil.copytree(runs / "plain", outside, dirs_exist_ok=True)
    session = Session(runs)
    for name in ("../outside", str(outside), "soft-4/../../outside"):
        session.follow("?" + urlencode({"run": name, "analysis": "reconstruction"}))
        assert name in session.notice.object and session.notice.visible
        assert session.state.primary == "soft-4" and session.state.view.tab == "overview"


def test_address_restores_the_whole_view(runs):
    first, second = Session(runs), Session(runs)
    first.state.open_analysis("token_budget", runs=("soft-4", "plain"), step=30)
    first.analyses["token_budget"].widgets["metric"].value = "mse"
    second.follow("?" + first.state.view.to_query())
    assert second.state.view == first.state.view and second.state.view.step == 30
    assert second.state.view.controls == {"metric": "mse"}
    assert second.analyses["token_budget"].widgets["metric"].value == "mse"
    first.state.open_tab("overview", tab_options={"metric": "l1"})
    second.follow("?" + first.state.view.to_query())
    overview = second.pages["overview"]
    assert overview.budget.widgets["metric"].value == "l1"
    first.pages["overview"].decision.widgets["goal"].value = "best probe"
    second.follow("?" + first.state.view.to_query())
    assert second.state.view.tab_options == {"metric": "l1", "goal": "best probe"}
    assert overview.decision.widgets["goal"].value == overview.decision.result.result.goal
    first.state.change(runs=("soft-2", "soft-4"), step=None)
    first.primary_run.run.value = "soft-4"
    assert first.state.view.runs == ("soft-4", "soft-2")


def test_address_contains_the_options_of_the_live_tab(runs):
    first, second = Session(runs), Session(runs)
    first.state.open_tab("live")
    first.pages["live"].x.value = "images"
    first.pages["live"].compare.value = False
    second.follow("?" + first.state.view.to_query())
    assert second.state.view.tab_options == {"x": "images", "compare": False}
    live = second.pages["live"]
    assert live.model.x == "images" and live.model.compare_with == ()
    second.follow("?tab=live&live.x=hours")
    assert "hours" in live.message.object


def test_followed_training_appears_in_the_list_of_runs(runs, tmp_path):
    shutil.copytree(runs / "soft-2", tmp_path / "a")
    trainings = TrainingQueue(tmp_path)
    session = Session(tmp_path, trainings=trainings)
    session.state.open_tab("train")
    shutil.copytree(runs / "soft-4", tmp_path / "b")
    session.pages["train"].queue._open(SimpleNamespace(name="b"))
    assert session.state.primary == "b" and session.state.view.tab == "live"
    assert list(session.runs.table.value["run"]) == ["a", "b"]
    trainings.close()


@pytest.mark.parametrize("tab", ["map", "codes"])
def test_evidence_that_was_collected_again_is_read_again(runs, tmp_path, tab):
    shutil.copytree(runs / "soft-4", tmp_path / "a")
    session = Session(tmp_path)
    session.state.open_tab(tab)
    page = session.pages[tab]
    page.show(session.state.view)
    before = page.result.key
    page.show(session.state.view)
    assert page.result.key == before
    os.utime(tmp_path / "a" / "evidence" / "step-000060" / "provenance.json")
    page.show(session.state.view)
    assert page.result.key != before


def test_error_of_a_button_stays_until_the_next_one(runs, tmp_path, monkeypatch):
    shutil.copytree(runs / "soft-2", tmp_path / "a")
    trainings = TrainingQueue(tmp_path)
    queue = Session(tmp_path, trainings=trainings).pages["train"].queue

    def stop(training: object) -> None:
        raise UserError("The folder a is not writable.")

    monkeypatch.setattr(trainings, "stop", stop)
    queue._stop(SimpleNamespace(name="a"))
    queue.refresh()
    assert queue.failure.object == "The folder a is not writable."
    monkeypatch.setattr(trainings, "stop", lambda training: None)
    queue._stop(SimpleNamespace(name="a"))
    assert not queue.failure.object
    trainings.close()


@pytest.fixture(scope="module")
def many_runs(trained, tmp_path_factory):
    """Runs that differ in two settings and share their arrays on disk."""
    folder = tmp_path_factory.mktemp("many")
    skipped = shutil.ignore_patterns("step-*.safetensors", "samples", "log.jsonl")
    for i in range(N_RUNS):
        run = folder / f"run-{i:03d}"
        shutil.copytree(trained / "soft-4", run, copy_function=os.link, ignore=skipped)
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        settings = config["training"] | {"lr": 10 ** -(2 + i % 3), "seed": i}
        update_json(run / "config.json", training=settings)
        update_json(run / "evidence" / "step-000060" / "provenance.json", run=run.name)
    return folder


def test_many_runs_are_filtered(many_runs):
    session = Session(many_runs)
    table = session.runs.table.value
    assert len(table) == N_RUNS and {"lr", "seed"} < set(table) and "batch_size" not in table
    assert len(session.state.view.runs) == 8
    session.runs.filter.value_input = "lr<0.005 & seed>=100 & run-1"
    assert len(session.runs.table.value) == 67
    assert len(session.runs.selected) == 8  # hidden runs stay selected
    session.runs.only_differing.value = False
    assert "batch_size" in session.runs.table.value
    session.runs.filter.value_input = "leraning=3"
    assert "leraning" in session.runs.message.object


def test_table_of_all_runs_is_filtered_grouped_and_annotated(many_runs):
    session = Session(many_runs)
    session.state.open_tab("table")
    page = session.pages["table"]
    assert len(page.table.value) == N_RUNS and page.table.value["rFD"].notna().all()
    assert {"tokens", "PSNR (dB)"} <= set(page.table.text_align)
    page.filter.value = "lr < 0.005 & psnr > 0"
    page.group.value = "lr"
    assert page.table.groupby == ["lr"] and set(page.table.value["lr"]) == {0.001, 0.0001}
    edit = SimpleNamespace(column="tags", row=0, value="baseline, good")
    page._on_edit(edit)
    page._on_edit(SimpleNamespace(column="pin", row=3, value=True))
    pinned = page.table.value["run"].iloc[0]
    page._on_edit(SimpleNamespace(column="hide", row=0, value=True))
    assert pinned not in set(page.table.value["run"]) and "1 hidden" in page.message.object
    # The address has the settings, and another visitor sees tags and hidden runs.
    other = Session(many_runs)
    other.follow("?" + session.state.view.to_query())
    assert other.pages["table"].table.value["run"].equals(page.table.value["run"])
    other.pages["table"].filter.value = "baseline"
    assert other.pages["table"].table.value["run"].tolist() == ["run-001"]
    assert not list(many_runs.glob("*/annotations.json"))


def test_psnr_is_computed_once_per_evidence(many_runs):
    before = Workspace(many_runs).table()["PSNR (dB)"]
    evidence = many_runs / "run-007" / "evidence" / "step-000060"
    (evidence / "images.npy").unlink()
    assert Workspace(many_runs).table()["PSNR (dB)"].equals(before)
    update_json(evidence / "provenance.json", n=359)
    psnr = Workspace(many_runs).table()["PSNR (dB)"]
    assert psnr.isna().sum() == 1 and psnr.isna()[7]


def test_every_field_and_column_has_a_tooltip(runs):
    session = Session(runs, trainings=TrainingQueue(runs, limit=0))
    session.page()
    session.state.open_tab("table")
    bodies = [session.pages[name].body for name in session.pages]
    bodies += [session.runs.body, session.reports.body, session.saved_views.body]
    fields = [field for body in bodies for field in body.select(MaterialWidget)]
    fields += [session.reports.title, session.reports.author, *session.primary_run.parts]
    # The tooltip of a button would replace its name, which says what it does.
    fields = [field for field in fields if not isinstance(field, Button | FileDownload)]
    assert len(fields) > 25
    assert [type(field).__name__ for field in fields if not field.description] == []
    tables = [session.runs.table, session.pages["table"].table]
    for table in tables:
        assert set(map(str, table.value)) - {"●"} <= set(table.header_tooltips)
