"""`halo-forge doctor`: each section against machines of every kind, and once against this one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli, command_line

from halo_forge.checks import doctor
from halo_forge.checks.doctor import Line, Section, isolation, toolchains
from halo_forge.checks.doctor.surroundings import command_to_raise, container, not_promised
from halo_forge.core.errors import ToolMissing
from halo_forge.sandbox.job import Isolation, SandboxError
from halo_forge.sandbox.ladder import LevelProbe
from halo_forge.sandbox.self_test import Attempt

NO_NAMESPACES = LevelProbe("namespace", False, errno.EPERM, "unshare is refused", "start the container with ...")
NO_LANDLOCK = LevelProbe("landlock", False, errno.ENOSYS, "this kernel has no Landlock", "a newer kernel")
ADD_ONS = {"landlock_abi": 7, "fresh_proc": True, "uid_drop": False, "seccomp": True}


class FakeSandbox:
    def __init__(self, level: Any, notes: tuple[str, ...] = ()) -> None:
        self.isolation = Isolation(level, notes, ADD_ONS)
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine whose sandbox opens at a level (None: does not open), with these probes."""

    def become(level: str | None, probes: list[LevelProbe], attempts: list[Attempt] | None = None) -> None:
        def opened() -> FakeSandbox:
            if level is None:
                raise SandboxError("no isolation level that holds programs in works")
            return FakeSandbox(level)

        monkeypatch.setattr(isolation, "open_sandbox", opened)
        monkeypatch.setattr(isolation, "probe_ladder", lambda: probes)
        monkeypatch.setattr(isolation, "self_test", lambda sandbox: attempts if attempts is not None else [])
        monkeypatch.setattr(isolation, "container", lambda: None)

    return become


def lines(section: Section, name: str) -> list[Line]:
    return [line for line in section.lines if line.name == name]


# ---- isolation


def test_the_best_level(machine: Callable[..., None]) -> None:
    machine("namespace", [LevelProbe("namespace", True), LevelProbe("landlock", True), LevelProbe("limits", True)])
    section = isolation.isolation_section()
    assert section.can_run
    assert section.facts == {"level": "namespace", "add_ons": ADD_ONS, "container": None, "command_to_raise": ""}
    (level,) = lines(section, "level")
    assert (level.state, level.fix) == ("ok", "")
    assert level.found == "namespace, landlock_abi 7, fresh_proc yes, uid_drop no, seccomp yes"
    assert any("kernel" in line.found for line in lines(section, "not promised"))


def test_a_level_that_could_be_higher(machine: Callable[..., None]) -> None:
    machine("landlock", [NO_NAMESPACES, LevelProbe("landlock", True), LevelProbe("limits", True)])
    section = isolation.isolation_section()
    assert section.can_run
    assert lines(section, "level")[0].fix == NO_NAMESPACES.fix
    (failed,) = lines(section, "probe namespace")
    assert failed == Line("probe namespace", "failed", "unshare is refused (EPERM 1)", NO_NAMESPACES.fix)


def test_a_container_that_lowers_the_level_is_named(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("landlock", [NO_NAMESPACES, LevelProbe("landlock", True), LevelProbe("limits", True)])
    monkeypatch.setattr(isolation, "container", lambda: "docker")
    section = isolation.isolation_section()
    assert section.facts["container"] == "docker" and section.facts["command_to_raise"] == NO_NAMESPACES.fix
    assert "docker container refuses level namespace" in lines(section, "container")[0].found
    machine("namespace", [LevelProbe("namespace", True)])
    monkeypatch.setattr(isolation, "container", lambda: "docker")
    assert lines(isolation.isolation_section(), "container") == []


def test_no_level(machine: Callable[..., None]) -> None:
    machine(None, [NO_NAMESPACES, NO_LANDLOCK, LevelProbe("limits", True)])
    section = isolation.isolation_section()
    assert not section.can_run
    assert lines(section, "level") == [
        Line("level", "failed", "no isolation level that holds programs in works", NO_NAMESPACES.fix)
    ]
    assert "ENOSYS" in lines(section, "probe landlock")[0].found
    attempts = isolation.self_test_section()
    assert not attempts.can_run and attempts.lines[0].state == "failed"


def test_limits_alone_are_not_enough(machine: Callable[..., None]) -> None:
    machine("limits", [NO_NAMESPACES, NO_LANDLOCK, LevelProbe("limits", True)])
    assert not isolation.isolation_section().can_run


def test_a_probe_that_cannot_be_made(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(None, [])

    def fails() -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(isolation, "probe_ladder", fails)
    section = isolation.isolation_section()
    assert not section.can_run
    assert "cannot start a process" in section.lines[0].found


def test_the_self_test_says_what_happened(machine: Callable[..., None]) -> None:
    tried = [Attempt("network", True, "no connection arrived"), Attempt("kill -1", None, "not tried")]
    machine("namespace", [], tried)
    section = isolation.self_test_section()
    assert section.can_run
    assert [(line.name, line.state, line.found) for line in section.lines] == [
        ("network", "ok", "no connection arrived"),
        ("kill -1", "note", "not tried"),
    ]
    machine("namespace", [], [*tried, Attempt("home", False, "a file was written")])
    broken = isolation.self_test_section()
    assert not broken.can_run
    assert broken.facts == {"network": True, "kill -1": None, "home": False}


@pytest.mark.parametrize(
    ("files", "environment", "kind"),
    [
        ([], {}, None),
        ([".dockerenv"], {}, "docker"),
        (["run/.containerenv"], {}, "podman"),
        ([], {"container": "podman"}, "podman"),
        (["run/.containerenv", "run/.toolboxenv"], {}, "toolbx"),
        (["run/.containerenv"], {"DISTROBOX_ENTER_PATH": "x"}, "distrobox"),
    ],
)
def test_containers_are_told_apart(tmp_path: Path, files: list[str], environment: dict[str, str], kind: Any) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert container(tmp_path, environment) == kind


def test_what_would_raise_the_level() -> None:
    assert command_to_raise("namespace", {"fresh_proc": True}, [NO_LANDLOCK], None) == ""
    assert "unmask=ALL" in command_to_raise("namespace", {"fresh_proc": False}, [], "podman")
    assert "systempaths=unconfined" in command_to_raise("namespace", {"fresh_proc": False}, [], "docker")
    assert command_to_raise("namespace", {"fresh_proc": False}, [], None) == ""
    assert command_to_raise("landlock", {}, [NO_NAMESPACES], "docker") == NO_NAMESPACES.fix
    assert command_to_raise(None, {}, [NO_NAMESPACES, NO_LANDLOCK], None) == NO_NAMESPACES.fix


def test_what_is_not_promised() -> None:
    assert len(not_promised("namespace", None)) == 1
    assert any("toolbx itself provides no isolation" in text for text in not_promised("namespace", "toolbx"))
    assert any("network" in text for text in not_promised("limits", "docker"))


# ---- toolchains and verifiers


def test_tools_are_asked_for_their_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"gcc": "echo 'gcc 99.1'; echo more", "clang": "echo broken >&2; exit 3", "go": 'echo "go $1"', "rustc": ":"}
    for name, script in said.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    section = toolchains.toolchain_section()
    found = {line.name: (line.state, line.found) for line in section.lines}
    assert section.can_run
    assert found["gcc"] == ("ok", f"gcc 99.1 ({tmp_path / 'gcc'})")
    assert found["go"] == ("ok", f"go version ({tmp_path / 'go'})")
    assert found["clang"] == ("failed", f"{tmp_path / 'clang'}: exit code 3: broken")
    assert found["rustc"][0] == "failed"
    assert found["g++"] == ("missing", "not in PATH")
    assert all("apt-get install" in line.fix for line in section.lines if line.state != "ok")
    assert section.facts["gcc"] == {"path": str(tmp_path / "gcc"), "version": "gcc 99.1"}
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert not toolchains.toolchain_section().can_run


class FakeSpec:
    """A verifier that works, or says why not."""

    def __init__(self, failure: str | None = None) -> None:
        self.failure = failure

    def __call__(self) -> FakeSpec:
        return self

    def __enter__(self) -> FakeSpec:
        if self.failure is not None:
            raise ToolMissing(self.failure, "install it")
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def toolchain(self) -> dict[str, Any]:
        return {"version": "9.9"}


def test_verifiers_prove_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = {"c": FakeSpec(), "command": FakeSpec("never opened"), "zig": FakeSpec("zig is not there\nat all")}
    monkeypatch.setattr(toolchains, "discover", lambda package: specs)
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: spec)
    section = toolchains.verifier_section()
    assert section.can_run
    assert [(line.name, line.state, line.found, line.fix) for line in section.lines if line.name != "command"] == [
        ("c", "ok", "works with 9.9", ""),
        ("zig", "failed", "zig is not there", "install it"),
    ]
    assert section.facts == {"c": True, "zig": False}
    del specs["c"]
    assert not toolchains.verifier_section().can_run


# ---- the command


def test_exit_codes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Section("one", True, (Line("a", "ok", "[all] well"),), {"x": 1})
    bad = Section("two", False, (Line("b", "failed", "broken", "fix it"),))
    monkeypatch.setattr(doctor, "SECTIONS", (lambda: fine,))
    done = cli("doctor")
    assert done.code == 0 and "[all] well" in done.out
    monkeypatch.setattr(doctor, "SECTIONS", (lambda: fine, lambda: bad))
    done = cli("doctor")
    assert done.code == 4
    assert "fix: fix it" in done.out and "two" in done.err
    assert cli("doctor", "--json").json == {
        "can_run": False,
        "sections": [
            {"name": "one", "can_run": True, "facts": {"x": 1},
             "lines": [{"name": "a", "state": "ok", "found": "[all] well", "fix": ""}]},
            {"name": "two", "can_run": False, "facts": {},
             "lines": [{"name": "b", "state": "failed", "found": "broken", "fix": "fix it"}]},
        ],
    }  # fmt: skip


def test_this_machine(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real probes, self-test and tools; of the verifiers C alone, which CI always has."""
    every = toolchains.discover
    monkeypatch.setattr(toolchains, "discover", lambda package: {"c": every(package)["c"]})
    done = cli("doctor", "--json")
    sections = {section["name"]: section for section in done.json["sections"]}
    assert list(sections) == ["isolation", "self-test", "toolchains", "verifiers", "hardware"]
    assert done.code == (0 if done.json["can_run"] else 4)
    level = sections["isolation"]["facts"]["level"]
    assert sections["isolation"]["can_run"] == (level in ("namespace", "landlock"))
    if level is not None:
        assert set(sections["self-test"]["facts"]) == {"network", "home", "fork bomb", "kill -1", "memory", "daemon"}
        assert [line for line in sections["self-test"]["lines"] if line["state"] == "failed"] == []
    assert sections["toolchains"]["facts"]["gcc"]["version"] is not None
    assert sections["verifiers"]["facts"] == {"c": True}
    assert sections["hardware"]["can_run"] and sections["hardware"]["facts"]["torch"] is not None
