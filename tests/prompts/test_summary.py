"""What a set is checked by, as it is said before a run and by `tasks check`."""

from __future__ import annotations

from typing import Any

from halo_forge.core.records import Prompt
from halo_forge.prompts.summary import lines_of, shared_tasks, summarise, warnings_of

STAGES = ["compile", "run", "tests"]


def prompt(number: int, kind: str | None, **info: Any) -> Prompt:
    tests = None if kind is None else {"kind": kind}
    return Prompt(str(number), ({"role": "user", "content": "a"},), "c", tests, info)


def test_the_kinds_of_tests_are_counted_the_most_frequent_first() -> None:
    found = summarise([prompt(0, "stdio"), *(prompt(n, "harness") for n in range(1, 4)), prompt(4, "compile")])
    assert found.tests == "tests: 4 of 5 prompts (harness 3, stdio 1)"
    assert summarise([prompt(0, None)]).tests == "tests: 0 of 1 prompts"


def test_what_no_check_reads_is_listed_once_for_all_sets() -> None:
    sets = {"train": summarise([prompt(0, "stdio", reference="x", level=1)]), "dev": summarise([prompt(1, None, a=1)])}
    assert list(lines_of(sets)) == [
        "train tests: 1 of 1 prompts (stdio 1)",
        "dev tests: 0 of 1 prompts",
        "kept as info: a, level",
    ]


def test_a_set_without_tests_is_a_warning_that_says_what_a_pass_means() -> None:
    sets = {
        "prompts.train": summarise([prompt(0, "stdio")]),
        "prompts.dev": summarise([prompt(1, None), prompt(2, "compile")]),
        "prompts.test": summarise([prompt(3, None), prompt(4, "stdio")]),
    }
    assert list(warnings_of(sets, True, STAGES)) == [
        "no prompt of prompts.dev has tests: a pass means that a program compiles, whatever it does",
        "1 of 2 prompts of prompts.test without tests: for these a pass means that a program compiles, whatever it"
        " does",
    ]
    assert list(warnings_of(sets, False, STAGES)) == [], "a checker of the user's decides by itself"


def test_stages_without_tests_are_a_warning_whatever_the_prompts_have() -> None:
    sets = {"prompts.train": summarise([prompt(0, "stdio")])}
    (compiled,) = warnings_of(sets, True, ["compile"])
    assert compiled == "verifier.stages is [compile]: no tests are used; a pass means that a program compiles"
    (run,) = warnings_of(sets, True, ["compile", "run"])
    assert run.endswith("compiles and runs to its end")


def test_the_same_messages_under_another_id_are_a_warning() -> None:
    def asked(name: str, text: str) -> Prompt:
        return Prompt(name, ({"role": "user", "content": text},), "c", None)

    train = [asked("a", "Write f."), asked("b", "Write g."), asked("c", "Write h.")]
    sets = {"prompts.train": train, "prompts.dev": [asked("d", "Write g.\n"), asked("e", "Write i.")]}
    assert list(shared_tasks(sets)) == [
        "1 prompt of prompts.dev is in prompts.train too, under another id ('d' is 'b'): a model must not be measured"
        " on what it was trained on"
    ]
    assert list(shared_tasks({"prompts.train": train, "prompts.dev": [asked("e", "Write i.")]})) == []
