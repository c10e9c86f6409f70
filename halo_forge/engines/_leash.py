"""A program of its own: runs a server, and ends it with the process that holds the other end of standard input.

However that process ends, the operating system closes its end: no server stays behind on the port and in memory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 10.0


def main() -> int:
    """Run the command line's command; its exit code, 128 + number for a signal."""
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)

    def end_with_holder() -> None:
        while os.read(0, 1024):  # not sys.stdin, whose lock a thread must not hold when the interpreter ends
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)

    threading.Thread(target=end_with_holder, daemon=True).start()
    code = server.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # processes that it left behind hold its port and its memory
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
