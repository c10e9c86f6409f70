"""The preview of a run: the numbers that the trainer will use, and the warnings that matter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from policy_versions import version

import halo_forge.hardware
from halo_forge.cli import app
from halo_forge.cli.preview import print_preview
from halo_forge.config import RaftConfig
from halo_forge.core.errors import ConfigError
from halo_forge.core.lr_scheduler import learning_rate_mass, planned_factors
from halo_forge.core.plan import Plan, PromptSets
from halo_forge.core.records import Completion, Prompt, TrainingRow
from halo_forge.hardware import Machine
from halo_forge.runtime.assembly import planned
from halo_forge.runtime.auto_settings import estimated_adapter_bytes
from halo_forge.runtime.preview import Preview, preview
from halo_forge.training.scripted import ScriptedTrainer

ROOT = Path(__file__).parents[2]


def config(**sections: Any) -> RaftConfig:
    return RaftConfig.model_validate(
        {"model": {"model_name_or_path": "nobody/nothing"}, "output_dir": "run", **sections}
    )


def seen(num_train: int | None = 100, *, has_tests: bool = True, **sections: Any) -> Preview:
    return preview(config(**sections), num_train, 500, has_tests)


def test_an_ordinary_run_has_no_warnings() -> None:
    found = seen()
    assert found.warnings == ()
    assert [cycle.cycle for cycle in found.cycles] == [1, 2, 3, 4, 5, 6]
    assert [cycle.policy_version for cycle in found.cycles] == [0, 1, 2, 3, 4, 5]


def test_the_numbers_of_a_cycle() -> None:
    sections: dict[str, Any] = {
        "training": {"learning_rate": 1e-4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        "selection": {"per_prompt_cap": 3, "reward_threshold": 0.5},
        "engine": {"temperature": [1.0, 0.5], "top_p": 0.9},
        "raft": {"num_cycles": 2, "samples_per_prompt": 5, "prompts_per_cycle": 40},
    }
    first, second = seen(**sections).cycles
    assert (first.num_prompts, first.samples_per_prompt, first.samples, first.max_kept) == (40, 5, 200, 120)
    assert first.max_optimizer_steps == 15  # 120 rows, 8 a step
    assert first.warmup_steps == 1
    # Warm-up 1/2, then 14 steps that fall linearly from 1: 0.5 + (1 + 2 + ... + 14) / 14.
    assert first.learning_rate_mass == pytest.approx(1e-4 * (0.5 + 7.5))
    assert (first.temperature, second.temperature, first.top_p, first.reward_threshold) == (1.0, 0.5, 0.9, 0.5)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "warmup_stable_decay"])
@pytest.mark.parametrize("epochs", [0.5, 1, 3])
def test_what_is_shown_is_what_the_trainer_applies(tmp_path: Path, shape: str, epochs: float) -> None:
    settings = config(
        training={
            "learning_rate": 2e-4,
            "lr_scheduler_type": shape,
            "num_train_epochs": epochs,
            "gradient_accumulation_steps": 3,
            "warmup_steps": 2,
        },
        raft={"num_cycles": 1, "samples_per_prompt": 4, "min_selected": 1},
    )
    shown = preview(settings, 9, 1, True).cycles[0]
    assert shown.max_kept == 36
    prompt = Prompt("a", ({"role": "user", "content": "write"},))
    rows = [TrainingRow(prompt, Completion("a", index, "text", (), "stop", 0, 0)) for index in range(36)]
    applied: list[float] = []
    trained = ScriptedTrainer(settings.training).train(
        rows,
        Plan(settings, PromptSets((), (), ())).training_settings([version(0)], 36),
        tmp_path,
        lambda row, num_steps: applied.append(row["learning_rate"]),
    )
    assert len(applied) == shown.max_optimizer_steps
    assert sum(applied) == pytest.approx(shown.learning_rate_mass)
    assert trained.metrics["learning_rate_mass"] == pytest.approx(shown.learning_rate_mass)
    factors = planned_factors(settings.training, 36, epochs, 3)
    assert learning_rate_mass(2e-4, factors) == shown.learning_rate_mass


EXPONENTIAL = {"kind": "exponential", "base": 5e-5, "decay": 0.85, "min": 1e-6}
AT_FLOOR = {**EXPONENTIAL, "decay": 0.1}
PLATEAU = {
    "kind": "plateau",
    "base": 1e-4,
    "decay": 0.1,
    "decay_on_decline": 0.1,
    "min": 1e-5,
    "patience": 1,
    "cooldown": 0,
}

RESTARTS = {"kind": "cosine_restarts", "base": 1e-4, "period": 3}

# (what is warned of, number of train prompts, the configuration that is warned of, its neighbour that is not)
WARNINGS: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    (
        # 10 prompts x 8 samples, at most 4 a prompt: 40 rows, 10 steps of 4 rows
        "training.warmup_steps (10) is as long as the cycle (at most 10 steps); it is reduced to 2",
        10,
        {"training": {"warmup_steps": 10, "gradient_accumulation_steps": 2}},
        {"training": {"warmup_steps": 9, "gradient_accumulation_steps": 2}},
    ),
    (
        "at most 4 optimizer steps, too few to learn much",
        16,  # 64 rows
        {"training": {"gradient_accumulation_steps": 8}},
        {"training": {"gradient_accumulation_steps": 6}},  # 12 rows a step: 6 steps
    ),
    (
        "learning-rate mass is below a quarter of learning rate x steps",
        100,
        {"training": {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 4.0}}},
        {"training": {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}}},
    ),
    (
        "cycles 3 to 6: the decayed learning rate is at its floor (min 1e-06)",
        100,
        {"training": {"learning_rate": AT_FLOOR}},
        {"training": {"learning_rate": EXPONENTIAL}},
    ),
    (
        "cycle 4: cosine_restarts raises the learning rate again on an adapter that keeps training",
        100,
        {"training": {"learning_rate": RESTARTS}},
        {"training": {"learning_rate": RESTARTS, "start_from": "base"}},
    ),
    (
        "the learning rate is 0: nothing is learned",
        100,
        {"training": {"learning_rate": [1e-4, 0]}},
        {"training": {"learning_rate": [1e-4, 1e-9]}},
    ),
    (
        "selection.reward_threshold (0.8) is above the highest reward the verifier can give (0.7)",
        100,
        {"verifier": {"stages": ["compile", "run"]}, "selection": {"reward_threshold": 0.8}},
        {"verifier": {"stages": ["compile", "run"]}, "selection": {"reward_threshold": 0.7}},
    ),
    (
        "selection.reward_threshold (0.6) is above the highest reward the verifier can give (0.5)",
        100,
        {"verifier": {"stages": ["compile"]}, "selection": {"reward_threshold": [0.6, 0.5]}},
        {"verifier": {"stages": ["compile"]}, "selection": {"reward_threshold": "pass"}},
    ),
]


@pytest.mark.parametrize(("text", "num_train", "warned", "fine"), WARNINGS, ids=[row[0][:40] for row in WARNINGS])
def test_each_warning_and_its_absence(text: str, num_train: int, warned: dict[str, Any], fine: dict[str, Any]) -> None:
    found = [each for each in seen(num_train, **warned).warnings if text in each]
    assert len(found) == 1
    assert found[0].startswith("cycle")
    part = text.split("(")[0]
    assert not any(part in each for each in seen(num_train, **fine).warnings)


def test_a_threshold_above_what_prompts_without_tests_can_reach() -> None:
    sections: dict[str, Any] = {"selection": {"reward_threshold": 0.9}}
    assert any("(0.9) is above the highest reward" in each for each in seen(has_tests=False, **sections).warnings)
    assert seen(has_tests=True, **sections).warnings == ()


def test_only_the_cycles_in_question_are_named() -> None:
    found = seen(training={"learning_rate": [0, 1e-4, 0, 1e-4, 1e-4, 0]}).warnings
    assert [each.split(":")[0] for each in found] == ["cycles 1, 3, 6"]
    found = seen(training={"learning_rate": [0, 0, 1e-4]}).warnings
    assert [each.split(":")[0] for each in found] == ["cycles 1 to 2"]
    found = seen(training={"learning_rate": [1e-4, 0, 1e-4]}).warnings
    assert [each.split(":")[0] for each in found] == ["cycle 2"]


def test_a_base_at_its_own_floor_is_no_decay() -> None:
    """Nothing has decayed in cycle 1; from cycle 2 on the schedule does nothing, which is worth a word."""
    found = seen(training={"learning_rate": {**EXPONENTIAL, "base": 1e-6}}).warnings
    assert [each.split(":")[0] for each in found] == ["cycles 2 to 6"]


def test_a_range_where_the_rate_depends_on_results() -> None:
    found = seen(training={"learning_rate": PLATEAU}, raft={"num_cycles": 3})
    assert [cycle.learning_rate_low for cycle in found.cycles] == pytest.approx([1e-4, 1e-5, 1e-5])
    assert [cycle.learning_rate_high for cycle in found.cycles] == [1e-4] * 3
    assert [cycle.learning_rate for cycle in found.cycles] == [1e-4] * 3
    # It may stay above the floor, so there is nothing to warn of.
    assert found.warnings == ()


def test_a_mass_is_shown_with_the_range_of_its_peak() -> None:
    training = {"learning_rate_mass": 4e-4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    (cycle,) = seen(20, training=training, raft={"num_cycles": 1, "min_selected": 8}).cycles
    # 80 rows, 10 steps of 8: warm-up 1/3 and 2/3, then 8 steps that fall from 1.  8 rows: one step, at the peak.
    assert (cycle.max_kept, cycle.max_optimizer_steps, cycle.learning_rate_mass) == (80, 10, 4e-4)
    assert cycle.learning_rate_low == pytest.approx(4e-4 / (1.0 + 4.5))
    assert cycle.learning_rate == cycle.learning_rate_high == pytest.approx(4e-4)
    (unread,) = seen(None, training=training, raft={"num_cycles": 1}).cycles
    assert unread.learning_rate is unread.learning_rate_low is unread.learning_rate_high is None
    assert unread.learning_rate_mass == 4e-4


@pytest.mark.parametrize("num_rows", [8, 9, 16, 33, 64, 80])
@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "polynomial", "warmup_stable_decay"])
def test_the_peak_of_a_mass_lies_in_the_range_that_was_shown(num_rows: int, shape: str) -> None:
    training = {"learning_rate_mass": [4e-4, 1e-4], "lr_scheduler_type": shape, "gradient_accumulation_steps": [1, 8]}
    one = config(training=training, raft={"num_cycles": 2, "min_selected": 8})
    for shown in preview(one, 20, 1, True).cycles:
        applied = Plan(one, PromptSets((), (), ())).training_settings(list(map(version, range(shown.cycle))), num_rows)
        assert shown.learning_rate_low <= applied.learning_rate <= shown.learning_rate_high


def test_what_moves_is_shown_with_its_values_or_its_range() -> None:
    sections: dict[str, Any] = {
        "engine": {"temperature": {"kind": "temperature_floor", "base": 1.0}, "min_p": [0.1, 0.05]},
        "selection": {"reward_threshold": [0.5, "pass"]},
        "training": {"learning_rate": 1e-4, "gradient_accumulation_steps": {"kind": "linear", "base": 2, "final": 5}},
        "raft": {"num_cycles": 3, "curriculum_fraction": {"kind": "linear", "base": 0.2, "final": 1.0}},
    }
    found = seen(50, **sections)
    assert set(found.moving()) == {
        "engine.temperature",
        "engine.min_p",
        "selection.reward_threshold",
        "training.gradient_accumulation_steps",
        "raft.curriculum_fraction",
    }
    rows = [cycle["scheduled"] for cycle in json.loads(json.dumps(found.to_row()))["cycles"]]
    assert [row["engine.temperature"] for row in rows] == [[1.0, 1.0], [1.0, 1.05], [1.0, 1.1]]
    assert [row["engine.min_p"] for row in rows] == [[0.1, 0.1], [0.05, 0.05], [0.05, 0.05]]
    assert [row["training.gradient_accumulation_steps"] for row in rows] == [[2, 2], [4, 4], [5, 5]]
    assert [row["selection.reward_threshold"] for row in rows] == [[0.5, 0.5], ["pass", "pass"], ["pass", "pass"]]
    assert [row["training.learning_rate"] for row in rows] == [[1e-4, 1e-4]] * 3
    # A fifth of the prompts, three fifths, all of them.
    assert [cycle.num_prompts for cycle in found.cycles] == [10, 30, 50]
    assert seen().moving() == ["training.learning_rate"]


def test_a_set_on_a_hub_is_not_counted() -> None:
    found = seen(None, raft={"num_cycles": 1})
    assert found.cycles[0].samples is found.cycles[0].max_optimizer_steps is found.cycles[0].learning_rate_mass is None
    assert found.cycles[0].learning_rate == 5e-5
    assert found.warnings == (
        "prompts.train is on the Hub, which a dry run does not read: samples and steps are unknown",
    )


def test_the_size_of_an_adapter(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 8,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
    }
    (tmp_path / "config.json").write_text(json.dumps(shape))
    local = config(model={"model_name_or_path": str(tmp_path)}, lora={"r": 5})
    # (in + out) of q and o 16 each, of k and v 8 + 4, of the three MLP matrices 28 each; times r, layers and 4 bytes
    assert estimated_adapter_bytes(local) == 4 * 5 * 3 * (2 * 16 + 2 * 12 + 3 * 28)
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert estimated_adapter_bytes(local) is None
    (tmp_path / "config.json").write_text("{")
    assert estimated_adapter_bytes(local) is None
    assert estimated_adapter_bytes(config()) is None


def test_the_rates_of_the_mission_through_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: {model_name_or_path: nobody/nothing}\n"
        "training: {learning_rate: {kind: exponential, base: 5e-5, decay: 0.85}}\n"
    )
    monkeypatch.setattr("sys.argv", ["halo-forge", "raft", "run", str(path), "--dry-run"])
    with pytest.raises(SystemExit) as done:
        app.main()
    assert done.value.code == 0
    text = capsys.readouterr().out
    places = [text.index(rate) for rate in ("5.00e-05", "4.25e-05", "3.61e-05", "3.07e-05", "2.61e-05", "2.22e-05")]
    assert places == sorted(places)


def test_the_second_table_has_the_scheduled_settings_that_the_first_does_not_show(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mass = {"kind": "plateau", "base": 4e-4, "decay_on_decline": 0.5}
    shown = seen(training={"learning_rate_mass": mass}, raft={"curriculum_fraction": [0.25, 1.0], "num_cycles": 2})
    print_preview(shown)
    first, second, _ = re.split("other scheduled settings|schedules over", capsys.readouterr().out)
    assert "learning_rate_mass" not in first and "curriculum_fraction" in second
    rows = [line.split() for line in second.splitlines() if line.strip()[:1].isdigit()]
    assert rows == [["1", "4.00e-04", "0.25"], ["2", "2.00e-04", "to", "4.00e-04", "1"]]
    print_preview(seen())
    assert "other scheduled settings" not in capsys.readouterr().out


def test_what_this_machine_would_refuse_or_ignore_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warned(**sections: Any) -> list[str]:
        return [each for each in seen(**sections).warnings if "machine" in each or "ignored here" in each]

    assert warned() == []
    (refused,) = warned(engine={"kind": "vllm", "python": str(tmp_path / "no/python")})
    assert refused.startswith("a run on this machine would be refused: engine.python: ")
    assert "no/python" in refused and "(fix: " in refused
    (refused,) = warned(engine={"kind": "recorded", "run": str(tmp_path)})
    assert "no sealed completions" in refused
    (refused,) = warned(model={"model_name_or_path": "./no/model"})
    assert "./no/model: no such folder" in refused
    monkeypatch.setattr(halo_forge.hardware, "Machine", lambda: Machine(tmp_path, {}, "2.13.0+cpu"))
    assert warned(hardware={"profile": "cpu"}) == []
    (refused,) = warned(hardware={"profile": "cuda"})
    assert "hardware.profile is cuda, but no GPU found" in refused
    (ignored,) = warned(engine={"cuda_graphs": True})
    assert ignored.startswith("engine.cuda_graphs is ignored here: the profile is cpu")
    scripted = {"kind": "scripted", "answers": str(tmp_path / "answers.jsonl")}
    (refused,) = warned(engine=scripted)
    assert "answers.jsonl: No such file or directory" in refused
    (tmp_path / "answers.jsonl").write_text("")
    assert warned(engine=scripted, hardware={"profile": "cuda"}) == []


def test_what_is_cut_or_unknown_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    (cut,) = seen(24, raft={"prompts_per_cycle": 500}).warnings
    assert "raft.prompts_per_cycle is 500, but prompts.train has 24 prompts" in cut
    whole = seen(24, raft={"prompts_per_cycle": 24})
    assert whole.warnings == ()
    print_preview(whole)
    assert "disk ?: the size of an adapter" in capsys.readouterr().out


def test_a_schedule_that_reads_the_pass_rate_of_a_set_without_tests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"prompt": "a"}\n')
    rate = {"kind": "performance_based", "base": 5e-5, "metric": "dev/pass_rate"}
    settings = config(prompts={"dev": str(tmp_path / "dev.jsonl")}, training={"learning_rate": rate})
    with pytest.raises(ConfigError, match=r"learning_rate\.metric is dev/pass_rate, but no prompt of prompts\.dev"):
        planned(settings)
    compiled = config(
        prompts={"dev": str(tmp_path / "dev.jsonl")},
        training={"learning_rate": {**rate, "metric": "dev/compile_rate"}},
    )
    found = planned(compiled)
    assert found.prompts["dev"].tests == "tests: 0 of 1 prompts"
    assert found.warnings[0].startswith("no prompt of prompts.dev has tests: a pass means that a program compiles")
