"""The dashboard in a real browser without a network."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from fnmatch import fnmatch
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from browser import SharedPage, chromium, free_port, opened, served, show
from playwright.sync_api import TimeoutError
from test_dashboard_session import MARKUP, copy_runs
from waiting import wait_for

from workbench import analysis, cli
from workbench.core.glossary import analysis_title, group_title
from workbench.hosts.dashboard.app import TAB_TITLES
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run

pytestmark = pytest.mark.browser
# A figure, cards of images or the card of a decision.
DRAWN = ".js-plotly-plot:visible .main-svg, .wb-card img:visible, .wb-decision:visible"
VIEW = "run=soft-4&run=soft-2&run=flow&run=plain"


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    return copy_runs(trained, tmp_path_factory.mktemp("copies") / "runs")


@pytest.fixture(scope="module")
def dashboard(runs, tmp_path_factory):
    port, log = free_port(), tmp_path_factory.mktemp("log") / "dashboard.log"
    command = (
        "workbench",
        "dashboard",
        str(runs),
        "--port",
        str(port),
        "--no-browser",
        "--no-token",
    )
    with served(*command, port=port, log=log) as address:
        yield address


@pytest.fixture(scope="module")
def shared_page(dashboard):
    """Load the page of the tests that need no new one, which takes longer than most of them."""
    with opened(f"{dashboard}/?{VIEW}&analysis=token_budget") as (page, seen):
        yield SharedPage(page, seen)


def test_overview_opens_without_network(dashboard):
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
        # A check links to its explanation.
        link = page.locator("a[href^='help/checks#tk']").first.get_attribute("href")
        with urlopen(f"{dashboard}/{link}") as response:
            assert f'id="{link.partition("#")[2]}"' in response.read().decode()
        with urlopen(dashboard) as response:
            document = response.read().decode()
        # A browser draws the tabs and the runs before it has loaded any script.
        first_paint, scripts = document.split('id="first-paint"')[1].split("bokeh.min.js")
        assert all(f"<li>{text}</li>" in first_paint for text in (*TAB_TITLES, "soft-4", "flow"))
        assert scripts.count('data-root-id="') == 3 and scripts.count("<title>") == 0
        assert seen.errors == [] and seen.outside == []


def test_group_tabs_draw_their_analyses(shared_page):
    page, seen = shared_page.show(f"{VIEW}&analysis=token_budget")
    for group in analysis.GROUPS:
        names = analysis.groups()[group]
        tab_title = group_title(group)
        # One that is not the group's first, too.
        name = names[-2] if group == "latents" else names[0]
        page.get_by_role("tab", name=tab_title, exact=True).click()
        if name != names[0]:
            page.get_by_role("tab", name=analysis_title(name), exact=True).click()
        page.wait_for_url(f"**analysis={name}*")
        page.get_by_role("tab", name=tab_title, exact=True, selected=True).wait_for()
        for other in names if len(names) > 1 else ():
            tab = page.get_by_role("tab", name=analysis_title(other), exact=True)
            selected = str(other == name).lower()
            tab.and_(page.locator(f"[aria-selected={selected}]")).first.wait_for()
        drawn = page.locator(DRAWN)
        drawn.first.wait_for()
    assert seen.errors == []


def test_views_are_in_the_address_and_the_history(shared_page):
    page, seen = shared_page.show(f"{VIEW}&analysis=token_budget")
    page.get_by_text(re.compile("PSNR, dB")).first.wait_for()
    page.get_by_role("combobox", name="metric").locator("visible=true").click()
    page.get_by_role("menuitem", name="Mean squared error").click()
    page.wait_for_url("**metric=mse*")
    page.get_by_text(re.compile("Squared error")).first.wait_for()
    page.get_by_role("tab", name="Codebook", exact=True).click()
    page.wait_for_url("**analysis=codebook_usage*")
    page.get_by_text(re.compile(r"of 32 codes are used")).first.wait_for()
    page.go_back()
    page.get_by_text(re.compile("Squared error")).locator("visible=true").first.wait_for()
    page.go_back()
    page.get_by_text(re.compile("^PSNR is|^PSNR rises")).locator("visible=true").first.wait_for()
    page.go_forward()
    page.get_by_text(re.compile("Squared error")).locator("visible=true").first.wait_for()
    assert "metric=mse" in page.url and seen.errors == []


def test_invalid_link_and_inapplicable_analysis_show_reasons(dashboard):
    with opened(f"{dashboard}/?run=soft-5") as (page, seen):
        page.get_by_text(
            re.compile("This link could not be opened: There is no run.*Did you mean")
        ).wait_for()
        page.wait_for_selector(".js-plotly-plot .main-svg")
        show(page, "run=plain&analysis=codebook_usage")
        page.get_by_text("Codebook usage cannot be computed for plain").wait_for()
        assert page.locator(".js-plotly-plot:visible").count() == 0 and seen.errors == []


def test_markup_in_run_names_is_escaped(shared_page):
    page, seen = shared_page.show(f"{urlencode({'run': MARKUP})}&run=soft-4")
    page.get_by_text(f"{MARKUP} · checkpoint").wait_for()
    page.get_by_text("<b>data</b>").first.wait_for()
    page.get_by_label("only settings that differ").click()  # one of its settings is called so too
    page.locator(".tabulator-col-title").get_by_text(MARKUP).wait_for(state="attached")
    page.get_by_text(re.compile("checks passed")).wait_for()
    page.get_by_role("tab", name="Codebook", exact=True).click()
    page.get_by_text(re.compile("codes are used")).first.wait_for()
    assert (
        page.title() == "workbench" and page.locator("img[src=x], a[href^=javascript]").count() == 0
    )
    assert seen.errors == []
    shared_page.show(urlencode({"run": MARKUP + "!"}))
    page.get_by_text(re.compile("This link could not be opened")).wait_for()
    assert (
        page.title() == "workbench" and page.locator("img[src=x], a[href^=javascript]").count() == 0
    )


def test_keys_change_undo_and_redo_views_outside_fields(dashboard):
    with opened(f"{dashboard}/?run=soft-4&analysis=codebook_usage") as (page, seen):
        page.get_by_text(re.compile("soft-4 · checkpoint step-000060")).wait_for()
        page.wait_for_selector(".js-plotly-plot .main-svg")
        page.get_by_role("button", name="keys").wait_for()  # the page receives keys
        page.keyboard.press("z")  # there is nothing to undo
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**step=30*")
        page.get_by_text(re.compile("soft-4 · checkpoint step-000030")).wait_for()
        page.keyboard.press("1")
        page.wait_for_url(
            "**run=soft-4&run=*step=30*"
        )  # changes are undone once they are in the address
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
        page.keyboard.press("1")  # repeat the change that was undone
        page.wait_for_url("**run=soft-4&run=*step=30*")
        page.keyboard.press("Shift+ArrowRight")  # at most ten steps
        page.get_by_text(re.compile("soft-4 · checkpoint step-000060")).wait_for()
        page.keyboard.press("1")
        page.get_by_text("5 of 5 runs, 1 selected").wait_for()

        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**step=30*")
        page.get_by_text(re.compile("soft-4 · checkpoint step-000030")).wait_for()
        page.keyboard.press("ArrowRight")
        page.wait_for_url(lambda address: "step" not in address)
        page.keyboard.press("2")  # the list is code, flow, plain, soft-2, soft-4
        page.wait_for_url("**run=flow*")
        page.keyboard.press("?")
        page.get_by_role("dialog").get_by_text("filter the list of runs").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        page.keyboard.press("/")
        page.keyboard.type("num_tokens>2")
        page.get_by_text(re.compile(r"[1-4] of 5 runs, 2 selected")).wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("c")
        page.get_by_role("button", name="copied").wait_for()
        assert "run=flow" in page.url and seen.errors == []


# Delay the message that the page is ready; each message to the server has three parts.
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


def test_key_during_loading_is_not_lost(dashboard):
    with opened("about:blank") as (page, seen):
        page.add_init_script(LATE)
        page.goto(f"{dashboard}/?run=soft-4&analysis=codebook_usage")
        page.get_by_role("button", name="keys").wait_for()
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**step=30*")
        page.get_by_text(re.compile("soft-4 · checkpoint step-000030")).wait_for()
        assert seen.errors == []


def test_saved_view_opens_by_its_link(shared_page, dashboard, runs):
    saved, name = runs / "views.json", "<img src=x onerror=document.title=1> & last"
    view = "run=soft-2&run=soft-4&analysis=token_budget&metric=mse"
    try:
        page, seen = shared_page.show(view)
        page.wait_for_selector(".js-plotly-plot .main-svg")
        page.get_by_placeholder("name this view").wait_for()
        page.get_by_role("button", name="keys").wait_for()
        page.keyboard.press("s")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        page.get_by_text("Saved as").wait_for()
        assert json.loads(saved.read_text(encoding="utf-8")) == {name: view}
        assert seen.errors == []
        with opened(dashboard) as (page, seen):  # another visitor
            page.get_by_role("link", name=name).click()
            page.wait_for_url("**analysis=token_budget&metric=mse*")
            page.get_by_text(re.compile("squared error", re.IGNORECASE)).first.wait_for()
            page.get_by_role("button", name=f"delete: {name}").click()
            page.get_by_role("link", name=name).wait_for(state="detached")
            assert page.title() == "workbench" and page.locator("img[src=x]").count() == 0
            assert json.loads(saved.read_text(encoding="utf-8")) == {} and seen.errors == []
    finally:
        saved.unlink(missing_ok=True)


# Where to click on the first point of a kind, and which it is; nothing before it is drawn.
CLICK = """(kind) => {
  const find = (root) => [...root.querySelectorAll("*")].flatMap((element) => [
    ...(element._fullData && element.offsetWidth ? [element] : []),
    ...(element.shadowRoot ? find(element.shadowRoot) : [])]);
  const isOfKind = (trace) => trace.meta === kind;
  const place = find(document).find((element) => element._fullData.some(isOfKind));
  if (!place) return null;
  const at = place._fullData.findIndex(isOfKind);
  const full = place._fullData[at], { left, top } = place.getBoundingClientRect();
  const axis = (name) => place._fullLayout[full[`${name}axis`].replace(name, `${name}axis`)];
  const [x, y, first] = [axis("x"), axis("y"), place.calcdata[at][0]];
  const [u, v] = full.type === "heatmap" ? [0, 0] : [first.x, first.y];
  return [left + x._offset + x.c2p(u), top + y._offset + y.c2p(v), full.customdata[0]];
}"""


def test_click_on_a_point_opens_it(shared_page):
    views = (
        ("analysis=token_budget&run=soft-2&run=soft-4&run=plain", "run", "**/?run={}&*"),
        ("analysis=latent_map&method=pca&run=soft-4", "image", "**tab=lens*"),
        ("analysis=codebook_usage&run=soft-4", "code", "**tab=codes*"),
    )
    for view, kind, expected in views:
        page, seen = shared_page.show(view)
        for _ in range(10):  # content above the figure may still load and move it
            x, y, which = page.wait_for_function(CLICK, arg=kind).json_value()
            page.mouse.move(x, y)
            page.mouse.click(x, y)
            with suppress(TimeoutError):
                page.wait_for_url(expected.format(which), timeout=8000)
            if fnmatch(page.url, expected.format(which)):
                break
        assert fnmatch(page.url, expected.format(which))
        assert seen.errors == []


def test_run_list_follows_the_folder(shared_page, runs):
    page, seen = shared_page.show("run=soft-4&analysis=codebook_usage")
    page.get_by_text("5 of 5 runs, 1 selected").wait_for()
    page.locator(".js-plotly-plot:visible .main-svg").first.wait_for()
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


def keep_many_latents(run: Run) -> None:
    """Replace the evidence of a run by its latents alone, ten times with noise."""
    evidence = run.evidence()
    latents = evidence.latents
    noise = np.random.default_rng(0).normal(0, 0.1 * latents.std(), (10, *latents.shape))
    many = (latents + noise).reshape(-1, *latents.shape[1:]).astype(np.float32)
    provenance = evidence.provenance | {"n": len(many), "of": len(many)}
    shutil.rmtree(run.evidence_folder(60))
    Evidence(provenance=provenance, latents=many).save(run.evidence_folder(60))


@pytest.fixture
def large(runs):
    """A run with only latents, ten times as many: counting their modes takes long."""
    shutil.copytree(runs / "soft-4", runs / "large")
    keep_many_latents(Run(runs / "large"))
    yield "large"
    shutil.rmtree(runs / "large")


def test_long_computation_can_be_cancelled(shared_page, large):
    view = f"run={large}&analysis=mixture_modes&max_modes=64&components=16"
    page, _ = shared_page.show("run=soft-4&analysis=codebook_usage")
    page.get_by_text("6 of 6 runs, 1 selected").wait_for()
    page, seen = shared_page.show(view)
    progress = page.get_by_text(re.compile(r"\d+ %, .*left"))
    progress.wait_for(timeout=180_000)
    page.get_by_role("tab", name="Codebook", exact=True).click()  # the page answers meanwhile
    page.wait_for_url("**analysis=codebook_usage*")
    page.get_by_role("tab", name="Latents", exact=True).click()
    progress.wait_for(timeout=180_000)
    remaining = re.search(r"([\d.]+)(–[\d.]+)? (s|min) left", progress.text_content())
    remaining_s = float(remaining[1]) * {"s": 1, "min": 60}[remaining[3]]
    start_s = time.monotonic()
    page.get_by_role("button", name="cancel").first.click()
    page.get_by_text("The computation was stopped before it was finished.").wait_for()
    assert page.get_by_role("button", name="compute").is_visible()
    page.get_by_role("tab", name="Codebook", exact=True).click()
    page.get_by_role("combobox", name=re.compile("^Primary run")).click()
    # The next computation takes the worker at once.
    page.get_by_role("menuitem", name="soft-2", exact=True).click()
    page.get_by_text(re.compile(r"of 32 codes are used")).first.wait_for()
    assert time.monotonic() - start_s < remaining_s
    assert seen.errors == []


def test_dark_theme_keeps_figure_layout(dashboard):
    layout = (
        "({ layout: { title, legend, font, margin } }) => "
        "[title.x, legend.orientation, font.size, margin.r]"
    )
    color = "e => getComputedStyle(e.querySelector('.gtitle')).fill"
    with opened(f"{dashboard}/?run=soft-4&analysis=token_budget") as (page, seen):
        page.wait_for_selector(".js-plotly-plot .main-svg")
        figure = page.locator(".js-plotly-plot:visible").first
        layout_before, light = figure.evaluate(layout), figure.evaluate(color)
        # Its layers overlap: the style rules of plotly apply to it.
        assert (
            figure.evaluate("e => getComputedStyle(e.querySelectorAll('.main-svg')[1]).position")
            == "absolute"
        )
        page.get_by_role("button", name="Toggle theme").click()
        is_repainted = "([e, light]) => getComputedStyle(e.querySelector('.gtitle')).fill !== light"
        page.wait_for_function(is_repainted, arg=[figure.element_handle(), light])
        assert figure.evaluate(layout) == layout_before and seen.errors == []
    with opened(f"{dashboard}/?run=soft-4&analysis=token_budget", dark=True) as (page, seen):
        figure = page.locator(".js-plotly-plot:visible").first
        page.wait_for_function(is_repainted, arg=[figure.element_handle(), light])
        # The styles of the theme come after those of the page: its text is light.
        text = page.get_by_text(re.compile(r"\d runs, \d selected")).first
        text_color = text.evaluate("e => getComputedStyle(e).color")
        assert min(map(int, re.findall(r"[0-9]+", text_color)[:3])) > 200


COUNTING_SERVER = """
import gc, os, sys
import panel as pn, psutil
from tornado.web import RequestHandler
from workbench.hosts.dashboard.app import Session
from workbench.workspace.compute import ComputeQueue

class Counts(RequestHandler):
    def get(self):
        gc.collect()
        here = psutil.Process()
        sessions = sum(isinstance(item, Session) for item in gc.get_objects())
        children = here.children(recursive=True)
        counts = {"sessions": sessions, "waiting": len(queue._jobs), "threads": here.num_threads()}
        self.write(counts | {"files": here.num_fds(), "children": len(children)})

if __name__ == "__main__":
    pn.extension("plotly", "tabulator")
    folder, port = sys.argv[1:]
    queue = ComputeQueue(folder)
    gc.collect()
    gc.freeze()  # what was imported is not searched for sessions
    pn.serve(
        {"/": lambda: Session(folder, queue).page()},
        port=int(port),
        show=False,
        extra_patterns=[("/counts", Counts)],
        check_unused_sessions_milliseconds=500,
        unused_session_lifetime_milliseconds=10_000,
    )
"""


def test_closed_pages_leave_nothing_behind(trained, tmp_path, monkeypatch):
    (tmp_path / "counted.py").write_text(COUNTING_SERVER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    port = free_port()
    with (
        served(
            "counted", str(trained), str(port), port=port, log=tmp_path / "log", path="/counts"
        ) as address,
        chromium() as browser,
    ):

        def counts() -> dict[str, int]:
            with urlopen(f"{address}/counts") as answer:
                return json.load(answer)

        view, first = f"{address}/?run=soft-4&analysis=codebook_usage", {}
        visitor = browser.contexts[0]  # has the files of Panel after the first page
        for turn in range(4):
            page = visitor.new_page()
            page.goto(view)
            if turn % 2:  # every other page is closed before it is complete
                page.get_by_role("tab", name="Codebook", exact=True).wait_for(timeout=60_000)
            else:
                page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
            page.close()
            first = counts() if turn == 1 else first
        for _ in range(3):  # some visitors leave before the page is complete
            urlopen(view).close()
        wait_for(lambda: counts()["sessions"] == 0, every_s=1)
        last = counts()
        assert {name: n for name, n in last.items() if n > first[name]} == {}
        assert last["waiting"] == 0


def test_missing_folder_is_refused(tmp_path, monkeypatch):
    words = ["workbench", "dashboard", str(tmp_path / "none"), "--no-browser"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as exit_request:
        cli.main()
    assert "none does not exist" in exit_request.value.code


def test_used_port_is_refused(tmp_path, dashboard):
    port = dashboard.rpartition(":")[2]
    process = subprocess.run(
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
    assert process.returncode == 1 and f"port {port}" in process.stderr
