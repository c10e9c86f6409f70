"""Six programs that try what a hostile completion would try, and what really happened."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from halo_forge.sandbox.job import MEBIBYTE, Job, JobResult, Limits, Sandbox

_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_LIMITS = Limits(
    cpu_seconds=2.0,
    wall_seconds=4.0,
    memory_bytes=64 * MEBIBYTE,
    address_space_bytes=1024 * MEBIBYTE,
    num_processes=16,
)
_CONNECT = "import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
_CONNECT_BASH = "exec 3<>/dev/tcp/127.0.0.1/{port}"
# It stops by itself after some hundred processes, so a sandbox that fails does no damage.
_FORK_BOMB = "n=0; while [ $n -lt 300 ]; do sleep 3 & n=$((n+1)); done; wait"
_MEMORY = "x=0123456789abcdef; while :; do x=$x$x; done"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one program did.

    Attributes:
        name: network, home, fork bomb, kill -1, memory, daemon.
        held: Whether it was confined; None if it was not tried.
        what: What was observed from outside the program.
    """

    name: str
    held: bool | None
    what: str


def self_test(sandbox: Sandbox) -> list[Attempt]:
    """Run six hostile programs in `sandbox` and observe from outside what they did.

    Raises:
        SandboxError: The sandbox failed.
        OSError: A listener, file or process for the observation cannot be created.
    """
    attempts: list[tuple[str, Callable[[Sandbox], tuple[bool | None, str]]]] = [
        ("network", _network),
        ("home", _home),
        ("fork bomb", _fork_bomb),
        ("kill -1", _kill_all),
        ("memory", _memory),
        ("daemon", _daemon),
    ]
    return [Attempt(name, *attempt(sandbox)) for name, attempt in attempts]


def _shell(sandbox: Sandbox, script: str) -> JobResult:
    return sandbox.run(Job(("/bin/sh", "-c", script), _LIMITS, env=_ENVIRONMENT))


def _ended(outcome: JobResult) -> str:
    ways = {
        f"ended by its {outcome.timed_out} time limit": outcome.timed_out is not None,
        "ended by its memory limit": outcome.out_of_memory,
        "ended by its limit of processes": outcome.process_limit,
        f"ended by signal {outcome.signal}": outcome.signal is not None,
        f"ended with exit code {outcome.exit_code}": True,
    }
    return next(way for way, is_so in ways.items() if is_so)


def _network(sandbox: Sandbox) -> tuple[bool | None, str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for argv in (
            (sys.executable, "-I", "-S", "-c", _CONNECT.format(port=port)),
            ("/usr/bin/python3", "-I", "-S", "-c", _CONNECT.format(port=port)),
            ("/bin/bash", "-c", _CONNECT_BASH.format(port=port)),
        ):
            outcome = sandbox.run(Job(argv, _LIMITS, env=_ENVIRONMENT))
            if outcome.exec_error is None:
                break
        else:
            return None, "not tried: neither python3 nor bash can be started in the sandbox"
        listener.settimeout(0.05)
        try:
            listener.accept()[0].close()
        except TimeoutError:
            words = outcome.stderr.decode(errors="backslashreplace").strip().splitlines()
            return True, f"no connection arrived at a port of this machine: {words[-1] if words else _ended(outcome)}"
    return False, "a connection arrived at a port of this machine"


def _home(sandbox: Sandbox) -> tuple[bool | None, str]:
    home = os.path.expanduser("~")
    try:
        # Whether we can: a home that nobody can write to tells nothing about the sandbox.
        folder = tempfile.mkdtemp(prefix=".halo-forge-self-test-", dir=home)
    except OSError as error:
        return None, f"not tried: {home} cannot be written to by this very process ({error.strerror})"
    try:
        outcome = _shell(sandbox, f"ls -A '{home}'; echo here > '{folder}/file'")
        if os.path.exists(f"{folder}/file"):
            return False, f"a file was written into {home}"
        if outcome.stdout.strip():
            return False, f"no file was written into {home}, but its names were read"
        return True, f"{home} was neither read nor written"
    finally:
        shutil.rmtree(folder)


def _fork_bomb(sandbox: Sandbox) -> tuple[bool | None, str]:
    outcome = _shell(sandbox, _FORK_BOMB)
    text = outcome.stderr.decode(errors="backslashreplace").lower()
    held = outcome.process_limit or "fork" in text or "resource" in text
    return held, _ended(outcome) + ("" if outcome.process_limit else "; the kernel refused more processes")


def _kill_all(sandbox: Sandbox) -> tuple[bool | None, str]:
    isolation = sandbox.isolation
    if isolation.level == "limits" and not isolation.add_ons.get("uid_drop", False):
        return None, "not tried: it would end every process of this user, this one too"
    with _bystander() as process:
        outcome = _shell(sandbox, "kill -9 -1")
        alive = process.poll() is None
    return alive, f"a process outside {'lived on' if alive else 'was killed'}; the program {_ended(outcome)}"


@contextmanager
def _bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["/bin/sleep", "60"], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _memory(sandbox: Sandbox) -> tuple[bool | None, str]:
    outcome = _shell(sandbox, _MEMORY)
    peak = outcome.max_rss_bytes // MEBIBYTE
    held = not outcome.clean and outcome.max_rss_bytes < 4 * _LIMITS.memory_bytes
    return held, f"{_ended(outcome)} at {peak} MiB, allowed were {_LIMITS.memory_bytes // MEBIBYTE} MiB"


def _daemon(sandbox: Sandbox) -> tuple[bool | None, str]:
    marker = f"61.{int.from_bytes(os.urandom(4), 'big')}"
    outcome = _shell(sandbox, f"(setsid sleep {marker} > /dev/null 2>&1 &); echo left")
    if outcome.stdout != b"left\n":
        return None, f"not tried: the program {_ended(outcome)}"
    survivors = [pid for pid in os.listdir("/proc") if pid.isdigit() and marker in _command_line(pid)]
    return not survivors, f"left behind: {', '.join(survivors) if survivors else 'nothing'}"


def _command_line(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as handle:
            return handle.read().replace(b"\0", b" ").decode(errors="backslashreplace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""  # ended meanwhile, or hidden from us: then it is nothing of ours
