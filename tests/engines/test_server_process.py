"""Servers that a run starts end with it, whoever is killed, and take with them what they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import eventually, is_alive

from halo_forge.engines import _server_process
from halo_forge.engines._server_process import NotStarted, ServerProcess
from halo_forge.supervisor import heartbeat

SERVER = "setsid sleep 300 & echo $! > {0}/child; echo $$ > {0}/server; exec sleep 300"
"""It starts a process in a session of its own, out of reach of a signal to its group."""


def pid(folder: Path, name: str) -> int:
    path = folder / name
    assert eventually(lambda: path.is_file() and path.read_text().endswith("\n"))
    return int(path.read_text())


@pytest.mark.parametrize("victim", ["holder", "server", "nobody"])
def test_nothing_outlives_the_run_or_the_server(tmp_path: Path, victim: str) -> None:
    holder = f"""
import os, sys, time
from pathlib import Path
from halo_forge.engines._server_process import ServerProcess
server = ServerProcess("server", Path({str(tmp_path)!r}))
server.start(["sh", "-c", {SERVER.format(tmp_path)!r}], os.environ, lambda: True, 10.0)
sys.stdin.read()
server.close()
"""
    process = subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE)
    try:
        child, server = pid(tmp_path, "child"), pid(tmp_path, "server")
        assert is_alive(child) and is_alive(server)
        if victim == "holder":
            process.kill()
        elif victim == "server":
            os.kill(server, signal.SIGKILL)
        else:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(60) == 0
            assert not is_alive(child) and not is_alive(server)
        assert eventually(lambda: not is_alive(child) and not is_alive(server))
    finally:
        process.kill()
        process.wait()


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ServerProcess("server", tmp_path)
    script = f"trap '' TERM; echo $$ > {tmp_path}/server; while :; do sleep 0.1; done"
    server.start(["sh", "-c", script], os.environ, lambda: True, 10.0)
    found = pid(tmp_path, "server")
    server.close()
    assert not is_alive(found) and not server.is_running


def test_a_server_that_ends_says_how_and_with_which_last_words(tmp_path: Path) -> None:
    server = ServerProcess("server", tmp_path)
    with pytest.raises(NotStarted) as caught:
        server.start(["sh", "-c", "seq 1 40; echo no memory left; exit 3"], os.environ, lambda: False, 10.0)
    assert caught.value.code == 3
    assert caught.value.last_lines.splitlines() == [*map(str, range(27, 41)), "no memory left"]


def test_a_server_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    server = ServerProcess("server", tmp_path)
    script = f"echo $$ > {tmp_path}/server; exec sleep 300"
    with pytest.raises(NotStarted) as caught:
        server.start(["sh", "-c", script], os.environ, lambda: False, 0.5)
    assert caught.value.code is None and not is_alive(pid(tmp_path, "server"))


def test_waiting_for_a_server_is_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signs = []
    monkeypatch.setattr(heartbeat, "beat", lambda: signs.append(1))
    looks = iter([False, False, True])
    server = ServerProcess("server", tmp_path)
    server.start(["sleep", "300"], os.environ, lambda: next(looks), 10.0)
    assert len(signs) == 2
    server.close()


def test_every_start_has_a_log_that_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "server_logs"
    for words in ("first", "second"):
        for server in (ServerProcess("server", folder), ServerProcess("vllm", folder)):
            with pytest.raises(NotStarted):
                server.start(["sh", "-c", f"echo {words}"], os.environ, lambda: False, 10.0)
    names = {path.name: path.read_text() for path in folder.iterdir()}
    first, second = "first\n", "second\n"
    assert names == {"server.1.log": first, "vllm.1.log": first, "server.2.log": second, "vllm.2.log": second}


HOLDER = """
import os, sys
from pathlib import Path
from halo_forge.engines._server_process import ServerProcess
ServerProcess("server", Path(sys.argv[1])).start(["sh", "-c", sys.argv[2]], os.environ, lambda: True, 10.0)
sys.stdin.read()
"""


def test_the_server_of_a_killed_attempt_is_waited_for(tmp_path: Path) -> None:
    stubborn = f"trap 'sleep 2; exit' TERM; echo $$ > {tmp_path}/server; while :; do sleep 0.1; done"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), stubborn], stdin=subprocess.PIPE)
    old = pid(tmp_path, "server")
    assert eventually(lambda: (tmp_path / "server.pid").is_file())
    holder.kill()
    holder.wait()
    assert is_alive(old)
    server = ServerProcess("server", tmp_path)
    server.start(["sleep", "300"], os.environ, lambda: True, 10.0)
    assert not is_alive(old)
    server.close()
    assert not (tmp_path / "server.pid").exists()


@pytest.mark.parametrize("number", ["own", "none"])
def test_a_process_that_is_no_server_of_ours_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """The number of one that is gone may be another's by now."""
    (tmp_path / "server.pid").write_text(f"{os.getpid() if number == 'own' else 2**22 + 1}\n")
    monkeypatch.setattr(_server_process, "_END_SECONDS", 60.0)
    start = time.monotonic()
    ServerProcess("server", tmp_path).wait_for_leftover()
    assert time.monotonic() - start < 5


def test_a_server_that_cannot_be_ended_is_told_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that hangs in a driver."""
    server = ServerProcess("server", tmp_path)
    server.start(["sleep", "300"], os.environ, lambda: True, 10.0)
    (guard,) = [int((tmp_path / "server.pid").read_text())]
    os.kill(guard, signal.SIGSTOP)
    try:
        monkeypatch.setattr(_server_process, "_END_SECONDS", 0.2)
        server.close()
        assert f"process {guard}, which stops the server server, is still running" in caplog.text
        assert not server.is_running and (tmp_path / "server.pid").exists()
    finally:
        os.kill(guard, signal.SIGCONT)
    assert eventually(lambda: not is_alive(guard))
