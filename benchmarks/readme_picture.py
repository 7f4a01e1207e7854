"""Take the picture of the README: the overview of the demo's runs in the dashboard.

Usage: `python -m benchmarks.readme_picture RUNS OUT.png`
"""

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from workbench.workspace.view_state import ViewState

RUNS = ("softvq-16", "softvq-4", "vqvae-16")
WIDTH_PX = 1010  # of the README on GitHub, so that the text has its own size there
HEIGHT_PX = 800
PIXEL_RATIO = 2  # sharp on dense screens
TIMEOUT_MS = 180_000
SETTLE_MS = 5_000  # until the figures have their final size
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def take_picture(link: str, out: Path) -> None:
    """Open the overview of the runs and write a picture of it."""
    view = ViewState(runs=RUNS, tab="overview")
    separator = "&" if "?" in link else "?"
    with sync_playwright() as playwright:
        executable = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH_PX, "height": HEIGHT_PX},
            device_scale_factor=PIXEL_RATIO,
            color_scheme="light",
        )
        page.goto(f"{link}{separator}{view.to_query()}")
        page.locator(".wb-decision").wait_for(timeout=TIMEOUT_MS)
        page.get_by_text("checks passed").wait_for(timeout=TIMEOUT_MS)
        page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=TIMEOUT_MS)
        page.get_by_role("button", name="Close drawer").click()  # the table is as wide as the page
        page.mouse.move(WIDTH_PX - 1, HEIGHT_PX - 1)  # a tooltip would cover text
        page.wait_for_timeout(SETTLE_MS)
        page.screenshot(path=out)
        browser.close()


def main(folder: str, out: str) -> None:
    """Start a dashboard, take the picture, and stop the dashboard."""
    command = [sys.executable, "-u", "-m", "workbench", "dashboard", folder]
    command += ["--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            link = next(line for line in server.stdout if "http" in line).split()[-1]
            take_picture(link, Path(out))
        finally:
            server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
