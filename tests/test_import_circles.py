"""No module imports, now or later, a module that needs it: but for the circles that are listed here with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from test_architecture import is_type_checking

import halo_forge

ROOT = Path(halo_forge.__file__).parent

JUSTIFIED: dict[frozenset[str], str] = {
    frozenset(
        {"engines._sampling", "engines.transformers"}
    ): "the engine imports torch's half of itself when it samples",
    frozenset(
        {"sandbox.ladder", "sandbox.local"}
    ): "`open_sandbox` tries the levels that `ladder` opens with its class",
}
"""Circles that stay, as sets of modules below halo_forge, and why."""


def modules() -> dict[str, ast.Module]:
    """Name -> source of every module of the package."""
    names = {
        ".".join(("halo_forge", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }
    return {name: ast.parse(path.read_text("utf-8")) for name, path in names.items()}


def imported(tree: ast.AST, known: Mapping[str, object]) -> Iterator[str]:
    """What a module imports of `known`, in functions too; what is only for type checkers makes no circle."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and is_type_checking(node):
            yield from (name for other in node.orelse for name in imported(ast.Module([other], []), known))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in known:
                    yield submodule
                elif node.module in known:
                    yield node.module
        else:
            yield from imported(node, known)


def circles(sources: Mapping[str, ast.Module]) -> set[frozenset[str]]:
    """The largest sets of modules each of which leads to every other."""
    edges = {name: set(imported(tree, sources)) for name, tree in sources.items()}
    reached: dict[str, set[str]] = {}
    for start in edges:
        found, left = set(), list(edges[start])
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += edges[name]
        reached[start] = found
    return {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in reached
        if name in reached[name]
    }


def test_the_only_circles_are_the_justified_ones() -> None:
    found = {frozenset(name.removeprefix("halo_forge.") for name in circle) for circle in circles(modules())}
    assert found == set(JUSTIFIED)


def test_a_circle_is_seen_through_late_imports_and_not_through_those_for_type_checkers() -> None:
    sources = {
        "p.a": "from p import b",
        "p.b": "def late():\n    with x:\n        from p.c import name",
        "p.c": "import p.a",
        "p.d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import e\nelse:\n    import p.a",
        "p.e": "import p.d",
    }
    found = circles({name: ast.parse(source) for name, source in sources.items()})
    assert found == {frozenset({"p.a", "p.b", "p.c"})}
