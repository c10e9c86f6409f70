"""What libraries warn of during a run goes to events.jsonl, not to the terminal.

A library's warning is written for people who call that library: mostly about a name that its next version drops, or a
default that we chose on purpose.  It tears the progress display apart, and the user can do nothing about it.  So it is
kept as an event, once for each message, and a test fails on every event (tests/cli/test_library_warnings.py).
`KNOWN` lists those that say nothing about the run; they are dropped.

Who warns decides, not whom the warning is about: the file that calls `warnings.warn` or the logger.  What plugins and
programs outside the environment warn of is shown as ever, and so are errors of libraries.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import halo_forge
from halo_forge.core.registry import plugin_packages

LOGGED = "logged"
"""The category of a warning that comes through a logger."""


@dataclass(frozen=True)
class LibraryWarning:
    """One warning.

    Attributes:
        module: Who warns, such as `transformers.modeling_utils`.
        category: The class of a Python warning, or `logged`.
        message: The text, or in `KNOWN` its beginning.
    """

    module: str
    category: str
    message: str

    def covers(self, other: LibraryWarning) -> bool:
        """Whether `other` is this warning, with anything after the message."""
        same = (self.module, self.category) == (other.module, other.category)
        return same and other.message.startswith(self.message)


KNOWN = (
    # TRL 1.16 uses a name that transformers 5.23 replaced.
    LibraryWarning("transformers.modeling_utils", "FutureWarning", "`is_gradient_checkpointing` is deprecated"),
    # PEFT imports bitsandbytes wherever it is installed; the package that it misses is for 4-bit products on a CPU.
    LibraryWarning("bitsandbytes.backends.cpu.ops", LOGGED, "Failed to load CPU gemm_4bit_forward"),
    # The model's generation_config.json; `engine` says how completions are sampled.
    LibraryWarning(
        "transformers.generation.configuration_utils", LOGGED, "The following generation flags are not valid"
    ),
)


class LibraryWarnings:
    """Collects warnings while `collected` runs; `send_to` says where they go, those from before included."""

    def __init__(self) -> None:
        self._seen: dict[LibraryWarning, None] = {}
        self._note: Callable[..., None] | None = None
        self._folders = _folders()
        self._plugins = plugin_packages()

    def send_to(self, note: Callable[..., None]) -> None:
        """`note(event, **fields)` is called for each warning from now on, and for those that are waiting."""
        self._note = note
        for waiting in self._seen:
            self._tell(waiting, note)

    @contextlib.contextmanager
    def collected(self) -> Iterator[Self]:
        """While the block runs, no warning of a library is shown."""
        call_handlers = logging.Logger.callHandlers

        def heard(logger: logging.Logger, record: logging.LogRecord) -> None:
            module = self._library_module(record.pathname) if record.levelno == logging.WARNING else None
            if module is None:
                call_handlers(logger, record)
            else:
                self._take(LibraryWarning(record.name, LOGGED, record.getMessage()))

        with warnings.catch_warnings():
            show = warnings.showwarning

            def shown(message: Any, category: type[Warning], *where: Any) -> None:
                file = _issuing_file()
                # Our own lines warn of nothing: Python and torch attribute what C code says to whoever called it.
                module = "halo_forge" if _OURS in file.parents else self._library_module(file)
                if module is None:
                    show(message, category, *where)
                else:
                    self._take(LibraryWarning(module, category.__name__, str(message)))

            warnings.showwarning = shown  # type: ignore[assignment]
            # Every handler that a library or the root logger has, or will have, is behind this method.
            logging.Logger.callHandlers = heard  # type: ignore[assignment, method-assign]
            try:
                yield self
            finally:
                logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]

    def _take(self, found: LibraryWarning) -> None:
        if found not in self._seen and not any(known.covers(found) for known in KNOWN):
            self._seen[found] = None
            if self._note is not None:
                self._tell(found, self._note)

    @staticmethod
    def _tell(found: LibraryWarning, note: Callable[..., None]) -> None:
        note("library_warning", module=found.module, category=found.category, message=found.message[:1000])

    def _library_module(self, file: str | Path) -> str | None:
        """`package.module` of a file of a library; None for a file of ours, of a plugin, or outside the environment."""
        path = Path(file)
        for folder in self._folders:
            if folder in path.parents and _OURS not in path.parents:
                parts = path.relative_to(folder).with_suffix("").parts
                return None if parts[0] in self._plugins else ".".join(parts)
        return None


_OURS = Path(halo_forge.__file__).parent


def _folders() -> list[Path]:
    """Where libraries are: the folders of installed packages, then Python's own."""
    installed = [Path(each) for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]
    return [*installed, Path(sysconfig.get_path("stdlib"))]


def _issuing_file() -> Path:
    """The file whose code called `warnings.warn`; the one that the warning names may be a caller far above."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "warnings", "_py_warnings"):
        frame = frame.f_back
    return Path(frame.f_code.co_filename)
