"""The folder of what runs inside the sandbox: nothing but the standard library, and the oldest Python."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from halo_forge.verifiers.python import interpreter

PACKAGE = "halo_forge.verifiers.python.driver"
LATER = {"removeprefix", "removesuffix", "bit_count", "pairwise", "batched"}
"""Methods and functions that are easily used and that the oldest Python lacks."""


def faults(content: bytes, own: set[str]) -> Iterator[str]:
    """What a module of the driver must not have; a module that does not even parse raises SyntaxError."""
    tree = ast.parse(content, feature_version=interpreter.OLDEST)
    if not any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body):
        yield "its annotations are evaluated"
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0
            whole = node.module == PACKAGE
            names = [f"{PACKAGE}.{alias.name}" for alias in node.names] if whole else [node.module]
        elif isinstance(node, ast.Attribute) and node.attr in LATER:
            yield f"line {node.lineno}: {node.attr}"
        elif isinstance(node, ast.keyword) and node.arg == "strict":
            yield f"line {node.value.lineno}: strict"
        for name in names:
            ours = name.rpartition(".")[0] == PACKAGE and name.rpartition(".")[2] in own
            if not ours and name.partition(".")[0] not in sys.stdlib_module_names:
                yield f"imports {name}"


def test_the_driver_imports_the_standard_library_and_itself_and_is_old_python() -> None:
    files = interpreter.sources()
    own = {name.removesuffix(".py") for name in files}
    assert {"main", "candidate", "wire"} <= own
    assert {name: found for name, content in files.items() if (found := list(faults(content, own)))} == {}


def test_every_file_of_the_folder_is_sent_after_those_that_it_imports() -> None:
    order = [name.removesuffix(".py") for name in interpreter.sources()]
    on_disk = {path.stem for path in interpreter._DRIVER.glob("*.py")} - {"__init__"}
    assert len(order) == len(on_disk) and set(order) == on_disk
    for name, content in interpreter.sources().items():
        before = order[: order.index(name.removesuffix(".py"))]
        assert interpreter._imported(content) <= set(before)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("import numpy", "imports numpy"),
        ("def f():\n    from halo_forge.core import records", "imports halo_forge.core"),
        (f"from {PACKAGE} import absent", f"imports {PACKAGE}.absent"),
        ("'ab'.removeprefix('a')", "line 2: removeprefix"),
        ("zip((), (), strict=True)", "line 2: strict"),
        ("import os.path", None),
        (f"from {PACKAGE}.wire import send", None),
    ],
)
def test_what_the_rule_sees(line: str, fault: str | None) -> None:
    found = list(faults(f"from __future__ import annotations\n{line}\n".encode(), {"wire"}))
    assert found == ([] if fault is None else [fault])


def test_later_syntax_and_evaluated_annotations_are_seen() -> None:
    with pytest.raises(SyntaxError):
        list(faults(b"match 1:\n    case 1:\n        pass\n", set()))
    assert list(faults(b"x = 1\n", set())) == ["its annotations are evaluated"]
