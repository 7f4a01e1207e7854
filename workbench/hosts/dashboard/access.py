"""Access control of the dashboard: its own hosts and origins, and the token of its link.

A page of another site can send requests to a server on this machine, and can rebind its own name to
127.0.0.1. It cannot set the Host header to a name that it does not own, and it cannot read the
token.
"""

import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, Rule
from tornado.web import RequestHandler

from workbench.core.html_templates import render_text

# Panel cannot parse the location of a page at an IPv6 address, such as [::1].
LOOPBACK_HOSTS = ("localhost", "127.0.0.1")
WILDCARD_ADDRESSES = ("", "0.0.0.0", "::")
PUBLIC_PREFIX = "/static/"  # the files of Panel and Bokeh
TOKEN_VARIABLE = "WORKBENCH_TOKEN"
NEEDS_TOKEN = "This page needs its token. Open the link that `workbench dashboard` has printed."
REDIRECT = (
    "<!doctype html><title>workbench</title>"
    '<meta http-equiv="refresh" content="0; url={{ address }}">'
)


@dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """Decides which requests are answered.

    Attributes
    ----------
    hosts : frozenset of str
        Allowed Host headers, with the port unless it is that of the scheme.
    origins : frozenset of str
        Allowed origins besides those of the hosts, such as `https://hub.example.org`.
    token : str or None
        The secret of the link; None answers without one.
    cookie : str
        The name of the cookie that stores the token.
    """

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    token: str | None = field(default=None, repr=False)
    cookie: str = "workbench-token"

    @classmethod
    def create(
        cls,
        *,
        address: str,
        port: int,
        allow_hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        use_token: bool = True,
    ) -> "AccessPolicy":
        """Make the policy of a server at an address, with a new token.

        A program that starts the server and passes requests on to it chooses the token by the
        variable WORKBENCH_TOKEN of the environment.
        """
        names = list(LOOPBACK_HOSTS)
        if address not in WILDCARD_ADDRESSES:
            names.append(f"[{address}]" if ":" in address else address)
        hosts = {f"{name}:{port}" for name in names} | {host.lower() for host in allow_hosts}
        if port == 80:
            hosts |= set(names)
        return cls(
            hosts=frozenset(hosts),
            origins=frozenset(origin.lower().rstrip("/") for origin in origins),
            token=(os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24))
            if use_token
            else None,
            cookie=f"workbench-token-{port}",  # browsers share cookies among the ports of a host
        )

    def refusal(self, request: HTTPServerRequest) -> str | None:
        """Return why a request is refused, in one sentence; None if it is answered."""
        host = request.headers.get("Host", "").lower()
        if host.startswith("["):
            return (
                "Open the dashboard by the name of its host or an IPv4 address, not by an IPv6 one."
            )
        if host not in self.hosts:
            return f"The host `{host}` is not allowed. Allow it with --allow-host {host}."
        origin = request.headers.get("Origin")
        if origin is not None and not self._allows_origin(origin.lower(), host):
            return f"The origin `{origin}` is not allowed. Allow it with --origin {origin}."
        if request.path.endswith("/autoload.js"):
            return "The dashboard cannot be embedded in another page."
        if request.path.startswith(PUBLIC_PREFIX):
            return None
        if not self._knows_token(request):
            return NEEDS_TOKEN
        # Panel reads every number of an address, and would answer with a traceback.
        unreadable = [name for name, value in parse_qsl(request.query) if _is_odd_number(value)]
        return f"The address has no readable number as {unreadable[0]}." if unreadable else None

    def brings_token(self, request: HTTPServerRequest) -> bool:
        """Return whether a request for a page has a token in its address."""
        is_page = request.method == "GET" and "Upgrade" not in request.headers
        return is_page and bool(self._tokens_in_query(request))

    def _allows_origin(self, origin: str, host: str) -> bool:
        return origin in {f"http://{host}", f"https://{host}"} or origin in self.origins

    def _knows_token(self, request: HTTPServerRequest) -> bool:
        if self.token is None:
            return True
        candidates = self._tokens_in_query(request)
        cookies = request.cookies
        if self.cookie in cookies:
            candidates.append(cookies[self.cookie].value)
        return any(_are_equal(candidate, self.token) for candidate in candidates)

    @staticmethod
    def _tokens_in_query(request: HTTPServerRequest) -> list[str]:
        return [value for name, value in parse_qsl(request.query) if name == "token"]


def access_rules(policy: AccessPolicy) -> list[Rule]:
    """Return tornado's rules that come before all others of the server."""
    return [
        Rule(_RefusedRequests(policy), RefusalHandler),
        Rule(_RequestsWithToken(policy), SignInHandler),
    ]


def _is_odd_number(text: str) -> bool:
    """Return True for digits that `int` does not read, such as ² or 5,000 of them."""
    try:
        return text.isdigit() and int(text) < 0
    except ValueError:
        return True


class RefusalHandler(RequestHandler):
    """Answers every request with status 403 and the reason."""

    def initialize(self, reason: str) -> None:
        """Receive the reason."""
        self.reason = reason

    def prepare(self) -> None:
        """Send the reason."""
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(self.reason + "\n")


class SignInHandler(RequestHandler):
    """Stores the token in a cookie, and opens the same address without the token.

    The page navigates by itself: a browser does not send a strict cookie along with a redirect of
    a link that another site has opened.
    """

    def initialize(self, policy: AccessPolicy) -> None:
        """Receive the policy."""
        self.policy = policy

    def get(self, *_: Any) -> None:
        """Set the cookie and send the page that navigates."""
        if self.policy.token is not None:
            self.set_cookie(
                self.policy.cookie, self.policy.token, path="/", httponly=True, samesite="Strict"
            )
        pairs = parse_qsl(self.request.query, keep_blank_values=True)
        query = urlencode([(name, value) for name, value in pairs if name != "token"])
        address = self.request.path + (f"?{query}" if query else "")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")
        self.finish(render_text(REDIRECT, address=address))


class _RefusedRequests(Matcher):
    def __init__(self, policy: AccessPolicy) -> None:
        self.policy = policy

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        reason = self.policy.refusal(request)
        return None if reason is None else {"target_kwargs": {"reason": reason}}


class _RequestsWithToken(Matcher):
    def __init__(self, policy: AccessPolicy) -> None:
        self.policy = policy

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        if not self.policy.brings_token(request):
            return None
        return {"target_kwargs": {"policy": self.policy}}


def _are_equal(candidate: str, token: str) -> bool:
    return hmac.compare_digest(candidate.encode(), token.encode())
