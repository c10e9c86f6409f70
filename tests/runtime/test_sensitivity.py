"""The dry run says what the decisions of a run will be able to see."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from cli_calls import command_line
from scripted_runs import write_inputs

from halo_forge.config import RaftConfig
from halo_forge.core.decisions import DecisionsSection, compare_totals, screen_totals
from halo_forge.runtime.sensitivity import lines_of_sensitivity, sensitivity, sensitivity_warnings


def config(samples: int = 2, test_at_end: bool = True, **decisions: Any) -> RaftConfig:
    return RaftConfig.model_validate(
        {
            "model": {"model_name_or_path": "nobody/nothing"},
            "output_dir": "run",
            "evaluation": {"samples_per_prompt": samples, "test_at_end": test_at_end},
            "decisions": decisions,
        }
    )


def warned(chosen: RaftConfig, dev: int | None, test: int | None = 500) -> list[str]:
    return list(sensitivity_warnings(chosen, sensitivity(chosen, {"dev": dev, "test": test})))


def test_the_standard_error_by_hand() -> None:
    half, tenth = sensitivity(config(test_at_end=False), {"dev": 42, "test": 34})
    # Variance of a sample within a prompt: 0.7 x rate x (1 - rate); two sets of 2 samples; effects vary by 0.1.
    assert half.standard_error == pytest.approx(math.sqrt((0.01 + 2 * 0.7 * 0.25 / 2) / 42))
    assert tenth.standard_error == pytest.approx(math.sqrt((0.01 + 2 * 0.7 * 0.09 / 2) / 42))
    assert half.detectable == pytest.approx(2.8 * half.standard_error)
    assert {each.set_name for each in sensitivity(config(), {"dev": 42, "test": 34})} == {"dev", "test"}
    assert sensitivity(config(), {"dev": None, "test": None}) == ()


def test_few_samples_make_every_version_underpowered_and_the_advice_is_enough() -> None:
    (said,) = warned(config(), 42)
    smaller = "0.19 at a rate of 0.5 or 0.12 at a rate of 0.1"
    assert said.startswith(f"every version that differs by less than {smaller} will be underpowered: with 42 dev")
    assert "0.066 at a rate of 0.5 and 0.042 at a rate of 0.1, above decisions.max_standard_error (0.04)" in said
    assert "(fix: 116 dev prompts, or evaluation.samples_per_prompt: 7, or decisions.max_standard_error: 0.07)" in said
    assert warned(config(), 116) == warned(config(samples=7), 42) == warned(config(max_standard_error=0.07), 42) == []
    assert warned(config(), 115) != [] != warned(config(samples=6), 42)


def test_only_rates_at_which_samples_vary_much_may_be_too_vague() -> None:
    (said,) = warned(config(), 60)
    assert said.startswith("a version near a rate of 0.5 that differs by less than 0.16 will be underpowered")


def test_more_samples_are_no_advice_where_the_prompts_alone_are_too_few() -> None:
    """24 prompts whose effects vary by 0.1 leave no room below a standard error of 0.02, however many samples."""
    (said,) = warned(config(max_standard_error=0.02), 24)
    assert "samples_per_prompt" not in said and "dev prompts, or decisions.max_standard_error: 0.09" in said


def test_too_few_prompts() -> None:
    (said,) = warned(config(), 10)
    assert "prompts.dev has 10 prompts, fewer than decisions.min_prompts (20): every version" in said
    (said,) = warned(config(samples=8), 100, test=5)
    assert "prompts.test has 5 prompts" in said and "the dev prompts, sampled once more" in said
    assert warned(config(samples=8), None) == []


def test_what_is_warned_of_happens() -> None:
    """Half of the samples pass, in both versions and independently: the screen is as vague as was expected."""
    settings = DecisionsSection()
    before = {str(number): (float((0, 1, 1, 2)[number % 4]), 2) for number in range(42)}
    after = {str(number): (float((1, 0, 2, 1)[number % 4]), 2) for number in range(42)}
    found = compare_totals(before, after)
    assert found is not None and found.standard_error > settings.max_standard_error
    assert screen_totals(settings, 0, before, after).outcome == "underpowered"


def test_the_assumptions_are_stated_beside_the_effects() -> None:
    lines = lines_of_sensitivity("dev/reward_mean", sensitivity(config(), {"dev": 42, "test": 34}))
    assert lines[0] == (
        "decisions (42 prompts x 2 samples of dev): detectable difference 0.19 at a rate of 0.5, 0.12 at a rate of 0.1"
    )
    assert lines[1].startswith("confirming an improvement (34 prompts x 2 samples of test): detectable difference 0.21")
    assert "intraclass correlation 0.3" in lines[2] and "upper bounds" in lines[2]
    assert "upper bounds" not in lines_of_sensitivity("dev/pass_rate", sensitivity(config(), {"dev": 42}))[-1]
    assert lines_of_sensitivity("dev/pass_rate", ()) == []


def test_the_dry_run_says_it_in_words_and_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_inputs(tmp_path, num_prompts=(3, 30, 25), decisions__min_prompts=20)
    command = ("raft", "run", path, "--dry-run", "--output-dir", tmp_path / "run")
    with command_line(monkeypatch, capsys) as cli:
        assert "decisions (30 prompts x 2 samples of dev): detectable difference" in cli(*command).out
        found = cli(*command, "--json").json
    assert [(row["set_name"], row["num_prompts"], row["rate"]) for row in found["sensitivity"]] == [
        ("dev", 30, 0.5), ("dev", 30, 0.1), ("test", 25, 0.5), ("test", 25, 0.1),
    ]  # fmt: skip
    assert any("will be underpowered" in warning for warning in found["warnings"])
