"""Waiting times of a user on the runs of `make demo`, each measured once without cached results.

    python benchmarks/waiting_times.py runs              after make demo
    python benchmarks/waiting_times.py runs --templates  also the report templates, one by one

Pages are opened in a headless Chromium, and runs are copied, so that nothing is changed. Seconds
depend on the machine; the ones in docs/concepts/waiting.md are from two idle cores.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from surfaces import CHROMIUM_FLAGS, served

from workbench.storage.run import Run

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
TIMEOUT_MS = 300_000
NUM_COPIES = 60
PUSH = """(search) => {
  history.pushState({ at: (history.state?.at ?? 0) + 1 }, "", `?${search}`);
  dispatchEvent(new PopStateEvent("popstate"));
}"""
# Whether a curve of a visible figure ends at this number.
ENDS_AT = """(number) => {
  const find = (root) => [...root.querySelectorAll("*")].flatMap((element) => [
    ...(element._fullData && element.offsetWidth ? element._fullData : []),
    ...(element.shadowRoot ? find(element.shadowRoot) : [])]);
  return find(document).some((trace) => trace.x && Math.max(...trace.x) === number);
}"""


def measure(name: str, wait: Callable[[], object]) -> None:
    """Run a function, and print its time."""
    start = time.perf_counter()
    wait()
    print_time(name, start)


def print_time(name: str, start: float) -> None:
    """Print the seconds since a start."""
    print(f"{name:44} {time.perf_counter() - start:8.2f}", flush=True)


def copy_runs(runs: Path, folder: Path) -> None:
    """Copy runs without cached results; the arrays are hard links."""
    ignore = shutil.ignore_patterns(".results", "reports")
    shutil.copytree(runs, folder, copy_function=os.link, ignore=ignore)


def copy_many(runs: Path, folder: Path) -> None:
    """Copy the tokenizers of a folder until there are `NUM_COPIES`."""
    tokenizers = [path for path in sorted(runs.iterdir()) if (path / "config.json").exists()]
    tokenizers = [path for path in tokenizers if not Run(path).is_generator]
    for index in range(NUM_COPIES):
        run = tokenizers[index % len(tokenizers)]
        shutil.copytree(run, folder / f"{run.name}-{index:02d}", copy_function=os.link)


def figure(page: Page) -> Locator:
    """Return the first figure that is visible."""
    return page.locator(".js-plotly-plot:visible .main-svg").first


def measure_dashboard(browser: Browser, runs: Path) -> None:
    """Measure the pages of a dashboard of a few runs."""
    names = [path.name for path in sorted(runs.iterdir()) if (path / "config.json").exists()]
    every = "&".join(f"run={name}" for name in names)
    tokenizer = next(name for name in names if not Run(runs / name).is_generator)
    with served(runs) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(TIMEOUT_MS)
        start = time.perf_counter()
        page.goto(f"{address}/?{every}&tab=overview", wait_until="commit")
        page.get_by_text("Overview", exact=True).first.wait_for()
        print_time("dashboard: text and structure", start)
        page.locator(".wb-decision").first.wait_for()
        print_time("dashboard: decision", start)
        page.get_by_text(re.compile("checks passed")).first.wait_for()
        print_time(f"dashboard: first checks, {len(names)} runs", start)

        def open_view(search: str, shown: Locator) -> Callable[[], None]:
            def wait() -> None:
                page.evaluate(PUSH, search)
                shown.wait_for()

            return wait

        usage = f"run={tokenizer}&analysis=metric_comparison"
        page.evaluate(PUSH, f"run={tokenizer}&analysis=token_budget")
        figure(page).wait_for()
        page.evaluate(PUSH, usage)
        page.get_by_text(re.compile("Metrics compared|comparison of metrics")).first.wait_for()
        budget = f"run={tokenizer}&analysis=token_budget"
        measure("tab change, cached", open_view(budget, figure(page)))
        modes = f"run={tokenizer}&analysis=mixture_modes"

        def count_modes(number: int) -> Callable[[], None]:
            def wait() -> None:
                page.evaluate(PUSH, f"{modes}&max_modes={number}")
                page.wait_for_function(ENDS_AT, arg=number, polling=100)

            return wait

        measure("mixture modes, first time", count_modes(24))
        measure("mixture modes, one slider step", count_modes(23))
        page.evaluate(PUSH, f"run={tokenizer}&tab=codes")
        cells = page.locator(".wb-codes .cells canvas")
        cells.wait_for()
        selected = page.get_by_text(re.compile(r"[\d,]+ of [\d,]+ images of .* are selected"))

        def click_code() -> None:
            cells.click(position={"x": 5, "y": 5})
            selected.first.wait_for()

        measure("click a code: its images are selected", click_code)
        page.get_by_role("button", name="clear", exact=True).click()
        page.get_by_text("Nothing is selected").locator("visible=true").wait_for()

        def type_condition() -> None:
            field = page.get_by_placeholder("psnr < 20 & image < 100").locator("visible=true")
            field.fill("image < 100")
            field.press("Enter")
            selected.first.wait_for()

        measure("condition: its images are selected", type_condition)
        for view in (
            f"run={tokenizer}&tab=codes",
            f"run={tokenizer}&analysis=codebook_usage",
            f"run={tokenizer}&analysis=latent_geometry",
            f"{every}&tab=overview",
        ):
            page.evaluate(PUSH, view)
            page.wait_for_timeout(3000)
            page.keyboard.press("r")
            page.wait_for_timeout(500)

        def write_views() -> None:
            page.get_by_role("button", name="Write report").locator("visible=true").click()
            page.get_by_role("link", name=re.compile(r"views-.*\.html")).first.wait_for()

        measure("write a report of four views", write_views)
        page.close()


def measure_many_runs(browser: Browser, folder: Path) -> None:
    """Measure a dashboard of many runs."""
    with served(folder) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(TIMEOUT_MS)

        def start() -> None:
            page.goto(address, wait_until="commit")
            page.get_by_text(re.compile(f"{NUM_COPIES} of {NUM_COPIES} runs")).first.wait_for()
            page.get_by_text(re.compile("checks passed")).first.wait_for()

        def select_all() -> None:
            everyone = page.locator(".tabulator-header input[type=checkbox]").first
            everyone.click()  # those that were selected are no longer
            page.get_by_text(re.compile(", 0 selected")).first.wait_for()
            everyone.click()
            page.get_by_text(re.compile(f"{NUM_COPIES} selected")).first.wait_for()
            computing = page.get_by_text(re.compile(f"and {NUM_COPIES - 1} more"))
            computing.first.wait_for()
            expect(computing).to_have_count(0)

        measure(f"{NUM_COPIES} runs: start", start)
        measure(f"{NUM_COPIES} runs: select all", select_all)
        page.close()


def measure_report(browser: Browser, report: Path) -> None:
    """Measure how long a page of a report takes to open."""
    megabytes = report.stat().st_size / 1e6
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    measure(
        f"report of {megabytes:.1f} MB: heading",
        lambda: (page.goto(report.as_uri(), wait_until="commit"), page.locator("h1").wait_for()),
    )
    page.close()
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    measure(
        f"report of {megabytes:.1f} MB: loaded",
        lambda: page.goto(report.as_uri(), wait_until="load"),
    )
    page.close()


def write_report(template: str, out: Path, *options: str) -> Callable[[], object]:
    """Return a function that writes a report by the command line."""
    command = [sys.executable, "-m", "workbench", "report", template, "--out", str(out), *options]
    return lambda: subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Measure, and print one line per wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="the runs of make demo")
    parser.add_argument("--templates", action="store_true", help="also measure the templates")
    options = parser.parse_args()
    expect.set_options(timeout=TIMEOUT_MS)
    program = next(filter(None, map(shutil.which, BROWSERS)))
    scratch_folder: AbstractContextManager[str] = tempfile.TemporaryDirectory(
        dir=options.runs.resolve().parent
    )
    with scratch_folder as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        folder, many, report = (Path(scratch) / name for name in ("runs", "many", "report.html"))
        copy_runs(options.runs.resolve(), folder)
        copy_many(folder, many)
        measure_dashboard(browser, folder)
        measure_many_runs(browser, many)
        shutil.rmtree(folder)
        copy_runs(options.runs.resolve(), folder)  # without results again
        tokenizer, other = folder / "softvq-16", folder / "vqvae-16"
        both = ("--run", str(tokenizer), "--compare-with", str(other))
        measure("report comparison", write_report("comparison", report, *both))
        if options.templates:
            run = ("--run", str(tokenizer))
            generator = ("--run", str(folder / "sit-softvq-16"))
            measure("report generator", write_report("generator", report, *generator))
            measure("report codebook", write_report("codebook", report, *run))
            measure("report tokenizer", write_report("tokenizer", report, *run))
        measure_report(browser, report)
        browser.close()


if __name__ == "__main__":
    main()
