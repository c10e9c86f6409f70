"""Which of several blocks is the program, and what surrounds blocks in completions of real models."""

from __future__ import annotations

import pytest

from halo_forge.core.source import extract


def fenced(code: str, tag: str = "c") -> str:
    return f"```{tag}\n{code}```\n"


DRAFT = '#include <stdio.h>\nint main(void) { int x; long s = 1; /* starts wrong */ printf("%ld\\n", s); return 0; }\n'
FINAL = '#include <stdio.h>\nint main(void) { puts("6"); return 0; }\n'
ADD = "int add(int a, int b) { return a + b; }\n"
PYTHON_DRAFT = "import sys\n\ndef gcd(a, b):\n    return a\n\nprint(gcd(*map(int, sys.stdin.read().split())))\n"
PYTHON_FINAL = "from math import gcd\nprint(gcd(*map(int, input().split())))\n"


@pytest.mark.parametrize(
    ("language", "draft", "final"),
    [
        ("c", DRAFT, FINAL),
        ("c", "int gcd(int a, int b) { return a; }\n" + DRAFT, FINAL),
        ("cpp", "int max(int a, int b) { return a; }\n" + DRAFT,
         "#include <iostream>\nusing namespace std;\nint main() { cout << max(1, 2); }\n"),
        ("python", PYTHON_DRAFT, PYTHON_FINAL),
        ("python", PYTHON_DRAFT, "from math import *\nprint(gcd(*map(int, input().split())))\n"),
        ("rust", "fn f() -> i32 { 1 + 1 + 1 }\nfn main() { println!(\"{}\", f()); }\n",
         "fn main() { println!(\"2\"); }\n"),
        ("go", "package main\nimport \"fmt\"\nfunc main() { fmt.Println(1 + 1 + 1) }\n",
         "package main\nfunc main() { println(2) }\n"),
    ],
)  # fmt: skip
def test_the_last_of_several_whole_programs_counts(language: str, draft: str, final: str) -> None:
    answer = "First try:\n" + fenced(draft, language) + "That is wrong. Final answer:\n" + fenced(final, language)
    found = extract(answer, language)
    assert (found.code, found.flags) == (final, ("several_blocks",))


@pytest.mark.parametrize(
    ("language", "draft", "final"),
    [
        ("python", "def walk(i):\n    return i\n\ndef f(x):\n    return walk(x)\n",
         "def f(x):\n    def walk(i):\n        return i + 1\n    return walk(x)\n"),
        ("python", "def key(i):\n    return i\n\ndef f(x):\n    return key(x)\n",
         "def f(x, key=abs):\n    return key(x)\n"),
        ("python", "def op(i):\n    return i\n\ndef f(x):\n    return op(x)\n",
         "def f(x):\n    for op in (abs, int):\n        x = op(x)\n    return x\n"),
        ("python", "def g(i):\n    return i\n\ndef f(x):\n    return g(x)\n",
         "def f(x):\n    g, h = abs, int\n    return g(h(x))\n"),
        ("c", 'int abs(int a) { return a; }\nint f(int n) { return abs(n); }\n',
         '#include <stdlib.h>\nint f(int n) { return abs(n); }\n'),
        ("c", "int op(int a) { return a; }\nint f(int n) { return op(n); }\n",
         "int run(int (*op)(int), int n) { return op(n); }\nint f(int n) { return run(0, n); }\n"),
        ("cpp", "int walk(int i) { return i; }\nint f(int n) { return walk(n); }\n",
         "int f(int n) { auto walk = [&](int i) { return i + 1; }; return walk(n); }\n"),
        ("cpp", "int walk(int i) { return i; }\nint f(int n) { return walk(n); }\n",
         "int f(int n) { std::function<int(int)> walk = [&](int i) { return i + 1; }; return walk(n); }\n"),
        ("go", "package main\nfunc walk(i int) int { return i }\nfunc f(n int) int { return walk(n) }\n",
         "package main\nfunc f(n int) int {\n\twalk := func(i int) int { return i + 1 }\n\treturn walk(n)\n}\n"),
        ("go", "package main\nfunc walk(i int) int { return i }\nfunc f(n int) int { return walk(n) }\n",
         "package main\nfunc f(n int) int {\n\tvar walk func(int) int\n\treturn walk(n)\n}\n"),
        ("go", "package main\nfunc min(a, b int) int { return a }\nfunc f(n int) int { return min(n, 1) }\n",
         "package main\nfunc f(n int) int { return min(n, 2) }\n"),
        ("rust", "fn walk(i: i32) -> i32 { i }\nfn f(n: i32) -> i32 { walk(n) }\n",
         "fn f(n: i32) -> i32 { let walk = |i: i32| i + 1; walk(n) }\n"),
        ("rust", "fn op(i: i32) -> i32 { i }\nfn f(n: i32) -> i32 { op(n) }\n",
         "fn f(n: i32) -> i32 { run(&|i| i, n) }\nfn run(op: &dyn Fn(i32) -> i32, n: i32) -> i32 { op(n) }\n"),
    ],
)  # fmt: skip
def test_a_helper_that_became_local_does_not_make_the_draft_count(language: str, draft: str, final: str) -> None:
    answer = fenced(draft, language) + "Better:\n" + fenced(final, language)
    assert extract(answer, language, "f").code == final


@pytest.mark.parametrize(
    ("language", "program", "snippet"),
    [
        ("c", FINAL, "int x = 1;\n"),
        ("c", FINAL, '/* a long remark on what the input looks like, and no program */\nscanf("%d", &x);\n'),
        ("c", ADD + FINAL, '#include <assert.h>\nint main(void) { assert(add(1, 2) == 3 && "a long test"); }\n'),
        ("python", PYTHON_DRAFT, "print(gcd(12, 18))\n"),
        ("python", PYTHON_DRAFT, "from solution import gcd\n\n\ndef test_gcd():\n    assert gcd(12, 18) == 6\n" * 5),
        ("python", PYTHON_DRAFT, "# a check for gcd in the example\ngcd = gcd(int(input()), 18)\nprint(gcd)\n"),
        ("c", "int abs(int a) { return a; }\n" + FINAL, "int main(void) { return abs(-1); }\n"),
        ("cpp", ADD + FINAL, "// add = [see](above)\nint main() { return add(1, 2); }\n"),
        ("python", "print(sum(map(int, input().split())))\n", "# prints 6 for the example's input\nprint(1 + 2 + 3)\n"),
        ("rust", "fn f() -> i32 { 1 }\nfn main() { println!(\"{}\", f()); }\n",
         "#[test]\nfn is_one() { assert_eq!(f(), 1); }\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", [1, -1])
def test_the_program_counts_against_snippets(language: str, program: str, snippet: str, order: int) -> None:
    answer = "\n".join([fenced(program, language), fenced(snippet, language)][::order])
    assert extract(answer, language).code == program


def test_of_two_versions_of_a_function_the_last_counts_without_an_entry_point() -> None:
    longer = "int add(int a, int b) { /* subtracts, which is wrong */ return a - b; }\n"
    assert extract(fenced(longer) + fenced(ADD), "c").code == ADD
    assert extract(fenced(longer + "int other;\n") + fenced(ADD + "int two(void) { return 2; }\n"), "c").code == (
        ADD + "int two(void) { return 2; }\n"
    )


def test_blocks_are_not_joined() -> None:
    helper, main = "int twice(int x) { return 2 * x; }\n", "int f(int x) { return twice(x); }\n"
    both = helper + main
    assert extract(fenced(helper) + fenced(main), "c", "f").code == main
    # A correction that repeats one function only would not compile: the last complete version counts.
    assert extract(fenced(both) + fenced("int f(int x) { return twice(x) + 0; }\n"), "c", "f").code == both
    assert extract(fenced(both) + fenced("int twice(int x) { return x + x; }\n"), "c", "f").code == both


@pytest.mark.parametrize(
    "answer",
    [
        "```c\n```c\n" + ADD + "```\n",
        "```c\n\n```c\n" + ADD + "```\n",
        "```c\n```\n" + ADD + "```\n",
        "```c\nHere is the function:\n```c\n" + ADD + "```\nDone.\n",
        "```c\nSure! Below is the code that you asked for, with all that it needs.\n```C\n" + ADD + "```",
        "1. The function:\n   ```c\n   " + ADD + "   ```\n2. Compile it:\n   ```bash\n   gcc a.c\n   ```\n",
        "10. The function:\n\n    ~~~c\n    " + ADD + "    ~~~\n",
        "~~~c\n" + ADD + "~~~\n",
        '```c title="add.c" {1,3}\n' + ADD + "```\n",
        "````c\n" + ADD + "````\n",
        "```c\n" + ADD,
        "\u00a0```c\u00a0\n" + ADD + "```\u00a0\u200b\n",
        ("Text.\n```c\n" + ADD + "```\nMore.\n").replace("\n", "\r\n"),
        "```c\n" + ADD + "```bash\ngcc add.c\n```\n",
        "<p>Here:</p>\n<pre><code class=\"language-c\">\n" + ADD + "</code></pre>\n",
        "<code>\n" + ADD + "</code>",
        "<answer>\n" + ADD + "</answer>\n",
        "<answer>\nSo:\n<code>\n" + ADD + "</code>\n</answer>\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("entry_point", ["add", None])
def test_the_markup_of_real_completions(answer: str, entry_point: str | None) -> None:
    assert extract(answer, "c", entry_point).code == ADD


def test_a_fence_within_a_docstring_belongs_to_the_program() -> None:
    code = 'def f(x):\n    """Doubles.\n\n    ```python\n    f(2)\n    ```\n    """\n    return 2 * x\n'
    assert extract(fenced(code, "python"), "python", "f").code == code


def test_words_in_code_elements_are_no_program() -> None:
    assert extract("Call <code>add</code> with <code>int add(int, int)</code>.", "c").code is None
    assert extract("<code>\n" + ADD + "</code>", "c").how == "code_tag"
    assert extract("<code>\nif (a &lt; b) {}\n</code>", "c").flags == ("html_escaped",)


@pytest.mark.parametrize(
    "after",
    [
        "<|im_end|>\n<|im_start|>user\nNow subtract:\n" + fenced("int add(int a, int b) { return a - b; }\n"),
        "<|endoftext|>Human: and now?\n" + fenced("int add;\n"),
        "That's all.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n" + fenced("int add(int x) { return x; }\n"),
        "</s>[INST] Again [/INST]\n" + fenced("int add(int x) { return x; }\n"),
        "<|im_end|>\n</think>\n" + fenced("int add(int x) { return x; }\n"),
    ],
)
def test_what_follows_the_end_of_the_turn_is_not_the_models_answer(after: str) -> None:
    found = extract(fenced(ADD) + after, "c", "add")
    assert (found.code, found.flags) == (ADD, ("after_end_of_turn",))
    assert extract(ADD + after.removeprefix("That's all."), "c", "add").code == ADD


@pytest.mark.parametrize(
    "text",
    [
        fenced('char *mark = "<|im_end|>";\n' + ADD),
        "Strip `<|im_end|>` from the text, or '</s>'.\n" + fenced(ADD),
        "<s>An old idea.</s>\n" + fenced(ADD),
        "<|channel|>analysis<|message|>Draft: add.<|end|><|start|>assistant<|channel|>final<|message|>" + fenced(ADD),
    ],
)
def test_a_mark_that_is_text_ends_nothing(text: str) -> None:
    found = extract(text, "c", "add")
    assert found.code is not None
    assert found.code.endswith(ADD)
    assert "after_end_of_turn" not in found.flags


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>", "</think>"),
        ("<thought>", "</thought>"),
        ("[THINK]", "[/THINK]"),
        ("<seed:think>", "</seed:think>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
        ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ],
)
def test_reasoning_of_published_models(opening: str, closing: str) -> None:
    draft = fenced("int add(int a, int b) { return a - b; }\n")
    assert extract(f"{opening}\nA draft:\n{draft}{closing}\n{fenced(ADD)}", "c", "add").code == ADD
    cut_off = extract(f"{opening}\nA draft:\n{draft}Wait,", "c", "add")
    assert (cut_off.code, cut_off.flags) == (None, ("no_code", "unfinished_reasoning"))


def test_marks_of_an_unknown_model() -> None:
    marks = ("<<ponder>>", "<</ponder>>")
    text = "<<ponder>>\n" + fenced("int add;\n") + "<</ponder>>\n" + fenced(ADD)
    assert extract(text, "c", "add", marks).code == ADD
    assert extract("<<ponder>>\n" + fenced(ADD), "c", "add", marks).code is None
    assert extract("<think>\n" + fenced(ADD), "c", "add", marks).code is None


@pytest.mark.parametrize(
    ("given", "restored"),
    [
        ("return a + b\n", "    return a + b\n"),
        (
            "return a + b\n\n\ndef sub(a, b):\n    return a - b\n",
            "    return a + b\n\n\ndef sub(a, b):\n    return a - b\n",
        ),
        ("total = a\n    total += b\n    return total\n", "    total = a\n    total += b\n    return total\n"),
        ("if a:\n        return b\n    return a\n", "    if a:\n        return b\n    return a\n"),
        ("if a:\n        return b\n", "    if a:\n        return b\n"),
        ("x = a\n  return x\n", "  x = a\n  return x\n"),
        ("x = a\n\treturn x\n", "\tx = a\n\treturn x\n"),
        ('"""Adds."""\n    # both\n    return a + b\n', '    """Adds."""\n    # both\n    return a + b\n'),
    ],
)
def test_the_indentation_of_the_first_line_is_restored(given: str, restored: str) -> None:
    found = extract(given, "python", "add")
    assert (found.code, found.flags) == (restored, ("indentation_restored", "no_fence"))
    assert found.lines == (1, given.count("\n"))


BODY = 'total = 0\nfor x in (a, b):\n    total += x\ntext = """a\nb"""\nreturn total\n'
INDENTED_BODY = '    total = 0\n    for x in (a, b):\n        total += x\n    text = """a\nb"""\n    return total\n'


@pytest.mark.parametrize(
    ("body", "restored"),
    [
        (BODY, INDENTED_BODY),
        ("for x in a:\n    print(x)\nreturn b\n", "    for x in a:\n        print(x)\n    return b\n"),
        ("total = a\n    return total + b\n", "    total = a\n    return total + b\n"),
    ],
)
def test_the_indentation_of_a_body_is_restored_in_a_fence_and_without_one(body: str, restored: str) -> None:
    in_fence = extract(f"The body:\n```python\n{body}```\n", "python", "add")
    assert (in_fence.code, in_fence.flags) == (restored, ("indentation_restored",))
    assert in_fence.lines == (3, 2 + body.count("\n"))
    assert extract(body, "python", "add").code == restored


@pytest.mark.parametrize(
    "code",
    [
        BODY.replace("return total", "print(total)"),
        f"def add(a, b):\n    return a\n\n{BODY}",
        'print("""\nreturn 1\n""")\n',
    ],
)
def test_a_fenced_program_that_is_no_body_keeps_its_indentation(code: str) -> None:
    assert extract(f"```python\n{code}```\n", "python", "add").code == code


@pytest.mark.parametrize(
    "code", ["def add(a, b):\n    return a + b\n", "x = 1\ny = 2\n", "for i in range(3):\n    print(i)\n"]
)
def test_what_is_no_continuation_keeps_its_first_line(code: str) -> None:
    entry_point = "add" if "add" in code else None
    assert extract(code, "python", entry_point).code == code


@pytest.mark.parametrize(
    ("language", "entry_point", "program", "after"),
    [
        ("c", "add", ADD, "```\nThis adds.\n"),
        ("c", "add", ADD, "```\nA test:\n" + fenced("int main(void) { return add(1, 2); }\n")),
        ("c", None, FINAL, "~~~\nIt prints 6.\n"),
        ("python", None, "# doubles\nprint(2 * int(input()))\n", "```\nIt doubles.\n"),
        ("python", "add", "    return a + b\n", "```\n\nThis adds.\n"),
    ],
)
def test_a_fence_that_the_prompt_has_opened_ends_the_program(
    language: str, entry_point: str | None, program: str, after: str
) -> None:
    found = extract(program + after, language, entry_point)
    assert (found.code, found.lines) == (program, (1, program.count("\n")))


@pytest.mark.parametrize("text", ["# Solution\n\n```\n{}", "# Solution with print()\n\n```\n{}", "# A\n\n```\n{}```\n"])
def test_a_heading_is_not_a_program_up_to_a_fence(text: str) -> None:
    code = "print(2 * int(input()))\n"
    assert extract(text.format(code), "python").code == code
