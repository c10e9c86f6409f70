"""Extraction and normalisation: tables of answers as models write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_forge.core.source import canonical, digest, extract, normalise

ADD = "int add(int a, int b) { return a + b; }\n"
OTHER = "int add(int a, int b) { return a - b; }\n"


def fenced(code: str, tag: str = "c", marker: str = "```") -> str:
    return f"{marker}{tag}\n{code}{marker}\n"


@pytest.mark.parametrize(
    ("answer", "code", "flags"),
    [
        (fenced(ADD), ADD, ()),
        ("Sure!\n\n" + fenced(ADD, "C") + "\nDone.", ADD, ()),
        (fenced(ADD, "{.c .numberLines}"), ADD, ()),
        (fenced(ADD, 'c title="add.c"'), ADD, ()),
        (fenced(ADD, "c17"), ADD, ()),
        (fenced(ADD, "c2x"), ADD, ()),
        (fenced(ADD, "c,ignore"), ADD, ()),
        (fenced(ADD, "language-c"), ADD, ()),
        (fenced(ADD, "h"), ADD, ()),
        (fenced(ADD, " c "), ADD, ()),
        (fenced(ADD, ""), ADD, ()),
        (fenced("c\n" + ADD, ""), ADD, ()),
        (fenced(ADD, marker="~~~"), ADD, ()),
        (fenced('char *s = "\\n```c\\n"; // ```\n', marker="````"), 'char *s = "\\n```c\\n"; // ```\n', ()),
        (fenced('char *s = "```";\n'), 'char *s = "```";\n', ()),
        ("  ```c\n  int a;\n    int b;\n  ```\n", "int a;\n  int b;\n", ()),
        ("> ```c\n> int a;\n> ```\n", "int a;\n", ()),
        (fenced(ADD).replace("\n", "\r\n"), ADD, ()),
        ("\ufeff" + fenced(ADD), ADD, ()),
        (fenced(ADD) + "<|im_end|>", ADD, ()),
        ("```c\n" + ADD + "```<|endoftext|>", ADD, ()),
        # the first block is for the shell, and another language is never taken
        (fenced("gcc a.c\n", "bash") + fenced(ADD), ADD, ()),
        (fenced("print(1)\n", "python") + fenced(ADD, ""), ADD, ()),
        # cut off, or stopped at a stop string
        ("```c\n" + ADD, ADD, ("unterminated_fence",)),
        ("```c\n" + ADD.rstrip() + "```", ADD, ("closing_fence_inline",)),
        # draft, then the corrected version: the last one that defines the function
        (fenced(OTHER) + "Wait, that subtracts.\n" + fenced(ADD), ADD, ("several_blocks",)),
        (fenced(ADD) + "Use it so:\n" + fenced("int x = add(1, 2);\n"), ADD, ("several_blocks",)),
        (fenced(ADD) + fenced("int main(void) { if (add(1, 2)) { return 1; } }\n"), ADD, ("several_blocks",)),
        # reasoning
        ("<think>\n" + fenced(OTHER) + "</think>\n" + fenced(ADD), ADD, ()),
        (fenced(OTHER) + "</think>\n" + fenced(ADD), ADD, ()),
        # a whole reply in a block of its own
        (fenced("Here it is:\n" + fenced(ADD), "markdown", "````"), ADD, ()),
        (fenced("## Program\n" + fenced(OTHER) + "Better:\n" + fenced(ADD), "md", "~~~"), ADD, ("several_blocks",)),
        (fenced("Here it is:\n" + fenced(ADD), "", "````"), ADD, ()),
        (fenced("/*\n```c\nint x;\n```\n*/\n" + ADD, "", "````"), "/*\n```c\nint x;\n```\n*/\n" + ADD, ()),
        ("<answer>\n" + fenced(ADD) + "</answer>\n", ADD, ()),
        # prose with inline ticks is no fence
        ("Use `add` and ```add``` here.\n" + fenced(ADD), ADD, ()),
    ],
)
def test_finds_the_program(answer: str, code: str, flags: tuple[str, ...]) -> None:
    found = extract(answer, "c", "add")
    assert found.code == code
    assert found.flags == flags
    assert found.how == "fence"


@pytest.mark.parametrize(
    ("answer", "flags"),
    [
        ("", ("no_code",)),
        ("I cannot help with that.", ("no_code",)),
        ("int is a type in C.", ("no_code",)),
        ("double check: it works (really)", ("no_code",)),
        (fenced(ADD, "cpp"), ("no_code",)),
        (fenced(ADD, "json"), ("no_code",)),
        (fenced("", "c"), ("no_code",)),
        (fenced("  \n\n", "c"), ("no_code",)),
        ("<think>I would write\n" + fenced(ADD), ("no_code", "unfinished_reasoning")),
        # escaped answers are not mended
        ("&lt;stdio.h&gt; int add", ("html_escaped", "no_code")),
        ('{"code": "#include <stdio.h>\\nint add(int a, int b) {\\n    return a + b;\\n}\\n"}', ("no_code",)),
        ("```c\\nint add(int a, int b) {\\n    return a + b;\\n}\\n```", ("escaped_newlines", "no_code")),
        ('<tool_call>\n{"name": "run", "arguments": {"code": "int add(int a, int b);"}}\n</tool_call>',
         ("no_code", "tool_call")),
        (fenced('{"name": "run", "arguments": {"code": "int add(int a);"}}\n', "json"), ("no_code", "tool_call")),
        # a block within a line is inline code, and a body without its head is no program
        ("```c int add(int a, int b) { return a + b; } ```", ("no_code",)),
        ("The answer is `int add(int a, int b) { return a + b; }`.", ("no_code",)),
        ("    return a + b;\n", ("no_code",)),
        ('{"code": "int add(int a, int b)"}', ("no_code",)),
    ],
)  # fmt: skip
def test_finds_no_program(answer: str, flags: tuple[str, ...]) -> None:
    found = extract(answer, "c", "add")
    assert found.code is None
    assert found.flags == flags
    assert found.how == "none"


@pytest.mark.parametrize(
    "code",
    [
        ADD,
        "#include <stdio.h>\n" + ADD,
        "// adds\n" + ADD,
        "static unsigned long long x = 3;\n",
        "struct point { int x; };\n",
    ],
)
def test_takes_an_answer_without_a_fence_that_starts_like_code(code: str) -> None:
    found = extract("\n" + code, "c")
    assert (found.code, found.how, found.flags) == (code, "raw", ("no_fence",))


def test_takes_a_bare_tag_off_an_answer_without_a_fence() -> None:
    assert extract("c\n" + ADD, "c").code == ADD
    assert extract("python\nimport os\n", "python").code == "import os\n"


@pytest.mark.parametrize(
    ("code", "flags"),
    [
        ("int\u00a0main(void) {\u200b}\n", ("invisible_characters",)),
        ("#include &lt;iostream&gt;\nint main(void) { return 1 &amp; 2; }\n", ("html_escaped",)),
        ("#include <stdio.h>\\nint main(void) {\\n    return 0;\\n}\\n\n", ("escaped_newlines",)),
        # in a string they are what was meant
        ('int main(void) { puts("&lt;br&gt;\u00a0\\n\\n\\n"); }\n', ()),
        ("int main(void) { putchar('\\n'); putchar('\\n'); putchar('\\n'); }\n", ()),
    ],
)
def test_code_is_not_repaired(code: str, flags: tuple[str, ...]) -> None:
    found = extract(fenced(code), "c")
    assert (found.code, found.flags) == (code, flags)


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (fenced(ADD), (2, 2)),
        ("Sure!\n\n" + fenced(ADD + OTHER), (4, 5)),
        (("Sure!\n\n" + fenced(ADD + OTHER)).replace("\n", "\r\n"), (4, 5)),
        ("<think>\nhm\n</think>\n\n" + fenced(ADD), (6, 6)),
        (fenced("c\n" + ADD, ""), (3, 3)),
        (fenced(OTHER) + fenced(ADD), (5, 5)),
        ("\n\n" + ADD + OTHER, (3, 4)),
        ("c\n\n" + ADD, (3, 3)),
        ("```c\n" + ADD + OTHER.rstrip(), (2, 3)),
        ("nothing", None),
    ],
)
def test_where_the_program_is(answer: str, lines: tuple[int, int] | None) -> None:
    found = extract(answer, "c", "add")
    assert found.lines == lines
    assert found.to_row() == {"how": found.how, "tag": found.tag, "num_blocks": found.num_blocks, "lines": lines}
    if lines is not None:
        shown = answer.replace("\r\n", "\n").split("\n")[lines[0] - 1 : lines[1]]
        assert "\n".join(shown) + "\n" == found.code


def test_the_prompts_own_block_is_not_the_answer() -> None:
    asked = "Complete this:\n" + fenced("int add(int a, int b);\n")
    assert extract(asked + "Here it is:\n" + fenced(ADD), "c", "add").code == ADD
    assert extract(asked + fenced(ADD, ""), "c", "add").flags == ()


def test_a_block_in_a_tool_call_is_taken_and_told() -> None:
    found = extract("<tool_call>\n" + fenced(ADD) + "</tool_call>", "c", "add")
    assert (found.code, found.flags) == (ADD, ("tool_call",))


def test_without_an_entry_point_the_longest_block_is_taken() -> None:
    found = extract(fenced(ADD) + fenced("int x;\n"), "c")
    assert (found.code, found.num_blocks, found.flags) == (ADD, 2, ("several_blocks",))


def test_an_entry_point_that_is_nowhere_leaves_the_longest_block() -> None:
    assert extract(fenced(ADD) + fenced("int x;\n"), "c", "subtract").code == ADD


def test_other_languages() -> None:
    code = "def f(x):\n    return x\n"
    answer = fenced(code, "py") + fenced("while f(1):\n    pass\n", "python3")
    assert extract(answer, "python", "f").code == code
    assert extract(fenced("fn f() {}\n", "rust,ignore"), "rust", "f").code == "fn f() {}\n"
    assert extract("package main\n", "go").code == "package main\n"
    assert extract("use std::io;\n", "rust").code == "use std::io;\n"
    assert extract("using namespace std;\n", "cpp").code == "using namespace std;\n"


@pytest.mark.parametrize(
    ("tag", "language"), [("C++17", "cpp"), ("{.cpp}", "cpp"), ("python3", "python"), ("golang", "go"), ("c#", None)]
)
def test_canonical(tag: str, language: str | None) -> None:
    assert canonical(tag) == language


@given(st.text(alphabet="`~c\n >int main(){}</think>", max_size=200))
@settings(max_examples=200)
def test_never_fails_and_never_invents(answer: str) -> None:
    found = extract(answer, "c", "main")
    assert (found.code is None) == (found.how == "none") == ("no_code" in found.flags)
    assert found.code is None or set(found.code) <= set(answer) | {"\n"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ADD, "int add ( int a,int b ){ /* sum */\n  return a+b; // done\n}\n"),
        (ADD, "int sum(int x, int y) { return x + y; }"),
        ('#include <stdio.h>\nint f(void) { puts("a"); }', '# include <stdio.h>\nint g(void) { puts("a"); }'),
        ("int a\\\n;", "int b;"),
    ],
)
def test_normal_form_is_the_same(first: str, second: str) -> None:
    assert normalise(first, "c") == normalise(second, "c")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ADD, OTHER),
        ("int f(int a, int b) { return a; }", "int f(int a, int b) { return b; }"),
        ("int f(void) { return 1; }", "int f(void) { return 2; }"),
        ('char *s = "a // b";', 'char *s = "a // c";'),
        ("int f(int c) { return toupper(c); }", "int f(int c) { return tolower(c); }"),
        ("#include <stdio.h>", "#include <stdlib.h>"),
        ("a << b", "a < < b c"),
        ("int f(void) { return 'a'; }", "int f(void) { return 'b'; }"),
    ],
)
def test_normal_form_differs(first: str, second: str) -> None:
    assert normalise(first, "c") != normalise(second, "c")


def test_normal_form_of_c() -> None:
    assert normalise("int f(int n) { return n ? f(n - 1) : 0x1F; }", "c") == (
        "int v0 ( int v1 ) { return v1 ? v0 ( v1 - 1 ) : 0x1F ; }"
    )


def test_normal_form_of_python_keeps_the_blocks() -> None:
    two = "def f(a):\n  if a:\n    return 1  # one\n\n  return [a,\n 2]\n"
    four = "def g(b):\n    if b:\n        return 1\n    return [b, 2]\n"
    inner = "def g(b):\n    if b:\n        return 1\n        return [b, 2]\n"
    assert normalise(two, "python") == normalise(four, "python")
    assert normalise(four, "python") != normalise(inner, "python")
    assert normalise("s.upper()", "python") != normalise("s.lower()", "python")


@given(st.text(alphabet="abf01 (){}[]+-*/%<>=;:,.#\n", max_size=100))
@settings(max_examples=100)
def test_what_is_no_program_text_changes_nothing(code: str) -> None:
    assert normalise(code + "\n# end\n", "python") == normalise(code, "python")
    assert normalise(code.replace("/*", "") + "\n\t// end\n", "c") == normalise(code.replace("/*", ""), "c")


@pytest.mark.parametrize(
    "piece",
    ['"', "'", "/*", "\\", '"""', "`", "((", "int ", 'R"(', "add(", '"\\', "\n ", "#include <", "'\\", " ", "> ", "&#"],
)
def test_hostile_text_takes_no_time_to_speak_of(piece: str) -> None:
    text = piece * (60_000 // len(piece))
    started = time.process_time()
    for language in ("c", "python"):
        normalise(text, language)
        extract(text, language, "add")
        extract("int " + text, language, "add")
        extract(fenced(text), "c", "add")
    assert time.process_time() - started < 2.0


def test_digest() -> None:
    assert digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest("\ud800") != digest("?")
