"""What this machine can do for a run, found out by trying: a list of sections, each in a module of its own.

A new section is one function from nothing to `Section`, named in `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

from halo_forge.checks.doctor._section import Line, Section, State
from halo_forge.checks.doctor.hardware import hardware_section
from halo_forge.checks.doctor.isolation import isolation_section, self_test_section
from halo_forge.checks.doctor.toolchains import toolchain_section, verifier_section

SECTIONS: tuple[Callable[[], Section], ...] = (
    isolation_section,
    self_test_section,
    toolchain_section,
    verifier_section,
    hardware_section,
)
"""In the order in which they are shown."""

__all__ = ["SECTIONS", "Line", "Section", "State", "examine"]


def examine() -> list[Section]:
    """Every section, tried now; a run can start where all of them say `can_run`."""
    return [section() for section in SECTIONS]
