"""What every schedule kind owes: checked for each example of each module, the moment the module exists."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from halo_forge.core.registry import discover
from halo_forge.core.schedules import NumberSchedule, Schedule, Scheduled, is_numeric, kinds

SPECS = discover("halo_forge.core.schedules")
ADAPTER: TypeAdapter[Schedule] = TypeAdapter(Scheduled)
EXAMPLES = [
    (kind, example) for kind, spec in SPECS.items() for example in spec.model_config["json_schema_extra"]["examples"]
]
NUM_CYCLES = 7

METRICS = st.dictionaries(
    st.sampled_from(
        ["dev/pass_rate", "dev/compile_rate", "train/pass_rate", "kl_to_previous", "dev/diversity/effective_number"]
    ),
    st.floats(0, 1) | st.just(math.nan) | st.just(math.inf),
) | st.fixed_dictionaries({"decision/outcome": st.sampled_from([-1.0, 0.0, 1.0])})
HISTORIES = st.lists(METRICS, max_size=NUM_CYCLES + 2)

every_example = pytest.mark.parametrize(
    ("kind", "example"), EXAMPLES, ids=[f"{k}-{i}" for i, (k, _) in enumerate(EXAMPLES)]
)


def build(example: dict[str, Any], **changes: Any) -> Schedule:
    return ADAPTER.validate_python({**copy.deepcopy(example), **changes})


def test_the_kinds_are_those_of_the_mission() -> None:
    expected = {"constant", "manual", "exponential", "linear", "cosine", "milestones", "phases", "wsd", "plateau"}
    expected |= {"inverse_power", "cosine_restarts", "budget_matched", "kl_target", "temperature_floor"}
    assert expected | {"performance_based"} <= set(kinds())


@pytest.mark.parametrize("kind", SPECS)
def test_kind_is_named_as_its_module_and_has_examples(kind: str) -> None:
    assert SPECS[kind].__module__.rpartition(".")[2] == kind
    assert any(name == kind for name, _ in EXAMPLES)


@every_example
def test_settings_survive_json(kind: str, example: dict[str, Any]) -> None:
    schedule = build(example)
    assert type(schedule) is SPECS[kind]
    assert ADAPTER.validate_json(ADAPTER.dump_json(schedule)) == schedule
    assert ADAPTER.validate_python(ADAPTER.dump_python(schedule, mode="json")) == schedule


@every_example
def test_immutable_and_strict(kind: str, example: dict[str, Any]) -> None:
    schedule = build(example)
    with pytest.raises(ValidationError, match="frozen"):
        schedule.beyond = "error"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        build(example, no_such_setting=1)


@every_example
def test_cycles_outside_the_run(kind: str, example: dict[str, Any]) -> None:
    held = build(example)
    for ask in (held.value, held.bounds):
        with pytest.raises(ValueError, match="counted from 1"):
            ask(0, NUM_CYCLES)
        with pytest.raises(ValueError, match="at least 1 cycle"):
            ask(1, 0)
        assert ask(NUM_CYCLES + 3, NUM_CYCLES) == ask(NUM_CYCLES, NUM_CYCLES)
    refused = build(example, beyond="error")
    for ask in (refused.value, refused.bounds):
        with pytest.raises(ValueError, match="beyond"):
            ask(NUM_CYCLES + 1, NUM_CYCLES)


@every_example
def test_one_cycle_is_enough(kind: str, example: dict[str, Any]) -> None:
    first = build(example).value(1, 1)
    assert first == "pass" or first >= 0
    if "base" in example:
        assert first == example["base"]


@every_example
@given(history=HISTORIES)
def test_value_is_pure_and_within_its_bounds(
    kind: str, example: dict[str, Any], history: list[dict[str, float]]
) -> None:
    schedule = build(example)
    for cycle in range(1, NUM_CYCLES + 1):
        before = copy.deepcopy(history)
        value = schedule.value(cycle, NUM_CYCLES, history)
        assert repr(history) == repr(before)
        assert value == build(example).value(cycle, NUM_CYCLES, history)
        assert value == schedule.value(cycle, NUM_CYCLES, history[:cycle]), "later measurements must not matter"
        low, high = schedule.bounds(cycle, NUM_CYCLES)
        if value == "pass":
            assert (low, high) == ("pass", "pass")
            assert not is_numeric(schedule)
        else:
            assert 0.0 < low <= value <= high < math.inf


@every_example
def test_only_a_kind_that_reads_history_has_a_range(kind: str, example: dict[str, Any]) -> None:
    schedule = build(example)
    ranges = [schedule.bounds(cycle, NUM_CYCLES) for cycle in range(1, NUM_CYCLES + 1)]
    assert any(low != high for low, high in ranges) is schedule.reads_history


@pytest.mark.parametrize("kind", SPECS)
def test_a_number_schedule_is_numeric(kind: str) -> None:
    if issubclass(SPECS[kind], NumberSchedule):
        assert all(is_numeric(build(example)) for name, example in EXAMPLES if name == kind)


@pytest.mark.parametrize("kind", [kind for kind, spec in SPECS.items() if "base" in spec.model_fields])
@pytest.mark.parametrize("base", [-1.0, math.nan, math.inf, "5e-5", True, None])
def test_base_must_be_a_number_of_at_least_0(kind: str, base: Any) -> None:
    example = next(example for name, example in EXAMPLES if name == kind)
    with pytest.raises(ValidationError, match=f"{kind}.base"):
        build(example, base=base)


@pytest.mark.parametrize("kind", [kind for kind, spec in SPECS.items() if {"base", "min"} <= spec.model_fields.keys()])
def test_base_must_not_be_below_min(kind: str) -> None:
    example = next(example for name, example in EXAMPLES if name == kind)
    assert build(example, base=2e-5, min=2e-5).value(1, 1) == 2e-5
    with pytest.raises(ValidationError, match="base 1e-05 is below min 2e-05"):
        build(example, base=1e-5, min=2e-5)


@pytest.mark.parametrize("kind", [kind for kind, spec in SPECS.items() if "decay" in spec.model_fields])
@pytest.mark.parametrize("decay", [0.0, -0.5, 1.01, 85.0, math.nan, math.inf])
def test_decay_must_be_in_0_to_1(kind: str, decay: float) -> None:
    example = next(example for name, example in EXAMPLES if name == kind)
    with pytest.raises(ValidationError, match=f"{kind}.decay"):
        build(example, decay=decay)
