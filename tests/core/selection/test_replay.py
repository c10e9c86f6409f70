"""What of earlier cycles is trained on once more."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from policy_versions import samples_of, training
from selection_samples import completion, paired, verdict

from halo_forge.core.records import Training, pass_counts
from halo_forge.core.selection import kept_before, most_replayed, replay, solved

Options = dict[str, Any]


def cycle(number: int, *samples: tuple[str, int, Options]) -> Training:
    verdicts = [verdict(prompt_id, index, **options) for prompt_id, index, options in samples]
    completions = [completion(each.prompt_id, each.index, text=f"c{number} {each.index}") for each in verdicts]
    return training(number, paired(completions, verdicts))


def own(program: str) -> Options:
    return {"source": program, "normal": program}


def again(past: list[Training], now: Training, **options: Any) -> list[tuple[int, str, int]]:
    arguments: dict[str, Any] = {"share": 0.5, "cap": None, "seed": 0} | options
    return list(replay(past, now.kept, **arguments))


NOW = cycle(3, ("a", 0, own("now a")), ("b", 0, own("now b")))


def test_what_is_remembered() -> None:
    past = cycle(1, ("a", 0, own("x")), ("a", 1, {"reward": 0.5}), ("b", 0, {"reward": 0.0, "status": "error"}))
    assert past.pass_counts == {"a": (1, 2), "b": (0, 0)}
    assert [sample.key for sample in past.kept] == [("a", 0)]
    assert kept_before([past]) == {("source", "x"), ("normal", "a", "x")}


def test_of_equal_programs_the_newest_and_none_that_is_kept_now() -> None:
    past = [
        cycle(1, ("a", 0, own("old")), ("a", 1, own("now a")), ("a", 2, own("other"))),
        cycle(2, ("a", 5, own("old"))),
    ]
    assert sorted(again(past, NOW)) == [(1, "a", 2), (2, "a", 5)]


def test_the_share_bounds_the_rows() -> None:
    past = [cycle(1, *[("c", index, own(f"c{index}")) for index in range(20)])]
    assert [len(again(past, NOW, share=share)) for share in (0.1, 0.34, 0.5, 0.75, 0.9)] == [0, 1, 2, 6, 18]


@pytest.mark.parametrize(("num", "share", "most"), [(4, 0.2, 1), (9, 0.1, 1), (0, 0.5, 0), (7, 0.5, 7), (3, 0.25, 1)])
def test_most_replayed(num: int, share: float, most: int) -> None:
    assert most_replayed(num, share) == most
    assert most <= share * (num + most) + 1e-9


def test_the_cap_counts_what_is_kept_now() -> None:
    past = [cycle(1, *[(name, index, own(f"{name}{index}")) for name in "abc" for index in range(4)])]
    found = Counter(prompt_id for _, prompt_id, _ in again(past, NOW, share=0.9, cap=2))
    assert found == {"a": 1, "b": 1, "c": 2}


def test_prompts_without_rows_get_the_first_places() -> None:
    past = [cycle(1, *[(name, index, own(f"{name}{index}")) for name in "abcd" for index in range(3)])]
    for seed in range(20):
        assert {prompt_id for _, prompt_id, _ in again(past, NOW, seed=seed)} == {"c", "d"}


def test_the_order_of_the_cycles_and_samples_plays_no_part() -> None:
    samples = [(name, index, own(f"{name}{index}")) for name in "abcd" for index in range(3)]
    one = [cycle(1, *samples), cycle(2, *samples[:4], ("e", 0, own("e")))]
    other = [cycle(2, ("e", 0, own("e")), *samples[:4]), cycle(1, *samples[::-1])]
    assert again(one, NOW) == again(other, NOW)
    assert len({tuple(again(one, NOW, seed=seed)) for seed in range(20)}) > 3


def test_nothing_past_nothing_replayed() -> None:
    assert again([], NOW) == []


@pytest.mark.parametrize(
    ("passed", "judged", "found"),
    [(0, 0, None), (0, 3, "never_solved"), (3, 3, "always_solved"), (1, 3, None), (1, 1, "always_solved")],
)
def test_solved(passed: int, judged: int, found: str | None) -> None:
    assert solved(passed, judged) == found


def test_outcomes_leave_errors_out() -> None:
    verdicts = [verdict("a", 0), verdict("a", 1, 0.5), verdict("a", 2, 0.0, status="error")]
    assert pass_counts(samples_of(verdicts)) == {"a": (1, 2)}
