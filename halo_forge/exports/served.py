"""llama.cpp's server on a GGUF file, for as long as the file is asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halo_forge.core.errors import ToolMissing
from halo_forge.engines._adapter_delivery import answers
from halo_forge.engines._http import Client
from halo_forge.engines._server_process import NotStarted, ServerProcess
from halo_forge.evaluations.subject import Server
from halo_forge.exports.llama_cpp import LlamaCpp

HOST = "127.0.0.1"
NUM_SLOTS = 4
"""Completions that it samples at the same time."""
_ROUND_TOKENS = 256
_START_SECONDS = 600.0


def server_at(port: int) -> Server:
    """Where a server of this module is reached."""
    return Server("llama_cpp", f"http://{HOST}:{port}/v1", "exported")


def _num_threads() -> int:
    """One processor is left: threads spin while they wait for each other, and completions are verified meanwhile."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@contextmanager
def served(
    llama_cpp: LlamaCpp, model: Path, adapter: Path | None, port: int, num_tokens: int, logs: Path
) -> Iterator[None]:
    """Serve a GGUF file, with an adapter in GGUF on top or none, while the block runs.

    Args:
        num_tokens: Of the longest prompt and its completion.
        logs: Where its output goes.

    Raises:
        ToolMissing: There is no server, or it does not start.
    """
    size = -(-num_tokens // _ROUND_TOKENS) * _ROUND_TOKENS
    command = [*llama_cpp.command("server"), "--model", str(model)]
    command += [] if adapter is None else ["--lora", str(adapter)]
    command += ["--host", HOST, "--port", str(port), "--parallel", str(NUM_SLOTS)]
    command += ["--ctx-size", str(NUM_SLOTS * size), "--threads", str(_num_threads())]
    process = ServerProcess("llama_cpp", logs)
    client = Client(server_at(port).base_url, timeout_seconds=_START_SECONDS, key=None)
    try:
        process.start(command, os.environ, lambda: answers(client, f"http://{HOST}:{port}/health"), _START_SECONDS)
    except NotStarted as error:
        ended = "did not answer in time" if error.code is None else f"ended with code {error.code}"
        raise ToolMissing(
            f"llama.cpp's server {ended}: {' '.join(command)}; the end of its log {process.log}:\n{error.last_lines}",
            "try this command by hand; a llama.cpp of another version may know this model (--llama-cpp DIR), and"
            " --no-proof exports without asking the file",
        ) from error
    try:
        yield
    finally:
        process.close()
