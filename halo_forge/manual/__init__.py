"""The manual: what this installation carries of the documentation and of the shipped configurations.

Beside this file lie links to README.md, docs/, configs/ and the other files that they refer to, in the layout of the
repository, so the links between them hold. A wheel contains what the links lead to.
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from halo_forge.core.errors import ConfigError, RunDirError

FOLDER = Path(__file__).parent
START = "index"
"""The page that is shown if none is named."""
_PLACES = ("*.md", "docs/*.md", "configs/**/*.md", "configs/**/*.yaml")
_FENCE = re.compile(r"^ *(```+|~~~+)")
_HEADING = re.compile(r"^(#+) (.*)$")


@dataclass(frozen=True)
class Page:
    """A page of the documentation, or a configuration.

    Attributes:
        name: As `halo-forge docs` takes it: `engines` is docs/engines.md; elsewhere the path, without .md.
        path: Relative to `FOLDER`, and to the root of the repository.
    """

    name: str
    path: str

    @property
    def text(self) -> str:
        return (FOLDER / self.path).read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        """The first heading, or the first line of the comment on top of a configuration."""
        first = next((line for line in self.text.splitlines() if line.startswith("#")), "")
        return first.lstrip("# ")


@dataclass(frozen=True)
class Section:
    """A heading of a page and what follows it, up to the next heading that is not below it.

    Attributes:
        anchor: As links to it write it, without `#`; the rule is that of GitHub.
        text: Markdown.
    """

    anchor: str
    title: str
    text: str


def pages() -> list[Page]:
    """Every page, those of docs/ first."""
    paths = sorted({str(found.relative_to(FOLDER)) for place in _PLACES for found in FOLDER.glob(place)})
    listed = [Page(_name(path), path) for path in paths]
    return sorted(listed, key=lambda page: (not page.path.startswith("docs/"), page.path.lower()))


def _name(path: str) -> str:
    return path.removeprefix("docs/").removesuffix(".md")


def find(wanted: str) -> tuple[Page, Section | None]:
    """The page, and its section if `wanted` names one after `#`.

    Args:
        wanted: As links and messages write it: `engines`, `engines.md`, `docs/engines.md`, `engines#vllm`, in any case.

    Raises:
        ConfigError: There is no such page, or no such section.
    """
    name, _, anchor = wanted.partition("#")
    listed = pages()
    known = {page.name.lower(): page for page in reversed(listed)}  # of security and SECURITY, that of docs/
    exact = re.sub(r"^(\.{1,2}/)+", "", name).removeprefix("docs/").removesuffix(".md")
    plain = exact.lower().removeprefix("docs/").removesuffix(".md")
    page = next((each for each in listed if each.name == exact), known.get(plain if plain else START))
    if page is None:
        raise ConfigError(f"there is no page {name!r}", _meant(plain, known))
    if not anchor:
        return page, None
    found = {section.anchor: section for section in sections(page.text)}
    section = found.get(anchor.lower())
    if section is None:
        near = _nearest(anchor.lower(), list(found))
        hint = f"did you mean {page.name}#{near[0]}? " if near else ""
        raise ConfigError(
            f"page {page.name} has no section {anchor!r}", f"{hint}its sections are: {', '.join(found) or 'none'}"
        )
    return page, section


def _meant(name: str, known: dict[str, Page]) -> str:
    ends = {each.rpartition("/")[2].removesuffix(".yaml"): page for each, page in known.items()}
    near = _nearest(name.rpartition("/")[2].removesuffix(".yaml"), list(ends))
    every = "`halo-forge docs --list` lists every page"
    return f"did you mean {ends[near[0]].name}? {every}" if near else every


def _nearest(wanted: str, names: list[str]) -> list[str]:
    """The name that `wanted` is a part of, or else one that is written alike; at most one."""
    part_of = [name for name in names if wanted and wanted in name][:1]
    return part_of or difflib.get_close_matches(wanted, names, n=1)


def lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line of a Markdown text, and whether it is in a fenced block, fences included."""
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        yield line, bool(fence) or mark is not None
        if mark is not None and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]


def sections(text: str) -> list[Section]:
    """The sections of a page, nested ones included in what is above them too."""
    whole = text.splitlines()
    headings = [
        (number, found[1], found[2])
        for number, (line, fenced) in enumerate(lines(text))
        if not fenced and (found := _HEADING.match(line))
    ]
    made = []
    for at, (number, level, title) in enumerate(headings):
        end = next((after for after, other, _ in headings[at + 1 :] if len(other) <= len(level)), len(whole))
        made.append(Section(_anchor(title), title, "\n".join(whole[number:end]).rstrip() + "\n"))
    return made


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def save(folder: Path) -> int:
    """Copy the manual, pictures included, in the layout of the repository.

    Returns:
        The number of files.

    Raises:
        RunDirError: There is something at `folder`, or it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunDirError(f"{folder} exists and is not an empty folder", "name a new folder")
    ignored = shutil.ignore_patterns("__init__.py", "__pycache__")
    try:
        shutil.copytree(FOLDER, folder, ignore=ignored, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise RunDirError(f"{folder} cannot be written: {error}", "name a folder that you may write to") from error
    return sum(path.is_file() for path in folder.rglob("*"))
