"""Signs of life: given for what was made, cheap where nobody listens, harmless where nobody looks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_runs import MemoryVerifier, execute, write_inputs
from tiny_models import load_policy, prompts, request

from halo_forge import heartbeat
from halo_forge.store.files import GrowingFile, write_json
from halo_forge.verifiers.c import Spec


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
    monkeypatch.setattr(Spec, "open", lambda self: MemoryVerifier())
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


JOINED = """
import os, subprocess, sys
from halo_forge import heartbeat, supervisor
supervisor.join()
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
