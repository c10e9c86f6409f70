"""What a recheck finds: differences, flaky programs, and what could not be checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from halo_forge.core.errors import HaloForgeError
from halo_forge.core.records import Key, Record

Group = Literal["file", "row", "verdict", "toolchain", "value", "diagnostics"]

GROUPS: Mapping[Group, str] = {
    "file": "files that are not what the manifest says, are missing, or belong to nothing",
    "row": "rows that are missing, twice, too many, or not of the request they stand for",
    "verdict": "verdicts that this machine does not confirm",
    "toolchain": "verdicts that this machine, with another toolchain, does not confirm",
    "value": "values that do not follow from what they are computed from",
    "diagnostics": "verdicts that agree, with other diagnostics",
}
"""In the order in which they are shown."""
TOLERANCE = 1e-9
"""Relative: the last digits of a float depend on the machine's mathematical library."""
_BY_LIBRARY: Mapping[str, float] = {"gzip_ratio": 0.05}
"""Endings of metrics that depend on the version of a library: their own relative tolerance."""
NONSENSE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, HaloForgeError)
"""What pure functions raise about values that no run has written."""
_SHOWN = 300
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Difference(Record):
    """One thing that is not as stored.

    Attributes:
        file: The name in the claim.
        what: The field, as a dotted path; empty where it is the whole file or row.
        prompt_id, index: The sample, None where it is not about one.
        stored, recomputed: Both values; None where there is none.
    """

    group: Group
    file: str
    what: str
    prompt_id: str | None = None
    index: int | None = None
    stored: Any = None
    recomputed: Any = None


@dataclass(frozen=True, slots=True)
class NotChecked(Record):
    """Something that was not checked, and why."""

    what: str
    why: str


@dataclass
class Findings:
    """Collects what is found.

    Attributes:
        is_same_build: Whether the run was made by this very halo-forge, whose sentences must be the same.
        flaky: Verdicts that differ from run to run, so that nobody can say which is right.
        num_values: Values computed again and compared.
    """

    is_same_build: bool = True
    differences: list[Difference] = field(default_factory=list)
    flaky: list[Difference] = field(default_factory=list)
    not_checked: list[NotChecked] = field(default_factory=list)
    num_values: int = 0

    def add(
        self,
        group: Group,
        file: str,
        what: str,
        stored: Any = None,
        recomputed: Any = None,
        key: Key | tuple[None, None] = (None, None),
    ) -> None:
        """One difference."""
        prompt_id, index = key
        self.differences.append(Difference(group, file, what, prompt_id, index, _short(stored), _short(recomputed)))

    def leave_out(self, what: str, why: str) -> None:
        """Something that was not checked; said once."""
        if (said := NotChecked(what, why)) not in self.not_checked:
            self.not_checked.append(said)

    def compare(
        self, file: str, stored: Any, recomputed: Any, key: Key | tuple[None, None] = (None, None), what: str = ""
    ) -> None:
        """Compare two values of plain JSON data, and add a difference for each leaf that is not the same."""
        for path, one, other in _pairs(stored, recomputed, what):
            self.num_values += 1
            if _is_same(one, other, path):
                continue
            if not self.is_same_build and (file.endswith("advice.json") or path == "reason"):
                self.leave_out("sentences (advice.json, reasons of decisions)", "another halo-forge wrote them")
            else:
                self.add("value", file, path, None if one is _ABSENT else one, None if other is _ABSENT else other, key)


def _pairs(stored: Any, recomputed: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(stored, Mapping) and isinstance(recomputed, Mapping):
        for key in [*stored, *(key for key in recomputed if key not in stored)]:
            inner = f"{path}.{key}" if path else str(key)
            yield from _pairs(stored.get(key, _ABSENT), recomputed.get(key, _ABSENT), inner)
    elif isinstance(stored, list) and isinstance(recomputed, list) and len(stored) == len(recomputed):
        for at, (one, other) in enumerate(zip(stored, recomputed, strict=True)):
            yield from _pairs(one, other, f"{path}.{at}")
    else:
        yield path, stored, recomputed


def _is_same(stored: Any, recomputed: Any, path: str) -> bool:
    if isinstance(stored, bool) or isinstance(recomputed, bool):
        return stored is recomputed
    if isinstance(stored, int | float) and isinstance(recomputed, int | float):
        if stored == recomputed:
            return True
        relative = next((share for ending, share in _BY_LIBRARY.items() if path.endswith(ending)), TOLERANCE)
        try:
            return math.isclose(stored, recomputed, rel_tol=relative, abs_tol=1e-12)
        except OverflowError:  # a whole number beyond every float
            return False
    return bool(type(stored) is type(recomputed) and stored == recomputed)


def _short(value: Any) -> Any:
    """A value as it is shown: long texts and collections cut."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
