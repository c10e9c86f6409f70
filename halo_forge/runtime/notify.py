"""`notify_command`: the user's own command, run when a run has ended in whatever way but a kill.

It gets how the run ended as JSON on standard input.  What it prints goes to standard error; whether it works changes
nothing about the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from halo_forge.core.errors import HaloForgeError, StoppedByRule
from halo_forge.store.files import read_json
from halo_forge.supervisor import heartbeat

LIMIT_SECONDS = 60.0
"""The command is killed after this time."""
DIRECTORY_VARIABLE = "HALO_FORGE_RUN_DIRECTORY"


class Notifying(Protocol):
    """The configuration of a run, as far as its end is reported."""

    @property
    def notify_command(self) -> Sequence[str]: ...
    @property
    def output_dir(self) -> str: ...


@contextmanager
def notified(config: Notifying, warn: Callable[[str], None]) -> Iterator[None]:
    """Run `notify_command` when the block ends.

    An interrupt of a supervised run is left to the supervisor, which alone knows whether it restarts the run.

    Args:
        warn: Called with what does not work about the command.
    """
    command, root = config.notify_command, Path(config.output_dir)
    if not command:
        yield
        return
    if shutil.which(command[0]) is None:
        warn(f"notify_command: {command[0]}: no such program; nothing will be run at the end")
    try:
        yield
    except BaseException as error:
        if not (isinstance(error, KeyboardInterrupt) and heartbeat.is_connected()):
            notify(command, root, error, warn)
        raise
    notify(command, root, None, warn)


def notify(
    command: Sequence[str],
    root: Path,
    error: BaseException | None,
    warn: Callable[[str], None],
    result: Mapping[str, Any] | None = None,
) -> None:
    """Run the command for the run or experiment in `root`, which ended with `error`, or is finished.

    Args:
        command: Program and arguments; no shell reads them.
        result: What the command gets as the result; None for the content of result.json, once that is there.
    """
    if result is None and error is None:
        result = read_json(root / "result.json")
    row = json.dumps(_ending(root, error, result)).encode()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=2,  # standard output is for the run's result
            env={**os.environ, DIRECTORY_VARIABLE: str(root.absolute())},
            process_group=0,  # so that what it starts can be killed with it
        )
    except (OSError, ValueError) as failure:  # ValueError: NUL or half a surrogate pair, which no argument can hold
        warn(f"notify_command: {command[0]}: {getattr(failure, 'strerror', None) or failure}")
        return
    try:
        process.communicate(row, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        warn(f"notify_command: {command[0]}: not done after {LIMIT_SECONDS:g} s, and killed")
        return
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ends just now
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code := process.returncode:
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        warn(f"notify_command: {command[0]}: {how}")


def _ending(root: Path, error: BaseException | None, result: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the command gets on standard input."""
    found: dict[str, Any] = {"run_directory": str(root.absolute()), "state": _state(error), "result": result}
    found["error"] = None
    if isinstance(error, HaloForgeError):
        found["error"] = {"kind": type(error).__name__, "message": error.message, "fix": error.hint}
    elif error is not None:
        found["error"] = {"kind": type(error).__name__, "message": str(error), "fix": None}
    return found


def _state(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "stopped" if isinstance(error, StoppedByRule) else "failed"
