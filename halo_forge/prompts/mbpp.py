"""MBPP rows (Austin et al. 2021, arXiv:2108.07732): a one-line task description and three asserts in Python.

The description alone cannot be solved: it does not name the function that the asserts call.  So the statement shows the
signatures of everything that the asserts use from the reference code, or one assert if there is no signature.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection, Iterable

from halo_forge.core.records import Prompt
from halo_forge.prompts._row import Row, shown
from halo_forge.prompts._unread import kept_as_info

NAME = "MBPP rows"
COLUMNS = ("task_id", "test_list")
_NOTES = ("challenge_test_list",)
_OTHER = ("text", "prompt", "test_setup_code", "test_imports", "code", "test")


def recognises(columns: Collection[str]) -> bool:
    """Whether the columns are task id, asserts, and the description under either of its two names."""
    return set(COLUMNS) <= set(columns) and ("text" in columns or "prompt" in columns)


def to_prompt(row: Row) -> Prompt:
    """The prompt of one row; both the full set (`text`) and the sanitized one (`prompt`, `test_imports`) are read.

    `tests` is `{"kind": "mbpp", "test_list", "test_setup_code"}`, `info["reference"]` is the row's code, if it has
    any.  Stronger tests are used too: `challenge_test_list` of MBPP is appended to `test_list`, and `test` of MBPP+ is
    a check of its own.

    Raises:
        ConfigError: A column is missing, empty or of the wrong type, or there is no assert.
    """
    task_id = row.data.get("task_id")
    if isinstance(task_id, bool) or not isinstance(task_id, int | str) or task_id == "":
        raise row.error(f"`task_id` is {shown(task_id)}; a number or text is needed", "give every row its task id")
    description = row.text("text" if row.data.get("text") is not None else "prompt").strip()
    code = row.text("code").replace("\r\n", "\n") if "code" in row.data else ""
    test_list = list(row.texts("test_list"))
    if not test_list:
        raise row.error("`test_list` is empty; at least one assert is needed", "add asserts, or remove the row")
    test_list += row.texts("challenge_test_list")
    program = row.text("test") if row.data.get("test") not in (None, "") else None
    setup = row.data.get("test_setup_code")
    if setup is None:
        setup = "\n".join(row.texts("test_imports"))
    if not isinstance(setup, str):
        raise row.error(f"`test_setup_code` is {shown(setup)}; text is needed", "write it as text")
    signatures = _signatures(code, _names_called("\n".join(test_list)))
    shape = "It must define:" if signatures else "It must pass this test:"
    shown_code = "\n".join(signatures) if signatures else test_list[0].strip()
    statement = f"{description}\n\nAnswer with Python code in one code block. {shape}\n\n```python\n{shown_code}\n```"
    return Prompt(
        id=f"mbpp/{task_id}",
        messages=({"role": "user", "content": statement},),
        language="python",
        tests={
            "kind": "mbpp",
            "test_list": test_list,
            "test_setup_code": setup,
            **({"test": program} if program else {}),
        },
        info=kept_as_info(row, (*COLUMNS, *_OTHER), notes=_NOTES) | ({"reference": code} if code else {}),
    )


def _names_called(source: str) -> set[str]:
    """The plain names that `source` calls; none if this interpreter cannot parse it."""
    tree = _parsed(source)
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def _signatures(code: str, names: Collection[str]) -> list[str]:
    """Signatures of the functions and classes of `code` that are in `names`; none if `code` does not parse."""
    body = _parsed(code).body
    # A later definition of the same name replaces the earlier one.
    last = {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names}
    return [line for node in last.values() for line in _heads(node)]


def _parsed(source: str) -> ast.Module:
    """The syntax tree; an empty one if this interpreter cannot parse `source`."""
    try:
        with warnings.catch_warnings():
            # Old code has invalid escape sequences; the user of the data set cannot fix those.
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module(body=[], type_ignores=[])


def _heads(node: ast.FunctionDef | ast.ClassDef) -> Iterable[str]:
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
        yield f"def {node.name}({ast.unparse(node.args)}){returns}: ..."
        return
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    yield from (f"    def __init__({ast.unparse(item.args)}): ..." for item in inits)
    if not inits:
        yield "    ..."
