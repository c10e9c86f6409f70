"""The parts of `init` that decide: estimated times, the size of a run, and values as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halo_forge.config.yaml_io import parse_value
from halo_forge.core.errors import ConfigError
from halo_forge.hardware import ModelShape
from halo_forge.hardware.shape import typical_shape
from halo_forge.starter.choose import number
from halo_forge.starter.estimate import Speed, Work, cycle_seconds, run_seconds, sampling_seconds, speed_of
from halo_forge.starter.init import seconds_of
from halo_forge.starter.size import LADDER, ROWS_PER_STEP, RunSize, sized
from halo_forge.starter.write import inline

ROOT = Path(__file__).parents[2]
SMOLLM2 = ModelShape(576, 1536, 30, 576, 192, 49_152, tied=True)


def test_the_estimate_of_the_demo_is_near_what_was_measured() -> None:
    """A cycle took 75 s on 2 vCPU (docs/quickstart.md): 96 train and 84 dev completions of about 85 tokens."""
    work = Work(96, 84, 96, prompt_tokens=80, completion_tokens=85, kept=32)
    assert 75 / 2 < cycle_seconds(SMOLLM2, speed_of("cpu", 2, "bfloat16"), work) < 75 * 2


def test_a_decoding_step_computed_by_hand() -> None:
    """64 rows of Qwen2.5-7B on gfx1151, 500 positions each: weights 15.2 GB and caches of 29 MB at 215 GB/s."""
    shape = typical_shape(7_000_000_000)
    work = Work(64, 0, 64, prompt_tokens=300, completion_tokens=200, kept=0)
    speed = Speed(215e9, 20e12, True, 1000, "")
    step = (2 * shape.num_parameters + 64 * 500 * 28 * 512 * 4) / 215e9
    assert step == pytest.approx(0.0795, rel=0.02)
    assert sampling_seconds(shape, speed, work, 64) == pytest.approx(200 * step / 0.5)


def test_more_work_never_takes_less_time() -> None:
    shape, speed = typical_shape(500_000_000), speed_of("cuda", 8, "bfloat16")
    work = Work(1000, 100, 512, 100, 200, 300)
    more = [
        Work(2000, 100, 512, 100, 200, 300),
        Work(1000, 100, 512, 100, 400, 300),
        Work(1000, 100, 512, 100, 200, 600),
    ]
    assert all(cycle_seconds(shape, speed, each) > cycle_seconds(shape, speed, work) for each in more)
    assert run_seconds(shape, speed, work, 3, 100) > 3 * cycle_seconds(shape, speed, work)
    assert sampling_seconds(shape, speed, work, 0) == 0.0


def of_size(size: RunSize) -> Work:
    return Work(size.prompts * size.samples, size.dev * size.dev_samples, 64, 100, 300, size.kept())


@pytest.mark.parametrize("parameters", [135_000_000, 7_000_000_000])
def test_more_time_never_makes_a_smaller_run_and_half_of_it_is_left(parameters: int) -> None:
    shape, speed = typical_shape(parameters), speed_of("gfx1151", 16, "bfloat16")
    found = [sized(hours * 3600, shape, speed, of_size, (400, 130)) for hours in (0.01, 0.3, 1, 4, 12, 48, 500)]
    times = [each.run_seconds for each in found]
    assert times == sorted(times) and times[0] < times[-1]
    assert not found[0].fits and found[0].size == RunSize(3, 24, 4, 40, 2)
    assert found[-1].fits and found[-1].size == RunSize(6, 400, 16, 130, 8)
    for each, hours in zip(found, (0.01, 0.3, 1, 4, 12, 48, 500), strict=True):
        assert each.run_seconds <= hours * 1800 or each.size.prompts == LADDER[-1].prompts


@pytest.mark.parametrize("size", LADDER)
def test_every_size_leaves_a_cycle_some_steps(size: RunSize) -> None:
    assert size.rows_per_step() in ROWS_PER_STEP
    assert size.kept() // size.rows_per_step() >= 4


@pytest.mark.parametrize(
    "value",
    [
        "models/x",
        "builtin:c/train",
        "tasks.jsonl:train",
        "x/y:test[:60%]",
        "```c\n",
        "no",
        "null",
        "1e3",
        "a b: c # d",
        "~/x",
        'quote " and \\',
        "übung.jsonl:dev",
        "",
        True,
        3,
        0.85,
        1.0,
        3.3e-4,
        1e-6,
        268_435_456,
        {"kind": "phases", "phases": [{"until": 2, "value": 0.5}, {"value": "pass"}]},
        ["```"],
    ],
)
def test_values_are_read_back_as_they_were(value: Any) -> None:
    assert parse_value(inline(value), "value") == value
    assert "\n" not in inline(value)


@pytest.mark.parametrize(("value", "text"), [(3.3e-4, "3.3e-4"), (1e-6, "1e-6"), (0.85, "0.85"), (2.0, "2"), (0, "0")])
def test_numbers_look_as_people_write_them(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("8h", 28_800), ("1.5 h", 5400), ("1D", 86_400)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "h", "-1h", "0h", "1 week", "1h30"])
def test_what_is_not_a_time(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed: a number with a unit"):
        seconds_of(text)


def test_the_shape_in_these_tests_is_that_of_the_demo_model() -> None:
    path = ROOT / "models/smollm2-135m-instruct/config.json"
    if not path.is_file():
        pytest.skip("the demo's model is absent")
    assert ModelShape.of(json.loads(path.read_text())) == SMOLLM2
