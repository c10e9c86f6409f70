"""`halo-forge docs`: the documentation and the shipped configurations, as they are installed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer

if TYPE_CHECKING:
    from halo_forge.manual import Page

_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


_SAVE = typer.Option(
    None, "--save", metavar="DIR", help="Copy everything to a new folder, pictures and configurations included."
)


def docs(
    page: str = typer.Argument(
        "",
        metavar="PAGE",
        help="A page or a configuration, such as engines or quickstart#the-demo.",
        show_default=False,
    ),
    listed: bool = typer.Option(False, "--list", help="List every page and every shipped configuration."),
    save_to: Path | None = _SAVE,
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Show a page of the documentation that belongs to this version.

    Without PAGE, an overview. In a pipe, pages are plain Markdown and configurations plain YAML.
    """
    from halo_forge import manual
    from halo_forge.core.errors import ConfigError

    if sum((bool(page), listed, save_to is not None)) > 1:
        raise ConfigError("PAGE, --list and --save exclude each other", "use one of them")
    if listed:
        _print_list(manual.pages(), as_json)
    elif save_to is not None:
        count = manual.save(save_to)
        print(json.dumps({"folder": str(save_to), "files": count}) if as_json else f"{count} files copied to {save_to}")
    else:
        found, section = manual.find(page)
        text = found.text if section is None else section.text
        if as_json:
            print(json.dumps({"name": found.name, "title": found.title, "text": text}))
        else:
            _show(text, is_markdown=found.path.endswith(".md"))


def _print_list(pages: list[Page], as_json: bool) -> None:
    from halo_forge.cli.render import Column, print_table

    if as_json:
        print(json.dumps([{"name": page.name, "title": page.title} for page in pages], indent=2))
        return
    print_table(
        [
            Column("page", [page.name for page in pages], align="left"),
            Column("title", [page.title for page in pages], text=True),
        ]
    )


def _show(text: str, is_markdown: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        print(text, end="")
        return
    os.environ.setdefault("LESS", "FRX")  # colours; and no pager for what fits on the screen
    with console.pager(styles=True):
        if is_markdown:
            console.print(_rendered(with_page_names(text)))
        else:
            console.print(text)


def _rendered(text: str) -> Any:
    from rich.markdown import Markdown, TableElement
    from rich.table import Table

    class WholeTable(TableElement):
        """Long words, such as addresses, continue on the next line; the library would cut them off."""

        def __rich_console__(self, *context: Any) -> Iterator[Any]:
            for part in super().__rich_console__(*context):
                for column in part.columns if isinstance(part, Table) else ():
                    column.overflow = "fold"
                yield part

    class Page(Markdown):
        elements: ClassVar = {**Markdown.elements, "table_open": WholeTable}

    return Page(text, hyperlinks=False)


def with_page_names(text: str) -> str:
    """Markdown whose links to other pages are text; a terminal cannot follow them, `halo-forge docs` can.

    `[the bounds](engines.md#proof)` becomes "the bounds (engines#proof)", and `[engines.md](engines.md)` "engines.md".
    """
    from halo_forge.manual import lines

    plain = (line if fenced else _LINK.sub(_as_text, line.replace("<br>", " ")) for line, fenced in lines(text))
    return "\n".join(plain) + "\n"


def _as_text(link: re.Match[str]) -> str:
    label, target = link[1], link[2]
    if "://" in target:
        return link[0]
    if link[0].startswith("!"):
        return f"({label})"
    file, _, anchor = target.partition("#")
    if not file:
        return label
    name = file.removeprefix("../").removeprefix("docs/").removesuffix(".md")
    if not anchor and Path(label.strip("`")).name == Path(file).name:
        return label
    return f"{label} ({name}{'#' if anchor else ''}{anchor})"
