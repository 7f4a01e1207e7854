"""The dashboard in a real browser: every tab draws, a link is a view, controls act, and nothing leaves the machine."""

import re
import subprocess
import sys

import pytest
from browser import drawn, free_port, opened, served

from workbench import analysis

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("dashboard")]
VIEW = "run=soft-4&run=soft-2&run=flow&run=plain"


@pytest.fixture(scope="module")
def dashboard(trained, tmp_path_factory):
    port, log = free_port(), tmp_path_factory.mktemp("log") / "dashboard.log"
    with served(
        "workbench", "dashboard", str(trained), "--port", str(port), "--no-browser", port=port, log=log
    ) as address:
        yield address


def test_the_first_look_lists_every_run_and_draws_a_figure_without_the_network(dashboard):
    with opened(dashboard) as (page, seen):
        page.wait_for_selector(".js-plotly-plot .main-svg")
        for name in ("soft-4", "soft-2", "plain", "flow"):
            assert page.get_by_text(name, exact=True).first.is_visible()
        page.wait_for_timeout(500)
        assert seen.errors == [] and seen.outside == []


@pytest.mark.parametrize("group", analysis.GROUPS)
def test_every_group_has_a_tab_with_a_tab_for_each_of_its_analyses_that_draws_its_figure(dashboard, group):
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
        page.get_by_role("combobox").nth(1).click()
        page.get_by_role("menuitem", name="mse").click()
        page.wait_for_url("**metric=mse*")
        page.get_by_text(re.compile("squared error", re.IGNORECASE)).first.wait_for()


def test_an_analysis_that_does_not_apply_says_so_in_a_sentence(dashboard):
    with opened(f"{dashboard}/?run=plain&analysis=codebook_usage") as (page, seen):
        page.get_by_text("Codebook usage needs codes and codebook; plain has none.").wait_for()
        assert page.locator(".js-plotly-plot:visible").count() == 0 and seen.errors == []


def test_a_link_to_what_does_not_exist_is_answered_with_the_nearest_name(dashboard):
    with opened(f"{dashboard}/?run=soft-5") as (page, _):
        page.get_by_text(re.compile("This link could not be followed: There is no run.*Did you mean")).wait_for()
        page.wait_for_selector(".js-plotly-plot .main-svg")


def test_a_name_that_is_code_is_shown_and_not_run(dashboard):
    with opened(f"{dashboard}/?run=%3Cimg%20src%3Dx%20onerror%3Ddocument.title%3D1%3E") as (page, _):
        page.get_by_text(re.compile("This link could not be followed")).wait_for()
        assert page.title() == "workbench"


def test_the_dashboard_opens_finished_runs_without_torch(trained):
    script = f"""
import sys
from workbench.views.dashboard import Session
from workbench.views.state import ViewState
session = Session({str(trained)!r})
session.page()
for name, tab in session.tabs.items():
    session.go(analysis=name, runs=("soft-4", "soft-2", "flow"))
    assert tab.figure.object is not None, name
assert "torch" not in sys.modules
print("shown", len(session.tabs))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "shown" in ended.stdout


def test_two_visitors_do_not_see_each_others_view(trained):
    from workbench.views.dashboard import Session

    one, other = Session(trained), Session(trained)
    one.go(analysis="token_budget", runs=("soft-2",))
    assert other.state.analysis == "reconstruction" and other.state.runs != ("soft-2",)


def test_an_empty_folder_teaches_the_next_command(tmp_path):
    from workbench.views.dashboard import Session

    assert "workbench train softvq-digits" in Session(tmp_path)._main().object


def test_a_folder_that_is_not_there_and_a_port_in_use_are_refused(tmp_path, dashboard):
    said = subprocess.run(
        [sys.executable, "-m", "workbench", "dashboard", str(tmp_path / "none"), "--no-browser"],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1 and "none does not exist" in said.stderr and "Traceback" not in said.stderr
    port = dashboard.rpartition(":")[2]
    said = subprocess.run(
        [sys.executable, "-m", "workbench", "dashboard", str(tmp_path), "--no-browser", "--port", port],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1 and f"port {port} is in use" in said.stderr
