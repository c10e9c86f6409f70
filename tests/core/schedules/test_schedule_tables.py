"""Values of every kind against tables: those of the mission's documents to the printed digit, the rest by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from halo_forge.core.schedules import ScheduledNumber

ADAPTER: TypeAdapter[Any] = TypeAdapter(ScheduledNumber)


def values(settings: Any, num_cycles: int) -> list[float]:
    schedule = ADAPTER.validate_python(settings)
    return [schedule.value(cycle, num_cycles) for cycle in range(1, num_cycles + 1)]


def exponential(decay: float, **settings: Any) -> dict[str, Any]:
    return {"kind": "exponential", "base": 5e-5, "decay": decay, **settings}


def test_exponential_table_of_the_learning_rate_document() -> None:
    printed = [f"{value:.2e}" for value in values(exponential(0.85), 6)]
    assert printed == ["5.00e-05", "4.25e-05", "3.61e-05", "3.07e-05", "2.61e-05", "2.22e-05"]


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        (0.85, [5e-5, 4.25e-5, 3.6125e-5, 3.0706e-5, 2.6100e-5, 2.2185e-5, 1.8857e-5, 1.6029e-5]),
        (0.7, [5e-5, 3.5e-5, 2.45e-5, 1.715e-5, 1.2005e-5]),
        (0.95, [5e-5, 4.75e-5, 4.5125e-5, 4.2869e-5, 4.0725e-5]),
    ],
)
def test_exponential_reference_numbers(decay: float, expected: list[float]) -> None:
    assert values(exponential(decay), len(expected)) == pytest.approx(expected, abs=5e-10)


@pytest.mark.parametrize(
    ("num_cycles", "shares"),
    [
        (8, {0.7: 0.3926, 0.85: 0.6063, 0.9: 0.7119, 0.95: 0.8414}),
        (5, {0.7: 0.5546, 0.85: 0.7417, 0.9: 0.8190, 0.95: 0.9049}),
    ],
)
def test_exponential_share_of_the_constant_budget(num_cycles: int, shares: dict[float, float]) -> None:
    for decay, share in shares.items():
        assert math.fsum(values(exponential(decay), num_cycles)) / (num_cycles * 5e-5) == pytest.approx(share, abs=5e-5)


@pytest.mark.parametrize(("decay", "first_at_floor"), [(0.85, 26), (0.7, 12)])
def test_exponential_reaches_its_default_floor(decay: float, first_at_floor: int) -> None:
    found = values(exponential(decay), 30)
    assert [value == 1e-6 for value in found].index(True) + 1 == first_at_floor
    assert found[first_at_floor - 1 :] == [1e-6] * (31 - first_at_floor)


def test_exponential_does_not_underflow_into_an_error() -> None:
    assert values(exponential(0.5, min=0.0), 2000)[-1] == 0.0


def test_constant() -> None:
    assert values(5e-5, 3) == [5e-5] * 3
    assert values(0, 2) == [0.0, 0.0]


def test_manual_table_of_the_learning_rate_document() -> None:
    schedule = {"cycle_1": 5e-5, "cycle_2": 4e-5, "cycle_3": 3e-5, "cycle_4": 2.5e-5, "cycle_5": 2e-5}
    assert values(schedule, 5) == [5e-5, 4e-5, 3e-5, 2.5e-5, 2e-5]
    assert values({"kind": "manual", "values": schedule}, 5) == values(schedule, 5)
    assert values([5e-5, 4e-5, 3e-5, 2.5e-5, 2e-5], 5) == values(schedule, 5)


def test_manual_holds_after_its_last_value_and_ignores_cycles_after_the_run() -> None:
    assert values([3, 2, 1], 5) == [3, 2, 1, 1, 1]
    assert values([3, 2, 1], 2) == [3, 2]
    schedule = ADAPTER.validate_python({"kind": "manual", "values": [3, 2], "beyond": "error"})
    assert schedule.value(2, 5) == 2
    with pytest.raises(ValueError, match="cycle 3 has no value: values end at cycle 2"):
        schedule.value(3, 5)


@pytest.mark.parametrize(
    ("interpolation", "expected"),
    [
        ("step", [8, 8, 8, 1, 1, 4, 4]),
        ("linear", [8, 17 / 3, 10 / 3, 1, 2.5, 4, 4]),
        ("log", [8, 4, 2, 1, 2, 4, 4]),
    ],
)
def test_manual_gaps(interpolation: str, expected: list[float]) -> None:
    as_keys = {"cycle_1": 8, "cycle_4": 1, "cycle_6": 4}
    as_list = [8, None, None, 1, None, 4]
    for given_values in (as_keys, as_list, {1: 8, 4: 1, 6: 4}):
        settings = {"kind": "manual", "values": given_values, "interpolation": interpolation}
        assert values(settings, 7) == pytest.approx(expected, rel=1e-12)


def test_linear() -> None:
    assert values({"kind": "linear", "base": 5e-5}, 4) == pytest.approx([5e-5, 3.5e-5, 2e-5, 5e-6])
    assert values({"kind": "linear", "base": 0.8, "final": 1.2}, 5) == pytest.approx([0.8, 0.9, 1.0, 1.1, 1.2])
    assert values({"kind": "linear", "base": 4.0, "final": 0.0}, 3) == [4.0, 2.0, 0.0]
    assert values({"kind": "linear", "base": 4.0}, 1) == [4.0]


def test_cosine() -> None:
    expected = [5e-5, 5e-6 + 22.5e-6 * (1 + math.sqrt(0.5)), 2.75e-5, 5e-6 + 22.5e-6 * (1 - math.sqrt(0.5)), 5e-6]
    assert values({"kind": "cosine", "base": 5e-5}, 5) == pytest.approx(expected, rel=1e-12)
    assert values({"kind": "cosine", "base": 4.0, "final": 0.0}, 3) == pytest.approx([4.0, 2.0, 0.0])
    assert values({"kind": "cosine", "base": 4.0}, 1) == [4.0]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@given(base=st.floats(1e-9, 10), final=st.floats(1e-9, 10), num_cycles=st.integers(2, 40))
def test_linear_and_cosine_go_exactly_from_base_to_final_without_turning(
    kind: str, base: float, final: float, num_cycles: int
) -> None:
    found = values({"kind": kind, "base": base, "final": final}, num_cycles)
    assert (found[0], found[-1]) == (base, final)
    assert all(min(base, final) <= value <= max(base, final) for value in found)
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert all(step * (final - base) >= -1e-12 * max(base, final) ** 2 for step in steps)


def test_milestones() -> None:
    every = {"kind": "milestones", "base": 8.0, "decay": 0.5, "every": 2}
    assert values(every, 6) == [8, 8, 4, 4, 2, 2]
    assert values({**every, "min": 3.0}, 6) == [8, 8, 4, 4, 3, 3]
    assert values({"kind": "milestones", "base": 8.0, "decay": 0.5, "milestones": [3, 5]}, 6) == [8, 8, 4, 4, 2, 2]
    assert values({"kind": "milestones", "base": 8.0, "decay": 0.5, "milestones": [4]}, 6) == [8, 8, 8, 4, 4, 4]
    assert values({"kind": "milestones", "base": 1e-3, "every": 1}, 3) == pytest.approx([1e-3, 1e-4, 1e-5])


def test_phases_of_strategy_d() -> None:
    phases = [{"until": 2, "value": 5e-5}, {"until": 4, "value": 3e-5}, {"value": 1.5e-5}]
    assert values({"kind": "phases", "phases": phases}, 7) == [5e-5, 5e-5, 3e-5, 3e-5, 1.5e-5, 1.5e-5, 1.5e-5]
    assert values({"kind": "phases", "phases": phases}, 1) == [5e-5]


def test_warmup_stable_decay() -> None:
    assert values({"kind": "wsd", "base": 10.0}, 6) == pytest.approx([10, 10, 10, 10, 5.5, 1])
    full = {"kind": "wsd", "base": 10.0, "warmup_cycles": 2, "decay_cycles": 3, "min": 1.0}
    assert values(full, 7) == pytest.approx([5, 10, 10, 10, 7, 4, 1])
    assert values({**full, "warmup_cycles": 4, "min": 4.0}, 7) == pytest.approx([4, 5, 7.5, 10, 8, 6, 4])
    assert values({**full, "warmup_cycles": 0, "decay_cycles": 0}, 3) == [10.0, 10.0, 10.0]
    assert values(full, 1) == [10.0]


def test_warmup_stable_decay_default_length_is_three_tenths_rounded_up() -> None:
    for num_cycles, num_decay in {2: 1, 3: 1, 4: 2, 10: 3, 11: 4, 20: 6}.items():
        found = values({"kind": "wsd", "base": 10.0}, num_cycles)
        assert sum(value < 10.0 for value in found) == num_decay


def test_warmup_and_decay_must_fit_into_the_run() -> None:
    schedule = ADAPTER.validate_python({"kind": "wsd", "base": 1.0, "warmup_cycles": 3, "decay_cycles": 2})
    assert schedule.value(5, 5) == 0.1
    with pytest.raises(ValueError, match="3 warm-up cycles and 2 decay cycles do not fit into 4 cycles"):
        schedule.value(1, 4)


def test_inverse_power() -> None:
    assert values({"kind": "inverse_power", "base": 6.0}, 9)[::3] == pytest.approx([6.0, 3.0, 6.0 / math.sqrt(7)])
    assert values({"kind": "inverse_power", "base": 6.0, "power": 1.0, "c0": 3.0}, 4) == pytest.approx([6, 4.5, 3.6, 3])
    assert values({"kind": "inverse_power", "base": 6.0, "power": 0.0}, 3) == [6.0] * 3


def test_cosine_restarts() -> None:
    wave = {"kind": "cosine_restarts", "base": 4.0, "final": 0.0}
    assert values({**wave, "period": 2}, 5) == pytest.approx([4, 2, 4, 2, 4])
    assert values({**wave, "period": 3}, 7) == pytest.approx([4, 3, 1, 4, 3, 1, 4])
    assert values({"kind": "cosine_restarts", "base": 4.0, "period": 2}, 2) == pytest.approx([4.0, 2.2])
    # One period that is as long as the run: the cosine, without its end.
    assert values({**wave, "period": 4}, 4) == pytest.approx(values({"kind": "cosine", "base": 4.0, "final": 0}, 5)[:4])


def test_budget_matched_spends_what_its_reference_spends() -> None:
    for reference in (exponential(0.85), [4e-5, 2e-5], {"kind": "wsd", "base": 5e-5}, 3e-5):
        matched = values({"kind": "budget_matched", "reference": reference}, 8)
        assert len(set(matched)) == 1
        assert math.fsum(matched) == pytest.approx(math.fsum(values(reference, 8)), rel=1e-12)
    assert f"{values({'kind': 'budget_matched', 'reference': exponential(0.85)}, 8)[0]:.2e}" == "3.03e-05"


@pytest.mark.parametrize("base", [3e-5, 5e-5, 8e-5])
@pytest.mark.parametrize("decay", [0.7, 0.85, 0.95])
def test_the_sweeps_of_the_document(base: float, decay: float) -> None:
    """Experiments 2 and 3: base * decay^(c-1), to the last digit that a float holds."""
    expected = [base * decay**cycle for cycle in range(5)]
    assert values({"kind": "exponential", "base": base, "decay": decay}, 5) == expected
