"""The notebooks run from top to bottom at toy size, in the order they are read in, and are kept without outputs."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from workbench.storage.run import Run

HERE = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
FIGURE = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Parameters that make any notebook quick; runs that one notebook trains, the next only opens."""
    folder = str(tmp_path_factory.mktemp("notebooks"))
    return {"folder": folder, "steps": 20, "systems": ["softvq", "karl"], "method": "pca"}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all notebooks: most of the time goes into importing torch, once."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(
        cwd=str(tmp_path_factory.mktemp("kernel")), env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_from_top_to_bottom_and_shows_something(notebook, toy, kernel):
    node = load_notebook_node(str(notebook))
    named = next(
        cell.source for cell in node.cells if "parameters" in cell.metadata.get("tags", [])
    )
    node = parameterize_notebook(
        node, {name: value for name, value in toy.items() if f"{name}:" in named}
    )
    node.cells[0].source, node.cells[0].cell_type = (
        "%reset -f",
        "code",
    )  # nothing of the notebook before
    node.cells[0].outputs, node.cells[0].execution_count = [], None
    NotebookClient(node, timeout=240, km=kernel).execute(reset_kc=True)
    outputs = [output for cell in node.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    forms = [set(output.get("data", {})) for output in outputs]
    pages = [
        o.data["text/html"]
        for o in outputs
        if "workbench-page" in o.get("data", {}).get("text/html", "")
    ]
    assert pages and forms.count({WIDGET}) == len(
        pages
    )  # for those who read without a kernel, and seen once
    if notebook == NOTEBOOKS[0]:
        assert len(pages) == 1 and "PSNR" in pages[0]  # what was said while it computed is gone
        assert any(FIGURE in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_kept_without_outputs(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_each_notebook_points_to_the_next():
    for here, following in zip(NOTEBOOKS[1:], NOTEBOOKS[2:], strict=False):
        last = "".join(json.loads(here.read_text())["cells"][-1]["source"])
        assert re.findall(r"`(\d_\w+\.ipynb)`", last) == [following.name]


def test_the_first_tokenizer_has_at_most_sixty_lines():
    cells = json.loads(NOTEBOOKS[1].read_text())["cells"]
    (written,) = [
        c["source"] for c in cells if any(line.startswith("class Sixty") for line in c["source"])
    ]
    start = next(i for i, line in enumerate(written) if line.startswith("class Sixty"))
    assert len(written[start:]) <= 60


def said(client, code: str) -> str:
    """What a cell prints."""
    heard: list[str] = []
    client.execute_interactive(
        code,
        timeout=120,
        output_hook=lambda message: heard.append(message["content"].get("text", "")),
    )
    return "".join(heard)


def test_in_a_notebook_training_leaves_the_kernels_process_alone(kernel, tmp_path):
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    tiny = "num_tokens=2, width=8, depth=1, heads=2, codebook_size=8, batch_size=8"
    code = f"import os, workbench as wb\nrun = wb.train('softvq-digits', {str(tmp_path / 'a')!r}, steps=3, {tiny})\n"
    code += "print(run.status()['state'], run.status()['pid'] != os.getpid(), run.evidence().step)"
    assert said(client, code).splitlines()[-1] == "finished True 3"
    code = f"wb.train('softvq-digits', {str(tmp_path / 'b')!r}, stesp=3)"
    client.execute(code)
    answer = client.get_shell_msg(timeout=60)["content"]
    assert answer["ename"] == "UserError" and "Did you mean `steps`" in answer["evalue"]
    client.stop_channels()


def test_an_interrupted_cell_stops_its_training_with_a_checkpoint(kernel, tmp_path):
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    out = tmp_path / "long"
    tiny = "num_tokens=2, width=8, depth=1, heads=2, codebook_size=8, batch_size=8, steps=1000000, save_every=1000000, log_every=1"
    client.execute(f"import workbench as wb\nrun = wb.train('softvq-digits', {str(out)!r}, {tiny})")
    try:
        while client.get_iopub_msg(timeout=60)["msg_type"] != "display_data":  # its progress bar
            pass
        end = time.monotonic() + 60
        while Run(out).status()["step"] <= 5:
            assert time.monotonic() < end
            time.sleep(0.1)
        kernel.interrupt_kernel()
        assert client.get_shell_msg(timeout=60)["content"]["status"] == "ok"
        run = Run(out)
        assert run.status()["state"] == "stopped" and run.steps[-1] == run.status()["step"]
    finally:
        Run(out).ask("stop")  # else it would go on after us
    client.stop_channels()
