"""How long a person waits: the dashboard's first paint, a slider's tick, a lasso on a million points, opening 200 runs.

    python benchmarks/surfaces.py RUN          a run of any tokenizer with evidence and a checkpoint

In a real headless Chromium that renders in software, on 200 copies of that run. Each line is the median of RUNS tries
beside what is asked of it (a bar), as a share: below 1 is within it. Seconds are this machine's.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from workbench.hosts.js import static
from workbench.workspace.encoding import base64_array
from workbench.workspace.map_layout import point_data

RUNS, COPIES, POINTS, PORT = 5, 200, 1_000_000, 8799
FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
]


def copies(run: Path, folder: Path) -> None:
    """A folder of many runs that share their arrays on disk."""
    for i in range(COPIES):
        skipped = (
            None if i == 0 else shutil.ignore_patterns("step-*.safetensors", "samples", "log.jsonl")
        )
        shutil.copytree(run, folder / f"run-{i:03d}", copy_function=os.link, ignore=skipped)
        config = folder / f"run-{i:03d}" / "config.json"
        told = json.loads(config.read_text(encoding="utf-8"))
        config.unlink()  # it was linked
        config.write_text(
            json.dumps(told | {"training": told["training"] | {"seed": i}}), encoding="utf-8"
        )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The dashboard of a folder, ready to answer."""
    address = f"http://127.0.0.1:{PORT}"
    command = [
        sys.executable,
        "-m",
        "workbench",
        "dashboard",
        str(folder),
        "--port",
        str(PORT),
        "--no-browser",
        "--no-token",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(address, timeout=10).read()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def median(measure: Callable[[], float], times: int = RUNS) -> float:
    """Seconds, of several tries."""
    return statistics.median(measure() for _ in range(times))


def paint(browser: Browser, address: str) -> float:
    """From asking for the page until a figure is drawn and the runs are listed."""
    page = browser.new_page()
    begun = time.perf_counter()
    page.goto(address)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    page.get_by_text("run-000").first.wait_for()
    spent = time.perf_counter() - begun
    page.close()
    return spent


def filtered(page: Page) -> Callable[[], float]:
    """Typing a filter over all runs, until it is counted how many are left."""
    wanted = iter(range(10, 100))

    def measure() -> float:
        most = next(wanted)
        page.get_by_placeholder("filter: lr<0.001 & kind=VQVAE").fill(f"seed<{most}")
        begun = time.perf_counter()
        page.get_by_text(f"{most} of {COPIES} runs").wait_for()
        return time.perf_counter() - begun

    return measure


def ticked(page: Page) -> Callable[[], float]:
    """A step along a lens's axis, until the page says where it is: both ways, half each."""

    told = page.locator(".wb-lens .told").element_handle()

    def measure() -> float:
        spent = 0.0
        for key in ("[", "]"):
            before = told.text_content()
            begun = time.perf_counter()
            page.keyboard.press(key)
            page.wait_for_function(
                "([node, before]) => node.textContent !== before", arg=[told, before]
            )
            spent += time.perf_counter() - begun
        return spent / 2

    return measure


def lassoed(browser: Browser, folder: Path) -> Callable[[], float]:
    """A loop drawn around some of a million points, from letting go until they are counted."""
    points = np.random.default_rng(0).normal(size=(POINTS, 2)).astype(np.float32)
    colour = {
        "colour": base64_array(np.zeros(POINTS, np.uint8)),
        "palette": ["#0072B2"],
        "groups": ["images"],
    }
    plain = {"titles": [], "names": None, "places": None, "thumbs": None, "caption": "a million"}
    path = folder / "map.html"
    path.write_text(
        static("latentmap", {**point_data(points), **colour, **plain}, {}, height=600, title="map")
    )
    page = browser.new_page()
    page.goto(path.resolve().as_uri())
    inner = page.frame_locator("iframe")
    inner.get_by_text("drag a loop").wait_for()
    box = inner.locator(".plane").bounding_box()

    def measure() -> float:
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        for right, up in ((0.2, 0), (0, 0.2)):
            page.mouse.move(x + right * box["width"], y - up * box["height"], steps=4)
        begun = time.perf_counter()
        page.mouse.up()
        inner.get_by_text(f"of {POINTS:,} selected").wait_for()
        spent = time.perf_counter() - begun
        page.keyboard.press("Escape")
        return spent

    return measure


def opened(folder: Path) -> float:
    """`wb.open` of all runs in a process that has imported what it needs, the first time."""
    code = "import time, workbench as wb, workbench.hosts.notebook.explorer\nbegun = time.perf_counter()\n"
    code += f"wb.open({str(folder)!r})._repr_html_()\nprint(time.perf_counter() - begun)"
    return float(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


def main() -> None:
    """Measure, and print a line each."""
    run, rows = Path(sys.argv[1]), []
    with (
        tempfile.TemporaryDirectory(dir=run.parent.parent) as scratch,
        sync_playwright() as playwright,
    ):
        folder = Path(scratch) / "runs"
        copies(run, folder)
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        rows.append((f"wb.open of {COPIES} runs", 1.0, median(lambda: opened(folder), 3)))
        with served(folder) as address:
            rows.append(("first paint, first visit", 4.0, paint(browser, address)))
            rows.append(("first paint, later visits", 4.0, median(lambda: paint(browser, address))))
            page = browser.new_page()
            page.goto(f"{address}/?run=run-000&tab=lens")
            page.locator(".wb-lens .told").wait_for(timeout=60_000)
            rows.append((f"a filter of {COPIES} runs", 1.0, median(filtered(page))))
            page.locator(".wb-lens .panels canvas").first.click()
            rows.append(("a slider's tick (lens)", 0.15, median(ticked(page))))
        rows.append((f"a lasso on {POINTS:,} points", 1.0, median(lassoed(browser, Path(scratch)))))
        browser.close()
    print(f"{'':28} {'seconds':>8} {'bar':>6} {'share':>6}")
    for name, bar, seconds in rows:
        print(f"{name:28} {seconds:8.2f} {bar:6.2f} {seconds / bar:6.2f}")


if __name__ == "__main__":
    main()
