"""Signs of life: given for what was made, cheap where nobody listens, harmless where nobody looks."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_runs
from scripted_runs import MemoryVerifier, execute, write_inputs
from tiny_models import load_policy, prompts, request

from halo_forge.engines.scripted import ScriptedSpec
from halo_forge.store.files import GrowingFile, write_json
from halo_forge.supervisor import heartbeat


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The reading end of a pipe that is listened to; every sign counts."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    monkeypatch.setattr(heartbeat, "_pipe", writing)
    monkeypatch.setattr(heartbeat, "INTERVAL_SECONDS", 0.0)
    yield reading
    os.close(reading)
    os.close(writing)


def signs(pipe: int) -> int:
    try:
        return len(os.read(pipe, 100_000))
    except BlockingIOError:
        return 0


def test_a_run_that_nobody_supervises_gives_none() -> None:
    assert not heartbeat.is_connected()
    heartbeat.beat()


def test_a_sign_for_each_record_that_is_on_disk(pipe: int, tmp_path: Path) -> None:
    with GrowingFile(tmp_path / "x.jsonl") as growing:
        assert signs(pipe) == 0
        growing.append({})
        growing.append({})
    write_json(tmp_path / "x.json", {})
    assert signs(pipe) == 3


def test_not_more_than_the_supervisor_needs(pipe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_SECONDS", 60.0)
    monkeypatch.setattr(heartbeat, "_last", float("-inf"))
    for _ in range(1000):
        heartbeat.beat()
    assert signs(pipe) == 1


def test_a_full_pipe_stops_nobody(pipe: int) -> None:
    for _ in range(70_000):
        heartbeat.beat()
    assert signs(pipe) > 60_000


def test_a_whole_run_gives_signs_in_every_stage(pipe: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())
    config = write_inputs(tmp_path)
    execute(config, tmp_path / "run")
    records = [line for path in (tmp_path / "run").rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert signs(pipe) >= len(records)


def test_a_sign_for_the_prompt_and_each_token(pipe: int, tiny_models: dict[str, Path]) -> None:
    from halo_forge.engines.transformers import TransformersEngine

    policy = load_policy(tiny_models["llama"])
    engine = TransformersEngine(policy, batch_size=4, stop=())
    (done,) = engine.sample(prompts(["x"]), [request("p0", max_new_tokens=12)], 0)
    # One more for the prompt.
    assert signs(pipe) == 1 + len(done.token_ids) + (done.finish == "stop")


# ---- loading


def read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 100_000)
    except BlockingIOError:
        return b""


def wait_for_signs(pipe: int) -> bytes:
    deadline = time.monotonic() + 30
    while not (found := read(pipe)):
        assert time.monotonic() < deadline, "no sign"
        time.sleep(0.01)
    return found


def test_data_that_moves_while_loading_is_a_sign_and_nothing_else_is(
    pipe: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 0.01)
    with heartbeat.loading():
        assert read(pipe) == b"l"
        time.sleep(0.3)
        assert read(pipe) == b"", "a process that waits gives no sign"
        (tmp_path / "weights").write_bytes(bytes(2 * heartbeat.LOADED_BYTES))
        assert set(wait_for_signs(pipe)) == set(b"l")
        (tmp_path / "weights").read_bytes()
        assert set(wait_for_signs(pipe)) == set(b"l")
        heartbeat.beat()
        assert set(wait_for_signs(pipe)) == set(b"l"), "what is made meanwhile does not end the phase"
    assert read(pipe) == b"."
    heartbeat.beat()
    assert read(pipe) == b"."


def test_a_download_gives_signs_while_it_goes_on(pipe: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the hub's own library, from a server that stops in the middle until a sign is there."""
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 0.01)
    half = bytes(12 << 20)  # the library writes 10 MiB at a time
    seen = threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(2 * len(half)))
            self.end_headers()
            self.wfile.write(half)
            self.wfile.flush()
            assert seen.wait(30)
            self.wfile.write(half)

        def log_message(self, *arguments: object) -> None:
            pass

    from huggingface_hub.file_download import http_get

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with heartbeat.loading(), (tmp_path / "weights.incomplete").open("wb") as into:
            assert read(pipe) == b"l"
            url = f"http://127.0.0.1:{server.server_port}/weights"
            download = threading.Thread(target=http_get, args=(url, into), kwargs={"expected_size": 2 * len(half)})
            download.start()
            assert set(wait_for_signs(pipe)) == set(b"l")
            seen.set()
            download.join(30)
        server.shutdown()
    assert (tmp_path / "weights.incomplete").stat().st_size == 2 * len(half)


def test_an_error_while_loading_ends_the_watching(pipe: int) -> None:
    with pytest.raises(ZeroDivisionError), heartbeat.loading():
        raise ZeroDivisionError
    assert read(pipe) == b"l."
    assert not any(thread.name == "loading" for thread in threading.enumerate())


def test_nobody_watches_where_nobody_listens() -> None:
    with heartbeat.loading():
        assert not any(thread.name == "loading" for thread in threading.enumerate())


def test_opening_a_run_is_loading(pipe: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())
    phases: list[str] = []
    monkeypatch.setattr(ScriptedSpec, "check", lambda self: phases.append(read(pipe).decode()))
    monkeypatch.setattr(scripted_runs, "run_raft", lambda *arguments: phases.append(read(pipe).decode()))
    execute(write_inputs(tmp_path), tmp_path / "run")
    loading, loaded = phases
    assert loading == "l" and "." not in loaded.rstrip(".") and loaded.endswith(".")


JOINED = """
import os, subprocess, sys
from halo_forge.supervisor import heartbeat
from halo_forge.supervisor.join import join
join()
heartbeat.beat()
print(subprocess.run([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, close_fds=False).stdout.decode())
"""
CHILD = """
import os
print(os.path.exists("/proc/self/fd/" + os.environ["PIPE"]), "HALO_FORGE_HEARTBEAT" in os.environ)
"""


def test_no_program_below_the_child_can_give_signs() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    environment = {**os.environ, "HALO_FORGE_HEARTBEAT": str(writing), "PIPE": str(writing)}
    done = subprocess.run(
        [sys.executable, "-c", JOINED, CHILD], env=environment, pass_fds=(writing,), capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False"], done.stderr
    assert signs(reading) == 1
    os.close(reading)
    os.close(writing)
