"""C++, Rust and Go with real compilers: what each answer reaches, the same for all of them."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from languages import CPP, GO, RUST, STDIO, Language, answer, prompt

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.records import Verdict
from halo_forge.core.registry import discover
from halo_forge.sandbox.ladder import probe_ladder
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.verifier import ThreadedVerifier

_LANGUAGES = {"g++": CPP, "clang++": CPP, "rustc": RUST, "go": GO}
_KINDS = {**{compiler: language.kind for compiler, language in _LANGUAGES.items()}, "gcc": "c", "clang": "c"}
_LIMITS = {"timeout_seconds": 0.5, "memory_limit_bytes": 64 << 20, "workers": 2}


def verifier_of(compiler: str, **settings: Any) -> ThreadedVerifier:
    """An opened verifier; skips where the compiler is absent."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    spec = discover("halo_forge.verifiers.languages")[_KINDS[compiler]]
    try:
        return open_verifier(spec(compiler=compiler, **settings)).__enter__()  # type: ignore[attr-defined, no-any-return]
    except ToolMissing:
        # Below the level `namespace` root's programs run as another user, who cannot enter root's home.
        if not (os.geteuid() == 0 and closed_to_others(compiler) and level_of(settings) != "namespace"):
            raise
        if not os.path.exists(system := f"/usr/bin/{compiler}"):
            pytest.skip(f"{shutil.which(compiler)} lies where only root may go, and there is no {system}")
        return open_verifier(spec(compiler=system, **settings)).__enter__()  # type: ignore[attr-defined, no-any-return]


def closed_to_others(compiler: str) -> bool:
    path = Path(shutil.which(compiler) or "").resolve()
    return not all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def level_of(settings: Mapping[str, Any]) -> str:
    return settings.get("isolation") or next(probe.level for probe in probe_ladder() if probe.works)


class Opened:
    """One language with one compiler, opened for the whole session."""

    def __init__(self, compiler: str) -> None:
        self.language: Language = _LANGUAGES[compiler]
        self.verifier = verifier_of(compiler, **_LIMITS)

    def check(self, code: str, tests: Mapping[str, Any] | None) -> Verdict:
        kind = self.language.kind
        (found,) = self.verifier.verify([(prompt(kind, tests), answer(kind, code))])
        return found


@pytest.fixture(scope="module", params=sorted(_LANGUAGES))
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    made = Opened(request.param)
    try:
        yield made
    finally:
        made.verifier.close()


def test_program_tasks(opened: Opened) -> None:
    language = opened.language
    for body, stage, status, passed, reward in [
        (language.show, "tests", "passed", 3, 1.0),
        (language.show.replace("a + b", "17 + 0 * (a + b)"), "tests", "failed", 0, 0.7),
        (language.bodies["crash"], "run", "failed", 0, 0.5),
        (language.bodies["endless"], "run", "timeout", 0, 0.5),
        ("nonsense(", "compile", "failed", 0, 0.0),
    ]:
        if language is GO and "os." not in body:
            body = f"_ = a + b\n{body}"
        verdict = opened.check(language.reading(body), STDIO)
        assert (verdict.stage, verdict.status, verdict.tests_passed) == (stage, status, passed), verdict
        assert verdict.reward == pytest.approx(reward), body
        assert verdict.tests_total == 3


def test_function_tasks(opened: Opened) -> None:
    language = opened.language
    for body, stage, status, passed in [
        (language.sum, "tests", "passed", 4),
        (language.sum.replace("a + b", "a + b * 1 + (a / 20)"), "tests", "failed", 3),
        (language.bodies["exit"], "run", "failed", 0),
        (language.bodies["crash"], "run", "failed", 0),
        (language.bodies["endless"], "run", "timeout", 0),
        (language.bodies["greedy"], "run", "out_of_memory", 0),
        (language.sum.replace("a + b", "a + c"), "compile", "failed", 0),
    ]:
        verdict = opened.check(language.adding(body), language.tests)
        assert (verdict.stage, verdict.status, verdict.tests_passed) == (stage, status, passed), verdict
    other = language.adding(language.sum).replace("add", "sum")
    assert opened.check(other, language.tests).stage == "compile"


def test_a_demonstration_of_the_answers_own_is_not_what_runs(opened: Opened) -> None:
    own = {
        "cpp": "int main() { return 7; }\n",
        "rust": "fn main() { panic!(); }\n",
        "go": "func main() { os.Exit(7) }\n",
    }
    language = opened.language
    verdict = opened.check(language.adding(language.sum) + own[language.kind], language.tests)
    assert (verdict.status, verdict.tests_passed, verdict.warnings) == ("passed", 4, 0), verdict


def test_an_object_must_define_the_function(opened: Opened) -> None:
    language = opened.language
    tests = {"kind": "compile", "entry_point": "add"}
    right = language.adding(language.sum)
    assert opened.check(right, tests).reward == 0.5
    keyword = {"cpp": "int", "rust": "fn", "go": "func"}[language.kind]
    hidden = f"/*\n{keyword} add(\n*/\n"
    for wrong in (right.replace("add", "sum"), right.replace("add", "sum") + hidden, right.replace("add", "addition")):
        verdict = opened.check(wrong, tests)
        assert (verdict.stage, verdict.status, verdict.reward) == ("compile", "failed", 0.0), wrong
    assert opened.check(right, None).passed
    assert opened.check(language.adding("nonsense("), tests).status == "failed"


def test_a_prompt_that_names_a_program_links_it(opened: Opened) -> None:
    language = opened.language
    tests = {"kind": "compile", "entry_point": "main"}
    assert opened.check(language.reading(language.show), tests).reward == 0.5
    without = opened.check(language.adding(language.sum), tests)
    assert (without.stage, without.status) == ("compile", "failed")


def test_warnings_are_counted_where_the_compiler_has_them(opened: Opened) -> None:
    language = opened.language
    plain = opened.check(language.adding(language.sum), language.tests)
    if language is GO:  # has errors only, also for what other compilers warn of
        unused = opened.check(language.adding("unused := 1\n" + language.sum), language.tests)
        assert (plain.warnings, unused.warnings, unused.stage) == (0, 0, "compile")
        assert "unused declared" in unused.diagnostics or "declared and not used" in unused.diagnostics
        return
    warned = opened.check(language.adding(language.bodies["warn"] + language.sum), language.tests)
    assert (plain.warnings, warned.warnings, warned.status) == (0, 1, "passed")
    assert "unused variable" in warned.diagnostics
    failed = opened.check(language.reading(language.bodies["warn"] + language.bodies["crash"]), STDIO)
    assert (failed.warnings, failed.reward) == (1, 0.3)


def test_a_harness_that_cannot_work_is_the_prompt_files_fault(opened: Opened) -> None:
    language = opened.language
    opened.verifier.check_prompts([prompt(language.kind, language.tests), prompt(language.kind, STDIO)])
    for broken in (
        language.harness.replace("main", "main("),
        language.harness + {"cpp": "int x = y;", "rust": 'const X: i32 = "y";', "go": 'var x int = "y"'}[language.kind],
    ):
        with pytest.raises(ConfigError, match="harness of a prompt does not compile"):
            opened.verifier.check_prompts([prompt(language.kind, {**language.tests, "source": broken})])


def test_the_same_program_gives_the_same_verdict_and_no_paths(opened: Opened) -> None:
    language = opened.language
    code = language.adding(language.bodies["crash"])
    first = opened.check(code, language.tests)
    again = opened.check(code + "\n", language.tests)
    assert first.diagnostics == again.diagnostics
    assert "/" not in first.diagnostics.replace("0x", "").replace(" / ", ""), first.diagnostics


def test_the_toolchain_is_told(opened: Opened) -> None:
    found = opened.verifier.toolchain()
    assert found["compiler"].rpartition("/")[2] in _LANGUAGES
    assert any(character.isdigit() for character in found["version"]), found
    assert found["isolation"] in ("namespace", "landlock", "limits")


_GREEDY_FOR_FILES = {
    "rustc": [
        'fn main() { print!("{}", include_str!("/etc/shadow")); }\n',
        'fn main() { print!("{}", env!("HALO_FORGE_TEST_SECRET")); }\n',
        '#[path = "/etc/shadow"] mod stolen;\nfn main() {}\n',
        "extern crate rand;\nfn main() {}\n",
    ],
    "go": [
        'package main\nimport _ "embed"\n//go:embed answer.go\nvar text string\nfunc main() { print(text) }\n',
        'package main\n// int one(void) { return 1; }\nimport "C"\nfunc main() { C.one() }\n',
        'package main\nimport "example.com/other"\nfunc main() { other.Run() }\n',
    ],
    "g++": ['#include "/etc/shadow"\nint main() {}\n', '__asm__(".incbin \\"/etc/shadow\\"");\nint main() {}\n'],
}


@pytest.mark.parametrize("compiler", sorted(_GREEDY_FOR_FILES))
def test_nothing_is_read_or_fetched_while_compiling(monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    monkeypatch.setenv("HALO_FORGE_TEST_SECRET", "swordfish")
    kind = _LANGUAGES[compiler].kind
    verifier = verifier_of(compiler, **_LIMITS)
    try:
        verdicts = list(
            verifier.verify([(prompt(kind, STDIO), answer(kind, code)) for code in _GREEDY_FOR_FILES[compiler]])
        )
    finally:
        verifier.close()
    for verdict in verdicts:
        assert (verdict.stage, verdict.status, verdict.reward) == ("compile", "failed", 0.0), verdict
        assert "swordfish" not in verdict.diagnostics and "root:" not in verdict.diagnostics


@pytest.mark.parametrize("level", ["landlock", "limits"])
@pytest.mark.parametrize("compiler", ["g++", "rustc", "go"])
def test_toolchains_work_at_the_lower_levels_too(compiler: str, level: str) -> None:
    if level == "landlock" and not any(probe.works for probe in probe_ladder() if probe.level == level):
        pytest.skip("this kernel has no Landlock")
    verifier = verifier_of(compiler, isolation=level, **_LIMITS)
    try:
        assert verifier.toolchain()["isolation"] == level
    finally:
        verifier.close()


def test_rust_functions_of_every_kind_are_found() -> None:
    verifier = verifier_of("rustc", **_LIMITS)
    try:
        for code, entry_point, status in [
            ("pub fn add<T: std::ops::Add<Output = T>>(a: T, b: T) -> T { a + b }\n", "add", "passed"),
            ("#![allow(unused_mut)]\npub mod sums { pub fn add(a: i32) -> i32 { a } }\n", "sums::add", "passed"),
            ("pub mod sums { pub fn add(a: i32) -> i32 { a } }\n", "add", "failed"),
            ("pub const add: i32 = 3;\n", "add", "failed"),
        ]:
            tests = {"kind": "compile", "entry_point": entry_point}
            (verdict,) = verifier.verify([(prompt("rust", tests), answer("rust", code))])
            assert verdict.status == status, (code, verdict)
    finally:
        verifier.close()


def test_cpp_functions_in_namespaces_and_classes_are_found() -> None:
    verifier = verifier_of("g++", **_LIMITS)
    source = "namespace shop { struct Till { int sum(int) const; }; int sum(int a) { return a; } }\n"
    source += 'int shop::Till::sum(int a) const { return a; }\nextern "C" int plain(int a) { return a; }\n'
    try:
        for entry_point, status in [
            ("shop::sum", "passed"),
            ("shop::Till::sum", "passed"),
            ("plain", "passed"),
            ("sum", "failed"),
            ("shop::Till::pay", "failed"),
        ]:
            tests = {"kind": "compile", "entry_point": entry_point}
            (verdict,) = verifier.verify([(prompt("cpp", tests), answer("cpp", source))])
            assert verdict.status == status, (entry_point, verdict)
    finally:
        verifier.close()


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_programs_in_the_cpp_that_judges_take_compile_by_default(compiler: str) -> None:
    code = (
        "#include <cmath>\n#include <iostream>\n#include <set>\n"
        'int main() { std::set<int> s{3}; std::cout << s.contains(3) << " " << int(M_PI); }\n'
    )
    tests = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "1 3\n"}]}
    with verifier_of(compiler) as verifier:
        (verdict,) = verifier.verify([(prompt("cpp", tests), answer("cpp", code))])
    assert (verdict.stage, verdict.status) == ("tests", "passed"), verdict.diagnostics


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_standard_that_the_compiler_does_not_know_is_named_with_what_to_do(compiler: str) -> None:
    with pytest.raises(ToolMissing, match=r"std=gnu\+\+29") as caught:
        verifier_of(compiler, standard="gnu++29")
    assert "set verifier.standard to one that this compiler knows" in str(caught.value)
