"""The trusted process: holds the tests, and asks another process for what the program makes of their arguments.

It forks the program's process first, while it knows nothing: the tests, which come by standard input, are read
afterwards, once the kernel no longer lets other processes read this one.  What arrives from the program are plain
builtin values, which are compared here.  The verdict leaves by a private descriptor, as messages of
`wire`, each of which begins with the sentinel of the job.
"""

from __future__ import annotations

import os
import time

from halo_forge.verifiers.python.driver import wire
from halo_forge.verifiers.python.driver.candidate import Server
from halo_forge.verifiers.python.driver.harness import provide, run_harness
from halo_forge.verifiers.python.driver.remote import CandidateGone, Link
from halo_forge.verifiers.python.driver.steps import Steps

TYPE_CHECKING = False  # the module `typing` takes 10 ms to import
if TYPE_CHECKING:
    from typing import Any

_PR_SET_DUMPABLE = 4
_END_POLLS, _POLL_SECONDS = 50, 0.01


class Report:
    """Writes what was found, message by message, so that what is known survives a time limit."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.sentinel = ""

    def send(self, *message: Any) -> None:
        wire.send(self._descriptor, wire.encode((self.sentinel, *message), _no_foreign))


def _no_foreign(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is not reported")


def _check(job: dict[str, Any], link: Link, report: Report) -> None:
    """Parse, run and test the program.

    Raises:
        CandidateGone: The program's process has ended.
    """
    entry_point = job["entry_point"]
    parsed, num_warnings, note, continues = _request(
        link, (bool, int, str, bool), "parse", job["source"], job["head"], entry_point
    )
    report.send("parsed", parsed, num_warnings, note)
    if not parsed:
        return
    ran, note = _request(link, (bool, str), "run", "" if continues else job["context"], entry_point)
    report.send("ran", ran, note)
    if not ran:
        return
    if job["harness"]:
        report.send("printed", *run_harness(job["harness"], link))
        report.send("end")
        return
    names: dict[str, str] = job["names"]
    if job["modules"]:
        from halo_forge.verifiers.python.driver import stand_ins

        stand_ins.install(job["modules"])
    space: dict[str, Any] = {"__name__": "__main__"}
    if job["tests_use_context"]:
        exec(compile(job["context"], "head.py", "exec", dont_inherit=True), space)
    provide(link)
    (found,) = _request(link, (dict,), "names_of", tuple(names.values()))
    space.update({ours: found[theirs] for ours, theirs in names.items() if theirs in found})
    for checked in Steps(job, space, link).run():
        report.send("check", *checked)
    report.send("end")


def _request(link: Link, types: tuple[type, ...], *request: Any) -> Any:
    """The reply to what is asked outside of the tests: a tuple of these types.

    Raises:
        CandidateGone: It is anything else, which is the program's doing.
    """
    try:
        reply = link.ask(*request)
    except Exception as error:
        raise CandidateGone(ended=False) from error
    if type(reply) is not tuple or tuple(map(type, reply)) != types:
        raise CandidateGone(ended=False)
    return reply


def _fork_candidate() -> tuple[int, Link]:
    """The program's process, which has no descriptor but its two pipes."""
    requests, to_candidate = os.pipe()
    from_candidate, replies = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            null = os.open(os.devnull, os.O_RDWR)
            for target in (0, 1, 2):
                os.dup2(null, target)
            for descriptor in range(3, os.sysconf("SC_OPEN_MAX")):
                if descriptor not in (requests, replies):
                    _close(descriptor)
            Server(requests, replies).serve()
        finally:
            os._exit(0)
    os.close(requests)
    os.close(replies)
    return pid, Link(from_candidate, to_candidate)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        return  # it was not open


def _hide() -> None:
    """Let no other process of this user read this one's memory or descriptors."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, *(ctypes.c_ulong(0) for _ in range(4))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _take_job() -> dict[str, Any]:
    """Read the job, and leave nothing of it in the file that it came in."""
    parts = []
    while True:
        part = os.read(0, 1 << 16)
        if not part:
            break
        parts.append(part)
    _empty(0)
    job: dict[str, Any] = wire.decode(b"".join(parts), _no_foreign)
    return job


def _empty(descriptor: int) -> None:
    try:
        os.ftruncate(descriptor, 0)
    except OSError:
        return  # no file that can be written: a pipe is empty once it is read


def _ending(pid: int, num_polls: int) -> tuple[int | None, int | None]:
    """Exit code or signal of the program's process; both None where it hung up without ending."""
    for _ in range(num_polls):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                return None, os.WTERMSIG(status)
            return os.WEXITSTATUS(status), None
        time.sleep(_POLL_SECONDS)
    _end(pid)
    return None, None


def _end(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except PermissionError:
        return  # a sandbox may let programs signal only themselves; it ends what is left
    os.waitpid(pid, 0)


def main() -> None:
    """Check the program of the job in standard input."""
    pid, link = _fork_candidate()
    report = Report(os.dup(1))
    null = os.open(os.devnull, os.O_RDWR)
    try:
        _hide()
        job = _take_job()
        report.sentinel = job["sentinel"]
        for target in (0, 1):
            os.dup2(null, target)
        _check(job, link, report)
        _end(pid)
    except CandidateGone as gone:
        report.send("gone", str(gone), *_ending(pid, _END_POLLS if gone.ended else 0))
    except Exception as error:
        report.send("broken", f"{type(error).__name__}: {error}")
        raise
