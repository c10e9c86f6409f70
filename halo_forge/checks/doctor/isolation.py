"""The isolation level in force, what the other levels fail at, and what programs that try to get out achieve."""

from __future__ import annotations

import errno
from typing import Any

from halo_forge.checks.doctor._section import Line, Section, State
from halo_forge.checks.doctor.surroundings import command_to_raise, container, not_promised
from halo_forge.sandbox.job import Sandbox, SandboxError
from halo_forge.sandbox.ladder import LevelProbe, probe_ladder
from halo_forge.sandbox.local import open_sandbox
from halo_forge.sandbox.self_test import self_test

HOLDING = ("namespace", "landlock")
"""Levels that hold a program in; a run starts with these only, unless its configuration says otherwise."""

_STATES: dict[bool | None, State] = {True: "ok", False: "failed", None: "note"}


def isolation_section() -> Section:
    """The level, each level's probe, and what is not promised."""
    inside = container()
    sandbox, refusal = _opened()
    try:
        level = None if sandbox is None else str(sandbox.isolation.level)
        notes = () if sandbox is None else sandbox.isolation.notes
        add_ons = {} if sandbox is None else dict(sandbox.isolation.add_ons)
    finally:
        if sandbox is not None:
            sandbox.close()
    try:
        probes = probe_ladder()
    except OSError as error:
        probes, refusal = [], f"cannot start a process: {error}"
    can_run = level in HOLDING
    more = command_to_raise(level, add_ons, probes, inside)
    found = refusal if level is None else ", ".join([level, *_words(add_ons)])
    lines = [Line("level", "ok" if can_run else "failed", found, more)]
    if inside is not None and level != "namespace":
        lines.append(Line("container", "note", f"this {inside} container refuses level namespace, see above"))
    lines += [_of_probe(probe) for probe in probes]
    lines += [Line("in force", "note", note) for note in notes]
    lines += [Line("not promised", "note", text) for text in not_promised(level, inside)]
    facts: dict[str, Any] = {"level": level, "add_ons": add_ons, "container": inside, "command_to_raise": more}
    return Section("isolation", can_run, tuple(lines), facts)


def self_test_section() -> Section:
    """Hostile programs at the level in force, and what was seen of them from outside."""
    sandbox, refusal = _opened()
    if sandbox is None:
        return Section("self-test", False, (Line("all", "failed", f"not tried: {refusal}"),))
    try:
        attempts = self_test(sandbox)
    except (SandboxError, OSError) as error:
        return Section("self-test", False, (Line("all", "failed", f"the sandbox failed: {error}"),))
    finally:
        sandbox.close()
    lines = tuple(Line(each.name, _STATES[each.held], each.what) for each in attempts)
    facts = {each.name: each.held for each in attempts}
    return Section("self-test", not any(each.held is False for each in attempts), lines, facts)


def _opened() -> tuple[Sandbox | None, str]:
    try:
        return open_sandbox(), ""
    except SandboxError as error:
        return None, str(error)


def _words(add_ons: dict[str, int | bool]) -> list[str]:
    return [
        f"{name} {value if not isinstance(value, bool) else 'yes' if value else 'no'}"
        for name, value in add_ons.items()
    ]


def _of_probe(probe: LevelProbe) -> Line:
    if probe.works:
        return Line(f"probe {probe.level}", "ok", "programs run at this level")
    number = (
        "" if probe.errno is None else f" ({errno.errorcode.get(probe.errno, '')} {probe.errno})".replace("( ", "(")
    )
    return Line(f"probe {probe.level}", "failed", f"{probe.reason}{number}", probe.fix)
