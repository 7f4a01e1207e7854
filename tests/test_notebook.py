"""The notebook host: the explorer in code, and its widgets and modules in a real JupyterLab."""

import json
import re
import shutil
from pathlib import Path

import ipywidgets
import nbformat
import plotly.graph_objects as go
import pytest
from browser import Seen, free_port, lasso, opened, served
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import Page
from test_dashboard import keep_many_latents
from test_live import kill_while_it_logs, paused_training
from test_notebooks import with_small_models

import workbench as wb
from workbench import analysis
from workbench.core.errors import NotApplicable, RunError, UserError
from workbench.hosts.notebook.explorer import Explorer, ExplorerView
from workbench.storage.run import Run

FIRST = Path(__file__).parent.parent / "notebooks" / "0_first_run.ipynb"
FIGURE = "application/vnd.plotly.v1+json"


# The explorer, without a browser


def test_default_view_compares_all_runs(trained):
    explorer = wb.open(trained)
    assert explorer.state.analysis == "image_comparison" and len(explorer.selected) == 4
    assert (
        explorer.selected[0].name == explorer.state.runs[0]
        and explorer.selected[0].tokenizer is None
    )


@pytest.mark.parametrize(
    "name", [name for name in analysis.analyses() if name not in ("latent_map", "mixture_modes")]
)
def test_code_gives_the_same_table(trained, name):
    explorer = wb.open(trained).show(name, runs=["soft-4", "soft-2", "flow"])
    elsewhere: dict = {}
    try:
        exec(explorer.code(), elsewhere)
    except NotApplicable as refusal:  # the view raises the same error
        with pytest.raises(NotApplicable) as error:
            explorer.workspace.result(explorer.state)
        assert str(error.value) == str(refusal)
        return
    assert elsewhere["result"].table().equals(explorer.table)
    assert explorer.table.equals(explorer.workspace.result(explorer.state).table())


def test_code_keeps_step_and_controls(trained):
    explorer = wb.open(trained).show(
        "latent_map", runs=["soft-2"], step=60, method="pca", neighbors=7
    )
    elsewhere: dict = {}
    exec(explorer.code(), elsewhere)
    assert (
        "step=60" in explorer.code()
        and elsewhere["result"].neighbors == 7
        and elsewhere["result"].method == "pca"
    )
    assert elsewhere["result"].table().equals(
        explorer.table
    ) and explorer.figure.layout.title.text.startswith("Latent map")


def test_unknown_names_suggest_the_nearest(trained):
    explorer = wb.open(trained)
    before = explorer.state
    for name, controls, suggestion in (
        ("codebok_usage", {}, "codebook_usage"),
        ("latent_map", {"neighbor": 3}, "neighbors"),
        ("latent_map", {"runs": ["soft4"]}, "soft-4"),
    ):
        with pytest.raises(UserError) as error:
            explorer.show(name, **controls)
        assert f"Did you mean `{suggestion}`?" in str(error.value)
    assert explorer.state == before
    with pytest.raises(RunError) as error:
        wb.open(trained / "none" / "such")
    assert "none/such" in str(error.value)


def test_widgets_change_state_and_figure(trained):
    explorer = wb.open(trained)
    view = ExplorerView(explorer)
    view.primary.value = "soft-2"
    for name, checkbox in view.others.checkboxes.items():
        checkbox.value = name in ("soft-4", "soft-2")
    assert explorer.state.runs == ("soft-2", "soft-4")
    view.controls["order"].value = "worst"
    assert explorer.state.controls["order"] == "worst" and explorer.result.order == "worst"
    view.group.value = "tokens"
    assert explorer.state.analysis == view.analysis.value == "token_budget"
    view.task.wait()
    before = view.output.outputs[0]["data"][FIGURE]
    assert "metric" in view.controls and list(view.controls) == list(explorer.state.controls)
    view.controls["metric"].value = "mse"
    view.task.wait()
    after = view.output.outputs[0]["data"][FIGURE]
    assert "PSNR" in json.dumps(before["layout"]) and "squared error" in json.dumps(after["layout"])
    assert "mse" in explorer.table.columns


def test_slider_keeps_the_range_of_its_control(trained):
    view = ExplorerView(wb.open(trained).show("reconstruction", show=8))
    slider = view.controls["show"]
    assert (slider.min, slider.value, slider.max) == (4, 8, 32)
    slider.value = 1000
    assert slider.value == 32 and not slider.continuous_update


def test_inapplicable_analysis_shows_reason(trained):
    view = ExplorerView(wb.open(trained).show("codebook_usage", runs=["plain"]))
    with pytest.raises(NotApplicable) as error:
        _ = view.explorer.result
    assert str(error.value) in view.task.status.value
    assert view.output.outputs == ()


def test_other_primary_run_drops_the_step(trained):
    explorer = wb.open(trained).show("reconstruction", runs=["soft-2"], step=60)
    view = ExplorerView(explorer)
    assert explorer.state.step == 60
    view.primary.value = "plain"
    assert explorer.state.step is None


def test_page_without_kernel_has_runs_and_summary(trained):
    explorer = wb.open(trained)
    page = explorer._repr_html_()
    assert all(name in page for name in ("soft-4", "soft-2", "plain", "flow"))
    assert explorer.result.summary().split(",")[0] in page


VIEWS = {
    "open": lambda runs: wb.open(runs),
    "modes": lambda runs: wb.modes(runs / "soft-4", max_modes=2),
    "budget": lambda runs: wb.budget(runs / "soft-4", runs / "soft-2", metric="l1"),
    "compare": lambda runs: wb.compare(runs / "soft-4", runs / "soft-2"),
    "diffusability": lambda runs: wb.diffusability(runs / "soft-4", runs / "soft-2"),
    "predict": lambda runs: wb.predict(runs / "soft-4", ifid=20.0),
    "codebook": lambda runs: wb.codebook(runs / "soft-4", selected=[3]),
    "latent_map": lambda runs: wb.latent_map(
        runs / "soft-4", method="pca", polygon=[(0, 0), (9, 0), (9, 9)]
    ),
    "lens": lambda runs: wb.lens(runs / "soft-4", show=2, row=1, stop=0),
    "watch": lambda runs: wb.watch(runs / "soft-4", smoothing=0.5),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_available_in_code(trained, name):
    view = VIEWS[name](trained)
    assert view.state is not None
    assert len(view.table)
    assert isinstance(view.figure, go.Figure)
    assert view.selected is not None
    assert str(trained) in view.code()
    namespace = {}
    exec(view.code(), namespace)
    last = list(namespace.values())[-1]
    if isinstance(view, Explorer):  # its code computes the result
        assert last.table().equals(view.table)
    else:
        assert last.state == view.state
        assert last.table.equals(view.table)


def test_runs_of_other_folders_are_compared(trained, tmp_path):
    shutil.copytree(trained / "soft-2", tmp_path / "elsewhere")
    explorer, again = wb.compare(trained / "soft-4", tmp_path / "elsewhere"), {}
    assert [run.folder.parent for run in explorer.selected] == [trained, tmp_path]
    exec(explorer.code(), again)
    assert again["result"].table().equals(explorer.table)
    shutil.move(tmp_path / "elsewhere", tmp_path / "soft-4")
    with pytest.raises(UserError) as error:
        wb.compare(trained / "soft-4", tmp_path / "soft-4")
    assert str(tmp_path / "soft-4") in str(error.value)


def test_markup_in_run_names_is_escaped(trained, tmp_path):
    name = "<img src=x onerror=alert(1)>"
    shutil.copytree(trained / "soft-2", tmp_path / name)
    page = wb.open(tmp_path)._repr_html_()
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page


def test_empty_folder_and_damaged_run(trained, tmp_path):
    explorer = wb.open(tmp_path)
    assert "workbench train softvq-digits" in explorer._repr_html_()
    (hint,) = ExplorerView(explorer).box.children
    assert isinstance(hint, ipywidgets.HTML) and "workbench train softvq-digits" in hint.value
    shutil.copytree(trained / "soft-2", tmp_path / "good")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{"class": ')
    explorer = wb.open(tmp_path)
    assert (
        "torn" in explorer._repr_html_()
        and "is damaged" in ExplorerView(explorer).box.children[0].value
    )


# A real JupyterLab

RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }"
READY = """() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return context?.session?.kernel?.status === "idle";
}"""
CODE = (
    "window.jupyterapp.shell.currentWidget.content.widgets"
    ".filter(cell => cell.model.type === 'code')"
)
DONE = (
    f"() => {CODE}.every(cell => cell.model.executionCount && cell.model.executionState === 'idle')"
)
OUTPUTS = f"() => {CODE}.flatMap(cell => cell.model.sharedModel.getOutputs())"
TO_THE_SCREEN = "(i) => window.jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start')"
OPEN = """async ([path, startsKernel]) => {
  await window.jupyterapp.restored;
  const kernelPreference = { shouldStart: startsKernel, canStart: true };
  const options = { path, kernelPreference };
  await window.jupyterapp.commands.execute("docmanager:open", options);
}"""
SHUT_DOWN = "async () => { await window.jupyterapp.shell.currentWidget.sessionContext.shutdown() }"
# Without the question whether to save.
CLOSE = "() => { window.jupyterapp.shell.currentWidget.dispose() }"


class Lab:
    """One JupyterLab in one page, in which tests open their notebooks one after another.

    Attributes
    ----------
    page : Page
    seen : Seen
        What the page's `visit` records.
    """

    def __init__(self, page: Page, seen: Seen, root: Path) -> None:
        self.page = page
        self.seen = seen
        self._root = root

    def open(self, path: Path, *, starts_kernel: bool = True) -> None:
        """Open a notebook."""
        self.page.evaluate(OPEN, [str(path.relative_to(self._root)), starts_kernel])

    def close(self) -> None:
        """End the kernel of the notebook that is open, and close it."""
        self.page.evaluate(SHUT_DOWN)
        self.page.evaluate(CLOSE)

    def load_again(self) -> None:
        """Load the page, in which no notebook is open."""
        self.page.goto(f"{self.page.url.partition('?')[0]}?reset")
        self.page.wait_for_function("() => window.jupyterapp")


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory):
    """Start one JupyterLab for all tests, without news, extensions or a password."""
    port = free_port()
    root = tmp_path_factory.getbasetemp()
    flags = [
        f"--ServerApp.port={port}",
        f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=",
        "--no-browser",
        "--allow-root",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    log = tmp_path_factory.mktemp("lab") / "lab.log"
    with (
        served("jupyterlab", *flags, port=port, log=log, path="/api") as address,
        opened(f"{address}/lab?reset") as (page, seen),
    ):
        page.wait_for_function("() => window.jupyterapp")
        yield Lab(page, seen, root)


@pytest.fixture
def lab(shared_lab):
    """Return the JupyterLab without an open notebook, which must not send anything elsewhere."""
    shared_lab.page.bring_to_front()
    yield shared_lab
    shared_lab.close()
    assert shared_lab.seen.outside == []


def write_notebook(path: Path, cells: list[str]) -> None:
    """Write a notebook of code cells."""
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    node = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": python}
    )
    nbformat.write(node, path)


def run_all(page) -> None:
    """Run every cell and wait; nothing may fail or complain."""
    page.wait_for_function(READY)
    page.evaluate(RUN_ALL)
    page.wait_for_function(DONE, timeout=180_000, polling=200)  # not at every frame
    outputs = page.evaluate(OUTPUTS)
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.browser
def test_first_notebook_in_jupyterlab(lab, tmp_path):
    node = with_small_models(load_notebook_node(str(FIRST)))
    node = parameterize_notebook(node, {"folder": str(tmp_path / "runs"), "steps": 20})
    nbformat.write(node, tmp_path / "first.ipynb")
    cell_index = next(
        i for i, cell in enumerate(node.cells) if "explorer = wb.open(" in cell.source
    )
    lab.open(tmp_path / "first.ipynb")
    page = lab.page
    run_all(page)
    page.evaluate(TO_THE_SCREEN, cell_index)
    view = page.locator(".jp-OutputArea-output:has(> .widget-vbox)")
    figure = view.locator(".js-plotly-plot")
    view.locator(".wb-decision").first.wait_for()
    view.get_by_text("PSNR").first.wait_for()

    view.get_by_label("analyses of").select_option("Codebook")
    view.get_by_text(re.compile(r"of 256 codes are used")).wait_for()
    figure.locator(".main-svg").first.wait_for()
    assert figure.bounding_box()["height"] > 200
    view.get_by_label("analyses of").select_option("Tokens")
    view.get_by_label("metric").select_option("Mean squared error")
    figure.get_by_text("squared error").first.wait_for()

    view.get_by_label("analyses of").select_option("Latents")
    view.get_by_role("button", name="Latent map", exact=True).click()
    # The message appears while the kernel works.
    view.get_by_text("computing latent map").wait_for()
    view.get_by_text(re.compile("UMAP of 100 images")).wait_for()
    assert view.get_by_text("computing").count() == 0


MODULES = """
import workbench as wb
lens = wb.lens({run!r}, show=3)
points = wb.latent_map({run!r}, method="pca")
codes = wb.codebook({run!r})
"""
STATE = "print('state', lens.position, len(points.selected), codes.state.selected)"


@pytest.mark.kernel
@pytest.mark.browser
def test_lens_map_and_codebook_in_jupyterlab(lab, trained, tmp_path):
    cells = [MODULES.format(run=str(trained / "soft-4")), "lens", "points", "codes", STATE]
    write_notebook(tmp_path / "modules.ipynb", cells)
    lab.open(tmp_path / "modules.ipynb")
    page = lab.page
    run_all(page)
    page.evaluate(TO_THE_SCREEN, 1)
    page.locator(".wb-lens .panels canvas").first.click()
    page.keyboard.press("[")  # and not JupyterLab's own keys
    page.keyboard.press("ArrowDown")
    page.locator(".wb-lens .told", has_text="2 of 4 tokens").wait_for()

    page.evaluate(TO_THE_SCREEN, 2)
    lasso(page, page.locator(".wb-map .plane"))
    page.locator(".wb-map .told", has_text="selected").wait_for()
    count = page.locator(".wb-map .told").text_content().split(" ")[0]

    page.evaluate(TO_THE_SCREEN, 3)
    page.locator(".wb-codes .cells canvas").click(position={"x": 5, "y": 5})
    page.locator(".wb-codes .picked", has_text="code 0").wait_for()

    page.evaluate(TO_THE_SCREEN, 4)
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 4 }")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell') }")
    page.get_by_text(f"state (1, 1) {count} (0,)").wait_for()
    assert int(count) > 3


SAVE = "async () => { await window.jupyterapp.commands.execute('docmanager:save') }"
IS_VISIBLE = """([cell, expected]) => {
  const area = document.querySelectorAll(".jp-CodeCell")[cell];
  const outputs = area.querySelectorAll(".jp-Cell-outputArea > .jp-OutputArea-child");
  const kinds = {
    ".jp-OutputArea-output .jupyter-widgets": "widget", ".workbench-page": "page", svg: "figure" };
  const selectorOf = (output) => Object.keys(kinds).find((each) => output.querySelector(each));
  const nameOf = (output) => kinds[selectorOf(output)] ?? output.innerText.trim();
  const visible = [...outputs].filter((output) => output.offsetHeight).map(nameOf);
  return JSON.stringify(visible) === JSON.stringify(expected);
}"""


@pytest.mark.kernel
@pytest.mark.browser
def test_reopened_notebook_shows_pages(lab, trained, tmp_path):
    run = str(trained / "soft-4")
    cells = [
        f"import workbench as wb\nprint('before')\nwb.open({str(trained)!r}).show('token_budget')"
    ]
    cells += [f"display(wb.codebook({run!r}), wb.watch({run!r}))\nprint('after')"]
    write_notebook(tmp_path / "kept.ipynb", cells)

    def wait_for_outputs(page, *expected: list[str]) -> None:
        for cell, outputs in enumerate(expected):
            page.evaluate(TO_THE_SCREEN, cell)
            page.wait_for_function(IS_VISIBLE, arg=[cell, outputs])

    lab.open(tmp_path / "kept.ipynb")
    page = lab.page
    run_all(page)
    wait_for_outputs(page, ["before", "widget"], ["widget", "widget", "after"])
    page.evaluate(SAVE)
    lab.close()
    lab.load_again()
    for starts_kernel, instead in (
        (True, "Error displaying widget: model not found"),
        (False, "Loading widget..."),
    ):
        lab.open(tmp_path / "kept.ipynb", starts_kernel=starts_kernel)
        page.wait_for_function("(text) => document.body.textContent.includes(text)", arg=instead)
        wait_for_outputs(page, ["before", "page", "figure"], ["page", "page", "figure", "after"])
        page.get_by_role("cell", name="soft-2").first.wait_for()
        page.frame_locator("iframe").get_by_text("of 32 codes are used").wait_for()
        assert page.get_by_text(instead).filter(visible=True).count() == 0
        if starts_kernel:
            lab.close()


FREE = """
import threading, time
while any("(_run)" in thread.name for thread in threading.enumerate()):
    time.sleep(0.1)
print("fr" + "ee")
"""


@pytest.mark.kernel
@pytest.mark.browser
def test_long_computation_is_stopped_in_jupyterlab(lab, trained, tmp_path):
    run = tmp_path / "runs" / "large"
    shutil.copytree(trained / "soft-4", run)
    keep_many_latents(Run(run))
    cells = ["import workbench as wb", f"wb.modes({str(run)!r}, max_modes=64, components=16)", FREE]
    write_notebook(tmp_path / "long.ipynb", cells)
    lab.open(tmp_path / "long.ipynb")
    page = lab.page
    page.wait_for_function(READY)
    page.evaluate(RUN_ALL)
    page.get_by_text(
        re.compile(r"computing mixture modes … \d+ %, .*left; interrupt the cell")
    ).wait_for()
    assert page.get_by_text("free", exact=True).count() == 0  # the cell waits
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:interrupt-kernel') }")
    page.get_by_text("free", exact=True).wait_for()  # and nothing computes behind it
    page.get_by_text("stopped", exact=True).filter(visible=True).wait_for()
    page.get_by_label("covariance").select_option("Any shape (full)")
    page.get_by_text(re.compile(r"computing mixture modes … \d+ s so far")).wait_for()
    page.get_by_role("button", name="cancel").click()
    page.get_by_text("stopped", exact=True).filter(visible=True).wait_for()


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.browser
def test_watch_in_jupyterlab_during_a_busy_cell(lab, tmp_path):
    with paused_training(tmp_path / "runs" / "a") as training:
        watch_and_pause(lab, tmp_path, training)


BUSY = """
import pathlib, time
while not pathlib.Path({end!r}).exists():
    time.sleep(0.1)
print("fr" + "ee")
"""


def watch_and_pause(lab: Lab, folder: Path, training: Run) -> None:
    """Follow a training and pause it from the page of a notebook whose cell is busy."""
    end = folder / "end"
    cells = [
        f"import workbench as wb\nwb.watch({str(training.folder)!r})",
        BUSY.format(end=str(end)),
    ]
    write_notebook(folder / "live.ipynb", cells)
    lab.open(folder / "live.ipynb")
    page = lab.page
    page.wait_for_function(READY)
    page.evaluate(RUN_ALL)
    head = page.locator(".workbench-live").get_by_text(re.compile(r"step [\d,]+ of 100,000"))
    head.wait_for()
    first = head.inner_text()
    training.ask("resume")
    page.wait_for_function("(was) => !document.body.innerText.includes(was)", arg=first)
    page.locator(".workbench-live .js-plotly-plot .main-svg").first.wait_for()
    end.touch()  # the kernel receives clicks after the cell
    page.locator(".jp-OutputArea-output").get_by_text("free").wait_for()
    page.get_by_role("button", name="pause").click()
    page.get_by_text(re.compile(r"paused · heartbeat")).filter(visible=True).first.wait_for()
    page.get_by_text(re.compile(r"✓ pause at step")).wait_for()
    assert training.status()["state"] == "paused" and training.commands()
    kill_while_it_logs(training)
    page.get_by_text(re.compile(r"exited without .*checkpoint, step")).wait_for()
    assert page.locator(".workbench-live .js-plotly-plot .main-svg").count() > 0
    assert page.get_by_text("Traceback").count() == 0
