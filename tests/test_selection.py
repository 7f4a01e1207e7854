"""Tests of selections of images in addresses, tabs, other runs and reports."""

import json
import shutil
import subprocess
import sys
import time
import zlib
from base64 import urlsafe_b64encode
from dataclasses import replace

import numpy as np
import pandas as pd
import param
import pytest
from browser import count_figures, opened

import workbench as wb
from workbench.core.errors import NotApplicable, UserError
from workbench.hosts.dashboard.app import Session
from workbench.hosts.reports.manifest import read_manifest
from workbench.storage.run import Run
from workbench.workspace.compute import ComputeQueue
from workbench.workspace.image_selection import layout_of, resolve
from workbench.workspace.selection import MAX_IMAGES, Selection
from workbench.workspace.tab_content import build_tab, selected_images, selection_code
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

CORNER = ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0))


@pytest.mark.parametrize("where", ["class = three", "error > 0 & class != 10"])
def test_unknown_class_is_refused(trained, where):
    with pytest.raises(UserError):
        wb.select(trained / "soft-4", where=where)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(
            "a b",
            30,
            polygon=((0.25, -1.5), (1e-3, 2), (3, 4)),
            layout={"method": "pca", "seed": 3},
        ),
        Selection("a", where="code = 17, 23 & error > 0.05"),
        Selection("a&b=c", ids=(1, 5, 8)),
        Selection("a", ids=tuple(range(1, 50_000, 3))),
    ],
)
def test_selection_round_trips_through_url_and_json(selection):
    tab_options = {"over": "token dropped", "order": "selected", "row": 2}
    state = ViewState(("a", "b"), 30, tab="lens", tab_options=tab_options, selection=selection)
    assert ViewState.from_query(state.to_query()) == state == ViewState.from_json(state.to_json())


def test_address_of_a_large_selection_is_short():
    random = np.random.default_rng(0)
    ids = np.sort(random.permutation(50_000)[:20_000])
    state = ViewState(("a",), selection=Selection("a", ids=tuple(ids.tolist())))
    assert len(state.to_query()) < 10_000
    assert ViewState.from_query(state.to_query()) == state


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({}, "none"),
        ({"ids": [1], "where": "error > 1"}, "where, ids"),
        ({"polgon": []}, "polygon"),
        ({"ids": "no ids"}, ""),
        ({"ids": [-1]}, "-1"),
        ({"ids": [10**400]}, ""),
        ({"polygon": [[1]]}, ""),
        ({"step": 1e400, "ids": [1]}, "step"),
        ({"where": "error greater 3"}, "error greater 3"),
    ],
)
def test_invalid_selections_are_refused(values, culprit):
    with pytest.raises(UserError) as error:
        ViewState.from_query("?selection=" + json.dumps(values))
    assert culprit in str(error.value)


def test_packed_indices_have_bounded_size():
    """A short address may name millions of images."""
    bits = np.ones(2**27, np.uint8)
    packed = urlsafe_b64encode(zlib.compress(np.packbits(bits).tobytes(), 9)).decode()
    assert len(packed) < 30_000
    start = time.thread_time()
    with pytest.raises(UserError):
        Selection.from_dict({"ids": packed})
    assert time.thread_time() - start < 1
    allowed = np.packbits(np.ones(MAX_IMAGES, np.uint8)).tobytes()
    selection = Selection.from_dict({"ids": urlsafe_b64encode(zlib.compress(allowed)).decode()})
    assert len(selection.indices) == MAX_IMAGES
    assert Selection.from_dict(selection.to_dict()) == selection
    assert time.thread_time() - start < 2


def test_selected_images_are_compared_with_all(trained):
    evidence = Run(trained / "soft-4").evidence()
    error = np.abs(evidence.images / 255 - evidence.reconstructions / 255).mean(axis=(1, 2, 3))
    limit = float(np.median(error))
    selected = wb.select(trained / "soft-4", where=f"error > {limit!r}")
    np.testing.assert_array_equal(selected.indices, np.flatnonzero(error > limit))
    np.testing.assert_array_equal(selected.images, evidence.images[selected.indices])
    assert selected.table()["error"].to_numpy() == pytest.approx(error[error > limit])
    assert f"{error[error > limit].mean():.4f}" in selected.summary()
    assert f"{error.mean():.4f}" in selected.summary()
    code, count = selected.common_codes[0]
    codes = evidence.codes[selected.indices]
    assert count == (codes == code).sum() == np.bincount(codes.ravel()).max()
    with pytest.raises(UserError) as raised:
        wb.select(trained / "soft-4", ids=[360])
    assert "359" in str(raised.value) and "360" in str(raised.value)


def test_table_has_modes_once_they_were_counted(trained, tmp_path):
    shutil.copytree(trained / "soft-4", tmp_path / "soft-4")
    assert "mode" not in wb.select(tmp_path / "soft-4", ids=[3, 7]).table()
    result = Workspace(tmp_path).result(ViewState(("soft-4",), analysis="mixture_modes"))
    modes = wb.select(tmp_path / "soft-4", ids=[3, 7]).table()["mode"]
    assert modes.tolist() == result.assignment[[3, 7]].tolist()


def test_notebook_views_select_like_wb_select(trained):
    run = trained / "soft-4"
    latent_map = wb.latent_map(run, method="pca", polygon=CORNER)
    in_polygon = wb.select(run, polygon=CORNER, method="pca")
    np.testing.assert_array_equal(in_polygon.indices, np.sort(latent_map.selected_indices))
    assert latent_map.selected_images.table().equals(in_polygon.table())
    code = int(np.asarray(Run(run).evidence().codes)[0, 0])
    with_code = wb.select(run, where=f"code = {code}")
    codebook = wb.codebook(run, selected=[code])
    np.testing.assert_array_equal(with_code.indices, codebook.selected_indices)


def test_code_of_a_selection_selects_the_same(trained):
    workspace = Workspace(trained)
    for selection in (
        Selection("soft-4", 60, CORNER, {"method": "pca", "color_by": "error"}),
        Selection("soft-4", where="class = 3"),
        Selection("soft-4", ids=tuple(range(300))),
    ):
        state = ViewState(("soft-4",), selection=selection)
        namespace = {}
        exec(selection_code(workspace, state), namespace)
        pd.testing.assert_frame_equal(
            namespace["selected"].table(), selected_images(workspace, state).table()
        )


# -- tabs of the dashboard -----------------------------------------------------------


@pytest.fixture
def session(trained):
    session = Session(trained)
    session.state.change(runs=("soft-4", "soft-2"))
    return session


def test_lasso_on_the_map_selects_in_every_tab(session):
    session.state.open_tab("map", tab_options={"method": "pca"})
    page = session.pages["map"]
    page.module.view = json.dumps({"polygon": CORNER, "ids": [], "hidden": []})
    run = session.workspace.folder / "soft-4"
    indices = wb.select(run, polygon=CORNER, method="pca").indices
    assert session.state.view.selection.polygon == CORNER
    assert f"{len(indices)} of 360" in page.selection_card.summary.object
    assert pd.read_csv(page.selection_card._csv())["image"].tolist() == indices.tolist()

    session.state.open_tab("lens", tab_options={"order": "selected", "show": 3})
    row_names = [row.split(" ")[0] for row in session.pages["lens"].model.image_grid.rows]
    assert row_names == [f"#{index}" for index in indices[:3]]

    # soft-2 has the same images.
    session.state.open_tab("map", runs=("soft-2",), tab_options={"method": "pca"})
    assert json.loads(page.module.view)["ids"] == indices.tolist()
    assert json.loads(page.module.view)["polygon"] is None
    assert f"{len(indices)} of 360 images of soft-2" in page.selection_card.summary.object

    session.state.change(selection=None)
    assert json.loads(page.module.view)["ids"] == []
    assert "Nothing is selected" in page.selection_card.summary.object


def test_clicking_codes_selects_their_images(session):
    session.state.open_tab("codes")
    page = session.pages["codes"]
    codes = np.asarray(session.workspace.run("soft-4").evidence().codes)
    clicked = [int(codes[0, 0]), int(codes[1, 1])]
    page.module.view = json.dumps({"selected": clicked, "sort": "number"})
    indices = np.flatnonzero(np.isin(codes, clicked).any(axis=1))
    assert page.selection_card.images.indices.tolist() == indices.tolist()
    page.module.view = json.dumps({"selected": [], "sort": "use"})
    assert session.state.view.selection is None
    assert session.state.view.tab_options == {"sort": "use"}


def select_in_figure(tab, kind, ids):
    """Select points of a figure, as its box or lasso tool does."""
    tab.figure.body.view = json.dumps({"kind": kind, "ids": ids})


def test_lasso_in_a_figure_marks_images_in_other_figures(session):
    session.state.open_analysis("latent_map", controls={"method": "pca"})
    tab = session.analyses["latent_map"]
    select_in_figure(tab, "image", [7, 3, 3, 11])
    assert session.state.view.selection == Selection("soft-4", ids=[3, 7, 11])
    assert "3 of 360 images of soft-4" in tab.selection_card.summary.object
    session.state.open_analysis("marginal_token_value")
    value_tab = session.analyses["marginal_token_value"]
    assert json.loads(value_tab.figure.body.view) == {"kind": "image", "ids": [3, 7, 11]}
    assert "3 of 360 images of soft-4" in value_tab.selection_card.summary.object
    session.state.open_analysis("latent_map", selection=None)
    assert json.loads(tab.figure.body.view)["ids"] == []
    assert "Nothing is selected" in tab.selection_card.summary.object
    select_in_figure(tab, "image", [2])
    select_in_figure(tab, "image", [])  # a lasso without points clears the selection
    assert session.state.view.selection is None


def test_lasso_over_codes_selects_by_code(session):
    session.state.open_analysis("codebook_usage")
    select_in_figure(session.analyses["codebook_usage"], "code", [9, 2])
    assert session.state.view.selection == Selection("soft-4", where="code = 2, 9")


def test_lasso_over_runs_keeps_runs_without_a_point(session):
    session.state.open_analysis("token_budget", runs=("soft-4", "flow", "soft-2", "plain"))
    select_in_figure(session.analyses["token_budget"], "run", ["plain", "soft-2"])
    assert session.state.view.runs == ("flow", "soft-2", "plain")
    assert session.runs.selected == session.state.view.runs


def test_lasso_refers_to_the_first_run_with_images(session):
    session.state.open_analysis(
        "latent_maps", runs=("flow", "soft-2", "soft-4"), controls={"method": "pca"}
    )
    select_in_figure(session.analyses["latent_maps"], "image", [5])
    assert session.state.view.selection == Selection("soft-2", ids=(5,))
    assert json.loads(session.analyses["latent_maps"].figure.body.view)["ids"] == [5]


def test_layout_change_clears_the_lasso_but_color_keeps_it(session):
    session.state.open_tab(
        "map",
        tab_options={"method": "pca"},
        selection=Selection("soft-4", polygon=CORNER, layout={"method": "pca"}),
    )
    page = session.pages["map"]
    page.widgets["color_by"].value = "error"
    assert session.state.view.selection.polygon == CORNER
    assert session.state.view.tab_options == {"method": "pca", "color_by": "error"}
    assert json.loads(page.module.view)["polygon"] == [list(corner) for corner in CORNER]
    with param.edit_constant(page.widgets["seed"]):
        page.widgets["seed"].value = page.widgets["seed"].value_throttled = 3
    assert session.state.view.selection is None
    assert session.state.view.tab_options["seed"] == 3


def test_summary_states_the_size_of_a_subsampled_map(trained):
    run = Run(trained / "soft-4")
    selection = Selection("soft-4", polygon=CORNER, layout={"method": "pca"})
    full = layout_of(run, selection)
    subsample = replace(
        full, coordinates=full.coordinates[:200], image_indices=full.image_indices[:200]
    )
    selected = resolve(run, selection, lambda *_: subsample)
    assert "200 of 360 images" in selected.summary()
    assert "stratified" not in resolve(run, selection).summary()


def test_sessions_have_separate_positions_in_a_lens(trained):
    queue = ComputeQueue(trained)
    try:
        state = ViewState(("soft-4",), tab="lens", tab_options={"over": "tokens", "show": 2})
        lens = queue.submit("lens", state, "session").future.result(60)
        first, second = Session(trained), Session(trained)
        for session, row in ((first, 1), (second, 0)):
            view = state.change(tab_options={**state.tab_options, "row": row})
            session.pages["lens"].result.compute_view = lambda _: lens
            session.state.update(lambda _, view=view: view)
        assert first.pages["lens"].model.position[0] == 1
        assert second.pages["lens"].model.position[0] == 0
        second.pages["lens"].model.move_to(0, 0)
        assert first.pages["lens"].model.position[1] > 0
    finally:
        queue.close()


def test_address_restores_a_lens(session):
    session.state.open_tab("lens", tab_options={"over": "code", "token": 2, "show": 2, "row": 1})
    lens, query = session.pages["lens"], session.state.view.to_query()
    assert lens.widgets["token"].visible and not lens.widgets["seed"].visible
    lens.widgets["over"].value = "tokens"
    assert session.state.view.tab_options["over"] == "tokens"
    assert lens.model.image_grid.axis == "tokens"
    session.follow("?" + query)
    assert lens.model.image_grid.axis == "code of token 2"
    assert lens.model.position[0] == 1
    assert lens.widgets["token"].value == 2
    session.state.change(tab_options={"ovre": "code"})
    assert "<code>over</code>" in lens.result.message.object
    assert not lens.result.content.visible


def test_mode_widget_sets_the_start_of_walks(session):
    session.state.open_tab("lens", tab_options={"over": "modes"})
    lens = session.pages["lens"]
    assert lens.widgets["mode"].visible
    assert lens.model.image_grid.rows[0].startswith("mode 0 (")
    with param.edit_constant(lens.widgets["mode"]):
        lens.widgets["mode"].value = lens.widgets["mode"].value_throttled = 3
    assert session.state.view.tab_options["mode"] == 3
    assert lens.model.image_grid.rows[0].startswith("mode 3 (")


def test_label_widget_sets_the_class_of_guidance(session):
    session.state.open_tab("lens", runs=("flow",), tab_options={"over": "interval"})
    lens = session.pages["lens"]
    assert lens.widgets["label"].visible
    images_of_class_0 = lens.model.image_grid.images
    lens.widgets["label"].value = 3
    assert session.state.view.tab_options["label"] == 3
    assert "3" in lens.model.image_grid.note
    assert (lens.model.image_grid.images != images_of_class_0).any()
    assert "label=3" in lens.model.code()
    assert ViewState.from_query(session.state.view.to_query()) == session.state.view
    session.state.change(tab_options={"over": "interval", "label": 10})
    assert "flow" in lens.result.message.object
    assert "10" in lens.result.message.object
    session.state.change(tab_options={"over": "guidance"})
    assert not lens.widgets["label"].visible


def test_tab_without_evidence_shows_a_message(session):
    session.state.open_tab("codes", runs=("plain",))
    assert "codes" in session.pages["codes"].result.message.object
    assert not session.pages["codes"].result.content.visible
    with pytest.raises(NotApplicable):
        build_tab(session.workspace, session.state.view).data()


@pytest.mark.slow
def test_server_imports_no_torch(trained, tmp_path):
    """The model of a lens runs in the worker process."""
    script = f"""
import sys
from concurrent.futures import wait
from workbench.hosts.dashboard.app import Session
from workbench.workspace.compute import ComputeQueue

if __name__ == "__main__":
    queue = ComputeQueue({str(trained)!r})
    session = Session({str(trained)!r}, queue)
    for tab, options in (("codes", {{}}), ("map", {{"method": "pca"}}), ("lens", {{}})):
        session.state.open_tab(tab, runs=("soft-4",), tab_options=options)
        result = session.pages[tab].result
        if result.job is not None:  # not computed at once
            wait([result.job.future])
            result._finish(result.job)
        assert result.content.visible, (tab, result.message.object)
    assert session.pages["lens"].model.image_grid.axis == "tokens"
    assert session.pages["lens"].widgets
    assert "torch" not in sys.modules
    queue.close()
"""
    program = tmp_path / "program.py"
    program.write_text(script)
    process = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]


# -- reports of views ----------------------------------------------------------------


@pytest.mark.browser
def test_report_of_views_keeps_their_order(trained, tmp_path):
    selection = Selection("soft-4", where="class = 3")
    views = [
        ViewState(("soft-4", "soft-2"), analysis="token_budget", controls={"metric": "mse"}),
        ViewState(
            ("soft-4",), tab="lens", tab_options={"over": "tokens", "show": 2}, selection=selection
        ).to_query(),
        ViewState(("plain",), analysis="codebook_usage"),
        ViewState(("soft-4",), tab="codes", selection=selection),  # its selection is not repeated
        ViewState(("soft-4", "soft-2"), tab="overview"),
        ViewState(("soft-4",), tab="live"),
    ]
    path = wb.report("views", tmp_path / "views.html", folder=trained, views=views)
    manifest = read_manifest(path)
    states = [(section["name"], section["state"]) for section in manifest["sections"]]
    assert states[:4] == [
        ("token_budget", "done"),
        ("lens", "done"),
        ("selection", "done"),
        ("codebook_usage", "not_applicable"),
    ]
    names = ("codes", "decision", "token_budget", "checks", "training_curves")
    assert states[4:] == [(name, "done") for name in names]
    assert manifest["parameters"]["views"][0] == views[0].to_query()
    assert "soft-4" in {run["name"] for run in manifest["runs"]}
    with opened(path.as_uri()) as (page, seen):
        page.frame_locator("iframe").first.get_by_text("difference × 4").wait_for()
        assert count_figures(page) == 5  # the decision is a table
        assert page.locator("h2").count() == 6
        assert seen.errors == seen.outside == []


@pytest.mark.parametrize(
    ("views", "culprit"),
    [([], ""), (["run=soft-5"], "soft-5"), (["tab=lns"], "lns")],
)
def test_report_refuses_unknown_views(trained, tmp_path, views, culprit):
    with pytest.raises(UserError) as error:
        wb.report("views", tmp_path / "x.html", folder=trained, views=views)
    assert culprit in str(error.value)


def test_report_builder_keeps_each_view_once(session):
    builder = session.reports
    builder.add()
    builder.add()
    session.state.open_analysis("reconstruction", controls={})
    builder.add()
    assert len(builder.views) == 2 and builder.write_button.visible
    builder.entries[1].note.value = "**Look**"
    builder.title.value = "Mine"
    first, second = builder.views
    builder.move_up(second)
    builder.move_up(second)
    request = builder.request()
    assert request.views == (second, first) and request.notes == ("**Look**", "")
    assert request.title == "Mine"
    builder.remove(builder.views[0])
    builder.remove(builder.views[0])
    assert not builder.write_button.visible
