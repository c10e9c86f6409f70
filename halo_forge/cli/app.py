"""`halo-forge`: assembles the commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

import typer

import halo_forge
from halo_forge.cli import (
    claim,
    compare,
    config,
    docs,
    doctor,
    evaluate,
    experiment,
    export,
    init,
    raft,
    report,
    sft,
    tasks,
    verify,
)
from halo_forge.cli.help import Command, Group
from halo_forge.core.errors import HaloForgeError, StoppedByRule
from halo_forge.core.wording import visible
from halo_forge.supervisor import heartbeat

INTERRUPTED = 130

app = typer.Typer(
    name="halo-forge",
    cls=Group,
    help="RAFT fine-tuning of code models: sample programs, verify them, train on what passes, repeat.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command)(init.init)
app.add_typer(raft.app, name="raft")
app.add_typer(sft.app, name="sft")
app.add_typer(experiment.app, name="experiment")
app.add_typer(evaluate.app, name="eval")
app.add_typer(config.app, name="config")
app.add_typer(tasks.app, name="tasks")
app.command(cls=Command)(report.report)
app.command(cls=Command)(export.export)
app.command(cls=Command)(verify.verify)
app.command(cls=Command)(compare.compare)
app.command(cls=Command)(claim.claim)
app.command(cls=Command)(claim.recheck)
app.command(cls=Command)(doctor.doctor)
app.command(cls=Command)(docs.docs)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"halo-forge {halo_forge.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line and leave with the exit code of docs/index.md."""
    signal.signal(signal.SIGTERM, _interrupt)
    if "HALO_FORGE_HEARTBEAT" in os.environ:
        from halo_forge.supervisor.join import join

        join()
    try:
        app(standalone_mode=True)
    except HaloForgeError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(_interrupted(), INTERRUPTED)
    except SystemExit as done:
        # Typer turns an interrupt into this exit code without a word.
        if done.code == INTERRUPTED:
            _fail(_interrupted(), INTERRUPTED)
        if _reader_is_gone(done.code):
            sys.exit(0)
        raise
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; torch itself is not imported here
            raise
        _fail(
            f"out of GPU memory: {str(error).splitlines()[0]}\n  fix: lower training.max_tokens_per_pass or"
            " engine.batch_size (--set) and rerun with --resume, or start a new run with a lower engine.max_new_tokens",
            StoppedByRule.exit_code,
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"disk full: {error}\n  fix: free some space, then rerun with --resume", 3)


def _reader_is_gone(exit_code: object) -> bool:
    """Whether the reader of standard output (head, less) has seen enough; a second error at the end helps nobody."""
    if exit_code == 1:
        return type(sys.stdout).__name__ == "PacifyFlushWrapper"  # typer's, which it exits with 1 after
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _interrupted() -> str:
    """What to say, and how to go on where there is something to go on with."""
    ways = {
        "raft run": "rerun with --resume",
        "raft resume": "run the same command again",
        "sft run": "rerun with --resume",
        "experiment run": "rerun with --resume",
        "eval run": "rerun with --resume",
        "export": "run the same command again",
    }
    way = ways.get(" ".join(sys.argv[1:3]), ways.get("".join(sys.argv[1:2])))
    if way is not None and any(each.partition("=")[0] == "--from-cycle" for each in sys.argv):
        way += ", but without --from-cycle"  # which would redo what was just done
    return "Interrupted." if way is None else f"Interrupted. Completed work is saved; {way}."


def _fail(message: str, exit_code: int) -> NoReturn:
    if exit_code != INTERRUPTED:
        print(f"error: {visible(message)}", file=sys.stderr)  # it may quote a model or a data set
    elif not heartbeat.is_connected():  # else the supervisor says so
        print(message, file=sys.stderr)
    sys.exit(exit_code)
