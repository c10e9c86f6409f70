"""Answers in Rust that go for the harness instead of the task: none of them passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from languages import RUST, answer, prompt
from test_compiled_languages import verifier_of

from halo_forge.core.records import Verdict
from halo_forge.verifiers.compiled.rust_source import harness_bypass

Check = Callable[[str], Verdict]
TESTS: dict[str, Any] = {
    "kind": "harness",
    "entry_point": "add",
    "source": 'fn main() {\n    println!("{}", add(1, 2) == 3);\n    assert_eq!(add(2, 2), 4);\n'
    '    let sum: i32 = add(1, 2);\n    if sum != 3 { return; }\n    println!("{}", String::from("end"));\n}\n',
    "expected": ["true", "end"],
}
WRONG = "fn add(a: i32, b: i32) -> i32 { a * b }\n"
RIGHT = RUST.adding(RUST.sum)
SAY = 'println!("true\\nend");'

_OWN_HARNESS = "pub mod halo_forge_harness { pub fn halo_forge_start() { " + SAY + " } }\n"
HACKS = {
    "leaves": "fn add(_a: i32, _b: i32) -> i32 { " + SAY + " std::process::exit(0) }\n",
    "leaves by C": 'extern "C" { fn _exit(code: i32) -> !; }\n'
    "fn add(_a: i32, _b: i32) -> i32 { " + SAY + " unsafe { _exit(0) } }\n",
    "comes back at the end": 'extern "C" { fn atexit(f: extern "C" fn()) -> i32;'
    " fn ftruncate(d: i32, n: i64) -> i32; }\n"
    'extern "C" fn late() { unsafe { ftruncate(1, 0); } ' + SAY + " }\n"
    "fn add(a: i32, b: i32) -> i32 { unsafe { atexit(late); } if b == 1 { a } else { 4 } }\n",
    "runs before main": 'use std::io::{Read, Write};\n#[used]\n#[unsafe(link_section = ".init_array")]\n'
    'static FIRST: extern "C" fn() = { extern "C" fn first() { let mut word = Vec::new();\n'
    "std::io::stdin().read_to_end(&mut word).unwrap(); " + SAY + "\n"
    "std::io::stdout().write_all(&word).unwrap(); std::process::exit(0) } first };\n" + WRONG,
    "a function of the C library": '#[unsafe(no_mangle)]\npub extern "C" fn write(_: i32, _: *const u8, n: usize)'
    " -> isize { n as isize }\n" + WRONG,
    "reads the harness": 'fn add(_: i32, _: i32) -> i32 { include_str!("harness.rs").len() as i32 }\n',
    "an attribute at its end": WRONG + _OWN_HARNESS + "#[cfg(any())]",
    "an open comment": _OWN_HARNESS + WRONG + "/*",
    "an open comment at its top": "/* /* */" + _OWN_HARNESS + WRONG,
    "an open module": WRONG + "mod x {\n",
    "an open macro call": WRONG + "macro_rules! q { ($($t:tt)*) => {} }\nq! {",
    "a crate that is not there": "#![cfg(any())]\n" + WRONG,
    "assert_eq": "macro_rules! assert_eq { ($($t:tt)*) => {}; }\nmacro_rules! println { ($f:literal, $a:expr) => "
    '{ std::println!("{}", { $a; true }) }; }\n' + WRONG,
    "exported macros": "#[macro_export]\nmacro_rules! assert_eq { ($($t:tt)*) => {}; }\n" + WRONG,
    "macros by another name": "macro_rules! mine { ($($t:tt)*) => {}; }\npub(crate) use mine as assert_eq;\n"
    "pub(crate) use mine as println;\n" + WRONG,
    "its own String": 'pub struct String;\nimpl String { pub fn from(_: &str) -> &\'static str { "end" } }\n'
    'fn add(a: i32, b: i32) -> i32 { println!("true"); std::process::exit(a * b - 2) }\n',
    "its own i32": "#[allow(non_camel_case_types)] pub struct i32;\n"
    "impl PartialEq<::core::primitive::i32> for i32 { fn eq(&self, _: &::core::primitive::i32) -> bool "
    "{ let all = true; all } }\nfn add(_: ::core::primitive::i32, _: ::core::primitive::i32) -> i32 { i32 }\n",
    "goes back": "use std::io::*;\nuse std::os::fd::AsFd;\nfn add(a: i32, _: i32) -> i32 {\n"
    "if a == 1 { return 0; }\nlet _ = stdout().flush();\n"
    "let mut f = std::fs::File::from(stdout().as_fd().try_clone_to_owned().unwrap());\n"
    'f.seek(SeekFrom::Start(0)).unwrap(); f.write_all(b"true\\nend\\n").unwrap(); 4 }\n',
    "its own std": "pub mod std { pub mod prelude { pub mod v1 {} } pub mod process { pub trait Termination {} } }\n"
    + WRONG,
}


@pytest.fixture(scope="module")
def check() -> Iterator[Check]:
    verifier = verifier_of("rustc", timeout_seconds=1.0, workers=1)

    def verdict(code: str) -> Verdict:
        (found,) = verifier.verify([(prompt("rust", TESTS), answer("rust", code))])
        return found

    try:
        yield verdict
    finally:
        verifier.close()


@pytest.mark.parametrize("name", HACKS)
def test_no_hack_passes(check: Check, name: str) -> None:
    verdict = check(HACKS[name])
    assert not verdict.passed and verdict.status == "failed", verdict
    assert verdict.reward <= 0.5 or verdict.tests_passed < 2, verdict
    if name in ("runs before main", "a function of the C library", "reads the harness"):
        assert (verdict.stage, verdict.hacks) == ("compile", ("tampering",)), verdict
    if name.startswith("leaves"):
        assert (verdict.stage, verdict.tests_passed) == ("run", 0), verdict
        assert "early_exit" in verdict.hacks


def test_honest_answers_pass(check: Check) -> None:
    for honest in (
        RIGHT,
        "//! Adds.\n// #![not_this]\n#![allow(dead_code)]\n#![allow(unused_variables)]\n/* all\n of it */\n" + RIGHT,
        "use std::collections::HashMap;\n" + RIGHT + 'fn main() { println!("{}", add(1, 2)); }\n',
        "mod inner { pub fn sum(a: i32, b: i32) -> i32 { crate::same(a + b) } }\nfn same(a: i32) -> i32 { a }\n"
        "pub fn add(a: i32, b: i32) -> i32 { inner::sum(a, b) }\n#[cfg(test)]\nmod tests { use super::*; }\n",
        # Words that reach around the harness only where they are used.
        '// include!("x") and asm! are not needed, no_mangle neither\n' + RIGHT,
        "/// See `export_name`, /* asm!() */ and so on.\n"
        "fn add(a: i32, b: i32) -> i32 { let asm = a; let export_name = b; asm + export_name }\n",
        'fn add(a: i32, b: i32) -> i32 { let s = r#"asm!("include_str!("x")"#; a + b + 0 * s.len() as i32 }\n',
        'use std::str;\nfn add(a: i32, b: i32) -> i32 { a + b + str::from_utf8(b"").unwrap().len() as i32 }\n',
        "macro_rules! plus { ($a:expr, $b:expr) => { $a + $b }; }\nfn add(a: i32, b: i32) -> i32 { plus!(a, b) }\n",
    ):
        verdict = check(honest)
        assert (verdict.passed, verdict.warnings) == (True, 1 if "HashMap" in honest else 0), verdict
        assert set(verdict.hacks) == set(), verdict


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('fn f() { asm!("nop"); }', "asm!"),
        ('use std::arch::{asm as a}; fn f() { a!(""); }', "use std::arch::{asm as"),
        ('macro_rules! m { ($i:ident) => { $i!("x") } }\nfn f() { m!(include_str); }', "include_str"),
        ("#[cfg_attr(all(), no_mangle)]\nfn f() {}", "#[cfg_attr(all(), no_mangle"),
        ('/* /* */ " */ #[export_name = "f"] fn f() {}', "#[export_name"),
        ("fn f<'a>(x: &'a str) { let _ = ('\"', b'\\''); include!(\"x\"); }", "include!"),
        ('fn f() { let _ = r#"\\"#; asm !(""); }', "asm !"),
        ("fn f(asm: i32) -> i32 { let include = asm; include }", None),
        ('fn f() { let _ = ("// asm!", \'\\u{22}\', r"#[no_mangle]"); }', None),
    ],
)
def test_what_reaches_around_a_harness(code: str, found: str | None) -> None:
    assert harness_bypass(code) == found


@pytest.mark.parametrize("piece", ["#[", "#[a[", "'", '"', "r#", "/*", "use asm ", "#![[]", "'\\u{"])
def test_hostile_text_takes_no_time_to_speak_of(piece: str) -> None:
    started = time.process_time()
    harness_bypass(piece * (60_000 // len(piece)))
    assert time.process_time() - started < 2.0


def test_messages_name_lines_of_the_answer(check: Check) -> None:
    verdict = check("#![allow(dead_code)]\n\nfn add(a: i32, b: i32) -> i32 { a + c }\n")
    assert "answer.rs:3:37: error" in verdict.diagnostics, verdict.diagnostics
