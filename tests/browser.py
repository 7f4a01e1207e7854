"""A headless Chromium without network, in which tests open the pages of the workbench."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, Playwright, Request, sync_playwright

# The headless shell is Chromium without its user interface.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
# The flags with which Playwright starts a browser, and WebGL in software.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-startup-window",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-service-autorun",
    "--hide-scrollbars",
    "--mute-audio",
    "--force-color-profile=srgb",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-back-forward-cache",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-extensions-with-background-pages",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-field-trial-config",
    "--disable-hang-monitor",
    "--disable-ipc-flooding-protection",
    "--disable-popup-blocking",
    "--disable-prompt-on-repost",
    "--disable-search-engine-choice-screen",
    "--metrics-recording-only",
    "--password-store=basic",
    "--use-mock-keychain",
    "--remote-debugging-port=0",
    # The pages of tests are closed before code that was optimized further has saved any time.
    "--js-flags=--no-turbofan",
    # No other machine can be reached.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]
LOCAL_HOSTS = ("localhost", "127.0.0.1", None)
# A moving progress bar or spinner is drawn 60 times per second, without a GPU by the processor that
# also runs what is waited for.
WITHOUT_ANIMATIONS = """(() => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync("*, ::before, ::after { animation: none !important }");
  document.adoptedStyleSheets.push(sheet);
  const attachShadow = Element.prototype.attachShadow;
  Element.prototype.attachShadow = function (options) {
    const root = attachShadow.call(this, options);
    root.adoptedStyleSheets.push(sheet);
    return root;
  };
})()"""


@dataclass
class Seen:
    """Errors of a page, and its requests to other machines."""

    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


class SharedChromium:
    """One Chromium per test process, and the connection of Playwright to it.

    Tests in a row share the connection. One that outlived them would leave an asyncio loop running
    in the thread, which breaks tests that start a loop of their own.
    """

    def __init__(self) -> None:
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        self.process = subprocess.Popen(
            [str(CHROMIUM), *FLAGS, f"--user-data-dir={self.profile}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the installed program may be a script that starts the browser
        )
        port_file, end = Path(self.profile) / "DevToolsActivePort", time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert self.process.poll() is None and time.monotonic() < end, "Chromium did not start"
            time.sleep(0.05)
        self.endpoint = f"http://127.0.0.1:{port_file.read_text().splitlines()[0]}"
        self.playwright: Playwright | None = None

    def connection(self) -> Browser:
        """Return the connection, made if there is none."""
        if self.playwright is None:
            self.playwright = sync_playwright().start()
            self.browser = self.playwright.chromium.connect_over_cdp(self.endpoint)
            self.browser.contexts[0].add_init_script(WITHOUT_ANIMATIONS)
        return self.browser

    def disconnect(self) -> None:
        """End the connection and its event loop."""
        if self.playwright is not None:
            self.playwright.stop()
            self.playwright = None

    def close(self) -> None:
        """End the processes and remove their profile."""
        self.disconnect()
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)
        shutil.rmtree(self.profile, ignore_errors=True)


_shared: SharedChromium | None = None


def disconnect() -> None:
    """End the connection to the shared Chromium, if there is one."""
    if _shared is not None:
        _shared.disconnect()


def close_shared() -> None:
    """End the shared Chromium, if one was started."""
    global _shared
    if _shared is not None:
        _shared.close()
        _shared = None


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Return the shared Chromium, and close the pages that were opened in it meanwhile.

    All pages are in its default context, which keeps the compiled scripts of a server's pages: a
    third of the work of loading one. Nothing else is kept from one test to the next.
    """
    global _shared
    if _shared is None or _shared.process.poll() is not None:
        disconnect()
        _shared = SharedChromium()
    browser = _shared.connection()
    default = browser.contexts[0]
    shared_pages = list(default.pages)
    try:
        yield browser
    finally:
        for context in browser.contexts[1:]:
            context.close()
        for page in default.pages:
            if page not in shared_pages:
                forget(page)
                page.close()
        if not shared_pages:
            default.clear_cookies()


def forget(page: Page) -> None:
    """Clear what a page has stored."""
    if urlsplit(page.url).scheme.startswith("http"):
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(page.url))
        session = page.context.new_cdp_session(page)
        storage = {"origin": origin, "storageTypes": "local_storage,indexeddb"}
        session.send("Storage.clearDataForOrigin", storage)


@contextlib.contextmanager
def opened(address: str, *, width: int = 1400, dark: bool = False) -> Iterator[tuple[Page, Seen]]:
    """Open a page in the shared browser."""
    with chromium() as browser:
        yield visit(browser, address, width=width, dark=dark)


def visit(
    browser: Browser, address: str, *, width: int = 1400, dark: bool = False
) -> tuple[Page, Seen]:
    """Open a page, and record its errors and its requests to other machines, which fail."""
    seen = Seen()

    def record(request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme.startswith("http") and url.hostname not in LOCAL_HOSTS:
            seen.outside.append(request.url)

    page = browser.contexts[0].new_page()
    page.set_viewport_size({"width": width, "height": 1000})
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.set_default_timeout(60_000)
    page.on("request", record)
    page.on("pageerror", lambda error: seen.errors.append(f"{error}\n{error.stack}"))
    page.on(
        "console",
        lambda message: seen.errors.append(message.text) if message.type == "error" else None,
    )
    page.goto(address)
    return page, seen


def show(page: Page, search: str) -> None:
    """Show another view of the dashboard on its page, as the browser's history does.

    This takes a tenth of the work of loading the page.
    """
    page.evaluate(
        """(search) => {
          history.pushState({ at: (history.state?.at ?? 0) + 1 }, "", `?${search}`);
          dispatchEvent(new PopStateEvent("popstate"));
        }""",
        search,
    )


class SharedPage:
    """A page of a dashboard that stays open from test to test.

    Parameters
    ----------
    page : Page
    seen : Seen
        What the page's `visit` records.
    """

    def __init__(self, page: Page, seen: Seen) -> None:
        self._page = page
        self._seen = seen
        page.get_by_role("button", name="keys").wait_for()  # from now on, it follows the history

    def show(self, search: str) -> tuple[Page, Seen]:
        """Show a view, and return the page and the errors from now on."""
        self._page.bring_to_front()
        self._seen.errors.clear()
        show(self._page, search)
        return self._page, self._seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(*command: str, port: int, log: Path, path: str = "/") -> Iterator[str]:
    """Start a server of the workbench, yield its address once it responds, and stop it."""
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


def count_figures(page: Page) -> int:
    """Return the number of plotly figures that are drawn on a page."""
    return page.locator(".js-plotly-plot:has(.main-svg)").count()


def lasso(page: Page, plane: Locator, size: float = 0.45) -> None:
    """Drag a triangle from the center of a plane to the right, then to a point above the center.

    `size` is the length of the two legs as a fraction of the plane's width and height.
    """
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for right, up in ((size, 0), (0, size)):
        page.mouse.move(x + right * box["width"], y - up * box["height"], steps=4)
    page.mouse.up()
