"""Runs a harness in the process that holds the tests, where it imports the program's functions from another process."""

from __future__ import annotations

import sys

from halo_forge.verifiers.python.driver.remote import CandidateGone

TYPE_CHECKING = False  # the module `typing` takes 10 ms to import
if TYPE_CHECKING:
    from typing import Any

    from halo_forge.verifiers.python.driver.remote import Link

FILE_NAME = "harness.py"
_SHOWN = 300


class _Answer(type(sys)):  # type: ignore[misc]
    """The module `answer` as the harness sees it."""

    def __init__(self, link: Link) -> None:
        super().__init__("answer")
        self.__dict__[""] = link
        self.__dict__["__all__"] = ()  # `import *`: the names that nothing else defines are there without it

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            reply = self.__dict__[""].ask("names_of", (name,))
            if type(reply) is not tuple or len(reply) != 1 or type(reply[0]) is not dict:
                raise CandidateGone(ended=False)
            if name in reply[0]:
                self.__dict__[name] = reply[0][name]
                return reply[0][name]
        raise AttributeError(f"module 'answer' has no attribute {name!r}")


def provide(link: Link) -> None:
    """Let tests import the program: as `answer`, or as `solution`, the name of some data sets."""
    sys.modules["answer"] = sys.modules["solution"] = _Answer(link)


def run_harness(source: str, link: Link) -> tuple[bytes, str]:
    """What the harness prints, and how it failed; the latter is empty if it ran to its end.

    Raises:
        CandidateGone: The program's process has ended.
    """
    import builtins
    import io

    # Programs end themselves by these two, which the module `site` would provide.
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    provide(link)
    content = io.BytesIO()
    before = sys.stdout
    sys.stdout = ours = io.TextIOWrapper(content, encoding="utf-8", errors="backslashreplace", write_through=True)
    note = ""
    try:
        exec(compile(source, FILE_NAME, "exec", dont_inherit=True), {"__name__": "__main__", "__file__": FILE_NAME})
    except CandidateGone:
        raise
    except SystemExit as ending:
        note = "" if ending.code is None or ending.code == 0 else f"the harness left with {str(ending.code)[:_SHOWN]}"
    except BaseException as error:  # noqa: BLE001 -- whatever goes wrong, the harness has not run to its end
        note = _described(error)
    finally:
        sys.stdout = before
    ours.flush()
    return content.getvalue(), note


def _described(error: BaseException) -> str:
    said = getattr(error, "said_by_the_program", None)
    what = f"the program raised {said}" if type(said) is str else f"{type(error).__name__}: {error}"
    line = None
    trace = error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == FILE_NAME else line
        trace = trace.tb_next
    return f"{FILE_NAME}:{line}: {what[:_SHOWN]}"
