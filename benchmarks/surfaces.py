"""Waiting times of a user: first text, first paint, filter, slider step, lasso, opening many runs.

    python benchmarks/surfaces.py RUN          a run of any tokenizer with evidence and a checkpoint

The benchmark uses a headless Chromium that renders in software, and 200 copies of the run. Each
line is the median of several repetitions, next to its limit and as a fraction of it: a fraction
below 1 is within the limit. Seconds depend on the machine.
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

REPETITIONS = 5
NUM_RUNS = 200
NUM_POINTS = 1_000_000
PORT = 8799
POLL_INTERVAL_S = 0.2
# Files that only the first copy has.
FIRST_COPY_FILES = ("step-*.safetensors", "samples", "log.jsonl")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
]


def copy_run(run: Path, folder: Path) -> None:
    """Create a folder of many runs that share their arrays on disk by hard links."""
    for index in range(NUM_RUNS):
        copy = folder / f"run-{index:03d}"
        ignore = shutil.ignore_patterns(*FIRST_COPY_FILES) if index > 0 else None
        shutil.copytree(run, copy, copy_function=os.link, ignore=ignore)
        path = copy / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["training"]["seed"] = index
        path.unlink()  # a link to the original, which must not change
        path.write_text(json.dumps(config), encoding="utf-8")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the dashboard of a folder, and yield its address once it answers."""
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
                time.sleep(POLL_INTERVAL_S)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def median(measure: Callable[[], float], repetitions: int = REPETITIONS) -> float:
    """Return the median of repeated measurements, in seconds."""
    return statistics.median(measure() for _ in range(repetitions))


def first_paint(browser: Browser, address: str) -> float:
    """Measure the time from the request until a figure is drawn and the runs are listed."""
    page = browser.new_page()
    start = time.perf_counter()
    page.goto(address)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    page.get_by_text("run-000").first.wait_for()
    seconds = time.perf_counter() - start
    page.close()
    return seconds


def first_text(browser: Browser, address: str) -> float:
    """Measure the time from the request until the browser has drawn text and structure."""
    page = browser.new_page()
    page.goto(address, wait_until="commit")
    paints = "performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)"
    page.wait_for_function(f"{paints}.length > 0")
    seconds = float(page.evaluate(f"{paints}[0]")) / 1000
    page.close()
    return seconds


def filter_runs(page: Page) -> Callable[[], float]:
    """Return a measurement of the time from typing a filter until the matching runs are counted."""
    limits = iter(range(10, 100))

    def measure() -> float:
        limit = next(limits)
        page.get_by_placeholder("filter: lr<0.001 & kind=VQVAE").fill(f"seed<{limit}")
        start = time.perf_counter()
        page.get_by_text(f"{limit} of {NUM_RUNS} runs").wait_for()
        return time.perf_counter() - start

    return measure


def lens_step(page: Page) -> Callable[[], float]:
    """Return a measurement of the mean time of a step of a lens's slider, back and forth."""
    caption = page.locator(".wb-lens .told").element_handle()

    def measure() -> float:
        seconds = 0.0
        for key in ("[", "]"):
            text = caption.text_content()
            start = time.perf_counter()
            page.keyboard.press(key)
            page.wait_for_function(
                "([node, text]) => node.textContent !== text", arg=[caption, text]
            )
            seconds += time.perf_counter() - start
        return seconds / 2

    return measure


def lasso(browser: Browser, folder: Path) -> Callable[[], float]:
    """Return a measurement of the time from closing a lasso until its points are counted."""
    points = np.random.default_rng(0).normal(size=(NUM_POINTS, 2)).astype(np.float32)
    colors = {
        "color": base64_array(np.zeros(NUM_POINTS, np.uint8)),
        "palette": ["#0072B2"],
        "groups": ["images"],
    }
    texts = {"titles": [], "names": None, "places": None, "thumbs": None, "caption": "a million"}
    data = {**point_data(points), **colors, **texts}
    path = folder / "map.html"
    path.write_text(static("latentmap", data, {}, height=600, title="map"), encoding="utf-8")
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
        start = time.perf_counter()
        page.mouse.up()
        inner.get_by_text(f"of {NUM_POINTS:,} selected").wait_for()
        seconds = time.perf_counter() - start
        page.keyboard.press("Escape")
        return seconds

    return measure


def open_runs(folder: Path) -> float:
    """Measure the first `wb.open` in a new process, without its imports."""
    lines = [
        "import time, workbench as wb, workbench.hosts.notebook.explorer",
        "start = time.perf_counter()",
        f"wb.open({str(folder)!r})._repr_html_()",
        "print(time.perf_counter() - start)",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure, and print one line per measurement."""
    run = Path(sys.argv[1])
    rows = []  # name, limit in seconds, seconds
    with (
        tempfile.TemporaryDirectory(dir=run.parent.parent) as scratch,
        sync_playwright() as playwright,
    ):
        folder = Path(scratch) / "runs"
        copy_run(run, folder)
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        rows.append((f"wb.open of {NUM_RUNS} runs", 1.0, median(lambda: open_runs(folder), 3)))
        with served(folder) as address:
            rows.append(("first text", 1.0, median(lambda: first_text(browser, address))))
            rows.append(("first paint, first visit", 4.0, first_paint(browser, address)))
            later_visits = median(lambda: first_paint(browser, address))
            rows.append(("first paint, later visits", 4.0, later_visits))
            page = browser.new_page()
            page.goto(f"{address}/?run=run-000&tab=lens")
            page.locator(".wb-lens .told").wait_for(timeout=60_000)
            rows.append((f"filter of {NUM_RUNS} runs", 1.0, median(filter_runs(page))))
            page.locator(".wb-lens .panels canvas").first.click()
            rows.append(("slider step of a lens", 0.15, median(lens_step(page))))
        lasso_seconds = median(lasso(browser, Path(scratch)))
        rows.append((f"lasso on {NUM_POINTS:,} points", 1.0, lasso_seconds))
        browser.close()
    print(f"{'':28} {'seconds':>8} {'limit':>6} {'fraction':>8}")
    for name, limit, seconds in rows:
        print(f"{name:28} {seconds:8.2f} {limit:6.2f} {seconds / limit:8.2f}")


if __name__ == "__main__":
    main()
