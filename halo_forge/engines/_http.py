"""JSON over HTTP to a server that may be unreachable for a while; the standard library is enough for that."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

CONNECT_SECONDS = 10.0
TRY_AGAIN = frozenset({408, 425, 429}) | frozenset(range(500, 600))
"""Temporary statuses: too many requests, or a server that is starting, stopping or failed once."""


class Unreachable(Exception):
    """No response, or a temporary refusal: the request may be retried."""


class ConnectionLost(Unreachable):
    """No connection, or a broken one: the next response may come from another server."""


class Refused(Exception):
    """The server refused the request.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Client:
    """Requests from many threads, each on a separate connection.

    Attributes:
        aborted: Nobody waits for responses any more.

    Args:
        base_url: Such as `http://127.0.0.1:8000/v1`.
        timeout_seconds: The longest wait for a response.
        key: The API key, if the server needs one.
    """

    def __init__(self, base_url: str, *, timeout_seconds: float, key: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeout_seconds, self.key = timeout_seconds, key
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self.aborted = False

    def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The response to `POST base_url/path`.

        Raises:
            Unreachable: The request may be retried.
            Refused: The request must not be retried unchanged.
        """
        return self._ask("POST", self.base_url + path, json.dumps(body).encode())

    def post_root(self, path: str) -> bytes:
        """The response to `POST path` outside the protocol; raises as `post` does."""
        parts = urlsplit(self.base_url)
        return self._ask("POST", f"{parts.scheme}://{parts.netloc}{path}", b"")

    def get(self, url: str, *, timeout_seconds: float | None = None, with_key: bool = True) -> bytes:
        """The response to `GET url`; raises as `post` does."""
        return self._ask("GET", url, None, timeout_seconds, with_key=with_key)

    def model_names(self) -> list[str]:
        """The names of the models that the server serves; raises as `post` does."""
        url = f"{self.base_url}/models"
        try:
            return [str(model["id"]) for model in json.loads(self.get(url, timeout_seconds=CONNECT_SECONDS))["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(200, f"GET {url}: not a list of models: {error}") from error

    def headers(self, with_key: bool = True) -> dict[str, str]:
        """The headers of every request."""
        key = {} if self.key is None or not with_key else {"Authorization": f"Bearer {self.key}"}
        return {"Content-Type": "application/json", **key}

    def begin(self) -> None:
        """Accept requests again after `abort`."""
        self.aborted = False

    def abort(self) -> None:
        """Abort all requests in flight: waiting threads get `Unreachable`, and most servers stop sampling."""
        with self._lock:
            self.aborted = True
            for connection in self._open:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):  # the other end has already closed it
                        connection.sock.shutdown(socket.SHUT_RDWR)

    def _ask(
        self,
        method: str,
        url: str,
        body: bytes | None,
        timeout_seconds: float | None = None,
        *,
        with_key: bool = True,
    ) -> bytes:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        # Without an explicit port an IPv6 address would be split at its last colon.
        port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
        connection = kind(parts.hostname or "", port, timeout=CONNECT_SECONDS)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        try:
            with self._lock:
                self._open.add(connection)
            connection.connect()
            with self._lock:
                if self.aborted:
                    raise ConnectionAbortedError("given up")
            connection.sock.settimeout(self.timeout_seconds if timeout_seconds is None else timeout_seconds)
            connection.request(method, path, body=body, headers=self.headers(with_key))
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionLost(f"{method} {url}: {str(error) or type(error).__name__}") from error
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()
        if 200 <= answer.status < 300:
            return data
        text = f"{method} {url}: HTTP {answer.status} {data.decode(errors='replace')[:500]}"
        raise Unreachable(text) if answer.status in TRY_AGAIN else Refused(answer.status, text)
