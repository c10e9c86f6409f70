"""HumanEval rows (Chen et al. 2021, arXiv:2107.03374): complete a Python function from its signature and docstring."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from halo_forge.core.records import Prompt
from halo_forge.prompts._row import Row
from halo_forge.prompts._unread import kept_as_info

NAME = "HumanEval rows"
COLUMNS = ("task_id", "prompt", "entry_point", "test")
_PLUS = ("plus_input", "plus")
_WEAKER = ("example_test", "base_input")
_ASK = (
    "Complete the following Python function. Answer with the whole function, with the imports it needs, "
    "in one code block.\n\n```python\n{code}\n```"
)


def recognises(columns: Collection[str]) -> bool:
    """Whether all four columns are there."""
    return set(COLUMNS) <= set(columns)


def to_prompt(row: Row) -> Prompt:
    """The prompt of one row.

    `tests` is `{"kind": "humaneval", "entry_point", "test", "prompt"}`: `prompt` is the head of the function as in the
    row, for completions that only continue it.  `info["reference"]` is that head with the canonical solution, if the
    row has one.

    Raises:
        ConfigError: A column is missing, empty or not text.
    """
    task_id, head, entry_point, test = (row.text(column) for column in COLUMNS)
    if f"def {entry_point}(" not in head:
        raise row.error(
            f"`prompt` does not define `{entry_point}`, the `entry_point`, in Python",
            "set `entry_point` to the function that `prompt` defines; rows of HumanEval-X and HumanEvalPack in other"
            ' languages have to be written with `tests` of the kind "harness"',
        )
    if any(row.data.get(column) for column in _PLUS):
        raise row.error(
            "`plus_input` (EvalPlus) are stronger inputs, whose right outputs the row does not have",
            "use rows of HumanEval+ whose `test` contains them, such as the data set evalplus/humanevalplus; or"
            f" remove {' and '.join(f'`{column}`' for column in _PLUS)} to check by `test` alone",
        )
    info: dict[str, Any] = kept_as_info(row, (*COLUMNS, *_PLUS), notes=_WEAKER)
    if "canonical_solution" in info:
        info["reference"] = head + row.text("canonical_solution")
        del info["canonical_solution"]
    return Prompt(
        id=task_id,
        messages=({"role": "user", "content": _ASK.format(code=head.strip("\n"))},),
        language="python",
        tests={"kind": "humaneval", "entry_point": entry_point, "test": test, "prompt": head},
        info=info,
    )
