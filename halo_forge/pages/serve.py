"""`halo-forge report --serve`: a page on loopback, made again when the run has sealed something.

The server only reads, answers only GET and HEAD, and only requests whose Host names this machine's loopback (a foreign
name that resolves to 127.0.0.1 is refused) and which no other site has caused (Sec-Fetch-Site, Origin).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from halo_forge.core.errors import ConfigError, HaloForgeError
from halo_forge.pages.document import policy

ADDRESS = "127.0.0.1"
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")
"""Any port: a forwarded one differs from ours."""
_OWN_SITE = (None, "none", "same-origin")


class Page:
    """A page and the state that it shows, made again only when the state has changed.

    Args:
        make: The page in a state; None for one that is not served.
    """

    def __init__(self, make: Callable[[str | None], str], state: Callable[[], str]) -> None:
        self.state = state
        self.make = make
        self._made: tuple[str, str] | None = None
        self._lock = threading.Lock()

    def html(self) -> str:
        """The page as of now.

        Raises:
            RunDirError: The run directory cannot be read at the moment.
        """
        with self._lock:
            now = self.state()
            if self._made is None or self._made[0] != now:
                self._made = now, self.make(now)
            return self._made[1]


class _Handler(BaseHTTPRequestHandler):
    page: ClassVar[Page]
    protocol_version = "HTTP/1.1"
    server_version = "halo-forge"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        if (refusal := self._refusal()) is not None:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", refusal)
            return
        try:
            if self.path == "/":
                self._answer(HTTPStatus.OK, "text/html", self.page.html())
            elif self.path == "/state":
                self._answer(HTTPStatus.OK, "application/json", json.dumps({"state": self.page.state()}))
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", "nothing here")
        except HaloForgeError as error:  # such as a cycle that is being superseded: the next request may find it whole
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", str(error))

    do_HEAD = do_GET

    def _not_allowed(self) -> None:
        self.close_connection = True  # a body may follow, which nobody reads
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", "this page is only read", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _not_allowed

    def _refusal(self) -> str | None:
        """Why this request is not answered; None if it is."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
            return "this page is only for this machine: open it as http://127.0.0.1"
        if self.headers.get("Sec-Fetch-Site") not in _OWN_SITE:
            return "another site may not open this page: enter its address by hand"
        if self.headers.get("Origin") not in (None, f"http://{hosts[0]}"):
            return "another site may not read this page"
        return None

    def _answer(self, status: HTTPStatus, kind: str, text: str, more: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": f"{policy(live=True)}; frame-ancestors 'none'",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            **(more if more is not None else {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Says nothing: whoever started the server looks at the page."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is nothing to report."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def open_server(page: Page, port: int) -> ThreadingHTTPServer:
    """A server on loopback that is not serving yet.

    Args:
        port: 0 for one that is free.

    Raises:
        ConfigError: The port cannot be used.
    """
    handler = type("Handler", (_Handler,), {"page": page})
    try:
        return _Server((ADDRESS, port), handler)
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}", "name another port, or leave it out") from error
