"""`--supervised`: the same command as a child that is ended when it hangs, and started again from what is on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

SUPERVISED = typer.Option(False, "--supervised", help="Watch the run: end it when nothing moves, and resume it.")
STALL_SECONDS = typer.Option(
    None, "--stall-seconds", min=1, help="Time without a new token, verdict or training pass (default 600)."
)
LOADING_SECONDS = typer.Option(
    None,
    "--loading-seconds",
    min=1,
    help="Time without data read or written while a model is loaded (default 900, or --stall-seconds if that is more).",
)
MAX_RESTARTS = typer.Option(
    None, "--max-restarts", min=0, help="Restarts in a row that finish nothing, before giving up (default 3)."
)


def check_unused(stall_seconds: float | None, loading_seconds: float | None, max_restarts: int | None) -> None:
    """Refuse settings of a supervisor where there is none.

    Raises:
        ConfigError: One of them is given.
    """
    from halo_forge.core.errors import ConfigError

    options = {
        "--stall-seconds": stall_seconds,
        "--loading-seconds": loading_seconds,
        "--max-restarts": max_restarts,
    }
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} {value:g}: nobody supervises this run", f"add --supervised, or leave {name} out")


def supervise_run(
    first: Sequence[str],
    again: Callable[[], Sequence[str]],
    root: Path,
    stall_seconds: float | None,
    loading_seconds: float | None,
    max_restarts: int | None,
) -> typer.Exit:
    """Run `halo-forge` with these arguments under a supervisor; what to leave with."""
    from halo_forge.store.attempts import Attempts
    from halo_forge.supervisor.supervise import RestartPolicy, supervise

    given = {"stall_seconds": stall_seconds, "loading_seconds": loading_seconds, "max_restarts": max_restarts}
    policy = RestartPolicy(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    code = supervise([*_program(), *first], lambda: [*_program(), *again()], Attempts(root), policy, _say)
    return typer.Exit(code)


def _program() -> list[str]:
    """The command line of this very process up to its arguments: a script, `-m halo_forge`, options of Python."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print("\x1b[?25h", file=sys.stderr, end="")  # a killed child could not show the cursor again
    print(f"supervisor: {text}", file=sys.stderr, flush=True)
