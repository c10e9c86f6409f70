"""`--supervised`: the same command in a child process, ended when it hangs and restarted from what is on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

SUPERVISED = typer.Option(False, "--supervised", help="Restart the run automatically if it hangs or is killed.")
STALL_SECONDS = typer.Option(
    None,
    "--stall-seconds",
    metavar="SECONDS",
    min=1,
    help="Treat the run as hung after this long without a new token, verdict or training pass (default 600).",
)
LOADING_SECONDS = typer.Option(
    None,
    "--loading-seconds",
    metavar="SECONDS",
    min=1,
    help="The same while a model loads, without data read or written (default 900, or --stall-seconds if larger).",
)
MAX_RESTARTS = typer.Option(
    None,
    "--max-restarts",
    metavar="N",
    min=0,
    help="Give up after this many restarts in a row without progress (default 3).",
)


def check_unused(stall_seconds: float | None, loading_seconds: float | None, max_restarts: int | None) -> None:
    """Refuse settings of a supervisor where there is none.

    Raises:
        ConfigError: One of them is given.
    """
    from halo_forge.core.errors import ConfigError

    for name, value in given_limits(stall_seconds, loading_seconds, max_restarts).items():
        raise ConfigError(f"{name} {value:g}: the run is not supervised", f"add --supervised, or drop {name}")


def given_limits(
    stall_seconds: float | None, loading_seconds: float | None, max_restarts: int | None
) -> dict[str, float]:
    """Option -> its value, of those that were given."""
    limits = {"--stall-seconds": stall_seconds, "--loading-seconds": loading_seconds, "--max-restarts": max_restarts}
    return {name: value for name, value in limits.items() if value is not None}


def supervise_run(
    first: Sequence[str],
    again: Callable[[], Sequence[str]],
    root: Path,
    notify_command: Sequence[str],
    stall_seconds: float | None,
    loading_seconds: float | None,
    max_restarts: int | None,
) -> typer.Exit:
    """Run `halo-forge` with these arguments under a supervisor; what to leave with.

    An attempt that ends by itself runs `notify_command`; this does so where an attempt cannot: when the run is
    interrupted or given up.
    """
    from halo_forge.core.errors import NoProgress
    from halo_forge.runtime.notify import notify
    from halo_forge.store.attempts import Attempts
    from halo_forge.supervisor.child import INTERRUPTED
    from halo_forge.supervisor.supervise import RestartPolicy, supervise

    given = {"stall_seconds": stall_seconds, "loading_seconds": loading_seconds, "max_restarts": max_restarts}
    policy = RestartPolicy(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    command = list(notify_command)
    try:
        code = supervise([*this_program(), *first], lambda: [*this_program(), *again()], Attempts(root), policy, _say)
    except NoProgress as error:
        if command:
            notify(command, root, error, _say)
        raise
    except KeyboardInterrupt:  # a signal that came while the run was ending by itself, as it does where both get Ctrl-C
        code = INTERRUPTED
    # It may have finished at the very moment of the interrupt, and said so.
    if command and code == INTERRUPTED and not (root / "result.json").is_file():
        notify(command, root, KeyboardInterrupt(), _say)
    return typer.Exit(code)


def this_program() -> list[str]:
    """The command line of this very process up to its arguments: a script, `-m halo_forge`, options of Python."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print("\x1b[?25h", file=sys.stderr, end="")  # a killed child could not show the cursor again
    print(f"supervisor: {text}", file=sys.stderr, flush=True)
