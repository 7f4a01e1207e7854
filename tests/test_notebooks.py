"""The notebooks run from top to bottom at small size, and are stored with small outputs."""

import base64
import io
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from jupyter_client.client import KernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image
from PIL.ImageColor import getrgb

from benchmarks.notebook_outputs import compressed, png_bundle
from workbench.analysis.plotting.run_colors import RUN_COLORS
from workbench.storage.run import Run

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
PLOTLY_MIME = "application/vnd.plotly.v1+json"
PICTURES = ("image/png", "image/jpeg")
TEXTS = ("text/html", "text/plain")
MAX_BYTES = 200_000
# A path with two parts or more that is not the end of an address, of a relative path or of a tag.
ABSOLUTE_PATH = r"(?<![\w.:/<-])/[\w.-]+/[\w.-]+|[A-Z]:\\\\"
FORKED_TRAININGS = "__import__('forked_training').install()"
REAL_PROCESSES = "__import__('forked_training').uninstall()"
SMALLER = {
    '"width": 64, "depth": 2': '"width": 32, "depth": 1',
    "limit=300": "limit=160",
    'data="photos",': 'data="photos", limit=100,',
}
TINY = "num_tokens=2, width=8, depth=1, heads=2, codebook_size=8, batch_size=8"


@pytest.fixture(scope="module")
def parameters(tmp_path_factory) -> dict[str, object]:
    """Return parameters that make notebooks fast. Runs that several notebooks need are shared."""
    folder = str(tmp_path_factory.mktemp("notebooks"))
    return {"folder": folder, "steps": 20, "systems": ["softvq", "karl"], "method": "pca"}


def with_small_models(notebook: NotebookNode) -> NotebookNode:
    """Make the trainings of a notebook use small models and few images."""

    def smaller(call: re.Match[str]) -> str:
        limit = "" if "tokenizer=" in call[0] else ", limit=100"
        return f"{call[0]}, width=32, depth=1{limit}"

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(
                r"wb\.(?:train|start)\((?!config).*?\bsteps=steps", smaller, cell.source
            )
            for text, replacement in SMALLER.items():
                cell.source = cell.source.replace(text, replacement)
    return notebook


@pytest.fixture(scope="module")
def kernel(tmp_path_factory) -> KernelManager:
    """Start one kernel for all notebooks, because importing torch takes most of the time."""
    manager = KernelManager(kernel_name="python3")
    folder = str(tmp_path_factory.mktemp("kernel"))
    tests = str(Path(__file__).parent)  # for `forked_training`
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), tests)))
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    manager.start_kernel(cwd=folder, env=os.environ | environment)
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture
def client(kernel) -> KernelClient:
    """Return a client that is connected to the kernel."""
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield client
    client.stop_channels()


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_results(path, parameters, kernel):
    notebook = with_small_models(load_notebook_node(str(path)))
    declarations = next(
        cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    )
    declared = {name: value for name, value in parameters.items() if f"{name}:" in declarations}
    notebook = parameterize_notebook(notebook, declared)
    # The title's cell removes the variables of the previous notebook.
    first = notebook.cells[0]
    first.source, first.cell_type = f"%reset -f\n{FORKED_TRAININGS}", "code"
    first.outputs, first.execution_count = [], None
    NotebookClient(notebook, timeout=240, km=kernel).execute(reset_kc=True)

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    bundles = [output.get("data", {}) for output in outputs]
    pages = [data["text/html"] for data in bundles if "workbench-page" in data.get("text/html", "")]
    # Each widget is followed by a page for readers without a kernel.
    assert pages and [set(data) for data in bundles].count({WIDGET_MIME}) == len(pages)
    if path == NOTEBOOKS[0]:
        assert len(pages) == 1 and "PSNR" in pages[0]
        assert any(PLOTLY_MIME in data for data in bundles)


def code_cells_of(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_small(path):
    """`make notebooks` stores them: still pictures, tables and text of one complete execution."""
    assert path.stat().st_size < MAX_BYTES
    code_cells = code_cells_of(path)
    counts = [cell["execution_count"] for cell in code_cells]
    assert counts == list(range(1, len(code_cells) + 1))
    outputs = [output for cell in code_cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert not [output for output in outputs if output.get("name") == "stderr"]
    bundles = [output["data"] for output in outputs if "data" in output]
    assert {mime for bundle in bundles for mime in bundle} <= {*PICTURES, "text/html", "text/plain"}
    assert any(set(PICTURES) & set(bundle) for bundle in bundles)
    texts = [json.dumps(output.get("text", "")) for output in outputs]
    texts += [json.dumps(bundle.get(mime, "")) for bundle in bundles for mime in TEXTS]
    for text in texts:
        assert not re.search(ABSOLUTE_PATH, text), text
        assert not re.search("Traceback|0x[0-9a-f]{8}|<style|<script|<iframe", text), text


def test_stored_pictures_keep_the_colors_of_runs_and_white():
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    image = Image.fromarray(noise)
    image.paste("white", (0, 0, 300, 60))
    image.paste(RUN_COLORS[4], (10, 10, 14, 14))
    bundle = compressed(png_bundle(image, "figure"), num_colors=32, jpeg_quality=100)
    stored = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).convert("RGB")
    assert stored.getpixel((12, 12)) == getrgb(RUN_COLORS[4])
    assert stored.getpixel((50, 50)) == (255, 255, 255)


def test_stored_outputs_show_a_collapse_and_its_remedy():
    (path,) = [path for path in NOTEBOOKS if path.name.startswith("4_")]
    text = json.dumps([cell["outputs"] for cell in code_cells_of(path)])
    for words in (
        "Collapsed: ",
        "TK013",
        "revive = 0",
        "workbench train vqvae-photos",
        "Healthy: ",
    ):
        assert words in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_states_its_purpose_and_links_on(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first, last = ("".join(cell["source"]) for cell in (cells[0], cells[-1]))
    assert "**You will see**" in first and "**You need**" in first
    assert "".join(cells[-2]["source"]).startswith("## Exercises\n1. ")
    links = re.findall(r"\]\(((?!https:)[^)]+)\)", last)
    number = NOTEBOOKS.index(path) + 1
    assert links[0] == NOTEBOOKS[number % len(NOTEBOOKS)].name
    assert any(link.startswith("../docs/") for link in links)
    ignored = (FOLDER.parent / ".gitignore").read_text().splitlines()
    for link in links:
        assert (FOLDER / link).is_file() and link.removeprefix("..") not in ignored


def test_first_tokenizer_has_at_most_sixty_lines():
    cells = json.loads(NOTEBOOKS[1].read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (source,) = [source for source in sources if "class PatchVQ" in source]
    assert len(source.partition("class PatchVQ")[2].splitlines()) <= 60


def printed(client: KernelClient, code: str) -> list[str]:
    """Return the lines that some code prints."""
    texts: list[str] = []
    client.execute_interactive(
        code,
        timeout=120,
        output_hook=lambda message: texts.append(message["content"].get("text", "")),
    )
    return "".join(texts).splitlines()


@pytest.mark.slow
@pytest.mark.kernel
def test_training_runs_outside_of_the_kernel(client, tmp_path):
    lines = [
        REAL_PROCESSES,
        "import os, workbench as wb",
        f"run = wb.train('softvq-digits', {str(tmp_path / 'a')!r}, steps=3, {TINY})",
        "status = run.status()",
        "print(status['state'], status['pid'] != os.getpid(), run.evidence().step)",
    ]
    assert printed(client, "\n".join(lines))[-1] == "finished True 3"
    client.execute(f"wb.train('softvq-digits', {str(tmp_path / 'b')!r}, stesp=3)")
    reply = client.get_shell_msg(timeout=60)["content"]
    assert reply["ename"] == "UserError" and "Did you mean `steps`" in reply["evalue"]


@pytest.mark.slow
@pytest.mark.kernel
def test_interrupted_training_keeps_a_checkpoint(kernel, client, tmp_path):
    folder = tmp_path / "long"
    settings = f"{TINY}, steps=1000000, save_every=1000000, log_every=1"
    train = f"wb.train('softvq-digits', {str(folder)!r}, {settings})"
    client.execute(f"{REAL_PROCESSES}\nimport workbench as wb\nrun = {train}")
    try:
        # The progress bar appears once training has begun.
        while client.get_iopub_msg(timeout=60)["msg_type"] != "display_data":
            pass
        end = time.monotonic() + 60
        while Run(folder).status()["step"] <= 5:
            assert time.monotonic() < end
            time.sleep(0.1)
        kernel.interrupt_kernel()
        assert client.get_shell_msg(timeout=60)["content"]["status"] == "ok"
        run = Run(folder)
        assert run.status()["state"] == "stopped" and run.steps[-1] == run.status()["step"]
    finally:
        Run(folder).ask("stop")  # otherwise training would outlive a failed test
