"""Schedules that look at results: `kl_target`, `temperature_floor` and `performance_based`, replayed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from halo_forge.core.schedules import Schedule, Scheduled

ADAPTER: TypeAdapter[Schedule] = TypeAdapter(Scheduled)


def values(settings: dict[str, Any], metric: str, measured: list[float | None]) -> list[Any]:
    """The value of each cycle 1 .. len(measured), where measured[v] is the metric of version v."""
    schedule = ADAPTER.validate_python(settings)
    history = [{} if value is None else {metric: value} for value in measured]
    found = [schedule.value(cycle, 20, history[:cycle]) for cycle in range(1, len(measured) + 1)]
    assert all(
        low <= value <= high
        for value, (low, high) in zip(found, (schedule.bounds(cycle, 20) for cycle in range(1, 21)), strict=False)
    )
    return found


def kl(measured: list[float | None], **settings: Any) -> list[float]:
    return values({"kind": "kl_target", "base": 1e-4, **settings}, "kl_to_previous", measured)


def test_a_distance_of_the_target_changes_nothing_and_the_square_root_is_taken() -> None:
    # Twice the distance: 1/sqrt(2); then 0.81 of it: 1/0.9.
    expected = [1e-4, 1e-4, 1e-4 / math.sqrt(2), 1e-4 / math.sqrt(2) / 0.9]
    assert kl([None, 0.01, 0.02, 0.0081], target=0.01) == pytest.approx(expected)
    assert kl([None, 0.01, 0.02], target=0.01, exponent=1.0, max_factor=4.0)[-1] == pytest.approx(5e-5)


def test_one_version_moves_the_rate_by_the_largest_factor_at_most() -> None:
    assert kl([None, 1.0, 1e-9, 1e-9], target=0.01) == pytest.approx([1e-4, 1e-4 / 1.5, 1e-4, 1.5e-4])
    assert kl([None, 5e-324, 1e308], target=1.0) == pytest.approx([1e-4, 1.5e-4, 1e-4])


def test_without_a_target_the_first_distance_is_the_target() -> None:
    assert kl([None, 0.04, 0.04, 0.16]) == pytest.approx([1e-4, 1e-4, 1e-4, 1e-4 / 1.5])
    assert kl([None, None, 0.04, 0.01], max_factor=3.0) == pytest.approx([1e-4, 1e-4, 1e-4, 2e-4])


@pytest.mark.parametrize("absent", [None, 0.0, -1e-12, math.nan, math.inf])
def test_a_distance_that_says_nothing_holds_the_rate(absent: float | None) -> None:
    assert kl([None, absent, 0.04, absent, absent], target=0.01) == pytest.approx([1e-4, 1e-4] + [1e-4 / 1.5] * 3)


def test_the_ends() -> None:
    assert kl([None, *[1.0] * 4], target=0.01, min=5e-5)[-1] == 5e-5
    assert kl([None, *[1e-6] * 4], target=0.01, max=2e-4)[-1] == 2e-4
    schedule = ADAPTER.validate_python({"kind": "kl_target", "base": 1e-4, "target": 0.01, "min": 5e-5, "max": 2e-4})
    assert [schedule.bounds(cycle, 9) for cycle in (1, 2, 9)] == [
        (1e-4, 1e-4),
        (pytest.approx(1e-4 / 1.5), pytest.approx(1.5e-4)),
        (5e-5, 2e-4),
    ]
    # The first distance of a run without a target moves nothing.
    own = ADAPTER.validate_python({"kind": "kl_target", "base": 1e-4})
    assert own.bounds(2, 9) == (1e-4, 1e-4)
    assert own.bounds(3, 9) == (pytest.approx(1e-4 / 1.5), pytest.approx(1.5e-4))


def heat(measured: list[float | None], **settings: Any) -> list[float]:
    metric = "dev/diversity/effective_number"
    return values({"kind": "temperature_floor", "base": 1.0, **settings}, metric, measured)


def test_each_version_below_the_share_raises_a_step() -> None:
    assert heat([4.0, 3.3, 3.1, 3.19, 3.3, 2.0]) == pytest.approx([1.0, 1.0, 1.05, 1.1, 1.1, 1.15])
    # Exactly the share is not below it.
    assert heat([4.0, 2.0, 1.9], share=0.5, step=0.1) == pytest.approx([1.0, 1.0, 1.1])


def test_it_stops_at_its_end() -> None:
    assert heat([4.0, *[1.0] * 7])[-1] == 1.3
    assert heat([4.0, *[1.0] * 3], max=1.0) == [1.0] * 4
    schedule = ADAPTER.validate_python({"kind": "temperature_floor", "base": 1.0})
    assert [schedule.bounds(cycle, 9) for cycle in (1, 2, 9)] == [(1.0, 1.0), (1.0, 1.05), (1.0, 1.3)]


@pytest.mark.parametrize("absent", [None, math.nan])
def test_what_was_not_measured_raises_nothing(absent: float | None) -> None:
    assert heat([4.0, absent, 1.0]) == pytest.approx([1.0, 1.0, 1.05])
    assert heat([absent, 4.0, 1.0]) == [1.0] * 3


def document(measured: list[float | None], **settings: Any) -> list[float]:
    return values({"kind": "performance_based", "base": 1e-4, **settings}, "dev/pass_rate", measured)


def formula(base_lr: float, cycle: int, prev_metric: float, curr_metric: float) -> float:
    """The document's function, as its names and defaults stand there."""
    if cycle == 1:
        return base_lr
    return base_lr * 0.7 if (curr_metric - prev_metric) / prev_metric < 0.02 else base_lr


def test_it_is_the_formula_of_the_document() -> None:
    measured = [0.20, 0.26, 0.2650, 0.2710, 0.25, 0.2560]
    expected = [formula(1e-4, 1, math.nan, measured[0])]
    expected += [formula(1e-4, cycle, *measured[cycle - 2 : cycle]) for cycle in range(2, 7)]
    assert document([*measured]) == expected
    assert expected == pytest.approx([1e-4, 1e-4, 7e-5, 1e-4, 7e-5, 1e-4]), "it neither compounds nor remembers"


def test_its_division_by_zero_is_a_rule() -> None:
    assert document([0.0, 0.001, 0.0, 0.0]) == pytest.approx([1e-4, 1e-4, 7e-5, 7e-5])
    assert document([0.0, 0.0], improvement_threshold=0.0) == [1e-4, 1e-4]


@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
def test_without_two_measurements_there_is_nothing_to_compare(absent: float | None) -> None:
    assert document([0.5, absent, 0.1, 0.1]) == pytest.approx([1e-4, 1e-4, 1e-4, 7e-5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "kl_target", "base": 1e-4, "target": 0.0}, "kl_target.target"),
        ({"kind": "kl_target", "base": 1e-4, "max_factor": 1.0}, "kl_target.max_factor"),
        ({"kind": "kl_target", "base": 1e-1}, "base 0.1 is above max 0.01"),
        ({"kind": "temperature_floor", "base": 1.4}, "base 1.4 is above max 1.3"),
        ({"kind": "temperature_floor", "base": 1.0, "share": 1.1}, "temperature_floor.share"),
        ({"kind": "performance_based", "base": 1.0, "improvement_threshold": -0.1}, "improvement_threshold"),
        ({"kind": "cosine_restarts", "base": 1.0, "period": 1}, "cosine_restarts.period"),
        ({"kind": "inverse_power", "base": 1.0, "c0": 0.0}, "inverse_power.c0"),
        ({"kind": "budget_matched", "reference": "pass"}, '"pass" is a value of the reward threshold only'),
        ({"kind": "budget_matched", "reference": {"kind": "plateau", "base": 1.0}}, "which depends on results"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(settings)
