"""`report --serve`: only for this machine's own pages, only to read, and as new as the run."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from halo_forge.core.errors import ConfigError
from halo_forge.pages.make import run_html, run_state
from halo_forge.pages.serve import Page, open_server


@pytest.fixture
def served(root: Path, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A copy of the run without its result, and the port at which its page is served."""
    copy = tmp_path / "run"
    shutil.copytree(root, copy, symlinks=True)
    (copy / "result.json").rename(tmp_path / "result.json")
    page = Page(lambda state: run_html(copy, state=state), lambda: run_state(copy))
    with open_server(page, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield copy, server.server_port
        server.shutdown()
        thread.join()


def ask(
    port: int, path: str = "/state", method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{port}", **(headers or {})}.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "localhost:9", "[::1]:{port}", "127.0.0.1"])
def test_names_of_loopback_are_answered(served: tuple[Path, int], host: str) -> None:
    _, port = served
    assert ask(port, headers={"Host": host.format(port=port)})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "localhost.evil.example"},
        {"Host": "localhost@evil.example"},
        {"Host": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/state"])
def test_other_hosts_and_other_sites_are_refused(served: tuple[Path, int], headers: dict[str, str], path: str) -> None:
    _, port = served
    status, _, body = ask(port, path, headers=headers)
    assert status == 403
    assert b"<html" not in body and b"state" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_can_be_written(served: tuple[Path, int], method: str) -> None:
    _, port = served
    status, headers, _ = ask(port, "/", method)
    assert status in (405, 501)
    assert headers.get("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize(
    "path", ["/../run.json", "/run.json", "//evil.example/", "/%2e%2e/run.json", "/?x", "http://a/"]
)
def test_no_file_is_served(served: tuple[Path, int], path: str) -> None:
    _, port = served
    assert ask(port, path)[0] == 404


def test_the_answer_is_closed_to_frames_scripts_and_caches(served: tuple[Path, int]) -> None:
    _, port = served
    status, headers, body = ask(port, "/")
    assert status == 200 and body.startswith(b"<!DOCTYPE html>")
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "connect-src 'self'", "script-src 'sha256-"):
        assert rule in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert ask(port, "/", "HEAD")[2] == b""


def test_it_listens_on_loopback_alone() -> None:
    with open_server(Page(lambda state: "", lambda: ""), 0) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_run_that_cannot_be_read_for_a_moment_is_said_and_served_again(served: tuple[Path, int]) -> None:
    root, port = served
    assert ask(port, "/")[0] == 200
    (root / "cycles/001/decision.json").write_text("{")
    status, _, body = ask(port, "/")
    assert status == 503 and b"decision.json" in body
    assert ask(port, "/state")[0] == 200


def test_an_open_page_shows_a_new_result_without_being_touched(served: tuple[Path, int], watch: Any) -> None:
    root, port = served
    watched = watch()
    page = watched.open(f"http://127.0.0.1:{port}/")
    assert "finished" not in page.locator(".state").inner_text()
    page.locator("#live", has_text="live").wait_for()
    page.locator("#set").select_option("train")
    page.get_by_role("checkbox", name="flaky").check()
    page.get_by_role("searchbox").fill("train3")
    (root.parent / "result.json").rename(root / "result.json")
    page.locator(".state", has_text="finished").wait_for(timeout=60_000)
    page.locator("#count", has_text="1 of 14 prompts").wait_for()
    assert page.locator("#set").input_value() == "train" and page.get_by_role("checkbox", name="flaky").is_checked()
    assert page.locator("#prompts .id").all_text_contents() == ["train3"], "the filters are those of before"
    page.reload()
    page.locator("#count", has_text="6 of 14 prompts").wait_for()  # a reload by hand begins anew
    assert watched.problems == []
    assert {each.rpartition("/")[2] for each in watched.requests} <= {"", "state"}


def test_a_port_that_is_taken_is_an_error(served: tuple[Path, int], root: Path) -> None:
    _, port = served
    with pytest.raises(ConfigError, match=str(port)):
        open_server(Page(lambda state: "", lambda: ""), port)


def test_an_interrupt_ends_it_cleanly(root: Path) -> None:
    command = [sys.executable, "-m", "halo_forge", "report", str(root), "--serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    port = int(address.rstrip("/").rpartition(":")[2])
    state = json.loads(ask(port)[2])["state"]
    assert state == run_state(root)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.splitlines() == ["Ctrl-C ends it.", "No longer served."]
