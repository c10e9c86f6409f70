"""The manual: pages are found however they are written, and everything that the package mentions is in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from cli_calls import Cli, command_line
from docs_text import PAGES, ROOT

from halo_forge import manual
from halo_forge.cli import docs as docs_command
from halo_forge.cli.app import app
from halo_forge.config import json_schema
from halo_forge.core.errors import ConfigError, RunDirError

PACKAGE = ROOT / "halo_forge"
NOT_INSTALLED = re.compile(r"(?<![\w.-])(?:docs|configs|scripts|tests)/\w|\b[\w-]+\.md\b|\bmake [a-z-]+`|\bREADME\b")
"""What a user without the repository cannot open or run: its files, and targets of its Makefile."""
# What is said to be there in a checkout only.
ALLOWED = {"policy/files.py": {"make model`"}}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


# ---- pages and sections


@pytest.mark.parametrize(
    "wanted", ["engines", "engines.md", "docs/engines.md", "./docs/engines.md", "../docs/engines.md", "Engines"]
)
def test_a_page_is_found_however_it_is_written(wanted: str) -> None:
    page, section = manual.find(wanted)
    assert (page.name, page.path, section) == ("engines", "docs/engines.md", None)
    assert page.text == (ROOT / "docs/engines.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("", "docs/index.md"),
        ("theory", "docs/THEORY.md"),
        ("readme", "README.md"),
        ("../SECURITY.md", "SECURITY.md"),
        ("SECURITY", "SECURITY.md"),
        ("security", "docs/security.md"),
        ("docs/security.md", "docs/security.md"),
        ("configs/README.md", "configs/README.md"),
        ("configs/recipes/qwen2.5-coder-7b.yaml", "configs/recipes/qwen2.5-coder-7b.yaml"),
    ],
)
def test_pages_outside_of_docs(wanted: str, path: str) -> None:
    assert manual.find(wanted)[0].path == path


def test_every_page_and_shipped_configuration_is_listed_with_a_title() -> None:
    listed = {page.path: page.title for page in manual.pages()}
    shipped = [*PAGES, *(ROOT / "configs").rglob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
    assert listed.keys() == {path.relative_to(ROOT).as_posix() for path in shipped}
    assert [path for path, title in listed.items() if not title] == []


def test_a_section_ends_at_the_next_heading_that_is_not_below_it() -> None:
    text = "# A\none\n## B\n```\n# not a heading\n```\n### C, of B\ntwo\n## D\n"
    found = {section.anchor: section.text for section in manual.sections(text)}
    assert found == {
        "a": text,
        "b": "## B\n```\n# not a heading\n```\n### C, of B\ntwo\n",
        "c-of-b": "### C, of B\ntwo\n",
        "d": "## D\n",
    }


def test_a_wrong_name_says_what_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"no page 'enginse'\n  fix: did you mean engines\?.*--list"):
        manual.find("enginse")
    with pytest.raises(ConfigError, match=r"did you mean configs/recipes/qwen2.5-coder-7b.yaml\?"):
        manual.find("qwen2.5-coder-7b")
    with pytest.raises(ConfigError, match=r"no page 'zzzz'\n  fix: `halo-forge docs --list` lists"):
        manual.find("zzzz")
    with pytest.raises(ConfigError, match=r"has no section 'the-demos'\n  fix: did you mean quickstart#the-demo\?"):
        manual.find("quickstart#the-demos")


def test_the_links_between_pages_hold_in_the_manual() -> None:
    for page in manual.pages():
        for target in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", page.text) if page.path.endswith(".md") else ():
            if "://" not in target:
                assert (manual.FOLDER / page.path).parent.joinpath(target).exists(), f"{page.path}: {target}"


# ---- what the package mentions


def shown_strings(path: Path) -> Iterator[str]:
    """The strings of a module that a user may see: all but docstrings, which only readers of the source see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            hidden.add(id(node.value))  # the docstring of a variable
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in hidden:
            yield node.value


def help_texts() -> Iterator[str]:
    """The help of every command, which is made of docstrings too."""
    pending = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        yield command.help or ""
        yield from (str(getattr(param, "help", "")) for param in command.params)
        pending += getattr(command, "commands", {}).values()


def descriptions() -> Iterator[str]:
    """Those of the JSON schema, which are docstrings too."""
    pending: list[object] = [json_schema()]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield str(part.get("description", ""))
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def everything_shown() -> list[tuple[str, str]]:
    """(where it comes from, text) of whatever a user may see."""
    found = [("help", text) for text in help_texts()] + [("schema", text) for text in descriptions()]
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("manual/"):
            found += [(name, text) for text in shown_strings(path)]
    return found


def test_no_message_names_a_file_that_is_not_installed() -> None:
    wrong = [
        f"{name}: {match[0]!r} in {text[:200]!r}"
        for name, text in everything_shown()
        for match in NOT_INSTALLED.finditer(text)
        # The whole text README.md is a file that the package writes or removes, the card of a model.
        if text != "README.md" and match[0] not in ALLOWED.get(name, ())
    ]
    assert wrong == []
    for text in ("see docs/engines.md", "prompts.md has more", "run `make model`", "run scripts/setup.sh"):
        assert NOT_INSTALLED.search(text)


def test_every_page_that_a_message_names_exists() -> None:
    named = [
        (name, page) for name, text in everything_shown() for page in re.findall(r"halo-forge docs ([\w./#-]+\w)", text)
    ]
    assert len(named) >= 12
    for name, page in named:
        try:
            manual.find(page)
        except ConfigError as error:
            pytest.fail(f"{name}: {error}")


# ---- the command


def test_a_page_in_a_pipe_is_plain_markdown(cli: Cli) -> None:
    assert cli("docs", "engines").out == (ROOT / "docs/engines.md").read_text(encoding="utf-8")
    assert cli("docs", "quickstart#the-demo").out.startswith("## The demo\n")
    config = "configs/recipes/qwen2.5-coder-7b.yaml"
    assert cli("docs", config).out == (ROOT / config).read_text(encoding="utf-8")
    assert cli("docs").out == (ROOT / "docs/index.md").read_text(encoding="utf-8")


def test_json(cli: Cli) -> None:
    assert cli("docs", "engines", "--json").json["title"] == "Engines"
    assert {"name": "engines", "title": "Engines"} in cli("docs", "--list", "--json").json


def test_wrong_use(cli: Cli) -> None:
    done = cli("docs", "enginse")
    assert done.code == 2 and "did you mean engines?" in done.err
    assert cli("docs", "engines", "--list").code == 2


def test_everything_is_copied_to_a_new_folder(cli: Cli, tmp_path: Path) -> None:
    done = cli("docs", "--save", tmp_path / "manual", "--json")
    assert done.json["files"] == sum(path.is_file() for path in (tmp_path / "manual").rglob("*"))
    for page in manual.pages():
        assert (tmp_path / "manual" / page.path).read_text(encoding="utf-8") == page.text
    assert (tmp_path / "manual/docs/images/report.png").stat().st_size > 10_000
    assert not (tmp_path / "manual/__init__.py").exists()
    again = cli("docs", "--save", tmp_path / "manual")
    assert again.code == 3 and "not an empty folder" in again.err


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirError, match="is not an empty folder"):
        manual.save(tmp_path / "file")
    with pytest.raises(RunDirError, match=r"cannot be written: .*Not a directory"):
        manual.save(tmp_path / "file" / "below")


def test_a_terminal_shows_names_that_the_command_takes_instead_of_links() -> None:
    text = (
        "[engines.md](engines.md), [the proof](engines.md#vllm), [here](#below),"
        " [configs/README.md](../configs/README.md) and [elsewhere](https://example.org)<br>"
        "![a picture](images/report.png)\n```\n[kept](engines.md)\n```\n"
    )
    assert docs_command.with_page_names(text) == (
        "engines.md, the proof (engines#vllm), here, configs/README.md"
        " and [elsewhere](https://example.org) (a picture)\n```\n[kept](engines.md)\n```\n"
    )


def test_a_terminal_cuts_nothing_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "70", "PAGER": "cat"}.items():
        monkeypatch.setenv(name, value)
    address = "https://example.org/a/long/address/that/no/column/of/this/table/has/room/for"
    docs_command._show(f"| a | b |\n|---|---|\n| `{address}` | text |\n", is_markdown=True)
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "…" not in out
    shown = "".join(line.split()[0] for line in out.splitlines() if line.split() and line.split()[0] not in "a─")
    assert address in shown.replace("─", "")
