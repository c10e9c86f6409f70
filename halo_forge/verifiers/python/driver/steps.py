"""Runs the tests step by step, in the trusted process."""

from __future__ import annotations

from halo_forge.verifiers.python.driver.classes import TestClasses
from halo_forge.verifiers.python.driver.remote import CandidateGone

TYPE_CHECKING = False  # the module `typing` takes 10 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from halo_forge.verifiers.python.driver.remote import Link

NOTHING_ASSERTED = "no assertion was reached"
_SHOWN = 160


class Steps:
    """The steps of a job, which are taken in one namespace.

    Args:
        job: See `stages.py`, which makes it.
        space: The globals of the tests, with what they may use of the program.
    """

    def __init__(self, job: dict[str, Any], space: dict[str, Any], link: Link) -> None:
        self._steps: list[Any] = job["steps"]
        self._space = space
        self._link = link
        self._num_held = 0
        self._lines: dict[str, list[str]] = {}
        self._in_classes = set(job["class_calls"])
        self._classes = TestClasses(space, job["class_calls"])
        self._assertions: Any = None
        if job["counts_assertions"]:
            from halo_forge.verifiers.python.driver import assertions  # `ast` takes a few milliseconds to import

            self._assertions = assertions.Assertions(list(self._trees()), list(job["names"]))
            space[assertions.COUNT] = self._held

    def _trees(self) -> Iterator[Any]:
        import ast

        for _, source in self._steps:
            try:
                yield ast.parse(source)
            except SyntaxError:
                continue  # this interpreter does not know it, and the step will say so

    def _held(self) -> None:
        self._num_held += 1

    def run(self) -> Iterator[tuple[bool, str]]:
        """Whether each check holds, and if not, why."""
        broken = ""
        for is_check, source in self._steps:
            self._link.last = None
            self._num_held = 0
            note = broken or self._failure(source)
            if is_check:
                if not note and self._assertions is not None and self._num_held == 0:
                    note = NOTHING_ASSERTED
                yield note == "", f"{shown(source)}: {note}" if note else ""
            elif note:
                broken = broken or f"`{shown(source)}` before it: {note}"

    def _failure(self, source: str) -> str:
        """Why a step failed, empty if it did not.

        Raises:
            CandidateGone: The program's process has ended.
        """
        name = f"tests {len(self._lines)}"
        try:
            if source in self._in_classes:
                self._classes.run(source, lambda call: self._execute(call, name))
            else:
                self._execute(source, name)
        except CandidateGone:
            raise
        except SystemExit as ending:
            # The program cannot raise it here.  Where assertions are not counted, it may have left before one.
            if ending.code in (None, 0) and self._assertions is not None:
                return ""
            return f"the tests left with {shown(str(ending.code))}"
        except AssertionError as error:
            message = _message(error)
            said = f"AssertionError: {message}" if message else "AssertionError"
            return f"{said}{self._place(error, name)}; the program's last value: {_repr(self._link.last)}"
        except Exception as error:  # noqa: BLE001 -- whatever goes wrong, the check does not hold
            raised: str | None = getattr(error, "said_by_the_program", None)
            said = (
                f"{type(error).__name__}: {_message(error)}"
                if raised is None
                else f"the program raised {shown(raised)}"
            )
            return said + self._place(error, name)
        return ""

    def _execute(self, source: str, name: str) -> None:
        self._lines[name] = source.splitlines()
        code: Any = source
        if self._assertions is not None:
            import ast

            code = self._assertions.counting(ast.parse(source, name))
        exec(compile(code, name, "exec", dont_inherit=True), self._space)

    def _place(self, error: BaseException, name: str) -> str:
        """The line of the tests where it happened, unless it is in the step itself."""
        found = None
        trace = error.__traceback__
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            found = (file, trace.tb_lineno) if file in self._lines else found
            trace = trace.tb_next
        if found is None or found[0] == name or found[1] > len(self._lines[found[0]]):
            return ""
        return f", in `{shown(self._lines[found[0]][found[1] - 1])}`"


def _message(error: Exception) -> str:
    try:
        return shown(str(error))
    except Exception:  # noqa: BLE001 -- it holds an object of the program, whose text the program makes
        return ""


def _repr(value: Any) -> str:
    try:
        return shown(repr(value))
    except (ValueError, RecursionError, MemoryError):
        return f"a {type(value).__name__} too long to show"


def shown(text: str) -> str:
    """One line, with an end that is left out if it is long."""
    line = " ".join(text[: 8 * _SHOWN].split())
    return line[:_SHOWN] + ("..." if len(line) > _SHOWN else "")
