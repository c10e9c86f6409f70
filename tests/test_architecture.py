"""The house rules: who may import whom, who prints, what stays light, and how long a function may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import halo_forge

ROOT = Path(halo_forge.__file__).parent
PAGE = ROOT.parent / "docs" / "architecture.md"
FLOORS = [
    re.findall(r"`([\w.]+)`", rooms)
    for rooms in re.findall(r"^\| \d+ \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
]
"""Rooms of the package from the ground up, as the documentation shows them."""

HEAVY = {"torch", "transformers", "peft", "trl", "datasets"}
MAX_FUNCTION_LINES = 70
FILES = sorted(ROOT.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(module: str) -> str:
    """The room of a module below halo_forge, such as "store.run": the longest name in the table that holds it."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if any(name in rooms for rooms in FLOORS)), module)


def room(path: Path) -> str:
    return room_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(body: list[ast.stmt], *, late: bool) -> Iterator[tuple[int, str]]:
    """(line, imported module) of a body; those within functions only if `late`; never those for type checkers."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            module = str(node.module)
            packages = (
                "halo_forge",
                "halo_forge.core",
                "halo_forge.config",
            )  # what is imported may be a room of its own
            yield from (
                (node.lineno, f"{module}.{alias.name}" if module in packages else module) for alias in node.names
            )
        elif isinstance(node, ast.If) and is_type_checking(node):
            yield from imports(node.orelse, late=late)
        elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                inner = getattr(node, field, [])
                yield from imports([each for each in inner if isinstance(each, ast.stmt)], late=late)
                for part in inner:
                    if isinstance(part, ast.ExceptHandler | ast.match_case):
                        yield from imports(part.body, late=late)


def floor_of(room_name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room_name in rooms)


def test_every_room_has_a_floor() -> None:
    listed = [each for rooms in FLOORS for each in rooms]
    assert len(listed) == len(set(listed)) > 20
    assert {room(path) for path in FILES} - {"__init__", "core"} == set(listed)


def wrong_imports(path: Path) -> Iterator[str]:
    here = room(path)
    for line, module in imports(tree(path).body, late=True):
        if not module.startswith("halo_forge.") or module == "halo_forge.__version__":
            continue
        there = room_of(module.removeprefix("halo_forge."))
        if here in ("__init__", "core"):
            yield f"{name(path)}:{line}: the first file of a package imports {module}"
        elif there != here and floor_of(there) >= floor_of(here):
            yield f"{name(path)}:{line}: {here} (floor {floor_of(here)}) imports {there} (floor {floor_of(there)})"


def test_a_module_imports_from_lower_floors_and_its_own_room() -> None:
    assert [wrong for path in FILES for wrong in wrong_imports(path)] == []


def test_heavy_libraries_are_imported_late() -> None:
    """A private file may hold a subclass of a heavy library's class; a test below finds one imported too early."""
    wrong = [
        f"{name(path)}:{line}: {module}"
        for path in FILES
        if not path.name.startswith("_")
        for line, module in imports(tree(path).body, late=False)
        if module.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_only_the_command_line_prints() -> None:
    wrong = [
        f"{name(path)}:{node.lineno}"
        for path in FILES
        if room(path) != "cli"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert wrong == []


def test_only_the_command_line_draws() -> None:
    wrong = [
        f"{name(path)}:{line}"
        for path in FILES
        if room(path) != "cli"
        for line, module in imports(tree(path).body, late=True)
        if module.split(".")[0] == "rich"
    ]
    assert wrong == []


def test_functions_stay_short() -> None:
    wrong = [
        f"{name(path)}:{node.lineno}: {node.name} has {length} lines"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert wrong == []


def docstrings(module: ast.Module) -> set[int]:
    """Ids of the string constants of a module that stand alone: documentation for those who read the code."""
    return {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}


def test_no_message_names_a_file_that_only_a_checkout_has() -> None:
    wrong = [
        f"{name(path)}:{node.lineno}: {node.value[:60]}"
        for path in FILES
        for module in [tree(path)]
        for alone in [docstrings(module)]
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
        if re.search(r"\b(?:docs|configs|scripts)/\w", node.value)
    ]
    assert wrong == []


def test_importing_everything_public_imports_no_heavy_library() -> None:
    program = f"""
import importlib, pkgutil, sys
import halo_forge
for info in pkgutil.walk_packages(halo_forge.__path__, "halo_forge."):
    last = info.name.rpartition(".")[2]
    if not last.startswith("_"):
        importlib.import_module(info.name)
print(sorted(set({sorted(HEAVY)!r}) & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_rules_would_notice(tmp_path: Path) -> None:
    source = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import torch
else:
    import peft
try:
    import trl
except ImportError:
    import datasets
def late():
    with open("x"):
        from halo_forge import cli
class Here:
    from halo_forge.loop import run_raft
"""
    body = ast.parse(source).body
    early = {module for _, module in imports(body, late=False)}
    assert early == {"__future__", "typing", "peft", "trl", "datasets", "halo_forge.loop"}
    assert {module for _, module in imports(body, late=True)} == early | {"halo_forge.cli"}
