"""The child's side: connects this process to the supervisor that started it."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
from types import FrameType
from typing import NoReturn

from halo_forge.sandbox import syscalls
from halo_forge.supervisor import heartbeat

PIPE_VARIABLE = "HALO_FORGE_HEARTBEAT"
"""Holds the descriptor of the pipe."""


def join() -> None:
    """In a supervised child: send signs to the supervisor from now on, and end with it; else do nothing.

    A first SIGINT or SIGTERM interrupts; later ones are ignored, because a terminal and the supervisor may both send
    it.  SIGUSR1 writes all stacks to standard error.
    """
    variable = os.environ.pop(PIPE_VARIABLE, None)
    if variable is None:
        return
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    pipe = int(variable)
    if _nobody_reads(pipe):  # it ended before this process was tied to it
        os.kill(os.getpid(), signal.SIGKILL)
    os.set_inheritable(pipe, False)  # no program of the model's may give signs
    heartbeat.connect(pipe)
    faulthandler.register(signal.SIGUSR1, file=2)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt_once)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _nobody_reads(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)  # errors are told in any case
    return any(found & select.POLLERR for _, found in poll.poll(0))


def _interrupt_once(number: int, frame: FrameType | None) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
