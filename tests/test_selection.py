"""Selections travel through addresses, to other tabs and runs, and into reports."""

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


def test_large_selections_fit_into_an_address():
    random = np.random.default_rng(0)
    ids = np.sort(random.permutation(50_000)[:20_000])
    state = ViewState(("a",), selection=Selection("a", ids=tuple(ids.tolist())))
    assert len(state.to_query()) < 10_000 and ViewState.from_query(state.to_query()) == state


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
    start = time.perf_counter()
    with pytest.raises(UserError):
        Selection.from_dict({"ids": packed})
    assert time.perf_counter() - start < 1
    allowed = np.packbits(np.ones(MAX_IMAGES, np.uint8)).tobytes()
    selection = Selection.from_dict({"ids": urlsafe_b64encode(zlib.compress(allowed)).decode()})
    assert len(selection.indices) == MAX_IMAGES
    assert Selection.from_dict(selection.to_dict()) == selection
    assert time.perf_counter() - start < 2


def test_selected_images_are_compared_with_all(trained):
    evidence = Run(trained / "soft-4").evidence()
    error = np.abs(evidence.images / 255 - evidence.reconstructions / 255).mean(axis=(1, 2, 3))
    limit = float(np.median(error))
    found = wb.select(trained / "soft-4", where=f"error > {limit!r}")
    np.testing.assert_array_equal(found.indices, np.flatnonzero(error > limit))
    np.testing.assert_array_equal(found.images, evidence.images[found.indices])
    assert found.table()["error"].to_numpy() == pytest.approx(error[error > limit])
    assert f"{error[error > limit].mean():.4f} (all images: {error.mean():.4f})" in found.summary()
    code, count = found.common_codes[0]
    assert (
        count
        == (evidence.codes[found.indices] == code).sum()
        == np.bincount(evidence.codes[found.indices].ravel()).max()
    )
    with pytest.raises(UserError) as raised:
        wb.select(trained / "soft-4", ids=[360])
    assert "359" in str(raised.value) and "360" in str(raised.value)


def test_table_has_modes_that_were_computed_before(trained, tmp_path):
    shutil.copytree(trained / "soft-4", tmp_path / "soft-4")
    assert "mode" not in wb.select(tmp_path / "soft-4", ids=[3, 7]).table()
    found = Workspace(tmp_path).result(ViewState(("soft-4",), analysis="mixture_modes"))
    assert (
        wb.select(tmp_path / "soft-4", ids=[3, 7]).table()["mode"].tolist()
        == found.assignment[[3, 7]].tolist()
    )


def test_views_and_select_agree(trained):
    run = trained / "soft-4"
    lassoed = wb.latent_map(run, method="pca", polygon=CORNER)
    np.testing.assert_array_equal(
        wb.select(run, polygon=CORNER, method="pca").indices, np.sort(lassoed.selected_indices)
    )
    assert lassoed.selected_images.table().equals(
        wb.select(run, polygon=CORNER, method="pca").table()
    )
    code = int(np.asarray(Run(run).evidence().codes)[0, 0])
    book = wb.codebook(run, selected=[code])
    np.testing.assert_array_equal(
        wb.select(run, where=f"code = {code}").indices, book.selected_indices
    )


def test_selection_code_selects_the_same(trained):
    bench = Workspace(trained)
    for selection in (
        Selection("soft-4", 60, CORNER, {"method": "pca", "color_by": "error"}),
        Selection("soft-4", where="class = 3"),
        Selection("soft-4", ids=tuple(range(300))),
    ):
        state, elsewhere = ViewState(("soft-4",), selection=selection), {}
        exec(selection_code(bench, state), elsewhere)
        pd.testing.assert_frame_equal(
            elsewhere["selected"].table(), selected_images(bench, state).table()
        )


# -- from tab to tab -----------------------------------------------------------------------------------------------


@pytest.fixture
def session(trained):
    made = Session(trained)
    made.state.change(runs=("soft-4", "soft-2"))
    return made


def test_map_lasso_is_shown_in_other_tabs(session):
    session.state.open_tab("map", tab_options={"method": "pca"})
    page = session.pages["map"]
    page.module.view = json.dumps({"polygon": CORNER, "ids": [], "hidden": []})
    places = wb.select(session.workspace.folder / "soft-4", polygon=CORNER, method="pca").indices
    assert (
        session.state.view.selection.polygon == CORNER
        and f"{len(places)} of 360" in page.selection_card.summary.object
    )
    assert pd.read_csv(page.selection_card._csv())["image"].tolist() == places.tolist()

    session.state.open_tab("lens", tab_options={"order": "selected", "show": 3})
    assert [row.split(" ")[0] for row in session.pages["lens"].model.image_grid.rows] == [
        f"#{i}" for i in places[:3]
    ]
    session.state.open_tab(
        "map", runs=("soft-2",), tab_options={"method": "pca"}
    )  # of the same images
    assert (
        json.loads(page.module.view)["ids"] == places.tolist()
        and json.loads(page.module.view)["polygon"] is None
    )
    assert f"{len(places)} of 360 images of soft-2" in page.selection_card.summary.object

    session.state.change(selection=None)
    assert (
        json.loads(page.module.view)["ids"] == []
        and "Nothing is selected" in page.selection_card.summary.object
    )


def test_clicking_codes_selects_their_images(session):
    session.state.open_tab("codes")
    page, codes = (
        session.pages["codes"],
        np.asarray(session.workspace.run("soft-4").evidence().codes),
    )
    page.module.view = json.dumps(
        {"selected": [int(codes[0, 0]), int(codes[1, 1])], "sort": "number"}
    )
    wanted = np.isin(codes, [codes[0, 0], codes[1, 1]]).any(axis=1)
    assert page.selection_card.images.indices.tolist() == np.flatnonzero(wanted).tolist()
    page.module.view = json.dumps({"selected": [], "sort": "use"})
    assert session.state.view.selection is None and session.state.view.tab_options == {
        "sort": "use"
    }


def lassoed(tab, kind, ids):
    """As a box or a lasso in a figure tells it."""
    tab.figure.body.view = json.dumps({"kind": kind, "ids": ids})


def test_lassoed_images_are_marked_in_all_figures(session):
    session.state.open_analysis("latent_map", controls={"method": "pca"})
    tab = session.analyses["latent_map"]
    lassoed(tab, "image", [7, 3, 3, 11])
    assert session.state.view.selection == Selection("soft-4", ids=[3, 7, 11])
    assert "3 of 360 images of soft-4" in tab.selection_card.summary.object
    session.state.open_analysis("marginal_token_value")
    assert json.loads(session.analyses["marginal_token_value"].figure.body.view) == {
        "kind": "image",
        "ids": [3, 7, 11],
    }
    assert (
        "3 of 360 images of soft-4"
        in session.analyses["marginal_token_value"].selection_card.summary.object
    )
    session.state.open_analysis("latent_map", selection=None)
    assert (
        json.loads(tab.figure.body.view)["ids"] == []
        and "Nothing is selected" in tab.selection_card.summary.object
    )
    lassoed(tab, "image", [2])
    lassoed(tab, "image", [])  # drawn around nothing
    assert session.state.view.selection is None


def test_lassoed_codes_select_like_clicked_codes(session):
    session.state.open_analysis("codebook_usage")
    lassoed(session.analyses["codebook_usage"], "code", [9, 2])
    assert session.state.view.selection == Selection("soft-4", where="code = 2, 9")


def test_lassoed_runs_stay_selected(session):
    session.state.open_analysis("token_budget", runs=("soft-4", "flow", "soft-2", "plain"))
    lassoed(session.analyses["token_budget"], "run", ["plain", "soft-2"])
    assert session.state.view.runs == ("flow", "soft-2", "plain") == session.runs.selected


def test_image_figures_show_the_first_run_with_images(session):
    session.state.open_analysis(
        "latent_maps", runs=("flow", "soft-2", "soft-4"), controls={"method": "pca"}
    )
    lassoed(session.analyses["latent_maps"], "image", [5])
    assert session.state.view.selection == Selection("soft-2", ids=(5,))
    assert json.loads(session.analyses["latent_maps"].figure.body.view)["ids"] == [5]


def test_new_layout_drops_a_lasso_and_new_color_keeps_it(session):
    session.state.open_tab(
        "map",
        tab_options={"method": "pca"},
        selection=Selection("soft-4", polygon=CORNER, layout={"method": "pca"}),
    )
    page = session.pages["map"]
    page.widgets["color_by"].value = "error"
    assert session.state.view.selection.polygon == CORNER and session.state.view.tab_options == {
        "method": "pca",
        "color_by": "error",
    }
    assert json.loads(page.module.view)["polygon"] == [list(corner) for corner in CORNER]
    with param.edit_constant(page.widgets["seed"]):
        page.widgets["seed"].value = page.widgets["seed"].value_throttled = 3
    assert session.state.view.selection is None and session.state.view.tab_options["seed"] == 3


def test_selection_on_a_sampled_map_names_the_sample(trained):
    run, selection = (
        Run(trained / "soft-4"),
        Selection("soft-4", polygon=CORNER, layout={"method": "pca"}),
    )
    whole = layout_of(run, selection)
    some = replace(
        whole, coordinates=whole.coordinates[:200], image_indices=whole.image_indices[:200]
    )
    picked = resolve(run, selection, lambda *_: some)
    assert "200 of 360 images" in picked.summary()
    assert "stratified" not in resolve(run, selection).summary()


def test_visitors_share_a_lens_but_not_its_position(trained):
    jobs = ComputeQueue(trained)
    try:
        state = ViewState(("soft-4",), tab="lens", tab_options={"over": "tokens", "show": 2})
        lens = jobs.submit("one", state, "me").future.result(60)
        mine, yours = Session(trained), Session(trained)
        for visitor, row in ((mine, 1), (yours, 0)):
            view = state.change(tab_options={**state.tab_options, "row": row})
            visitor.pages["lens"].result.compute_view = lambda _: lens
            visitor.state.update(lambda _, view=view: view)
        assert (
            mine.pages["lens"].model.position[0] == 1 and yours.pages["lens"].model.position[0] == 0
        )
        yours.pages["lens"].model.move_to(0, 0)
        assert mine.pages["lens"].model.position[1] > 0
    finally:
        jobs.close()


def test_address_restores_a_lens(session):
    session.state.open_tab("lens", tab_options={"over": "code", "token": 2, "show": 2, "row": 1})
    lens, query = session.pages["lens"], session.state.view.to_query()
    assert lens.widgets["token"].visible and not lens.widgets["seed"].visible
    lens.widgets["over"].value = "tokens"
    assert (
        session.state.view.tab_options["over"] == "tokens"
        and lens.model.image_grid.axis == "tokens"
    )
    session.follow("?" + query)
    assert (
        lens.model.image_grid.axis == "code of token 2"
        and lens.model.position[0] == 1
        and lens.widgets["token"].value == 2
    )
    session.state.change(tab_options={"ovre": "code"})
    assert (
        "Did you mean <code>over</code>" in lens.result.message.object
        and not lens.result.content.visible
    )


def test_lens_starts_at_the_selected_mode(session):
    session.state.open_tab("lens", tab_options={"over": "modes"})
    lens = session.pages["lens"]
    assert lens.widgets["mode"].visible and lens.model.image_grid.rows[0].startswith("mode 0 (")
    with param.edit_constant(lens.widgets["mode"]):
        lens.widgets["mode"].value = lens.widgets["mode"].value_throttled = 3
    assert session.state.view.tab_options["mode"] == 3 and lens.model.image_grid.rows[0].startswith(
        "mode 3 ("
    )


def test_lens_shows_guidance_of_the_selected_class(session):
    session.state.open_tab("lens", runs=("flow",), tab_options={"over": "interval"})
    lens = session.pages["lens"]
    assert (
        lens.widgets["label"].visible
        and lens.model.image_grid.note == "One class, 0, and one noise."
    )
    before = lens.model.image_grid.shown
    lens.widgets["label"].value = 3
    assert (
        session.state.view.tab_options["label"] == 3
        and lens.model.image_grid.note == "One class, 3, and one noise."
    )
    assert (lens.model.image_grid.shown != before).any() and "label=3" in lens.model.code()
    assert ViewState.from_query(session.state.view.to_query()) == session.state.view
    session.state.change(tab_options={"over": "interval", "label": 10})
    assert "between 0 and 9 for flow, got 10" in lens.result.message.object
    session.state.change(tab_options={"over": "guidance"})
    assert not lens.widgets["label"].visible


def test_tab_that_does_not_apply_shows_a_message(session):
    session.state.open_tab("codes", runs=("plain",))
    assert (
        "codes" in session.pages["codes"].result.message.object
        and not session.pages["codes"].result.content.visible
    )
    with pytest.raises(NotApplicable):
        build_tab(session.workspace, session.state.view).data()


def test_server_imports_no_torch(trained, tmp_path):
    script = f"""
import sys
from concurrent.futures import wait
from workbench.hosts.dashboard.app import Session
from workbench.workspace.compute import ComputeQueue

if __name__ == "__main__":
    jobs = ComputeQueue({str(trained)!r})
    session = Session({str(trained)!r}, jobs)
    for tab in ("codes", "map", "lens"):
        session.state.open_tab(tab, runs=("soft-4",), tab_options={{"method": "pca"}} if tab == "map" else {{}})
        result = session.pages[tab].result
        if result.job is not None:  # otherwise it was quick
            wait([result.job.future])
            result._finish(result.job)
        assert result.content.visible, (tab, result.message.object)
    assert session.pages["lens"].model.image_grid.axis == "tokens" and session.pages["lens"].widgets
    assert "torch" not in sys.modules
    jobs.close()
"""
    program = tmp_path / "program.py"
    program.write_text(script)
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


# -- the report basket ---------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_report_of_views_keeps_their_order(trained, tmp_path):
    selection = Selection("soft-4", where="class = 3")
    views = [
        ViewState(("soft-4", "soft-2"), analysis="token_budget", controls={"metric": "mse"}),
        ViewState(
            ("soft-4",), tab="lens", tab_options={"over": "tokens", "show": 2}, selection=selection
        ).to_query(),
        ViewState(("plain",), analysis="codebook_usage"),
        ViewState(("soft-4",), tab="codes", selection=selection),  # what is selected is shown once
        ViewState(("soft-4", "soft-2"), tab="overview"),
        ViewState(("soft-4",), tab="live"),
    ]
    page = wb.report("views", tmp_path / "views.html", folder=trained, views=views)
    manifest = read_manifest(page)
    states = [(one["name"], one["state"]) for one in manifest["sections"]]
    assert states[:4] == [
        ("token_budget", "done"),
        ("lens", "done"),
        ("selection", "done"),
        ("codebook_usage", "not_applicable"),
    ]
    assert states[4:] == [(name, "done") for name in ("codes", "token_budget", "checks", "losses")]
    assert manifest["parameters"]["views"][0] == views[0].to_query() and {
        r["name"] for r in manifest["runs"]
    } >= {"soft-4"}
    with opened(page.as_uri()) as (seen_page, seen):
        seen_page.frame_locator("iframe").first.get_by_text("difference × 4").wait_for()
        assert (
            count_figures(seen_page) == 5
            and seen_page.locator("h2").count() == 6
            and seen.errors == seen.outside == []
        )


def test_report_of_missing_views_is_refused(trained, tmp_path):
    for views, sentence in (
        ([], "at least one"),
        (["run=soft-5"], "Did you mean `soft-"),
        (["tab=lns"], "no tab `lns`"),
    ):
        with pytest.raises(UserError, match=sentence):
            wb.report("views", tmp_path / "x.html", folder=trained, views=views)


def test_report_builder_keeps_each_view_once(session):
    builder = session.reports
    builder.add()
    builder.add()
    session.state.open_analysis("reconstruction", controls={})
    builder.add()
    assert len(builder.views) == 2 and builder.write_button.visible
    builder.remove(builder.views[0])
    builder.remove(builder.views[0])
    assert not builder.write_button.visible
