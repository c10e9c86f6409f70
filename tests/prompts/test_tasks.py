"""The packaged C tasks: enough of them, spread over families, difficulties and splits, and no leak across splits.

That every reference passes and every wrong solution fails is shown in verifiers/test_builtin_tasks.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

import halo_forge.prompts.builtin
from halo_forge.core.records import Prompt
from halo_forge.prompts import load_prompts, near_duplicates, split_of
from halo_forge.prompts.split import SPLITS

SHARES = {"train": 0.6, "dev": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def tasks() -> list[Prompt]:
    # The loader has checked the shape of every row, and that no id occurs twice.
    assert "c/all" in halo_forge.prompts.builtin.names(), "halo_forge/prompts/tasks/c.jsonl is missing from the package"
    return load_prompts("builtin:c/all", language="c")


def checks_of(task: Prompt) -> Mapping[str, Any]:
    assert task.tests is not None, task.id
    return task.tests


def expectations(task: Prompt) -> list[str]:
    tests = checks_of(task)
    return list(tests["expected"]) if tests["kind"] == "harness" else [case["stdout"] for case in tests["cases"]]


def test_there_are_enough_tasks_and_families(tasks: list[Prompt]) -> None:
    assert len(tasks) >= 240
    assert len({task.info["family"] for task in tasks}) >= 20


def test_ids_are_unique_and_name_the_family(tasks: list[Prompt]) -> None:
    assert len({task.id for task in tasks}) == len(tasks)
    for task in tasks:
        language, family, name = task.id.split("/")
        assert (language, family) == ("c", task.info["family"])
        assert name.isidentifier()


def test_every_row_is_complete(tasks: list[Prompt]) -> None:
    for task in tasks:
        assert task.language == "c"
        assert set(task.info) == {"family", "difficulty", "reference", "wrong"}, task.id
        assert task.info["reference"].strip() != task.info["wrong"].strip(), task.id


def test_the_splits_have_their_shares(tasks: list[Prompt]) -> None:
    counts = Counter(split_of(task.id) for task in tasks)
    for split, share in SHARES.items():
        assert abs(counts[split] / len(tasks) - share) <= 0.06, (split, counts)


def test_every_family_and_difficulty_is_in_every_split(tasks: list[Prompt]) -> None:
    families: defaultdict[str, set[str]] = defaultdict(set)
    difficulties: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for task in tasks:
        families[task.info["family"]].add(split_of(task.id))
        difficulties[task.info["difficulty"]][split_of(task.id)] += 1
    assert {family: splits for family, splits in families.items() if splits != set(SPLITS)} == {}
    assert set(difficulties) == {"easy", "medium", "hard"}
    for difficulty, counts in difficulties.items():
        for split, share in SHARES.items():
            # A split must not be the easy one: each difficulty has about the same share everywhere.
            assert abs(counts[split] / counts.total() - share) <= 0.1, (difficulty, counts)


def test_the_named_splits_are_the_whole_set(tasks: list[Prompt]) -> None:
    parts = [load_prompts(f"builtin:c/{split}", language="c") for split in SPLITS]
    assert sorted(task.id for part in parts for task in part) == sorted(task.id for task in tasks)


def test_every_function_task_names_its_signature(tasks: list[Prompt]) -> None:
    num_functions = 0
    for task in tasks:
        if checks_of(task)["kind"] == "harness":
            num_functions += 1
            entry_point = checks_of(task)["entry_point"]
            quoted = task.text.split("`")[1::2]
            # Return type, name, parameters: enough to write a definition that the harness can call.
            assert any(f"{entry_point}(" in code and not code.startswith(entry_point) for code in quoted), task.id
        else:
            text = task.text.lower()
            assert "program" in text and ("read" in text or "input" in text) and "print" in text, task.id
    assert num_functions >= 150


def test_every_task_has_five_checks_that_a_constant_cannot_pass(tasks: list[Prompt]) -> None:
    for task in tasks:
        expected = expectations(task)
        assert len(expected) >= 5, task.id
        assert len(set(expected)) >= 2, task.id


def test_no_near_duplicates_across_splits(tasks: list[Prompt]) -> None:
    across = [pair for pair in near_duplicates(tasks, 0.35) if split_of(pair[0]) != split_of(pair[1])]
    assert across == []


def test_no_function_name_across_splits(tasks: list[Prompt]) -> None:
    # Two authors word one task in two ways; the name that they give the function shows it.
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for task in tasks:
        splits[task.id.rpartition("/")[2]].add(split_of(task.id))
        if checks_of(task)["kind"] == "harness":
            splits[checks_of(task)["entry_point"]].add(split_of(task.id))
    assert {name: found for name, found in splits.items() if len(found) > 1} == {}
