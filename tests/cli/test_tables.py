"""What every command prints on terminals of several widths, and in a pipe."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_calls import command_line
from rich.console import Console
from rich.live import Live
from scripted_runs import write_rows
from terminal import assert_fits, numbers, plain, tables

from halo_forge.checks.doctor import Line, Section
from halo_forge.checks.programs import NamedCompletion
from halo_forge.checks.rescore import Rescored
from halo_forge.checks.tasks import TaskReport
from halo_forge.checks.weaknesses import Finding
from halo_forge.cli.doctor import print_sections
from halo_forge.cli.observer import LiveObserver, PlainObserver
from halo_forge.cli.preview import print_preview
from halo_forge.cli.render import Column, plot, print_table
from halo_forge.cli.status import print_status
from halo_forge.cli.tasks import print_report
from halo_forge.cli.verify import print_rescored, print_verdicts
from halo_forge.config import RaftConfig
from halo_forge.core.advice import Advised
from halo_forge.core.decisions import Decision
from halo_forge.core.records import Completion, Prompt, Verdict
from halo_forge.runtime.preview import preview
from halo_forge.store.status import CycleRow, Status

WIDTHS = (80, 100, 120, 200)
LONG_ID = "CodeContests/validation-1103_the_longest_path_in_a_directed_acyclic_graph"


def row(cycle: int, **changes: Any) -> CycleRow:
    rates = {
        f"{name}{end}": value
        for name, middle in (("dev/compile_rate", 0.7139), ("dev/pass_rate", 0.1071), ("train/compile_rate", 0.6351),
                             ("train/pass_rate", 0.0833))
        for end, value in (("", middle), ("_low", middle - 0.0412), ("_high", middle + 0.0512))
    }  # fmt: skip
    metrics = {
        **rates, "diversity/distinct@4": 3.957, "optimizer_steps": 1234.0, "learning_rate_mass": 1.25e-05,
        "loss_mean": 0.2561, "gradient_norm_median": math.nan, "clip_fraction": 0.0312,
        "tokens_per_second/generate": 10789.0, "gpu_power_watts_mean": 118.4, "gpu_busy_mean": 0.974,
        "gpu_temperature_celsius_max": 87.0, "seconds/generate": 7384.0, "seconds/train": 2391.0,
    }  # fmt: skip
    screen = {"difference": -0.0813, "standard_error": 0.0211, "z": -3.853, "minimum_detectable_effect": 0.0591}
    decision = {
        "outcome": "suspect_not_confirmed", "action": "rollback", "compared_with": cycle - 2, "ending": None,
        "train_from": cycle - 2, "best_version": cycle - 2, "screen": {**screen, "num_prompts": 164},
        "confirmation": {"difference": -0.0624, "z": -2.713},
    }  # fmt: skip
    return CycleRow(
        cycle, cycle - 1, "done", metrics={**metrics, **changes}, settings={"learning_rate": 1.234e-05}, num_kept=1312,
        decision=decision,
    )  # fmt: skip


def result() -> dict[str, Any]:
    row = {"start": 0.4167, "difference": 0.2976, "low": 0.1671, "high": 0.4402, "minimum_detectable_effect": 0.1972}
    table = {name: {**row, "chosen": 0.7143, "last": 0.7381} for name in ("compile_rate", "pass_rate", "reward_mean")}
    table["pass_rate"] = {**table["pass_rate"], "minimum_detectable_effect": None}
    return {
        "chosen_version": 99, "last_version": 101, "conclusion": "still_improving", "adapter": "cycles/099/adapter",
        "reason": "v101 against v99 on dev/pass_rate: -0.081 (SE 0.021, z -3.85, detectable 0.059, 164 prompts)",
        "dev": table, "test": table, "last_dev": table, "last_test": table, "improved": True, "confirmed_on": "test",
        "confirmation": {"difference": 0.0911, "standard_error": 0.0312, "z": 2.92, "num_prompts": 164,
                         "minimum_detectable_effect": 0.0874},
        "confirmation_opposed": {"compile_rate": {"difference": -0.0512}},
    }  # fmt: skip


def a_status() -> None:
    bare = CycleRow(102, 101, "after sampling", metrics={"dev/compile_rate": 0.75, "seconds/other": 0.0})
    cycles = [row(99), row(100, loss_mean=1.0e-05), row(101), bare]
    cycles[2].advice = [
        {"symptom": "diversity is collapsing to few distinct programs",
         "evidence": "probe/entropy 0.382, v0 had 0.806", "cause": "c",
         "action": "raise engine.temperature towards 1.0 or above; half the learning rate", "power": "64 prompts"},
    ]  # fmt: skip
    print_status(Status("runs/a_run", "finished", None, 101, cycles, 99, None, result()))


def a_preview() -> None:
    sections: dict[str, Any] = {
        "engine": {
            "temperature": {"kind": "temperature_floor", "base": 1.0},
            "min_p": {"kind": "linear", "base": 0.1, "final": 0.01},
        },
        "selection": {"reward_threshold": [0.5, "pass"]},
        "training": {
            "learning_rate": {"kind": "plateau", "base": 1.25e-4, "decay_on_decline": 0.5},
            "gradient_accumulation_steps": {"kind": "linear", "base": 2, "final": 5},
            "num_train_epochs": {"kind": "linear", "base": 1, "final": 3},
            "weight_decay": {"kind": "linear", "base": 0.0, "final": 0.125},
            "max_grad_norm": {"kind": "linear", "base": 1.0, "final": 0.25},
        },
        "raft": {"num_cycles": 120, "curriculum_fraction": {"kind": "linear", "base": 0.2, "final": 1.0}},
    }  # fmt: skip
    base = {"model": {"model_name_or_path": "nobody/nothing"}, "output_dir": "run"}
    found = preview(RaftConfig.model_validate({**base, **sections}), 1234, 164, True)
    hardware = {"profile": "cuda", "why": "no", "memory_budget_bytes": 12_345_678_901, "engine.batch_size": 96}
    print_preview(dataclasses.replace(found, hardware=hardware))


def verdicts() -> None:
    prompt = Prompt(LONG_ID, ({"role": "user", "content": "write"},))
    said = "candidate.c:112:17: error: 'INT_MAX' undeclared (first use in this function); 0x7fffffff is 2147483647"
    named = [
        NamedCompletion(f"{LONG_ID} {index}", prompt, Completion(LONG_ID, index, "", (), "stop", 0, 0))
        for index in (0, 117)
    ]

    def verdict(stage: Any, status: Any, **facts: Any) -> Verdict:
        return Verdict(stage=stage, status=status, prompt_id=LONG_ID, index=0, reward=0.0125, **facts)

    print_verdicts(
        named,
        [
            verdict("tests", "passed", tests_passed=1208, tests_total=1208, warnings=12, flags=("tampering",)),
            verdict("compile", "failed", tests_total=12, diagnostics=said, flags=("trivial", "hardcoded")),
        ],
    )


def rescored() -> None:
    row = Rescored("train", 101, 100, 1624, 3, 1187, 0.53171, 0.61293, 0.5, "pass", 812, 203)
    test = Rescored("test", None, 99, 164, 0, 0, 0.25, math.nan, None, None, None, None)
    print_rescored([row, Rescored("dev", 102, 101, 164, 0, 12, None, None, None, None, None, None), test], 101)


def findings() -> None:
    said = "its statement is 87% that of 'HumanEval/103_rounded_average_of_a_range' (in train and in dev); 12 checks"
    found = (Finding("error", LONG_ID, "same_statement", said), Finding("note", "a", "no_wrong_solution", "none"))
    print_report(TaskReport(("a.jsonl",), 1208, 1100, 1099, 812, 811, found))


def sections() -> None:
    hint = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130"
    lines = (
        Line("x86_64-w64-mingw32-gcc", "missing", "not in PATH", "sudo apt-get install gcc-mingw-w64-x86-64"),
        Line("torch's memory figure", "note", "137.8 of 143.8 GB free; 2.13.0+cu130 (/usr/lib/x/y/z)", hint),
    )
    print_sections([Section("hardware", False, lines), Section("empty", True, (Line("a", "note", "b"),))])


COMMANDS = {
    "raft status": a_status,
    "raft run --dry-run": a_preview,
    "verify": verdicts,
    "verify --rescore": rescored,
    "tasks check": findings,
    "doctor": sections,
}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is printed on a terminal of a width; None is a pipe."""

    def run(show: Callable[[], None], width: int | None) -> str:
        with monkeypatch.context() as patch:
            patch.delenv("COLUMNS", raising=False)
            if width is not None:
                patch.setenv("COLUMNS", str(width))
                patch.setenv("FORCE_COLOR", "1")  # which is what rich takes for a terminal
            show()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_no_number_is_cut_and_what_is_left_out_is_named(printed: Callable[..., str], command: str) -> None:
    piped = printed(COMMANDS[command], None)
    left_out = [assert_fits(printed(COMMANDS[command], width), piped, width) for width in WIDTHS]
    # A wider terminal never shows less.
    assert [len(each) for each in left_out] == sorted((len(each) for each in left_out), reverse=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_gets_everything_on_whole_lines_without_colours(printed: Callable[..., str], command: str) -> None:
    piped = printed(COMMANDS[command], None)
    assert piped == plain(piped)
    assert "left out" not in piped
    assert all(line == line.rstrip() for line in piped.splitlines())


def test_a_pipe_is_as_wide_as_columns_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    for columns in ("80", "", "wide"):
        monkeypatch.setenv("COLUMNS", columns)
        a_status()
        shown[columns] = capsys.readouterr().out
    assert_fits(shown["80"], shown[""], 80)
    assert shown["80"] == plain(shown["80"]) and "left out at 80 columns" in shown["80"]
    assert shown[""] == shown["wide"] and "left out" not in shown[""]


def test_learning_rates_have_one_form(printed: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    (cycles, *_), _ = tables(printed(a_status, None))
    (planned, *_), _ = tables(printed(a_preview, None))
    PlainObserver().step({"step": 1, "learning_rate": 0.001}, 3)
    assert cycles["learning-rate mass"] == ["1.25e-05"] * 3 + [""]
    assert all(re.fullmatch(r"\d\.\d\de-\d\d", each) for each in planned["learning-rate mass"])
    assert "learning rate 1.00e-03" in capsys.readouterr().err


def test_what_matters_most_is_there_at_80_columns(printed: Callable[..., str]) -> None:
    status = assert_fits(printed(a_status, 80), printed(a_status, None), 80)
    assert not {"dev compile", "dev pass", "learning rate", "kept", "difference", "tuned", "outcome"} & set(status)
    dry_run = assert_fits(printed(a_preview, 80), printed(a_preview, None), 80)
    assert not {"learning rate", "max steps", "temperature"} & set(dry_run)


def test_intervals_go_before_their_column(printed: Callable[..., str]) -> None:
    for width in WIDTHS:
        left_out = assert_fits(printed(a_status, width), printed(a_status, None), width)
        for name in ("train compile", "train pass"):
            assert name not in left_out or f"{name} interval" not in left_out
        if "train pass" not in left_out and width < 200:
            assert "train pass interval" in left_out


def test_the_pipe_shows_the_values_of_the_data(printed: Callable[..., str]) -> None:
    (cycles, decisions, found), _ = tables(printed(a_status, None))
    assert cycles["cycle"] == ["99", "100", "101", "final"]
    assert cycles["learning rate"] == ["1.23e-05"] * 3 + [""]
    assert cycles["loss"] == ["0.256", "0.000", "0.256", ""]
    assert cycles["grad norm"] == ["nan"] * 3 + [""]
    assert cycles["dev compile"] == ["0.714 [0.67, 0.77]"] * 3 + ["0.750"]
    assert cycles["time"] == ["2 h 42 min"] * 3 + ["-"]
    assert decisions["resampled"] == ["-0.062 (z -2.71)"] * 3 + [""]
    assert decisions["against"][-1] == "v0 on test" and decisions["detectable"][-1] == "0.087"
    assert decisions["outcome"][-1] == "improved, but compile rate -0.051"
    assert found["detectable"] == ["0.197", "", "0.197"] * 4
    (rows, *_), _ = tables(printed(a_preview, None))
    assert rows["learning rate"][-1] == "1.00e-06 to 1.25e-04"
    assert rows["samples from"][-1] == "v119"


def test_words_are_whole_unless_they_are_longer_than_a_column(printed: Callable[..., str]) -> None:
    narrow = plain(printed(findings, 80))
    words = " ".join(narrow.split())
    for word in ("statement", "(in", "train", "dev);", "checks", "no_wrong_solution"):
        assert word in words
    # Broken after punctuation, with nothing lost.
    assert LONG_ID in "".join(line[10:34].strip() for line in narrow.splitlines()[2:])


def test_an_empty_column_is_not_shown(printed: Callable[..., str]) -> None:
    shown = printed(lambda: print_table([Column("a", ["1", "2"]), Column("never", ["", ""])]), 80)
    assert "never" not in shown and "left out" not in shown


# --- plots


def console(encoding: str = "utf-8") -> Console:
    return Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding))


@pytest.mark.parametrize("num", [1, 2, 3, 12, 59, 60, 61, 200])
def test_a_plot_of_1_to_200_cycles_fits(num: int) -> None:
    drawn = plot([1.0 - at / 200 for at in range(num)], 60, console())
    assert 1 <= len(drawn) <= 60 and (num > 60 or len(drawn) % num == 0)
    assert list(drawn) == sorted(drawn, reverse=True)
    if num > 1:
        assert (drawn[0], drawn[-1]) == ("█", "▁")


def test_a_plot_without_blocks_is_plain_text() -> None:
    values = [float(at) for at in range(8)]
    assert plot(values, 8, console()) == "▁▂▃▄▅▆▇█"
    assert plot(values, 8, console("ascii")) == "._-=+*%#"
    assert len(set(plot([2.0, 2.0], 2, console("latin-1")))) == 1


def test_a_value_that_is_not_known_is_a_gap() -> None:
    assert plot([1.0, None, math.nan, 2.0], 4, console()) == "▁  █"


def test_the_dry_run_plots_what_is_not_constant(printed: Callable[..., str]) -> None:
    piped = printed(a_preview, None)
    (*_, plots), _ = tables(piped)
    assert set(plots["setting"]) == {
        "engine.temperature", "engine.min_p", "selection.reward_threshold", "training.learning_rate",
        "training.gradient_accumulation_steps", "training.num_train_epochs", "training.weight_decay",
        "training.max_grad_norm", "raft.curriculum_fraction",
    }  # fmt: skip
    by_name = dict(zip(plots["setting"], zip(*list(plots.values())[1:], strict=True), strict=True))
    assert by_name["engine.min_p"][0] == "0.1" and by_name["engine.min_p"][2] == "0.01"
    assert by_name["engine.min_p"][1] == "".join(sorted(by_name["engine.min_p"][1], reverse=True))
    assert by_name["selection.reward_threshold"][::2] == ("0.5", "pass")
    # A plot of the highest values would show a constant.
    assert by_name["training.learning_rate"] == ("1.25e-04", "by results", "1.00e-06 to 1.25e-04")
    assert "by results: measurements decide" in piped
    constant = {"model": {"model_name_or_path": "a/b"}, "output_dir": "x", "training": {"learning_rate": 1e-4}}
    settled = printed(lambda: print_preview(preview(RaftConfig.model_validate(constant), 9, 9, True)), None)
    assert "schedules over" not in settled


# --- progress


@pytest.mark.parametrize("width", WIDTHS)
def test_the_live_table_and_its_bars_fit(tmp_path: Path, width: int) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    folder = tmp_path / "cycles/001"
    folder.mkdir(parents=True)
    metrics = row(1, gradient_norm_median=0.25).metrics
    (folder / "measurement.json").write_text(json.dumps({"metrics": metrics}), encoding="utf-8")
    stage = {"event": "stage_sealed", "folder": "001", "stage": "completions", "seconds": 1234.0, "num_tokens": 100}
    write_rows(tmp_path / "events.jsonl", [{"time": "2030-01-01T00:00:00+00:00", **stage}])
    file = io.StringIO()
    screen = Console(file=file, force_terminal=True, width=width, height=50)
    with Live(console=screen, auto_refresh=False) as live:
        watch = LiveObserver(live, tmp_path, 101)
        for _ in watch.track("sample v100", range(1), 123456):
            watch.step({"step": 1000}, 12345)
            live.refresh()
        watch.decided(Decision(1, "held", "continue", 0, result()["reason"]))
        watch.advised(
            Advised(1, 0, ({"symptom": "s " * 50, "evidence": "e", "cause": "c", "action": "a", "power": "p"},))
        )
    shown = plain(file.getvalue())
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    assert "…" not in shown
    assert numbers(shown).keys() >= {"0.714", "0.107", "1000", "123456", "-3.85"}
    assert (f"left out at {width} columns: " in shown) == (width < 200) and "tok/s" in shown
    assert re.search(r"elapsed +0:00:0\d +left", shown)
    assert "whole run: not known before cycle 1 is done" in shown


def test_a_terminal_too_narrow_for_what_must_be_shown_cuts_nothing(printed: Callable[..., str]) -> None:
    piped = printed(a_status, None)
    shown = plain(printed(a_status, 30))
    assert "…" not in shown
    assert numbers(shown)["+0.298"] == numbers(piped)["+0.298"] > 0


HELP = (
    "",
    "raft",
    "raft run",
    "raft resume",
    "raft status",
    "config",
    "config show",
    "tasks check",
    "verify",
    "doctor",
)


@pytest.mark.parametrize("command", HELP)
def test_no_help_text_is_cut_at_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with command_line(monkeypatch, capsys) as cli:
        shown = plain(cli(*command.split(), "--help").out)
    assert "…" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert not re.search(r"<\w|INTEGER|BOOLEAN|TEXT", shown), "types of Python say nothing to a person"
