"""Marks of reasoning and special tokens around and within programs, and answers in Python without a fence."""

from __future__ import annotations

import time

import pytest

from halo_forge.core.source import canonical, extract


def fenced(code: str, tag: str = "python") -> str:
    return f"```{tag}\n{code}```\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        # Within a fenced block the marks are text of the program.
        (fenced('x = "a</think>b"\nprint("</s><|im_end|>")\n'), 'x = "a</think>b"\nprint("</s><|im_end|>")\n'),
        (fenced('x = """\n<think>\nhm\n</think>\n"""\n'), 'x = """\n<think>\nhm\n</think>\n"""\n'),
        (fenced("<think>\n"), "<think>\n"),
        ("<think>\n" + fenced("draft()\n") + "</think>\n" + fenced('print("</think>")\n'), 'print("</think>")\n'),
        # Reasoning that leaves a block open ends it.
        ("<think>\n```python\ndraft()\n</think>\n" + fenced("x = 1\n"), "x = 1\n"),
        ("<think>\n```python\ndraft()\nso be it.</think>\n" + fenced("x = 1\n"), "x = 1\n"),
        ("```python\ndraft()\n</think>\n" + fenced("x = 1\n"), "x = 1\n"),
        ("<think>short</think>\n" + fenced("x = 1\n"), "x = 1\n"),
        (fenced("x = 1\n").rstrip() + "<|im_end|>\n", "x = 1\n"),
        (fenced("x = 1\n").replace("```\n", "```</s>\n") + "Done.", "x = 1\n"),
        ("```python\nx = 1<|endoftext|></s>\n", "x = 1\n"),
    ],
)
def test_marks_count_outside_of_programs(answer: str, code: str) -> None:
    assert extract(answer, "python").code == code


@pytest.mark.parametrize("answer", ["<think>a</think>\n<think>b", "<think>\n" + fenced("x = 1\n")])
def test_reasoning_without_an_end(answer: str) -> None:
    assert extract(answer, "python").flags == ("no_code", "unfinished_reasoning")


@pytest.mark.parametrize(
    "code",
    [
        "x = 1\nprint(x)\n",
        "a, b = map(int, input().split())\n",
        "n: int = 3\n",
        "for i in range(3):\n    print(i)\n",
        "while True:\n    break\n",
        "with open(0) as file:\n    pass\n",
        "try:\n    pass\nfinally:\n    pass\n",
        'print("</s>")\n',
        "main()\n",
    ],
)
def test_python_without_a_fence(code: str) -> None:
    found = extract(code, "python")
    assert (found.code, found.flags) == (code, ("no_fence",))


@pytest.mark.parametrize(
    "text", ["For example, do this.", "print out the value", "I think x = 3 is right", "    return a + b\n", "x == 1"]
)
def test_prose_is_no_python(text: str) -> None:
    assert extract(text, "python").code is None


@pytest.mark.parametrize(
    "body", ["    return a + b\n", "    for x in y:\n        pass\n    return 1\n", "    '''Adds.'''\n    return 1\n"]
)
def test_the_body_alone_goes_on_where_the_prompt_ends(body: str) -> None:
    assert extract("\n" + body + "<|endoftext|>", "python", "add").code == body
    assert extract(body, "c", "add").code is None
    assert extract("    I would add both.\n", "python", "add").code is None


def test_a_name_that_is_assigned_is_defined() -> None:
    answer = fenced("f = lambda x: x\n") + fenced("print(f(1))\nprint(f == 2)\nprint(f(3))\n")
    assert extract(answer, "python", "f").code == "f = lambda x: x\n"


@pytest.mark.parametrize(
    ("tag", "language"),
    [("py3", "python"), ("python3.11", "python"), ("c2x", "c"), ("c++2a", "cpp"), ("cxx17", "cpp"), ("css", None)],
)
def test_versions_in_tags(tag: str, language: str | None) -> None:
    assert canonical(tag) == language


@pytest.mark.parametrize("piece", ["<think>\n", "</think>\n", "</s>", "<|a|> ", "```\n", "</think>\n```\n", "x[", "x("])
def test_marks_take_no_time_to_speak_of(piece: str) -> None:
    text = piece * (60_000 // len(piece))
    started = time.process_time()
    for before in ("", "<think>", "    ", "```python\n"):
        extract(before + text, "python", "add")
    assert time.process_time() - started < 3.0


F = "def f(s):\n    return len(s)\n"
TEST = "from solution import f\ndef test_f():\n    assert f('hello, world, and all that') == 27\n"


@pytest.mark.parametrize(
    "answer",
    [
        *(fenced(F, tag) for tag in ("ipython3", "pycon", "text", "solution.py")),
        "Sure: " + fenced(F),
        "**Solution:**" + fenced(F),
        "```python " + F + "```\n",
        fenced(F) + fenced(TEST),
        fenced(F) + "Output:\n" + fenced("a long, long line of what it prints\n" * 4, "text"),
    ],
)
def test_the_program_is_found(answer: str) -> None:
    assert extract(answer, "python").code == F


def test_a_fence_after_prose_gives_way_to_one_of_its_own() -> None:
    assert extract("Not: ```python\nx = 1\n```\n```\n" + fenced(F), "python").code == F


@pytest.mark.parametrize("tag", ['c title="f.c"', "c linenums=1", "c:f.c", "f.c"])
def test_attributes_are_no_code(tag: str) -> None:
    assert extract(f"```{tag}\nint x;\n```\n", "c").code == "int x;\n"
