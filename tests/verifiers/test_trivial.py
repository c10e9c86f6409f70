"""Programs that do nothing, however they dress it; and honest short ones, which are never taken for such."""

from __future__ import annotations

import json
import time

import pytest
from known_sets import known_set
from trivial_programs import BUSY_BODIES, BUSY_MAINS, BUSY_PROGRAMS, IDLE_BODIES, IDLE_MAINS, IDLE_PROGRAMS

from halo_forge.prompts.load import load_prompts
from halo_forge.verifiers.hacks.trivial import does_nothing


def program(body: str) -> str:
    return f"#include <stdio.h>\nint main(void) {{ {body} }}"


def function(body: str) -> str:
    return f"int f(int a, char *s) {{ {body} }}"


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_mains_and_functions(language: str) -> None:
    assert [body for body in IDLE_MAINS if not does_nothing(program(body), language, None)] == []
    assert [body for body in IDLE_BODIES if not does_nothing(function(body), language, "f")] == []
    assert [body for body in BUSY_MAINS if does_nothing(program(body), language, None)] == []
    assert [body for body in BUSY_BODIES if does_nothing(function(body), language, "f")] == []


@pytest.mark.parametrize(("language", "entry_point", "code"), IDLE_PROGRAMS)
def test_nothing_is_done(language: str, entry_point: str | None, code: str) -> None:
    assert does_nothing(code, language, entry_point)


@pytest.mark.parametrize(("language", "entry_point", "code"), BUSY_PROGRAMS)
def test_something_is_done(language: str, entry_point: str | None, code: str) -> None:
    assert not does_nothing(code, language, entry_point)


def test_no_reference_of_ours_does_nothing() -> None:
    prompts = load_prompts("builtin:c/all", language="c")
    wrong = []
    for prompt in prompts:
        entry_point = None if prompt.tests is None else prompt.tests.get("entry_point")
        for each in {entry_point, None}:
            wrong += [prompt.id] if does_nothing(prompt.info["reference"], "c", each) else []
    assert len(prompts) > 300 and wrong == []


@pytest.mark.parametrize("name", ["humaneval.jsonl", "mbpp_train.jsonl"])
def test_no_reference_of_others_does_nothing(name: str) -> None:
    wrong = []
    for line in known_set(name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "canonical_solution" in row:
            body, entry_point = row["canonical_solution"], row["entry_point"]
            answers = [(row["prompt"] + body, entry_point), (row["prompt"] + body, None), (body, entry_point)]
        else:
            answers = [(row["code"].replace("\r\n", "\n"), None)]
        wrong += [row["task_id"] for code, entry in answers if does_nothing(code, "python", entry)]
    assert wrong == []


@pytest.mark.parametrize("language", ["c", "rust", "go", "python"])
@pytest.mark.parametrize(
    "piece", ["{", "if(a){", "x;", "a=b;", "else ", "do{", "(", "x-", "if a:\n b=a\n ", "{}", "f(a,"]
)
def test_long_programs_take_no_time_to_speak_of(language: str, piece: str) -> None:
    text = piece * (24_000 // len(piece))
    started = time.process_time()
    for head in ("int f(int a) {", "fn f(a: i32) {", "def f(a):\n  "):
        does_nothing(head + text, language, "f")
    assert time.process_time() - started < 5.0
