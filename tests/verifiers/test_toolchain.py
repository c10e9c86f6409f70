"""Where tools are found, what of them jobs may read, and what is kept of them."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from halo_forge.core.errors import ToolMissing
from halo_forge.verifiers import toolchain
from halo_forge.verifiers.compiled.functions import defines_function
from halo_forge.verifiers.compiled.go_library import library
from halo_forge.verifiers.languages import c, go, rust
from halo_forge.verifiers.toolchain import build_cached, cache_directory, find_tool, outside_system


def _tool(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("paths", "directories"),
    [
        (["/usr/bin/gcc", "/bin/nm", "/usr/local/go/bin/go"], []),
        (["/opt/gcc-15/bin/gcc"], ["/opt/gcc-15"]),
        (["/opt/gcc-15/bin/gcc", "/opt/gcc-15/bin/nm", "/srv/tools/nm"], ["/opt/gcc-15", "/srv/tools"]),
        # never a whole home directory, nor a directory at the top
        (["/home/ada/bin/gcc"], ["/home/ada/bin"]),
        (["/opt/bin/gcc"], ["/opt/bin"]),
        (["/home/ada/.local/bin/gcc"], ["/home/ada/.local"]),
        (["/library/x/gcc"], ["/library/x"]),
    ],
)
def test_directories_that_jobs_must_be_able_to_read(paths: list[str], directories: list[str]) -> None:
    assert outside_system(paths) == directories


def test_links_lead_to_the_installation(tmp_path: Path) -> None:
    real = _tool(tmp_path / "suite" / "bin" / "cc")
    link = tmp_path / "links" / "cc"
    link.parent.mkdir()
    link.symlink_to(real)
    assert outside_system([str(link)]) == sorted([str(tmp_path / "links"), str(tmp_path / "suite")])


def test_a_directory_that_holds_the_temporary_files_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Tools in `x/bin` and TMPDIR in `x/tmp`: jobs see the tools, and no files of other jobs."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert outside_system([str(tmp_path / "bin" / "gcc")]) == [str(tmp_path / "bin")]


def test_the_home_directory_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert outside_system([str(tmp_path / "bin" / "gcc")]) == [str(tmp_path / "bin")]


def test_debians_alternatives_are_followed_and_other_links_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = _tool(tmp_path / "bin" / "cross-gcc-win32")
    alternatives = tmp_path / "alternatives"
    alternatives.mkdir()
    (alternatives / "cross-gcc").symlink_to(real)
    (tmp_path / "bin" / "cross-gcc").symlink_to(alternatives / "cross-gcc")
    (tmp_path / "bin" / "clang++").symlink_to("cross-gcc-win32")
    monkeypatch.setattr(toolchain, "_ALTERNATIVES", f"{alternatives}/")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_tool("cross-gcc") == str(real)
    assert find_tool("clang++") == str(tmp_path / "bin" / "clang++")
    assert find_tool("none") is None


def test_what_is_kept_is_complete_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "library"

    def broken(building: Path) -> None:
        (building / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_cached(target, broken)
    assert list(tmp_path.iterdir()) == []
    barrier = threading.Barrier(2)

    def whole(building: Path) -> None:
        barrier.wait(timeout=10)
        (building / "whole").write_text("whole")

    threads = [threading.Thread(target=build_cached, args=(target, whole)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["library"]
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert build_cached(target, broken) == target


def test_caches_are_in_the_users_own_where_every_job_can_enter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = cache_directory("go")
    assert found == tmp_path / "halo-forge" / "go"
    assert found.stat().st_mode & 0o777 == found.parent.stat().st_mode & 0o777 == 0o755


def test_isolation_is_one_of_the_ladder() -> None:
    assert c.Spec().isolation == "auto"
    assert c.Spec(isolation="limits").isolation == "limits"
    with pytest.raises(ValidationError, match="isolation"):
        c.Spec.model_validate({"isolation": "none"})


@pytest.mark.parametrize("flags", [["-Awarnings"], ["-A", "warnings"], ["--cap-lints", "allow"], ["--allow=warnings"]])
def test_rusts_warnings_stay(flags: list[str]) -> None:
    with pytest.raises(ValidationError, match="silences every warning"):
        rust.Spec(flags=flags)


def test_rustups_stub_answer_is_looked_behind(tmp_path: Path) -> None:
    toolchain = tmp_path / "toolchains" / "stable"
    real = _tool(toolchain / "bin" / "rustc")
    _tool(tmp_path / "shims" / "rustup", f"#!/bin/sh\necho {toolchain}\n")
    (tmp_path / "shims" / "rustc").symlink_to("rustup")
    tools = {"rustc": str(tmp_path / "shims" / "rustc"), "cc": "/usr/bin/cc"}
    assert rust.resolve_rustup(tools["rustc"]) == str(real)
    assert rust.resolve_rustup(str(real)) == str(real)
    assert rust.Spec().read_only_paths(tools) == [str(toolchain)]


def test_a_go_that_does_not_work_is_a_missing_tool(tmp_path: Path) -> None:
    fake = _tool(tmp_path / "go", "#!/bin/sh\necho broken >&2\nexit 1\n")
    with pytest.raises(ToolMissing, match="broken"):
        library(str(fake), "install it")
    assert go.Spec().needs_address_space()
    assert go.Spec().run_limits().address_space_bytes is None


@pytest.mark.parametrize(
    ("source", "keyword", "found"),
    [
        ("func add(a int) int { return a }", "func", True),
        ("func add[T any](a T) T { return a }", "func", True),
        ("func (s S) add(a int) int { return a }", "func", False),
        ("// func add(\nfunc sum() {}", "func", False),
        ("/* func add( */", "func", False),
        ("var s = `\nfunc add(`", "func", False),
        ('let s = "fn add(";', "fn", False),
        ('let s = r#"" fn add(x)"#;', "fn", False),
        ("fn add<'a>(x: &'a str) -> &'a str { x }", "fn", True),
        ("fn f<'a>(x: &'a u8) {} fn add(c: char) -> bool { c == '\"' }", "fn", True),
        ("fn adding(a: i32) {}", "fn", False),
        ("fn add() {}", "fn", True),
    ],
)
def test_functions_are_found_in_code_only(source: str, keyword: str, found: bool) -> None:
    assert defines_function(source.encode(), keyword, "add") == found
