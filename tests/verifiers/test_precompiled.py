"""The precompiled <bits/stdc++.h>: used where it is included first, and never the reason for another verdict."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from languages import STDIO, answer, prompt

from halo_forge.core.records import Verdict
from halo_forge.sandbox.job import JobResult
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.compiled import precompiled
from halo_forge.verifiers.context import ToolRunner
from halo_forge.verifiers.languages.cpp import Spec
from halo_forge.verifiers.toolchain import build_cached
from halo_forge.verifiers.verifier import ThreadedVerifier

ALL = "#include <bits/stdc++.h>\n"
MAIN = "using namespace std;\nint main() { int a, b; cin >> a >> b; vector<int> v{b, a}; sort(v.begin(), v.end());\n"
MAIN += "    cout << v[0] + v[1] << endl; }\n"


@pytest.mark.parametrize(
    ("source", "first"),
    [
        (ALL + MAIN, True),
        ("\n  // fast\n/* all\n of it */ #  include <bits/stdc++.h> // yes\n" + MAIN, True),
        ("#include <iostream>\n" + ALL + MAIN, False),
        ("#define endl '\\n'\n" + ALL + MAIN, False),
        ("#pragma GCC optimize(\"O3\")\n" + ALL + MAIN, False),
        ("using namespace std;\n" + ALL, False),
        ("// #include <bits/stdc++.h>\n" + MAIN, False),
        ("/* #include <bits/stdc++.h> */\n" + MAIN, False),
        ("#include \"bits/stdc++.h\"\n" + MAIN, False),
        ("", False),
    ],
)  # fmt: skip
def test_what_begins_with_the_include(source: str, first: bool) -> None:
    assert (precompiled._FIRST.match(source.encode()) is not None) == first


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[list[str]]]:
    """Every command line of the compiler."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    seen: list[list[str]] = []
    original = ToolRunner.run

    def run(self: ToolRunner, argv: list[str], *rest: object) -> JobResult:
        seen.append(argv)
        return original(self, argv, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ToolRunner, "run", run)
    yield seen


def _check(verifier: ThreadedVerifier, code: str) -> Verdict:
    (verdict,) = verifier.verify([(prompt("cpp", STDIO), answer("cpp", code))])
    return verdict


def test_it_saves_most_of_the_time_and_changes_nothing(commands: list[list[str]]) -> None:
    with open_verifier(Spec(workers=1)) as verifier:
        _check(verifier, ALL + MAIN)
        commands.clear()
        fast = _check(verifier, ALL + MAIN + "// again\n")
        used = [argv for argv in commands if any(word.startswith("-I") for word in argv)]
        slow = _check(verifier, "#define AGAIN\n" + ALL + MAIN)
    assert (fast.status, slow.status) == ("passed", "passed")
    assert len(used) == 1 and not any("-include" in word for argv in commands for word in argv)
    assert fast.cpu_seconds < 0.6 * slow.cpu_seconds


def test_what_an_answer_forgets_to_include_is_still_missing(commands: list[list[str]]) -> None:
    broken = "#include <iostream>\n" + MAIN.replace("vector<int> v{b, a}", "map<int, regex> m; vector<int> v{b, a}")
    with open_verifier(Spec(workers=1)) as verifier:
        assert _check(verifier, ALL + broken).status == "passed"
        assert _check(verifier, broken).stage == "compile"
        unused = _check(verifier, ALL + MAIN.replace("int a, b;", "int a, b, unused;"))
    assert (unused.status, unused.warnings) == ("passed", 1)
    assert "unused variable" in unused.diagnostics and "answer.cpp:3" in unused.diagnostics


def test_without_a_place_to_keep_it_programs_compile_all_the_same(
    monkeypatch: pytest.MonkeyPatch, commands: list[list[str]]
) -> None:
    def refused(name: str) -> Path:
        raise PermissionError(13, "no place", name)

    monkeypatch.setattr(precompiled, "cache_directory", refused)
    with open_verifier(Spec(workers=1)) as verifier:
        commands.clear()
        assert _check(verifier, ALL + MAIN).status == "passed"
    assert not [argv for argv in commands if any(word.startswith("-I") for word in argv)]


def test_clang_is_left_alone() -> None:
    assert precompiled.places(Spec(compiler="/opt/llvm/bin/clang++-18")) == []


def test_few_are_kept(tmp_path: Path) -> None:
    for name in "abcde":
        build_cached(tmp_path / name, lambda building: (building / "x").write_text("x") and None)
        precompiled._make_room(tmp_path)
    assert len(list(tmp_path.iterdir())) < 5
