"""The launcher starts without site-packages, so whatever it may import comes with Python."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import halo_forge.sandbox

FOLDER = Path(halo_forge.sandbox.__file__).parent


def foreign_imports(source: str) -> Iterator[str]:
    """Modules, imported anywhere in the source, that are neither Python's nor the sandbox's own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{'.' * node.level}{node.module or ''}"]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] not in sys.stdlib_module_names and not f"{name}.".startswith("halo_forge.sandbox."):
                yield name


def test_the_sandbox_imports_the_standard_library_and_itself_only() -> None:
    files = sorted(FOLDER.rglob("*.py"))
    assert len(files) > 10
    assert {str(path.relative_to(FOLDER)): list(foreign_imports(path.read_text("utf-8"))) for path in files} == {
        str(path.relative_to(FOLDER)): [] for path in files
    }


def test_its_first_file_imports_nothing() -> None:
    tree = ast.parse((FOLDER / "__init__.py").read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import numpy", ["numpy"]),
        ("def f():\n    from halo_forge.core import errors", ["halo_forge.core"]),
        ("from halo_forge.sandboxes import x", ["halo_forge.sandboxes"]),
        ("from . import wire", ["."]),
        ("import os.path, json\nfrom halo_forge.sandbox import wire\nimport halo_forge.sandbox.job", []),
    ],
)
def test_a_foreign_import_would_be_found(line: str, found: list[str]) -> None:
    assert list(foreign_imports(line)) == found
