"""The command line as a function, for the tests of its commands."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from halo_forge.cli import app


@dataclass
class Done:
    """How a command ended, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Done]


@contextmanager
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """`main()` with these arguments, without a traceback whatever happens; puts signal handlers back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["halo-forge", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            app.main()
        except SystemExit as left:
            code = 0 if left.code is None else left.code
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        assert "Traceback" not in out + err
        assert (code == 0) or err, "whatever is not fine says something"
        return Done(code, out, err)

    try:
        yield run
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
