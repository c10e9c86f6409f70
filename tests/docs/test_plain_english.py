"""Phrases of the project's old private dialect stay out of what people read; each entry names what to write instead."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_text import PAGES, ROOT

BANNED: dict[str, tuple[str, str]] = {
    # pattern: (an example that it finds, what to write instead)
    r"\banew\b": ("samples drawn anew", "resampled, again, restarted"),
    r"\blaps?\b": ("one row for each lap", "cycle; the final evaluation for cycle C + 1"),
    r"\bmend(s|ed|ing)?\b": ("mend these keys", "fix, correct"),
    r"(?:^|  |[\"'`(])do: ": ("  do: check the path", "fix:"),
    r"\bhow sure\b": ("how sure: one run", "confidence:"),
    r"\bnot to be told\b|\b(can|cannot|can't) be told\b": ("not to be told from v1", "statistically indistinguishable"),
    r"\btold apart\b": ("the two are told apart by kind", "distinguished"),
    r"\bwas shown to\b": ("improved, nothing after it was shown to", "no later version was a significant improvement"),
    r"[\"'|] ?its own ?[\"'|]": ("| its own |", "tuned"),
    r"\bwithout a letter\b": ("an answer without a letter", "an empty completion"),
    r"\basked (once more|anew)\b": ("the server is asked once more", "asked again, resampled"),
    r"\benvironments? of (its|their) own\b": ("in an environment of its own", "a separate environment"),
    r"\bof our own\b|\bour own fault\b": ("a failure of our own", "a failure of the verifier itself"),
    r"\bas (it stands|they stand)\b": ("the answer as it stands", "unchanged, as it is"),
    r"\bin the place of\b": ("one in the place of the other", "in place of, instead of"),
    r"\bat hand\b": ("the memory at hand", "available"),
    r"\bis no (run|text|list|JSON|object)\b": ("the row is no JSON", "is not a ..."),
}
NOT_READ_AS_PROSE = {"log.md", "changelog.md"}  # history is not rewritten


def written() -> Iterator[tuple[str, str]]:
    """(place, line) of everything that people read: pages, comments, docstrings, messages, help texts."""
    pages = [page for page in PAGES if page.name not in NOT_READ_AS_PROSE]
    plain = [ROOT / "Makefile", ROOT / "configs/README.md", *(ROOT / "configs").rglob("*.yaml")]
    for path in [*pages, *plain, *(ROOT / "scripts").glob("*.sh")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield f"{path.relative_to(ROOT)}:{number}", line
    for path in [*(ROOT / "halo_forge").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        yield from in_source(path)


def in_source(path: Path) -> Iterator[tuple[str, str]]:
    """(place, line) of the comments and the strings of a module."""
    texts = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type in texts:
            for number, line in enumerate(token.string.splitlines(), start=token.start[0]):
                yield f"{path.relative_to(ROOT)}:{number}", line


def test_no_phrase_of_the_old_dialect_is_left() -> None:
    found = [
        f"{place}: {match[0].strip()!r}: write {instead}: {line.strip()}"
        for place, line in written()
        for pattern, (_, instead) in BANNED.items()
        if (match := re.search(pattern, line, re.IGNORECASE))
    ]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("pattern", BANNED)
def test_every_pattern_finds_its_example(pattern: str) -> None:
    example, _ = BANNED[pattern]
    assert re.search(pattern, example, re.IGNORECASE)
