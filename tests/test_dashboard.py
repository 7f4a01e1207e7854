"""The dashboard in a real browser: every tab draws, a link is a view, controls act, and nothing leaves the machine."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from fnmatch import fnmatch
from urllib.parse import urlencode

import numpy as np
import pytest
from browser import chromium, drawn, free_port, opened, served
from playwright.sync_api import TimeoutError
from test_jobs import wait_for

from workbench import analysis
from workbench.storage.run import Run

pytestmark = pytest.mark.browser
VIEW = "run=soft-4&run=soft-2&run=flow&run=plain"
HOSTILE = "<img src=x onerror=document.title=1>[a](javascript:1)"


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """The trained runs, one of them with evidence of two steps, and one whose name is code."""
    folder = tmp_path_factory.mktemp("copies") / "runs"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns(".results"))
    evidence = folder / "soft-4" / "evidence"
    shutil.copytree(evidence / "step-000060", evidence / "step-000030")
    changed(evidence / "step-000030" / "provenance.json", step=30)
    shutil.copytree(folder / "soft-2", folder / HOSTILE)
    changed(
        folder / HOSTILE / "evidence" / "step-000060" / "provenance.json",
        run=HOSTILE,
        data="<b>data</b>",
    )
    told = json.loads((folder / HOSTILE / "config.json").read_text(encoding="utf-8"))
    changed(folder / HOSTILE / "config.json", training=told["training"] | {HOSTILE: 1})
    return folder


def changed(path, **values):
    told = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    path.write_text(json.dumps(told | values), encoding="utf-8")


@pytest.fixture(scope="module")
def dashboard(runs, tmp_path_factory):
    port, log = free_port(), tmp_path_factory.mktemp("log") / "dashboard.log"
    command = ("workbench", "dashboard", str(runs), "--port", str(port), "--no-browser", "--no-token")
    with served(*command, port=port, log=log) as address:
        yield address


def test_the_first_look_is_an_overview_of_every_run_without_the_network(dashboard):
    with opened(dashboard) as (page, seen):
        page.wait_for_selector(".js-plotly-plot .main-svg")
        page.get_by_role("tab", name="Overview", exact=True, selected=True).wait_for()
        for name in ("soft-4", "soft-2", "plain", "flow"):
            assert page.get_by_text(name, exact=True).first.is_visible()
        page.get_by_text(re.compile("checks passed")).wait_for()
        page.get_by_text(
            re.compile("soft-4 · checkpoint step-000060 · 360 of 360 held-out images of digits")
        ).wait_for()
        page.wait_for_url("**tab=overview*")
        page.wait_for_timeout(500)
        assert seen.errors == [] and seen.outside == []


@pytest.mark.parametrize("group", analysis.GROUPS)
def test_every_group_has_a_tab_with_a_tab_for_each_of_its_analyses_that_draws_its_figure(
    dashboard, group
):
    names = analysis.groups()[group]
    name = names[-2] if group == "latents" else names[0]  # one that is not the group's first, too
    with opened(f"{dashboard}/?{VIEW}&analysis={name}") as (page, seen):
        page.get_by_role("tab", name=group.capitalize(), exact=True, selected=True).wait_for()
        for other in names if len(names) > 1 else ():
            tab = page.get_by_role("tab", name=other.replace("_", " ").capitalize(), exact=True)
            tab.and_(page.locator(f"[aria-selected={str(other == name).lower()}]")).first.wait_for()
        page.wait_for_selector(".js-plotly-plot .main-svg")
        assert drawn(page) == 1 and seen.errors == []


def test_clicking_a_tab_puts_it_into_the_address_and_the_address_opens_it_again(dashboard):
    with opened(f"{dashboard}/?{VIEW}") as (page, _):
        page.wait_for_selector(".js-plotly-plot .main-svg")
        page.get_by_role("tab", name="Codebook", exact=True).click()
        page.wait_for_url("**analysis=codebook_usage*")
        page.get_by_text(re.compile(r"of 32 codes are used")).first.wait_for()
        address = page.url
    with opened(address) as (page, _):
        page.get_by_text(re.compile(r"of 32 codes are used")).first.wait_for()


def test_a_control_changes_the_figure_and_the_address(dashboard):
    with opened(f"{dashboard}/?{VIEW}&analysis=token_budget") as (page, _):
        page.get_by_text(re.compile("PSNR, dB")).first.wait_for()
        page.get_by_role("combobox", name="metric").locator("visible=true").click()
        page.get_by_role("menuitem", name="mse").click()
        page.wait_for_url("**metric=mse*")
        page.get_by_text(re.compile("squared error", re.IGNORECASE)).first.wait_for()


def test_an_analysis_that_does_not_apply_says_so_in_a_sentence(dashboard):
    with opened(f"{dashboard}/?run=plain&analysis=codebook_usage") as (page, seen):
        page.get_by_text("Codebook usage needs codes and codebook; plain has none.").wait_for()
        assert page.locator(".js-plotly-plot:visible").count() == 0 and seen.errors == []


def test_a_link_to_what_does_not_exist_is_answered_with_the_nearest_name(dashboard):
    with opened(f"{dashboard}/?run=soft-5") as (page, _):
        page.get_by_text(
            re.compile("This link could not be opened: There is no run.*Did you mean")
        ).wait_for()
        page.wait_for_selector(".js-plotly-plot .main-svg")


def test_a_name_that_is_code_is_shown_and_not_run(dashboard):
    with opened(f"{dashboard}/?{urlencode({'run': HOSTILE})}&run=soft-4") as (page, seen):
        page.get_by_text(f"{HOSTILE} · checkpoint").wait_for()
        page.get_by_text("<b>data</b>").first.wait_for()
        page.get_by_label(
            "only settings that differ"
        ).click()  # one of its settings is called so too
        page.locator(".tabulator-col-title").get_by_text(HOSTILE).wait_for(state="attached")
        page.get_by_text(re.compile("checks passed")).wait_for()
        page.get_by_role("tab", name="Codebook", exact=True).click()
        page.get_by_text(re.compile("codes are used")).first.wait_for()
        assert (
            page.title() == "workbench"
            and page.locator("img[src=x], a[href^=javascript]").count() == 0
        )
        assert seen.errors == []
    with opened(f"{dashboard}/?{urlencode({'run': HOSTILE + '!'})}") as (page, _):
        page.get_by_text(re.compile("This link could not be opened")).wait_for()
        assert (
            page.title() == "workbench"
            and page.locator("img[src=x], a[href^=javascript]").count() == 0
        )


def test_keys_turn_steps_and_runs_and_none_is_heard_while_somebody_types(dashboard):
    with opened(f"{dashboard}/?run=soft-4&analysis=codebook_usage") as (page, seen):
        page.wait_for_selector(".js-plotly-plot .main-svg")
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**step=30*")
        page.get_by_text(re.compile("soft-4 · checkpoint step-000030")).wait_for()
        page.keyboard.press("ArrowRight")
        page.wait_for_url(lambda address: "step" not in address)
        page.keyboard.press("2")  # in the list: code, flow, plain, soft-2, soft-4
        page.wait_for_url("**run=flow*")
        page.keyboard.press("?")
        page.get_by_role("dialog").get_by_text("filter the list of runs").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        page.keyboard.press("/")
        page.keyboard.type("tokens>2 & 2")
        page.get_by_text("No run", exact=False).or_(
            page.get_by_text(re.compile(r"\d of 5 runs, 2 selected"))
        ).wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("c")
        page.get_by_role("button", name="copied").wait_for()
        assert "run=flow" in page.url and seen.errors == []


# What the browser tells the server is three texts; that the page is there is told late.
LATE = """let parts = [];
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (part) {
  parts.push(part);
  if (parts.length < 3) return;
  const whole = parts, go = () => whole.forEach((one) => send.call(this, one));
  parts = [];
  if (whole[2].includes("document_ready")) setTimeout(go, 3000);
  else go();
};"""


def test_a_key_that_is_pressed_before_the_page_is_wholly_there_is_not_lost(dashboard):
    with opened("about:blank") as (page, seen):
        page.add_init_script(LATE)
        page.goto(f"{dashboard}/?run=soft-4&analysis=codebook_usage")
        page.get_by_role("button", name="keys").wait_for()
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**step=30*")
        page.get_by_text(re.compile("soft-4 · checkpoint step-000030")).wait_for()
        assert seen.errors == []


def test_keys_undo_and_redo_what_changed_the_view_and_do_not_leave_the_page(dashboard):
    with opened(f"{dashboard}/?run=soft-4&analysis=codebook_usage") as (page, seen):
        page.get_by_text(re.compile("soft-4 · checkpoint step-000060")).wait_for()
        page.wait_for_selector(".js-plotly-plot .main-svg")
        page.get_by_role("button", name="keys").wait_for()  # they are heard
        page.keyboard.press("z")  # nothing to undo: the page before is not ours
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**step=30*")
        page.get_by_text(re.compile("soft-4 · checkpoint step-000030")).wait_for()
        page.keyboard.press("1")
        page.wait_for_url("**run=soft-4&run=*step=30*")  # what is in the address can be undone
        page.get_by_text("5 of 5 runs, 2 selected").wait_for()
        page.keyboard.press("z")
        page.get_by_text("5 of 5 runs, 1 selected").wait_for()
        page.get_by_text(re.compile("soft-4 · checkpoint step-000030")).wait_for()
        page.keyboard.press("z")
        page.get_by_text(re.compile("soft-4 · checkpoint step-000060")).wait_for()
        page.keyboard.press("Shift+Z")
        page.get_by_text(re.compile("soft-4 · checkpoint step-000030")).wait_for()
        page.keyboard.press("Shift+Z")
        page.get_by_text("5 of 5 runs, 2 selected").wait_for()
        page.keyboard.press("z")
        page.get_by_text("5 of 5 runs, 1 selected").wait_for()
        page.keyboard.press("1")  # what was undone, once more
        page.wait_for_url("**run=soft-4&run=*step=30*")
        page.keyboard.press("Shift+ArrowRight")  # ten steps, or as many as there are
        page.get_by_text(re.compile("soft-4 · checkpoint step-000060")).wait_for()
        assert seen.errors == []


def test_a_view_is_saved_under_a_name_beside_the_runs_and_opened_by_its_link(dashboard, runs):
    saved, name = runs / "views.json", "<img src=x onerror=document.title=1> & last"
    try:
        with opened(f"{dashboard}/?run=soft-2&run=soft-4&analysis=token_budget&metric=mse") as (
            page,
            seen,
        ):
            page.wait_for_selector(".js-plotly-plot .main-svg")
            page.get_by_placeholder("name this view").wait_for()
            page.get_by_role("button", name="keys").wait_for()
            page.keyboard.press("s")
            page.keyboard.type(name)
            page.keyboard.press("Enter")
            page.get_by_text("Saved as").wait_for()
            assert json.loads(saved.read_text(encoding="utf-8")) == {
                name: "run=soft-2&run=soft-4&analysis=token_budget&metric=mse"
            }
            assert seen.errors == []
        with opened(dashboard) as (page, seen):  # somebody else, another day
            page.get_by_role("link", name=name).click()
            page.wait_for_url("**analysis=token_budget&metric=mse*")
            page.get_by_text(re.compile("squared error", re.IGNORECASE)).first.wait_for()
            page.get_by_role("button", name=f"delete: {name}").click()
            page.get_by_role("link", name=name).wait_for(state="detached")
            assert page.title() == "workbench" and page.locator("img[src=x]").count() == 0
            assert json.loads(saved.read_text(encoding="utf-8")) == {} and seen.errors == []
    finally:
        saved.unlink(missing_ok=True)


CLICK = """(kind) => {
  const find = (root) => [...root.querySelectorAll("*")].flatMap((one) => [
    ...(one._fullData && one.offsetWidth ? [one] : []), ...(one.shadowRoot ? find(one.shadowRoot) : [])]);
  const place = find(document)[0], at = place._fullData.findIndex((trace) => trace.meta === kind);
  const full = place._fullData[at], { left, top } = place.getBoundingClientRect();
  const axis = (name) => place._fullLayout[full[`${name}axis`].replace(name, `${name}axis`)];
  const [x, y, first] = [axis("x"), axis("y"), place.calcdata[at][0]];
  const [u, v] = full.type === "heatmap" ? [0, 0] : [first.x, first.y];
  return [left + x._offset + x.c2p(u), top + y._offset + y.c2p(v), full.customdata[0]];
}"""


def test_a_click_on_a_point_opens_what_it_is(dashboard):
    for view, kind, expected in (
        ("analysis=token_budget&run=soft-2&run=soft-4&run=plain", "run", "**/?run={}&*"),
        ("analysis=latent_map&method=pca&run=soft-4", "image", "**tab=lens*"),
        ("analysis=codebook_usage&run=soft-4", "code", "**tab=codes*"),
    ):
        with opened(f"{dashboard}/?{view}") as (page, seen):
            page.wait_for_selector(".js-plotly-plot .main-svg")
            for _ in range(10):  # what is above the figure may still come, and move it
                x, y, which = page.evaluate(CLICK, kind)
                page.mouse.move(x, y)
                page.mouse.click(x, y)
                with suppress(TimeoutError):
                    page.wait_for_url(expected.format(which), timeout=8000)
                if fnmatch(page.url, expected.format(which)):
                    break
            assert fnmatch(page.url, expected.format(which))
            assert seen.errors == []


def test_the_list_follows_runs_that_come_go_on_and_go(dashboard, runs):
    with opened(f"{dashboard}/?run=soft-4&analysis=codebook_usage") as (page, seen):
        page.get_by_text("5 of 5 runs, 1 selected").wait_for()
        page.wait_for_selector(".js-plotly-plot .main-svg")
        shutil.copytree(runs / "soft-2", runs / "newcomer")
        try:
            page.get_by_text("6 of 6 runs, 1 selected").wait_for()
            page.locator(".tabulator-row", has_text="newcomer").get_by_text("✔ finished").wait_for()
            Run(runs / "newcomer").report("stopped", 42, steps=60)
            page.locator(".tabulator-row", has_text="newcomer").get_by_text("■ stopped").wait_for()
            assert page.locator(".tabulator-row.tabulator-selected").count() == 1
        finally:
            shutil.rmtree(runs / "newcomer")
        page.get_by_text("5 of 5 runs, 1 selected").wait_for()
        assert seen.errors == []


def test_the_way_back_in_the_browser_is_a_way_back_here(dashboard):
    with opened(f"{dashboard}/?run=soft-4&analysis=token_budget") as (page, seen):
        page.get_by_text(re.compile("PSNR, dB")).first.wait_for()
        page.get_by_role("combobox", name="metric").locator("visible=true").click()
        page.get_by_role("menuitem", name="mse").click()
        page.get_by_text(re.compile("Squared error")).first.wait_for()
        page.get_by_role("tab", name="Codebook", exact=True).click()
        page.wait_for_url("**analysis=codebook_usage*")
        page.go_back()
        page.get_by_text(re.compile("Squared error")).locator("visible=true").first.wait_for()
        page.go_back()
        page.get_by_text(re.compile("^PSNR is|^PSNR rises")).locator(
            "visible=true"
        ).first.wait_for()
        page.go_forward()
        page.get_by_text(re.compile("Squared error")).locator("visible=true").first.wait_for()
        assert "metric=mse" in page.url and seen.errors == []


@pytest.fixture
def large(runs):
    """A run with thirty times as many latents, near those it has, and nothing else: counting their modes takes long."""
    shutil.copytree(runs / "soft-4", runs / "large")
    evidence = runs / "large" / "evidence" / "step-000060"
    latents = np.load(evidence / "latents.npy")
    for path in evidence.glob("*.npy"):
        path.unlink()
    noise = np.random.default_rng(0).normal(0, 0.1 * latents.std(), (30, *latents.shape))
    np.save(
        evidence / "latents.npy",
        (latents + noise).reshape(-1, *latents.shape[1:]).astype(np.float32),
    )
    yield "large"
    shutil.rmtree(runs / "large")


def test_a_long_computation_says_how_far_it_is_leaves_the_page_free_and_ends_when_cancelled(
    dashboard, large
):
    view = f"run={large}&analysis=mixture_modes&max_modes=64&components=16"
    with opened(f"{dashboard}/?{view}") as (page, seen):
        said = page.get_by_text(re.compile(r"\d+ %, .*left"))
        said.wait_for(timeout=180_000)
        page.get_by_role("tab", name="Codebook", exact=True).click()  # the page answers meanwhile
        page.wait_for_url("**analysis=codebook_usage*")
        page.get_by_role("tab", name="Latents", exact=True).click()
        said.wait_for(timeout=180_000)
        left, pressed = said.text_content(), time.monotonic()
        page.get_by_role("button", name="cancel").first.click()
        page.get_by_text("The computation was stopped before it was finished.").wait_for()
        assert page.get_by_role("button", name="compute").is_visible()
        page.get_by_role("tab", name="Codebook", exact=True).click()
        page.get_by_role("combobox", name="primary run").click()
        page.get_by_role(
            "menuitem", name="soft-2", exact=True
        ).click()  # what is next has its turn, and is there
        page.get_by_text(re.compile(r"of 32 codes are used")).first.wait_for()
        assert time.monotonic() - pressed < int(
            re.search(r"(\d+)(–\d+)? s left", left)[1]
        )  # long before it would end
        assert seen.errors == []


def test_dark_figures_are_laid_out_as_light_ones(dashboard):
    layout = "e => [e.layout.title.x, e.layout.legend.orientation, e.layout.font.size, e.layout.margin.r]"
    colour = "e => getComputedStyle(e.querySelector('.gtitle')).fill"
    with opened(f"{dashboard}/?run=soft-4&analysis=token_budget") as (page, seen):
        page.wait_for_selector(".js-plotly-plot .main-svg")
        figure = page.locator(".js-plotly-plot:visible").first
        laid_out, light = figure.evaluate(layout), figure.evaluate(colour)
        # Its layers lie on each other: plotly's style rules have reached it.
        assert (
            figure.evaluate("e => getComputedStyle(e.querySelectorAll('.main-svg')[1]).position")
            == "absolute"
        )
        page.get_by_role("button", name="Toggle theme").click()
        painted = "([e, light]) => getComputedStyle(e.querySelector('.gtitle')).fill !== light"
        page.wait_for_function(painted, arg=[figure.element_handle(), light])
        assert figure.evaluate(layout) == laid_out and seen.errors == []
    with opened(f"{dashboard}/?run=soft-4&analysis=token_budget", dark=True) as (page, seen):
        figure = page.locator(".js-plotly-plot:visible").first
        page.wait_for_function(painted, arg=[figure.element_handle(), light])


def test_what_comes_while_a_page_is_sent_and_built_waits_until_it_is_there(trained, monkeypatch):
    """A page that is still being built may not hear of it."""
    import panel as pn
    from bokeh.document import Document
    from panel.io.state import set_curdoc

    from workbench.hosts.dashboard.app import Session

    waiting, heard = [], []
    monkeypatch.setattr(pn.state, "onload", waiting.append)
    monkeypatch.setattr(pn.state, "on_session_destroyed", lambda act: None)
    session = Session(trained)
    with set_curdoc(Document()):
        session.page()
    assert session.pages["overview"].budget.figure.object is None  # nothing is computed yet
    session.lifecycle.after_load(lambda: heard.append("meanwhile"))
    assert heard == []
    waiting[0]()
    assert session.pages["overview"].budget.figure.object is not None
    session.lifecycle.after_load(lambda: heard.append("after"))
    assert heard == ["meanwhile", "after"]


def test_the_dashboard_opens_finished_runs_without_torch(trained):
    script = f"""
import sys
from workbench.hosts.dashboard.app import Session
from workbench.workspace.view_state import ViewState
session = Session({str(trained)!r})
session.page()
for name in session.analyses:
    tab = session.analyses[name]
    session.state.open_analysis(name, runs=("soft-4", "soft-2", "flow"))
    assert tab.figure.object is not None or tab.result.message.object, name
assert "torch" not in sys.modules
print("shown", sum(tab.figure.object is not None for tab in session.analyses.made.values()))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout.split()[-1]) > 20


def test_two_visitors_do_not_see_each_others_view(trained):
    from workbench.hosts.dashboard.app import Session

    one, other = Session(trained), Session(trained)
    one.state.open_analysis("token_budget", runs=("soft-2",))
    assert other.state.view.analysis == "reconstruction" and other.state.view.runs != ("soft-2",)


def test_a_saved_view_that_is_no_view_or_cannot_be_written_is_told(trained, tmp_path):
    from workbench.hosts.dashboard.app import Session

    folder = tmp_path / "runs"
    shutil.copytree(trained / "plain", folder / "plain")
    (folder / "views.json").write_text("[1, {")
    session = Session(folder)
    assert session.saved_views.views == {}
    session.saved_views.save("")  # its own name
    assert list(session.saved_views.views.values()) == [session.state.view.to_query()]
    (folder / "views.json").unlink()
    (folder / "views.json").mkdir()
    session.saved_views.save("mine")
    assert (
        "could not be written" in session.saved_views.message.object
        and session.saved_views.views == {}
    )


def test_ten_steps_are_as_many_as_there_are(trained, tmp_path):
    from workbench.hosts.dashboard.app import Session

    evidence = tmp_path / "runs" / "plain" / "evidence"
    shutil.copytree(trained / "plain", evidence.parent)
    for other in evidence.glob("step-*[!6]0"):  # of steps that another test may have collected
        shutil.rmtree(other)
    for step in range(1, 15):
        shutil.copytree(
            evidence / "step-000060", evidence / f"step-{step:06d}", copy_function=os.link
        )
        changed(evidence / f"step-{step:06d}" / "provenance.json", step=step)
    session = Session(tmp_path / "runs")
    for key, step in (
        ("Shift+ArrowLeft", 5),
        ("Shift+ArrowLeft", 1),
        ("ArrowRight", 2),
        ("Shift+ArrowRight", 12),
    ):
        session.press(key)
        assert session.state.view.step == step
    session.press("Shift+ArrowRight")
    assert session.state.view.step is None


def test_an_empty_folder_teaches_the_next_command(tmp_path):
    from workbench.hosts.dashboard.app import Session

    assert "workbench train softvq-digits" in Session(tmp_path)._main()[0].object


def test_a_folder_of_damaged_runs_says_what_is_wrong_with_them(tmp_path):
    from workbench.hosts.dashboard.app import Session

    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{")
    guide, refused = Session(tmp_path)._main()
    assert (
        "workbench train" in guide.object
        and "torn/config.json is damaged" in refused.select()[-1].object
    )


def test_what_does_not_apply_or_was_not_collected_teaches_the_next_step(runs):
    from workbench.hosts.dashboard.app import Session

    session = Session(runs)
    session.state.open_analysis("codebook_usage", runs=("plain",))
    said = session.analyses["codebook_usage"].result.message.object
    assert "plain has none. It applies to" in said and "make that the primary run" in said
    session.state.change(runs=("soft-4",), step=45)
    assert "has no evidence of step 45 yet. Make it with: workbench collect" in (
        session.analyses["codebook_usage"].result.message.object
    )
    session.state.change(runs=(), step=None)
    assert "No run is selected" in session.analyses["codebook_usage"].result.message.object


def test_a_link_that_names_a_folder_outside_reads_nothing_there(runs):
    from workbench.hosts.dashboard.app import Session

    shutil.copytree(runs / "plain", runs.parent / "outside", dirs_exist_ok=True)
    session = Session(runs)
    for name in ("../outside", str(runs.parent / "outside"), "soft-4/../../outside"):
        session.follow("?" + urlencode({"run": name, "analysis": "reconstruction"}))
        assert "There is no run" in session.notice.object
        assert session.state.view.runs[0] == "soft-4" and session.state.view.tab == "overview"


def test_the_whole_view_goes_through_the_address(runs):
    from workbench.hosts.dashboard.app import Session

    one, other = Session(runs), Session(runs)
    one.state.open_analysis("token_budget", runs=("soft-4", "plain"), step=30)
    one.analyses["token_budget"].widgets["metric"].value = "mse"
    other.follow("?" + one.state.view.to_query())
    assert (
        other.state.view == one.state.view
        and other.state.view.controls == {"metric": "mse"}
        and other.state.view.step == 30
    )
    assert other.analyses["token_budget"].widgets["metric"].value == "mse"
    one.state.open_tab("overview", tab_options={"metric": "l1"})
    other.follow("?" + one.state.view.to_query())
    assert other.pages["overview"].budget.widgets["metric"].value == "l1"
    one.state.change(runs=("soft-2", "soft-4"), step=None)
    one.primary_run.run.value = "soft-4"
    assert one.state.view.runs == ("soft-4", "soft-2")


@pytest.fixture(scope="module")
def many(trained, tmp_path_factory):
    """Two hundred runs that differ in two settings; their arrays are one and the same on disk."""
    folder = tmp_path_factory.mktemp("many")
    skipped = shutil.ignore_patterns("step-*.safetensors", "samples", "log.jsonl")
    for i in range(200):
        shutil.copytree(
            trained / "soft-4", folder / f"run-{i:03d}", copy_function=os.link, ignore=skipped
        )
        config = folder / f"run-{i:03d}" / "config.json"
        told = json.loads(config.read_text(encoding="utf-8"))
        changed(config, training=told["training"] | {"lr": 10 ** -(2 + i % 3), "seed": i})
        changed(
            folder / f"run-{i:03d}" / "evidence" / "step-000060" / "provenance.json",
            run=f"run-{i:03d}",
        )
    return folder


def test_two_hundred_runs_are_listed_by_what_differs_and_filtered(many):
    from workbench.hosts.dashboard.app import Session

    session = Session(many)
    shown = session.runs.table.value
    assert len(shown) == 200 and {"lr", "seed"} < set(shown) and "batch_size" not in shown
    assert len(session.state.view.runs) == 8
    session.runs.filter.value_input = "lr<0.005 & seed>=100 & run-1"
    assert len(session.runs.table.value) == 67
    assert len(session.runs.selected) == 8  # what is hidden stays selected
    session.runs.only_differing.value = False
    assert "batch_size" in session.runs.table.value
    session.runs.filter.value_input = "leraning=3"
    assert "There is no column `leraning`" in session.runs.message.object


def test_the_psnr_of_evidence_is_computed_again_only_when_that_was_written_again(many):
    from workbench.workspace.workspace import Workspace

    before = Workspace(many).table()["PSNR (dB)"]
    evidence = many / "run-007" / "evidence" / "step-000060"
    (evidence / "images.npy").unlink()
    assert Workspace(many).table()["PSNR (dB)"].equals(before)
    changed(evidence / "provenance.json", n=359)
    again = Workspace(many).table()["PSNR (dB)"]
    assert again.isna().sum() == 1 and again.isna()[7]


COUNTED = """
import gc, os, sys
import panel as pn, psutil
from tornado.web import RequestHandler
from workbench.hosts.dashboard.app import Session
from workbench.workspace.compute import ComputeQueue

class Counts(RequestHandler):
    def get(self):
        gc.collect()
        here = psutil.Process()
        sessions = sum(isinstance(one, Session) for one in gc.get_objects())
        children = here.children(recursive=True)
        told = {"sessions": sessions, "waiting": len(jobs._open), "threads": here.num_threads()}
        self.write(told | {"files": here.num_fds(), "children": len(children)})

if __name__ == "__main__":
    pn.extension("plotly", "tabulator")
    folder, port = sys.argv[1:]
    jobs = ComputeQueue(folder)
    soon = {"check_unused_sessions_milliseconds": 500, "unused_session_lifetime_milliseconds": 10_000}
    how = {"port": int(port), "show": False, "extra_patterns": [("/counts", Counts)]}
    pn.serve({"/": lambda: Session(folder, jobs).page()}, **how, **soon)
"""


def test_closed_pages_leave_nothing_behind(trained, tmp_path, monkeypatch):
    (tmp_path / "counted.py").write_text(COUNTED, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    port = free_port()
    with (
        served(
            "counted", str(trained), str(port), port=port, log=tmp_path / "log", path="/counts"
        ) as address,
        chromium() as browser,
    ):

        def counts() -> dict[str, int]:
            with urllib.request.urlopen(f"{address}/counts") as answer:
                return json.load(answer)

        view, first = f"{address}/?run=soft-4&analysis=codebook_usage", {}
        visitor = (
            browser.new_context()
        )  # the same for all, which has the library's files after the first
        for turn in range(8):
            page = visitor.new_page()
            page.goto(view)
            if turn % 2:  # every other is closed as soon as there is anything to see
                page.get_by_role("tab", name="Codebook", exact=True).wait_for(timeout=60_000)
            else:
                page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
            page.close()
            first = counts() if turn == 2 else first
        for _ in range(3):  # and some that are gone before they are there
            urllib.request.urlopen(view).close()
        wait_for(lambda: counts()["sessions"] == 0)
        last = counts()
        assert {name: n for name, n in last.items() if n > first[name]} == {} and last[
            "waiting"
        ] == 0


def test_a_folder_that_is_not_there_and_a_port_in_use_are_refused(tmp_path, dashboard):
    said = subprocess.run(
        [sys.executable, "-m", "workbench", "dashboard", str(tmp_path / "none"), "--no-browser"],
        capture_output=True,
        text=True,
    )
    assert (
        said.returncode == 1
        and "none does not exist" in said.stderr
        and "Traceback" not in said.stderr
    )
    port = dashboard.rpartition(":")[2]
    said = subprocess.run(
        [
            sys.executable,
            "-m",
            "workbench",
            "dashboard",
            str(tmp_path),
            "--no-browser",
            "--port",
            port,
        ],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1 and f"port {port} is in use" in said.stderr
