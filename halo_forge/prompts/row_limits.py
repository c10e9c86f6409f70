"""Time and memory limits that rows bring along: programs have those of the verifier, so a difference is said."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halo_forge.core.records import Prompt
from halo_forge.core.wording import counted

_TIME = ("time_limit", "timelimit", "time_limit_seconds")
_MEMORY = ("memory_limit", "memorylimit", "memory_limit_bytes")
_MOST_SECONDS = 60.0  # a larger number without a unit may be milliseconds
_LARGEST = 1e18  # beyond it a number is no limit
_MEGABYTE = 1 << 20
_MOST_MEGABYTES = 1 << 14  # likewise kibibytes
_SECONDS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "milliseconds": 1e-3}
_BYTES = {
    "b": 1,
    "bytes": 1,
    "kb": 1 << 10,
    "kib": 1 << 10,
    "kilobytes": 1 << 10,
    "mb": _MEGABYTE,
    "mib": _MEGABYTE,
    "m": _MEGABYTE,
    "megabytes": _MEGABYTE,
    "gb": 1 << 30,
    "gib": 1 << 30,
    "gigabytes": 1 << 30,
}


def limit_warnings(
    sets: Mapping[str, Sequence[Prompt]], timeout_seconds: float, memory_limit_bytes: int
) -> Iterator[str]:
    """What to say of limits in `info` that differ from those of the verifier.

    Args:
        sets: Name, as a message should call it, -> prompts.
    """
    for name, prompts in sets.items():
        seconds = [_seconds(*found) for prompt in prompts for found in [_found(prompt, _TIME)] if found is not None]
        memory = [_bytes(*found) for prompt in prompts for found in [_found(prompt, _MEMORY)] if found is not None]
        yield from _said(name, "time limit", "s", seconds, timeout_seconds, "verifier.timeout_seconds")
        in_mib = [None if size is None else size / _MEGABYTE for size in memory]
        yield from _said(
            name, "memory limit", "MiB", in_mib, memory_limit_bytes / _MEGABYTE, "verifier.memory_limit_bytes"
        )


def longest_limits(prompts: Sequence[Prompt]) -> tuple[float | None, int | None]:
    """The highest time limit in seconds and the highest memory limit in bytes that rows bring along, where known."""
    seconds = [_seconds(*found) for prompt in prompts for found in [_found(prompt, _TIME)] if found is not None]
    memory = [_bytes(*found) for prompt in prompts for found in [_found(prompt, _MEMORY)] if found is not None]
    most_seconds = max((each for each in seconds if each is not None), default=None)
    most_bytes = max((each for each in memory if each is not None), default=None)
    return most_seconds, None if most_bytes is None else int(most_bytes)


def _said(name: str, what: str, unit: str, limits: Sequence[float | None], applied: float, key: str) -> Iterator[str]:
    known = [limit for limit in limits if limit is not None]
    if all(limit == applied for limit in limits):
        return
    low, high = (f"{end(known):g}" for end in (min, max)) if known else ("", "")
    each = "in an unknown unit" if not known else f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
    more = sum(limit > applied for limit in known)
    fails = f", so right programs of {counted(more, 'prompt')} may fail: raise it if they do" if more else ""
    yield (
        f"{counted(len(limits), 'prompt')} of {name} with a {what} of their own ({each}), which is not applied: every"
        f" program has {applied:g} {unit} ({key}){fails}"
    )


def _found(prompt: Prompt, keys: Sequence[str]) -> tuple[str, Any] | None:
    found = ((key, value) for key, value in prompt.info.items() if key.lower() in keys)
    return next(((key.lower(), value) for key, value in found if not _is_none(value)), None)


def _is_none(value: Any) -> bool:
    """No limit, as tables and judges write it."""
    return value in (None, "", 0) or (isinstance(value, Mapping) and not any(value.values()))


def _seconds(key: str, value: Any) -> float | None:
    if isinstance(value, Mapping):  # a duration of protocol buffers, as in CodeContests
        parts = [value.get("seconds") or 0, value.get("nanos") or 0]
        return parts[0] + parts[1] * 1e-9 if all(map(_is_number, parts)) else None
    if _is_number(value):
        return float(value) if value <= _MOST_SECONDS or key.endswith("seconds") else None
    return _with_unit(value, _SECONDS)


def _bytes(key: str, value: Any) -> float | None:
    if _is_number(value):
        if key.endswith("bytes") or value >= _MEGABYTE:
            return float(value)
        return value * _MEGABYTE if value <= _MOST_MEGABYTES else None
    return _with_unit(value, _BYTES)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _with_unit(value: Any, units: Mapping[str, float]) -> float | None:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\.?\s*", value) if isinstance(value, str) else None
    factor = None if match is None else units.get(match[2].lower())
    return None if match is None or factor is None else float(match[1]) * factor
