"""What holds of extraction for every completion."""

from __future__ import annotations

import time

from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.core.source import REASONING_MARKS, extract

MARKUP = [
    *("```", "~~~", "````", "`", "```c\n", "```python", "~~~cpp\n", "   ```c\n", "> ```c\n", "1. ```go\n", "```text\n"),
    *("<code>", "</code>\n", '<code class="language-c">\n', "<pre>", "&lt;", "<tool_call>", '"arguments":'),
    *(mark for pair in REASONING_MARKS for mark in pair),
    *("<|im_end|>", "<|im_start|>user\n", "</s>", "<s>", "[INST]", "<|end|>", "<|start|>assistant", "<eos>"),
    *("\n", "\n\n", "\r\n", "\r", " ", "    ", "\t", "\u00a0", "\u200b", "\ufeff", "\u2028", "\x00", "\x85", "\ud800"),
    *(
        "int main(void) {",
        "int f(int x) { return g(x); }",
        "}",
        ";",
        "(",
        ")",
        "{",
        '"',
        "'",
        "'''",
        "\\",
        "\\n",
        "#",
        "/*",
    ),
    *(
        "def f(x):\n",
        "return x\n",
        "import os\n",
        "from a import *\n",
        "print(",
        "input()",
        "f(1)\n",
        "#include <a.h>\n",
    ),
    *("fn main() {", "package main\n", "using namespace std;", "#define f(", "it is", "don't", "c\n", "python\n"),
]
PIECES = st.one_of(st.sampled_from(MARKUP), st.text(max_size=5))
LANGUAGES = st.sampled_from(["c", "cpp", "python", "rust", "go", "lean"])
NAMES = st.sampled_from([None, "f", "main", "g", "(", ""])


@given(st.lists(PIECES, max_size=40), LANGUAGES, NAMES)
@examples(150)
def test_extraction_has_a_result_for_every_text_and_finds_it_again(
    pieces: list[str], language: str, name: str | None
) -> None:
    text = "".join(pieces)
    found = extract(text, language, name)
    assert (found.code is None) == (found.how == "none") == ("no_code" in found.flags) == (found.lines is None)
    if found.code is None:
        return
    assert found.code.strip()
    assert set(found.code) <= set(text) | {"\n", " "}
    fence = "`" * 300
    again = extract(f"{fence}{language}\n{found.code}{fence}\n", language, name)
    assert again.code == found.code


LINE_CHARACTERS = st.characters(exclude_characters="`~<[\r\n\u25c1", exclude_categories=["Cs"])
LINES = st.text(LINE_CHARACTERS, max_size=30)
PROGRAMS = st.lists(LINES, min_size=1, max_size=8).filter(lambda lines: any(map(str.strip, lines)) and lines[-1] != "")
OPENINGS = st.sampled_from(["```{}", "~~~{}", "`````{}", '```{} title="a.x"', "``` {}", "```{{.{}}}", "```{}:a"])


@given(
    st.lists(LINES, max_size=5),
    PROGRAMS,
    st.lists(LINES, max_size=5),
    OPENINGS,
    st.sampled_from(["c", "python", "rust", "go", "cpp"]),
    st.sampled_from(["\n", "\r\n"]),
    NAMES,
    st.sampled_from(["", "<think>\nA draft:\n```c\nint x;\n```\n</think>\n", "```sh\nmake\n```\n"]),
)  # fmt: skip
@examples(150)
def test_the_only_fenced_program_is_found_exactly(
    before: list[str],
    code: list[str],
    after: list[str],
    opening: str,
    language: str,
    line_end: str,
    name: str | None,
    other: str,
) -> None:
    first = opening.format(language)
    marker = first[: len(first) - len(first.lstrip(first[0]))]
    prose = "".join(f"{line}\n" for line in before)
    text = f"{prose}{other}{first}\n" + "".join(f"{line}\n" for line in [*code, marker, *after])
    found = extract(text.replace("\n", line_end), language, name)
    assert found.code == "".join(f"{line}\n" for line in code)
    assert found.how == "fence"
    assert "several_blocks" not in found.flags


@given(st.lists(PIECES, min_size=1, max_size=4), st.lists(PIECES, max_size=4), LANGUAGES, NAMES)
@examples(12)
def test_a_megabyte_takes_no_time_to_speak_of(
    pieces: list[str], start: list[str], language: str, name: str | None
) -> None:
    piece = "".join(pieces) or " "
    text = "".join(start) + piece * (1_000_000 // len(piece))
    started = time.process_time()
    extract(text, language, name)
    assert time.process_time() - started < 15.0
