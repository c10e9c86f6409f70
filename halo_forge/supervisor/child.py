"""One child process: started, watched, and ended if necessary."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from typing import IO, Any

from halo_forge.core.errors import NoProgress
from halo_forge.hardware import Machine, detect
from halo_forge.hardware.telemetry import NotReadable, SensorQuery
from halo_forge.sandbox import processes
from halo_forge.supervisor import heartbeat
from halo_forge.supervisor.join import PIPE_VARIABLE

INTERRUPTED = 130
END_SECONDS = 10.0
"""Time to end by itself after SIGTERM or Ctrl-C, and to disappear after SIGKILL."""
TICK_SECONDS = 0.25
"""Longest time until Ctrl-C is noticed."""
SENSOR_SECONDS = 1.0
"""How long a stalled child is left alive for the sensors: once it has ended, the GPU is idle."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended.

    Attributes:
        why: "exited", "interrupted" (we were told to stop), "killed" (by a signal that is not ours) or "stalled".
        code: The exit code if it exited.
        seen: What was observed, in words.
        fields: The same for events.jsonl.
        option: The option that lets such a child live longer.
    """

    why: str
    code: int
    seen: str
    fields: Mapping[str, Any]
    option: str = "--stall-seconds"


@contextlib.contextmanager
def held_back_signals() -> Iterator[set[signal.Signals]]:
    """Signals that are polled instead of handled; those that were ignored stay ignored."""
    waited = {each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        yield waited
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None = None
) -> tuple[subprocess.Popen[bytes], FileIO]:
    """A child that ends with this process, and the reading end of the pipe for its signs.

    Args:
        command: A program that calls `join`, as `halo-forge` does.
        output: Where its standard output and standard error go; None leaves them as they are.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signs = FileIO(reading, "rb")
    try:
        process = subprocess.Popen(
            command,
            env={**environment, PIPE_VARIABLE: str(writing)},
            pass_fds=(writing,),
            restore_signals=False,
            stdin=None if output is None else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    except BaseException:
        signs.close()
        raise
    finally:
        os.close(writing)
    return process, signs


class Child:
    """A process that gives signs of progress; `run` returns once it has ended.

    Args:
        stall_seconds: It is ended after this time without a sign.
        loading_seconds: The same before its first sign, and after one of loading.
        signals: Those that are held back; the child inherits this until it joins.
        machine: Whose sensors are read when it hangs.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        stall_seconds: float,
        loading_seconds: float,
        signals: set[signal.Signals],
        machine: Machine,
    ) -> None:
        self._stall_seconds = stall_seconds
        self._loading_seconds = loading_seconds
        self._signals = signals
        self._machine = machine
        self._process, self._signs = start(command, environment)

    def run(self) -> AttemptEnd:
        """Watch it to its end.

        Raises:
            NoProgress: It cannot be ended.
        """
        with self._signs:
            try:
                return self._watch()
            except BaseException:
                self._process.kill()
                raise

    def _watch(self) -> AttemptEnd:
        process = self._process
        tick = min(TICK_SECONDS, self._stall_seconds / 4, self._loading_seconds / 4)
        still, at_sign, is_loading = 0.0, _cpu_seconds(process.pid), True
        woken = time.monotonic()
        while True:
            select.select([self._signs], [], [], tick)
            made = self._signs.read(65536)
            if made == b"":  # the other end is closed: the child is ending
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(tick)
            if (code := process.poll()) is not None:
                return _ended(code)
            if (number := received(self._signals)) is not None:
                return self._interrupt(number)
            before, woken = woken, time.monotonic()
            if made:
                still, at_sign = 0.0, _cpu_seconds(process.pid)
                is_loading = made.endswith(heartbeat.LOADING)
                continue
            # A sleeping machine, or Ctrl-Z, stops us as well: only the time that we were awake counts.
            still += min(woken - before, tick)
            if still >= (self._loading_seconds if is_loading else self._stall_seconds):
                return self._end_stalled(still, at_sign, is_loading)

    def _interrupt(self, number: signal.Signals) -> AttemptEnd:
        """Pass the signal on and wait for the child to end, not for long; a second signal kills it at once."""
        process = self._process
        process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
        deadline = time.monotonic() + END_SECONDS
        while process.poll() is None:
            time.sleep(0.05)
            if time.monotonic() >= deadline or received(self._signals) is not None:
                kill(process)
        code = process.returncode
        return AttemptEnd("interrupted", code if code > 0 else INTERRUPTED, "was interrupted", {})

    def _end_stalled(self, still: float, at_sign: float, is_loading: bool) -> AttemptEnd:
        process = self._process
        seen = processes.read(process.pid)
        state = "gone" if seen is None else seen.state
        cores = round(max(0.0, _cpu_seconds(process.pid) - at_sign) / still, 2)
        words, gpu = [f"{cores:g} cores busy"], dict[str, float]()
        with SensorQuery(detect(self._machine)) as sensors:
            sensors.wait(SENSOR_SECONDS)
            process.send_signal(signal.SIGUSR1)  # its stacks, written even by a process that no longer runs Python
            process.terminate()
            by = "SIGTERM"
            try:
                process.wait(min(END_SECONDS, still))
            except subprocess.TimeoutExpired:
                by = "SIGKILL"
                kill(process)
            try:
                gpu = dict(sensors.report().values)
            except NotReadable as error:
                words.append(f"GPU: {error}")
        words += [f"GPU {gpu['busy']:.0%} busy"] if "busy" in gpu else []
        words += [f"GPU at {gpu['watts']:.0f} W"] if "watts" in gpu else []
        missed = "moved no data while loading" if is_loading else "produced no token, verdict or training pass"
        return AttemptEnd(
            "stalled",
            process.returncode,
            f"{missed} for {still:.0f} s (process {process.pid}, state {state}, {', '.join(words)})"
            f" and was ended by {by}",
            {
                "seconds": round(still, 1),
                "phase": "loading" if is_loading else "working",
                "process_state": state,
                "cores_busy": cores,
                "gpu": gpu,
                "signal": by,
            },
            "--loading-seconds" if is_loading else "--stall-seconds",
        )


def received(signals: set[signal.Signals]) -> signal.Signals | None:
    """A pending signal of those that are held back, if there is one.

    sigtimedwait would wait for it, but returns nonsense if its time passes while this process is stopped.
    """
    waiting = signal.sigpending() & signals
    return signal.Signals(signal.sigwait(waiting)) if waiting else None


def _ended(code: int) -> AttemptEnd:
    if code >= 0:
        return AttemptEnd("exited", code, f"exited with code {code}", {})
    name = _signal_name(-code)
    return AttemptEnd("killed", code, f"was ended by {name}", {"signal": name})


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and wait until it is gone.

    Raises:
        NoProgress: It does not go.
    """
    process.kill()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired as error:
        seen = processes.read(process.pid)
        state = "gone" if seen is None else seen.state
        raise NoProgress(
            f"process {process.pid} is still alive {END_SECONDS:g} s after SIGKILL: state {state}"
            + (" (blocked in the kernel, on a driver or a disk)" if state == "D" else ""),
            "check `dmesg`; if the process stays, reboot; then rerun with --resume",
        ) from error


def _cpu_seconds(pid: int) -> float:
    found = processes.read(pid)
    return 0.0 if found is None else found.cpu_seconds - found.reaped_cpu_seconds


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
