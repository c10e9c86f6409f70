"""What a user may write for a schedule, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from halo_forge.core.schedules import Scheduled, ScheduledNumber, is_numeric
from halo_forge.core.schedules.constant import Constant
from halo_forge.core.schedules.exponential import Exponential
from halo_forge.core.schedules.manual import Manual

ADAPTER: TypeAdapter[Any] = TypeAdapter(Scheduled)
NUMBER: TypeAdapter[Any] = TypeAdapter(ScheduledNumber)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (5e-5, Constant(value=5e-5)),
        (8, Constant(value=8.0)),
        (0, Constant(value=0.0)),
        ("pass", Constant(value="pass")),
        ({"kind": "constant", "value": 2}, Constant(value=2.0)),
        ([3, 2], Manual(values=(3.0, 2.0))),
        ({"cycle_1": 3, "cycle_3": 2}, Manual(values=(3.0, None, 2.0))),
        ({"kind": "exponential", "base": 1.0}, Exponential(base=1.0, decay=0.85, min=1e-6, beyond="hold")),
        (Exponential(base=1.0), Exponential(base=1.0)),
    ],
)
def test_spellings(raw: Any, expected: Any) -> None:
    assert ADAPTER.validate_python(raw) == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (True, "found True; a schedule is a number"),
        (None, "found None; a schedule is a number"),
        ("5e-5", "found '5e-5'; a schedule is a number"),
        ({}, "a mapping with `kind`, one of budget_matched, constant, cosine"),
        ({"base": 5e-5}, "a mapping with `kind`"),
        ({"kind": "exponentail", "base": 1.0}, "'exponentail'.*does not match any of the expected tags"),
        (-1, 'constant.value\n.*found -1; it must be a number of at least 0, or "pass"'),
        (math.nan, "found nan"),
        (math.inf, "found inf"),
        ([], "manual.values\n.*at least 1 item"),
        ([1, "fail"], "manual.values.1\n.*found 'fail'"),
        ([1, -2], "manual.values.1\n.*found -2"),
        ([1, True], "manual.values.1\n.*found True"),
        ([None, 1], "cycle_1 is missing"),
        ({"kind": "manual", "values": {}}, "at least 1 item"),
        ({"cycle_2": 1}, "cycle_1 is missing; the first value is for cycle 2"),
        ({"cycle_1": 1, "cyle_2": 1}, "found the key 'cyle_2'"),
        ({"cycle_1": 1, "cycle_0": 1}, "found the key 'cycle_0'"),
        ({"cycle_1": 1, 1: 2}, "cycle 1 is given twice"),
        ({"cycle_1": 1, "cycle_2": None}, "cycle_2 has no value"),
        ({"kind": "manual", "values": [1, None, 0], "interpolation": "log"}, "0 has no logarithm"),
        ({"kind": "manual", "values": [1, None, "pass"], "interpolation": "linear"}, '"pass" cannot be interpolated'),
        ({"kind": "milestones", "base": 1.0}, "exactly one of `every`"),
        ({"kind": "milestones", "base": 1.0, "every": 2, "milestones": [3]}, "exactly one of `every`"),
        ({"kind": "milestones", "base": 1.0, "every": 0}, "milestones.every"),
        ({"kind": "milestones", "base": 1.0, "milestones": []}, "at least 1 item"),
        ({"kind": "milestones", "base": 1.0, "milestones": [1, 3]}, "greater than or equal to 2"),
        ({"kind": "milestones", "base": 1.0, "milestones": [3, 3]}, r"milestones must increase, found \[3, 3\]"),
        ({"kind": "phases", "phases": []}, "at least 1 item"),
        ({"kind": "phases", "phases": [{"until": 2, "value": 1}]}, "the last phase is open"),
        ({"kind": "phases", "phases": [{"value": 1}, {"value": 2}]}, "phase 1 has no `until`"),
        (
            {"kind": "phases", "phases": [{"until": 3, "value": 1}, {"until": 3, "value": 1}, {"value": 2}]},
            r"must increase, found \[3, 3\]",
        ),
        ({"kind": "phases", "phases": [{"until": 0, "value": 1}, {"value": 2}]}, "phases.0.until"),
        ({"kind": "wsd", "base": 1.0, "warmup_cycles": -1}, "wsd.warmup_cycles"),
        ({"kind": "plateau", "base": 1.0, "patience": 0}, "plateau.patience"),
        ({"kind": "plateau", "base": 1.0, "cooldown": -1}, "plateau.cooldown"),
        ({"kind": "plateau", "base": 1.0, "min_improvement": -0.1}, "plateau.min_improvement"),
        ({"kind": "plateau", "base": 1.0, "metric": ""}, "plateau.metric"),
        ({"kind": "linear", "base": 1.0, "final": -1.0}, "linear.final"),
        ({"kind": "constant", "value": 1.0, "beyond": "wrap"}, "constant.beyond"),
    ],
)
def test_refusals(raw: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        ADAPTER.validate_python(raw)


PASS_IN = [
    "pass",
    [0.5, "pass"],
    {"kind": "phases", "phases": [{"until": 2, "value": 0.5}, {"value": "pass"}]},
]


@pytest.mark.parametrize("raw", PASS_IN)
def test_pass_is_a_threshold_only(raw: Any) -> None:
    schedule = ADAPTER.validate_python(raw)
    assert not is_numeric(schedule)
    assert schedule.value(3, 3) == "pass"
    assert schedule.bounds(3, 3) == ("pass", "pass")
    with pytest.raises(ValidationError, match='"pass" is a value of the reward threshold only'):
        NUMBER.validate_python(raw)


def test_a_schedule_before_pass_gives_its_number() -> None:
    schedule = ADAPTER.validate_python([0.5, 0.5, "pass"])
    assert [schedule.value(cycle, 4) for cycle in range(1, 5)] == [0.5, 0.5, "pass", "pass"]


def test_constant_is_written_as_value_inside_another_model() -> None:
    class Section(BaseModel):
        learning_rate: ScheduledNumber

    section = Section.model_validate({"learning_rate": 5e-5})
    assert section.model_dump() == {"learning_rate": {"kind": "constant", "beyond": "hold", "value": 5e-5}}
    assert Section.model_validate_json(section.model_dump_json()) == section


def test_json_schema_knows_the_short_spellings() -> None:
    schema = ADAPTER.json_schema()
    assert {"minimum": 0.0, "type": "number"} in schema["anyOf"]
    assert {"kind", "base", "decay"} <= schema["$defs"]["Exponential"]["properties"].keys()
    json.dumps(schema, allow_nan=False)
