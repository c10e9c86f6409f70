"""A server of a few lines that answers as it is told: refusals, silence, and vLLM's calls for adapters.

It stands in where no real server is at hand (vLLM) or where one cannot be made to fail at will.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = tuple[int, Any]


class StandIn:
    """Remembers what it was asked.

    Attributes:
        completion: Body of a request -> status and answer.
        adapters: Name -> path of what was loaded; the start model is `base`.
        key: What the server asks for below /v1.
        asked: (path, body) of every POST.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.adapters: dict[str, str] = {}
        self.loads_adapters = True
        self.completion: Callable[[dict[str, Any]], Answer] = lambda body: (200, choice("text"))
        self.base_url = ""
        self.base = "base"
        self.key: str | None = None

    def is_refused(self, path: str, authorization: str | None) -> bool:
        return self.key is not None and path.startswith("/v1") and authorization != f"Bearer {self.key}"

    def restart(self) -> None:
        """As after a restart: no adapter is left."""
        self.adapters.clear()

    def bodies(self, path: str = "/v1/completions") -> list[dict[str, Any]]:
        return [body for asked, body in self.asked if asked == path]

    def get(self, path: str) -> Answer:
        names = [self.base, *self.adapters]
        return (200, {"data": [{"id": name} for name in names]}) if path == "/v1/models" else (404, {})

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        self.asked.append((path, body))
        if path == "/v1/completions":
            if body["model"] not in (self.base, *self.adapters):
                return 404, {"message": f"The model `{body['model']}` does not exist."}
            return self.completion(body)
        if not self.loads_adapters:
            return 404, {"detail": "Not Found"}
        if path == "/v1/load_lora_adapter":
            assert (Path(body["lora_path"]) / "adapter_model.safetensors").is_file()
            self.adapters[body["lora_name"]] = body["lora_path"]
            return 200, "Success"
        if self.adapters.pop(body["lora_name"], None) is None:
            return 404, {"message": "not loaded"}
        return 200, "Success"


def choice(text: str, reason: str = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason, **fields}]}


@contextmanager
def stand_in(state: StandIn | None = None, port: int = 0) -> Iterator[StandIn]:
    """One on a free port, or on the given one."""
    state = StandIn() if state is None else state

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            if state.is_refused(self.path, self.headers["Authorization"]):
                self.answer(401, {"error": "Unauthorized"})
            else:
                self.answer(*state.get(self.path))

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                if state.is_refused(self.path, self.headers["Authorization"]):
                    self.answer(401, {"error": "Unauthorized"})
                else:
                    self.answer(*state.post(self.path, json.loads(data) if data else {}))
            except OSError:
                self.close_connection = True  # nobody waits any more

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", port), Handler)
    state.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
