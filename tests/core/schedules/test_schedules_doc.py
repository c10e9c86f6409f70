"""docs/schedules.md: every example in it is built, and every number in its tables is computed again."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from halo_forge.config import RaftConfig
from halo_forge.config.problems import dotted
from halo_forge.config.rules import SCHEDULED
from halo_forge.config.yaml_io import parse_value
from halo_forge.core.lr_scheduler import (
    SHAPE_SETTINGS,
    clamp_warmup,
    learning_rate_factors,
    learning_rate_mass,
    num_optimizer_steps,
    peak_of_mass,
)
from halo_forge.core.schedules import Scheduled, kinds

TEXT = (Path(__file__).parents[3] / "docs" / "schedules.md").read_text(encoding="utf-8")
ADAPTER: TypeAdapter[Any] = TypeAdapter(Scheduled)
EXAMPLE = re.compile(r"```yaml\n(.*?)```\s*((?:\|[^\n]*\|\n)+)", re.DOTALL)


def sections() -> dict[str, str]:
    parts = re.split(r"^### `(\w+)`\n", TEXT.split("## Across cycles")[1].split("\n## ")[0], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(table: str) -> list[list[str]]:
    """The cells of a markdown table, without the line under its head."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.strip().splitlines()]
    return [lines[0], *lines[2:]]


def table_after(heading: str) -> list[list[str]]:
    """The first table after a line that starts with `heading`, the head included."""
    match = re.search(rf"^{re.escape(heading)}.*?\n((?:\|[^\n]*\|\n)+)", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None, heading
    return rows(match[1])


EXAMPLES = [(kind, settings, table) for kind, text in sections().items() for settings, table in EXAMPLE.findall(text)]


def test_every_kind_has_a_section_with_an_example_and_its_evidence() -> None:
    assert sorted(sections()) == list(kinds())
    assert {kind for kind, _, _ in EXAMPLES} == set(kinds())
    for kind, text in sections().items():
        assert "\nEdge cases: " in text, kind
        assert re.search(r"^Evidence: \*(hypothesis|reported|derived)\*", text, re.MULTILINE), kind


@pytest.mark.parametrize(("kind", "settings", "table"), EXAMPLES)
def test_table_of_an_example_equals_the_code(kind: str, settings: str, table: str) -> None:
    ((knob, written),) = parse_value(settings, "docs/schedules.md").items()
    schedule = ADAPTER.validate_python(written)
    assert schedule.kind == kind
    head, *body = rows(table)
    assert head == ["cycle", "1", "2", "3", "4", "5", "6"]
    printed = {row[0]: [math.nan if cell == "-" else float(cell) for cell in row[1:]] for row in body}
    history = [
        {match[1]: value}
        for label, values in printed.items()
        if (match := re.fullmatch(r"`(.+)` before it trains", label))
        for value in values
    ]
    assert bool(history) is schedule.reads_history
    found = [float(f"{schedule.value(cycle, 6, history):.2e}") for cycle in range(1, 7)]
    assert printed[knob.replace("_", " ")] == found
    if history:
        lowest, highest = ([float(f"{schedule.bounds(cycle, 6)[end]:.2e}") for cycle in range(1, 7)] for end in (0, 1))
        assert printed["lowest possible (dry run)"] == lowest
        assert printed.get("highest possible (dry run)", [schedule.base] * 6) == highest


def test_the_short_spellings_are_accepted() -> None:
    block = re.search(r"## What to write\n\n```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    found = [ADAPTER.validate_python(*parse_value(line, "doc").values()).kind for line in block[1].splitlines()]
    assert found == ["constant", "manual", "manual", "exponential", "phases"]


def test_defaults_in_the_text_are_those_of_the_code() -> None:
    for kind, text in sections().items():
        (written,) = parse_value(EXAMPLE.findall(text)[0][0], "doc").values()
        fields = ADAPTER.validate_python(written)
        for sentence in re.findall(r"Defaults?: (.*?\.)(?:\s|$)", text, re.DOTALL):
            for name, printed in re.findall(r"`(\w+): ([^`]+)`", sentence):
                assert type(fields).model_fields[name].default == parse_value(printed, "doc"), (kind, name)


def test_within_cycle_table() -> None:
    head, *body = table_after("`num_cycles` here is")
    assert head == ["shape", *map(str, range(10)), "mass / N"]
    assert {re.findall(r"`(\w+)`", row[0])[0] for row in body} == set(SHAPE_SETTINGS)
    for row in body:
        match = re.fullmatch(r"`(\w+)`(?: `(\{.*\})`)?", row[0])
        assert match is not None
        settings = parse_value(match[2], "doc") if match[2] else {}
        factors = learning_rate_factors(match[1], 10, 2, **settings)  # type: ignore[arg-type]
        assert row[1:11] == [f"{factor:.3f}" for factor in factors]
        assert row[11] == f"{math.fsum(factors) / 10:.3f}"


def test_shape_settings_table() -> None:
    _, *body = table_after("**No step here has a rate of 0.**")
    documented = {
        row[0].strip("`"): {name: float(value) for name, value in re.findall(r"`(\w+)`[^(]*\(([\d.]+)\)", row[2])}
        for row in body
    }
    assert documented == SHAPE_SETTINGS


def test_warmup_table() -> None:
    head, *body = table_after("The **learning-rate mass**")
    assert head == ["steps", "warm-up used", "mass / N"]
    for steps, used, share in body:
        warmup_steps = clamp_warmup(10, int(steps))
        mass = learning_rate_mass(1.0, learning_rate_factors("linear", int(steps), warmup_steps))
        assert (used, share) == (str(warmup_steps), f"{mass / int(steps):.3f}")


def test_mass_table() -> None:
    head, *body = table_after("### A mass instead of a peak")
    assert head == ["rows kept", "steps", "peak"]
    for num_rows, steps, peak in body:
        num_steps = num_optimizer_steps(int(num_rows), 1, 2, 4)
        factors = learning_rate_factors("linear", num_steps, clamp_warmup(10, num_steps))
        assert (int(steps), float(peak)) == (num_steps, float(f"{peak_of_mass(4e-4, factors):.2e}"))


def test_what_a_schedule_can_move_is_what_the_configuration_takes() -> None:
    text = TEXT.split("## What a schedule can move")[1]
    named = set(re.findall(r"`((?:engine|raft|selection|training)\.\w+)`", text))
    assert {dotted(path) for path in SCHEDULED} <= named
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    run = {"model": {"model_name_or_path": "owner/name"}, "output_dir": "run", **parse_value(block, "doc")}
    assert RaftConfig.model_validate(run).raft.curriculum_fraction.value(2, 5) == pytest.approx(0.4)


def test_numbers_in_the_text() -> None:
    def total(settings: Any) -> float:
        schedule = ADAPTER.validate_python(settings)
        return math.fsum(schedule.value(cycle, 8) for cycle in range(1, 9))

    exponential = {"kind": "exponential", "base": 5e-5, "decay": 0.85}
    assert f"{100 * total(exponential) / total(5e-5):.1f} %" == "60.6 %"
    assert "spends 60.6 % of" in TEXT
    assert f"{total(exponential) / 8:.2e}" == "3.03e-05"
    assert "(`3.03e-5` instead of `5e-5`)" in TEXT
    assert (num_optimizer_steps(500, 1, 2, 16), num_optimizer_steps(43, 1, 2, 16)) == (16, 2)
    assert "give 16 steps; 43 rows give 2" in TEXT
