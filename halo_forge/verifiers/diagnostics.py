"""The text of a verdict: bounded, and the same for the same program."""

from __future__ import annotations

import re
import signal

from halo_forge.sandbox.job import JobResult, Limits
from halo_forge.sandbox.local import without_workdir_path

_HEAD_BYTES = 8 * 1024
_TAIL_BYTES = 2 * 1024 - 64
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")
_PROCESS_ID = re.compile(r"==\d+==")
# Of Rust 1.91 and later.
_THREAD_ID = re.compile(r"^(thread '[^'\n]*') \(\d+\)(?= )", re.MULTILINE)
# With a line number: a warning about the compiler's own options is not about the program.
_WARNING = re.compile(r"^\S.*?:\d+:(?:\d+:)? warning: ", re.MULTILINE)

# What a C compiler joins and replaces before it looks for directives.
_SPLICE = re.compile(r"(?:\\|\?\?/)[ \t\v\f]*\n")
# Line markers can name a system header, or a file whose name hides the warning; of pragmas those listed are harmless.
_SILENCING = re.compile(
    r"(?:^|\*/)[\ufeff \t\v\f\0]*(?:\#|%:|\?\?=)[ \t\v\f\0]*"
    r"(?:/\*|\d+(?![\w.])|line\b|pragma\b(?![ \t]*(?:once|omp|pack|STDC|region|endregion|comment|unroll|nounroll"
    r"|(?:GCC|clang)[ \t]+(?:optimize|target|push_options|pop_options|reset_options|ivdep|unroll|visibility|loop))\b))"
    r"|\b_Pragma\b",
    re.MULTILINE,
)
# Only names that `_Pragma` begins with can be pasted together to it.
_PASTED = re.compile(r"\b_(?:P|Pr|Pra|Prag|Pragm)?\b")


def readable(output: bytes) -> str:
    """Text of what a tool or program wrote, without paths, addresses and process ids that change from run to run."""
    text = output.decode("utf-8", errors="backslashreplace")
    text = _THREAD_ID.sub(r"\1", _ADDRESS.sub("0x...", without_workdir_path(text)))
    return _PROCESS_ID.sub("==pid==", text)


def clip(text: str) -> str:
    """At most 10 KiB in UTF-8: the first 8 KiB and the last 2 KiB."""
    encoded = text.encode("utf-8", errors="backslashreplace")
    if len(encoded) <= _HEAD_BYTES + _TAIL_BYTES:
        return encoded.decode("utf-8")
    head = encoded[:_HEAD_BYTES].decode("utf-8", errors="ignore")
    tail = encoded[-_TAIL_BYTES:].decode("utf-8", errors="ignore")
    return f"{head}\n[...]\n{tail}"


def num_warnings(text: str) -> int:
    """Warnings in what a compiler wrote, in the common form `file:line:column: warning: ...`."""
    return len(_WARNING.findall(text))


def silences_warnings(source: str) -> bool:
    """Whether a source in C or C++ may change which warnings its compiler shows: by line markers, `#line` or pragmas.

    Comments and raw strings are searched too: a text that is read in another way than the compiler reads it would hide
    what this looks for.
    """
    text = _SPLICE.sub("", source)
    if _SILENCING.search(text) is not None:
        return True
    return ("##" in text or "%:%:" in text or "??=??=" in text) and _PASTED.search(text) is not None


def ending(outcome: JobResult, limits: Limits) -> str:
    """How a command ended, as text; empty if it succeeded."""
    if outcome.timed_out == "cpu":
        return f"exceeded its {limits.cpu_seconds:g} s of CPU time"
    if outcome.timed_out == "wall":
        return f"did not finish within {limits.wall_seconds:g} s"
    if outcome.out_of_memory:
        return f"exceeded its memory limit of {limits.memory_bytes} bytes"
    if outcome.output_limit:
        return (
            f"wrote more than its limit of {limits.file_bytes} bytes to its output or a file, or of"
            f" {limits.disk_bytes} bytes or {limits.num_files} files in all"
        )
    if outcome.process_limit:
        return f"started more than {limits.num_processes} processes"
    if outcome.exec_error is not None:
        return "cannot be started as a program"
    if outcome.signal is not None:
        killed = f"was killed by signal {outcome.signal} ({_signal_name(outcome.signal)})"
        overflow = f": an invalid address, or more than its stack limit of {limits.stack_bytes} bytes"
        return killed + (overflow if outcome.signal == signal.SIGSEGV else "")
    return f"exit code {outcome.exit_code}" if outcome.exit_code != 0 else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "real-time signal"
