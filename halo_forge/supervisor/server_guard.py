"""A small process between us and a server: it ends the server, and everything the server started, when we end.

It is started as `python -I -S -c <BOOT> <package root> <command ...>` and holds the other end of a pipe on standard
input.  However the process at the first end goes, even by SIGKILL, the kernel closes that end.  As a subreaper, the
guard becomes the parent of whatever the server's processes leave behind, even in separate sessions: vLLM's engine
process, for one, outlives a server that was killed (vllm#55510).

It starts without site-packages, so it imports only the standard library and the sandbox.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

from halo_forge.sandbox import processes, syscalls

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from halo_forge.supervisor.server_guard import main; main()"
GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL."""


def main() -> None:
    """Run the command; exits with its code, 128 + number for a signal."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_us)
    ended = os.pidfd_open(server.pid)
    ready, _, _ = select.select([sys.stdin.fileno(), ended], [], [])
    if ended not in ready:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        if not select.select([ended], [], [], GRACE_SECONDS)[0]:
            server.kill()
    code = server.wait()
    processes.kill_all_below(os.getpid(), _reap)  # what it left behind holds its port and its memory
    sys.exit(code if code >= 0 else 128 - code)


def _end_with_us() -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
