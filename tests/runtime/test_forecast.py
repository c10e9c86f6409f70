"""How long the whole run still takes: from what its own cycles took, and in round numbers."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import execute, verify_in_memory, write_inputs, write_rows

from halo_forge.cli.observer import PlainObserver
from halo_forge.core.wording import roughly
from halo_forge.runtime.forecast import Forecast


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Requests:
    """What a forecast takes from a plan: 10 dev samples, 20 test samples of each version."""

    def __init__(self) -> None:
        self.config = type("Config", (), {"evaluation": type("Evaluation", (), {"test_at_end": True})})

    def dev_requests(self) -> list[int]:
        return [0] * 10

    def test_requests(self) -> list[int]:
        return [0] * 20


def seal(
    root: Path, cycle: int, *, best: int, action: str = "continue", trained: bool = True, **seconds: float
) -> None:
    """A cycle of 40 completions, as far as it is done, with what its stages took."""
    folder = root / f"cycles/{cycle:03d}"
    folder.mkdir(parents=True)
    (root / "run.json").write_text("{}")
    write_rows(folder / "completions.jsonl", [{}] * 30)
    write_rows(folder / "dev_completions.jsonl", [{}] * 10)
    decision = {"action": action, "best_version": best}
    (folder / "decision.json").write_text(json.dumps(decision))
    (folder / "sampling.json").write_text(json.dumps({"temperature": 1.0}))
    if trained:
        (folder / "report.json").write_text("{}")
    with (root / "events.jsonl").open("a") as events:
        for stage, each in seconds.items():
            row = {"event": "stage_sealed", "folder": folder.name, "stage": stage, "seconds": each}
            events.write(json.dumps({"time": "2030-01-01T00:00:00+00:00", **row}) + "\n")


def opened(root: Path, num_cycles: int, clock: Clock) -> Forecast:
    found = Forecast(root, num_cycles, clock)
    found.opened(Requests())  # type: ignore[arg-type]
    return found


def test_nothing_is_known_before_the_first_cycle_is_done(tmp_path: Path) -> None:
    forecast = opened(tmp_path, 3, Clock())
    forecast.look()
    assert forecast.seconds_left() is None
    seal(tmp_path, 1, best=0, trained=False, completions=100.0)
    forecast.look()
    assert forecast.seconds_left() is None


def test_cycles_the_final_evaluation_and_the_test_prompts_count(tmp_path: Path) -> None:
    clock = Clock()
    forecast = opened(tmp_path, 4, clock)
    # 300 s a cycle; sampling and verifying take 200 s for 40 completions: 5 s each.
    seal(tmp_path, 1, best=0, completions=150.0, verdicts=50.0)
    seal(tmp_path, 2, best=1, completions=150.0, verdicts=50.0)
    with (tmp_path / "events.jsonl").open("a") as events:
        for name in ("001", "002"):
            row = {"event": "stage_sealed", "folder": name, "stage": "trained", "seconds": 100.0}
            events.write(json.dumps({"time": "2030-01-01T00:00:00+00:00", **row}) + "\n")
    forecast.look()
    after = 10 * 5.0 + 3 * 20 * 5.0  # dev once, test for v0, the best and the last version
    assert forecast.seconds_left() == pytest.approx(2 * 300 + after)
    clock.now += 80
    assert forecast.seconds_left() == pytest.approx(220 + 300 + after)
    # A cycle that takes longer than the others is at its end, but its stage is not.
    clock.now += 1000
    assert forecast.seconds_left(stage_seconds=30.0) == pytest.approx(30 + 300 + after)
    # What the cycle has done before this look counts as well.
    seal(tmp_path, 3, best=1, trained=False, completions=120.0)
    forecast.look()
    assert forecast.seconds_left() == pytest.approx(180 + 300 + after)


def test_the_last_three_cycles_count_and_at_the_end_only_what_is_left(tmp_path: Path) -> None:
    clock = Clock()
    forecast = opened(tmp_path, 4, clock)
    seal(tmp_path, 1, best=0, completions=4000.0)
    for cycle in (2, 3, 4):
        seal(tmp_path, cycle, best=4, completions=40.0)
    forecast.look()
    assert forecast.seconds_left() == pytest.approx(10 * 1.0 + 2 * 20 * 1.0)  # the best one is the last one
    seal(tmp_path, 5, best=4, action="finish", trained=False, completions=10.0)
    forecast.look()
    assert forecast.seconds_left() == pytest.approx(40.0)
    (tmp_path / "test/v000").mkdir(parents=True)
    (tmp_path / "test/v000/verdicts.jsonl").write_text("")
    forecast.look()
    assert forecast.seconds_left() == pytest.approx(20.0)


def test_a_run_that_a_decision_ended_has_no_cycles_left(tmp_path: Path) -> None:
    forecast = opened(tmp_path, 9, Clock())
    seal(tmp_path, 1, best=0, completions=40.0)
    seal(tmp_path, 2, best=0, action="stop", trained=False, completions=40.0)
    forecast.look()
    assert forecast.seconds_left() == pytest.approx(2 * 20 * 1.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than 1 min"),
        (59, "less than 1 min"),
        (61, "about 1 min"),
        (9 * 60 + 20, "about 9 min"),
        (9 * 60 + 40, "about 10 min"),
        (43 * 60, "about 45 min"),
        (57 * 60, "about 55 min"),
        (58 * 60, "about 1 h"),
        (4801, "about 1 h 20 min"),
        (9.9 * 3600, "about 9 h 50 min"),
        (9.95 * 3600, "about 10 h"),
        (31.4 * 3600, "about 31 h"),
        (80 * 3600, "about 3 days"),
    ],
)
def test_an_estimate_has_no_more_digits_than_it_can_have(seconds: float, text: str) -> None:
    assert roughly(seconds) == text


# --- the lines of a pipe


def ticking(items: Iterable[Any], clock: Clock, seconds: float) -> Iterator[Any]:
    for item in items:
        clock.now += seconds
        yield item


def test_a_stage_has_one_line_and_one_every_half_minute_with_rate_and_both_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    forecast = Forecast(tmp_path, 3, clock)
    observer = PlainObserver(forecast, clock)
    list(observer.track("sample v0", ticking(range(100), clock, 2.0), 100))
    seal(tmp_path, 1, best=0, completions=4000.0)
    list(observer.track("verify", ticking(range(300), clock, 0.1), 300))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        *(
            f"sample v0: {count} of 100, 2.0 s each, {left} left; whole run: not known before cycle 1 is done"
            for count, left in [
                (15, "about 3 min"),
                (30, "about 2 min"),
                (45, "about 2 min"),
                (60, "about 1 min"),
                (75, "less than 1 min"),
                (90, "less than 1 min"),
            ]
        ),
        "sample v0: 100 of 100 in 3 min 20 s, 2.0 s each; whole run: not known before cycle 1 is done",
        "verify: 300 of 300 in 30 s, 10.0 per second; whole run: about 2 h 10 min left",
    ]


def test_optimizer_steps_are_no_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    observer = PlainObserver(None, clock)
    for step in range(1, 101):
        observer.step({"step": step, "learning_rate": 1e-4}, 100)
        clock.now += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"train: step {step} of 100" for step in (1, 31, 61, 91)]
    assert lines[1].endswith("learning rate 1.00e-04; about 1 min left")


def test_a_run_in_a_pipe_says_its_time_left_and_has_no_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verify_in_memory(monkeypatch)
    observer = PlainObserver(Forecast(tmp_path / "run", 2))
    execute(write_inputs(tmp_path), tmp_path / "run", observer=observer)  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert said.isprintable() or all(line.isprintable() for line in said.splitlines())
    stages = re.findall(r"^(sample v\d|verify|cycle \d).*whole run: (.*)$", said, re.MULTILINE)
    unknown = list(itertools.takewhile(lambda stage: stage[1].startswith("not known"), stages))
    assert [name for name, _ in unknown] == ["sample v0", "verify", "verify"], "the last one again"
    assert ("cycle 1", "less than 1 min left") in stages
    assert all(left == "less than 1 min left" for _, left in stages[len(unknown) :])
    # A resumed run trains nothing again, and has nothing to say about the time of cycles that were done before.
    execute(tmp_path / "run.yaml", tmp_path / "run", observer=PlainObserver(None))  # type: ignore[arg-type]
    assert "whole run" not in capsys.readouterr().err
