"""What the stages found out about one program, before any reward is attached."""

from __future__ import annotations

from dataclasses import dataclass

from halo_forge.core.records import Stage, Status


@dataclass(frozen=True, slots=True)
class Facts:
    """The fields of `records.Verdict` that the stages decide; see there.

    `flags` are those that only who ran the program can know: see `_flags.of_outputs`.
    """

    stage: Stage
    status: Status
    tests_passed: int = 0
    tests_total: int = 0
    warnings: int = 0
    diagnostics: str = ""
    exit_code: int | None = None
    signal: int | None = None
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    max_rss_bytes: int = 0
    flags: tuple[str, ...] = ()
