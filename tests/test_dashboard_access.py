"""The dashboard answers only its own hosts and origins, and only with its token."""

import asyncio
import re
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest
from browser import free_port, opened, served
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.websocket import websocket_connect

from workbench.hosts.dashboard.access import AccessPolicy
from workbench.hosts.dashboard.jupyter_proxy import dashboard_server

STATIC = "/static/js/bokeh.min.js"
PROXY = "hub.example.org"


@pytest.fixture(scope="module")
def link(trained, tmp_path_factory):
    """The link that the server of a folder of runs has printed."""
    port = free_port()
    log = tmp_path_factory.mktemp("log") / "dashboard.log"
    command = ["workbench", "dashboard", str(trained), "--port", str(port), "--no-browser"]
    command += ["--allow-host", PROXY, "--origin", f"https://{PROXY}"]
    with served(*command, port=port, log=log, path=STATIC):
        yield re.search(r"http://\S+/\?token=\S+", log.read_text())[0]


def get(address: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Return the status, the text and the headers of the answer to a request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def parts(link: str) -> tuple[str, str]:
    """Return the address without its query, and the cookie."""
    address, _, _ = link.partition("?")
    _, _, headers = get(link)
    return address, headers["Set-Cookie"].partition(";")[0]


def test_link_sets_a_strict_cookie(link):
    status, text, headers = get(f"{link}&run=soft-4")
    assert status == 200 and 'url=/?run=soft-4"' in text and "token" not in text
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
    assert urlsplit(link).hostname == "127.0.0.1"


@pytest.mark.parametrize("number", ["%C2%B2", "1" * 5000])
def test_number_that_panel_cannot_read_is_refused(link, number):
    address, cookie = parts(link)
    status, text, _ = get(f"{address}?run=soft-4&step={number}", Cookie=cookie)
    assert status == 403 and len(text.splitlines()) == 1


def test_page_needs_the_token(link):
    address, cookie = parts(link)
    status, text, _ = get(address)
    assert status == 403 and len(text.splitlines()) == 1 and "workbench dashboard" in text
    assert get(f"{address}?token=wrong")[0] == 403
    assert get(f"{address}reports/a.html")[0] == 403
    assert get(address, Cookie=cookie)[0] == 200
    assert get(f"{address}reports/%00.html", Cookie=cookie)[0] == 404
    assert get(address, Cookie=cookie.replace("=", "=x"))[0] == 403


def test_foreign_host_is_refused(link):
    address, cookie = parts(link)
    port = urlsplit(address).port
    for host in ("attacker.example", f"attacker.example:{port}", "127.0.0.1:1", "127.0.0.1.nip.io"):
        status, text, _ = get(address, Cookie=cookie, Host=host)
        assert status == 403 and host in text
        assert get(address.rstrip("/") + STATIC, Host=host)[0] == 403
    for host in (f"localhost:{port}", PROXY):
        assert get(address, Cookie=cookie, Host=host)[0] == 200


def test_no_answer_allows_other_origins(link):
    address, cookie = parts(link)
    for path in ("", "autoload.js?bokeh-autoload-element=1", STATIC[1:]):
        for origin in ({}, {"Origin": "http://attacker.example"}):
            _, _, headers = get(address + path, Cookie=cookie, **origin)
            assert "Access-Control-Allow-Credentials" not in headers or (
                headers.get("Access-Control-Allow-Origin") != "*"
            )
    assert get(address + "autoload.js?bokeh-autoload-element=1", Cookie=cookie)[0] == 403
    assert get(address, Cookie=cookie, Origin="http://attacker.example")[0] == 403
    assert get(address, Cookie=cookie, Origin="null")[0] == 403


def websocket_status(link: str, **headers: str) -> int:
    """Return 101 if the server accepts a websocket with these headers, and its status otherwise."""
    address, cookie = parts(link)
    _, page, _ = get(address, Cookie=cookie)
    session = re.search(r'"token":\s*"([^"]+)"', page)[1]
    request = HTTPRequest(
        address.replace("http", "ws") + "ws", headers={"Cookie": cookie, **headers}
    )

    async def connect() -> int:
        try:
            connection = await websocket_connect(request, subprotocols=["bokeh", session])
        except HTTPClientError as error:
            return error.code
        message = await connection.read_message()
        connection.close()
        return 101 if message else 0

    return asyncio.run(connect())


def test_websocket_needs_host_origin_and_token(link):
    address = link.partition("/?")[0]
    port = urlsplit(link).port
    foreign = "http://attacker.example"
    assert websocket_status(link, Origin=address) == 101
    assert (
        websocket_status(link, Origin=f"http://localhost:{port}", Host=f"localhost:{port}") == 101
    )
    assert websocket_status(link, Origin=f"https://{PROXY}", Host=PROXY) == 101
    assert websocket_status(link, Origin=foreign) == 403
    assert websocket_status(link, Origin=foreign, Host="attacker.example") == 403
    assert websocket_status(link, Origin="null") == 403
    assert websocket_status(link, Origin=address, Cookie="") == 403


def test_proxy_of_jupyter_brings_the_token_of_its_dashboard(monkeypatch):
    server = dashboard_server()
    assert server["command"][1] == "-P"  # no module of the folder in which Jupyter was started
    token = server["environment"]["WORKBENCH_TOKEN"]
    monkeypatch.setenv("WORKBENCH_TOKEN", token)
    policy = AccessPolicy.create(address="127.0.0.1", port=80)

    def refusal(headers: dict[str, str]) -> str | None:
        start = RequestStartLine(method="GET", path="/", version="HTTP/1.1")
        return policy.refusal(HTTPServerRequest(headers=HTTPHeaders(headers), start_line=start))

    headers = {k: v.format(port=80) for k, v in server["request_headers_override"].items()}
    assert refusal(headers) is None
    assert refusal(headers | {"Cookie": ""}) is not None


def test_policy_without_token_still_checks_the_host():
    policy = AccessPolicy.create(address="127.0.0.1", port=80, use_token=False)

    def refusal(**headers: str) -> str | None:
        start = RequestStartLine(method="GET", path="/", version="HTTP/1.1")
        request = HTTPServerRequest(headers=HTTPHeaders(headers), start_line=start)
        return policy.refusal(request)

    assert all(refusal(Host=host) is None for host in ("localhost", "127.0.0.1:80"))
    assert refusal(Host="[::1]:80") is not None
    assert refusal(Host="localhost", Origin="http://localhost") is None
    assert "attacker.example" in refusal(Host="attacker.example")
    assert "http://attacker.example" in refusal(Host="localhost", Origin="http://attacker.example")


@pytest.mark.browser
def test_printed_link_opens_the_dashboard(link):
    with opened(f"{link}&run=soft-4&analysis=codebook_usage") as (page, seen):
        page.get_by_text(re.compile("soft-4 · checkpoint step-000060")).wait_for()
        page.wait_for_selector(".js-plotly-plot .main-svg")
        assert "token" not in page.url and "run=soft-4" in page.url
        page.reload()
        page.wait_for_selector(".js-plotly-plot .main-svg")
        assert seen.errors == [] and seen.outside == []
