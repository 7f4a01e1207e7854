"""A real headless Chromium with the network cut: every page of ours is opened in it."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, sync_playwright

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    "--no-sandbox",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
]  # WebGL in software
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@dataclass
class Seen:
    """What went wrong on a page, and what it tried to reach."""

    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(address: str, *, width: int = 1400, dark: bool = False) -> Iterator[tuple[Page, Seen]]:
    """A page in a browser of its own."""
    with chromium() as browser:
        yield visit(browser, address, width=width, dark=dark)


def visit(
    browser: Browser, address: str, *, width: int = 1400, dark: bool = False
) -> tuple[Page, Seen]:
    """A visitor's page of this machine, who shares nothing with the browser's others.

    Requests to any other machine are refused, and remembered.
    """
    seen = Seen()

    def route(request):
        if any(host in request.request.url for host in ("127.0.0.1", "localhost")):
            request.continue_()
        else:
            seen.outside.append(request.request.url)
            request.abort()

    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    context.route("http*://**", route)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: seen.errors.append(f"{error}\n{error.stack}"))
    page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    page.goto(address)
    return page, seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(*command: str, port: int, log: Path, path: str = "/") -> Iterator[str]:
    """A server of ours in a process of its own, ready to answer; ended by its own handle."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=file, stderr=subprocess.STDOUT
        )
        try:
            address, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(address + path, timeout=5).read()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        raise AssertionError(log.read_text()) from None
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def drawn(page: Page) -> int:
    """How many plotly figures are on the page, drawn."""
    return page.locator(".js-plotly-plot:has(.main-svg)").count()


def lasso(page: Page, plane: Locator, far: float = 0.45) -> None:
    """A triangle: from the middle of the plane to its right, then to above the middle, by a share of its size."""
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for right, up in ((far, 0), (0, far)):
        page.mouse.move(x + right * box["width"], y - up * box["height"], steps=4)
    page.mouse.up()
