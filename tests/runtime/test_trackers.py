"""Trackers: what the real ones record of a run, and what those that fail cost it: a warning, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import SilentObserver, differences, execute, read, rows, tree, verify_in_memory, write_inputs
from tracker_records import READERS, Point, Recorded, near

from halo_forge.core.records import Measurement
from halo_forge.runtime import tracker_process, tracking
from halo_forge.runtime.tracker_process import as_markdown_code
from halo_forge.store.run import Run

HOSTILE = (
    "<script>alert(1)</script> ![x](http://evil.invalid/a.png)\r\n```\n<img src=x onerror=alert(1)>\x0b[a](b)\x1b[2J"
)
NO_NETWORK = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
PARTS = ("tensorboard", "trackers")
"""What trackers add to a run directory."""


class Interrupting(SilentObserver):
    """Ctrl-C at one optimizer step of one cycle."""

    def __init__(self, version: int, step: int) -> None:
        super().__init__()
        self.at = (version, step)
        self.version = -1

    def measured(self, measurement: Measurement) -> None:
        self.version = measurement.policy_version

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        if (self.version, int(row["step"])) == self.at:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, no network, and everything below the test's folder."""
    verify_in_memory(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name, value in {**NO_NETWORK, "WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def many_answers(prompt_id: str) -> list[str]:
    return [f"{words} {prompt_id} {HOSTILE}" for words in ("pass one", "pass two", "fail")]


def inputs(folder: Path, tracker: str, **changes: Any) -> Path:
    more = {"tracking": {"project": "constant_or_decay", "group": "decay"}, "selection": {"per_prompt_cap": 2}}
    return write_inputs(folder, answers=many_answers, **{"report_to": [tracker], **more, **changes})


def expected_points(root: Path) -> dict[str, list[Point]]:
    """Some of the metrics on both axes, from the files of a run of two cycles."""
    folders = [root / f"cycles/00{cycle}" for cycle in (1, 2, 3)]
    measured = [read(folder / "measurement.json")["metrics"] for folder in folders]
    trained = [read(folder / "trained.json")["metrics"] for folder in folders[:2]]
    steps = [row for folder in folders[:2] for row in rows(folder / "training_log.jsonl")]
    difference = read(root / "result.json")["dev"]["pass_rate"]["difference"]
    return {
        "dev/pass_rate": [(version, near(each["dev/pass_rate"])) for version, each in enumerate(measured)],
        "learning_rate_mass": [(n, near(each["learning_rate_mass"])) for n, each in enumerate(trained, start=1)],
        "step/learning_rate": [(number, near(row["learning_rate"])) for number, row in enumerate(steps, start=1)],
        "result/dev/pass_rate/difference": [(2, near(difference))],
    }


def recorded_by(tracker: str, folder: Path, num_attempts: int) -> Recorded:
    found = READERS[tracker](folder)
    every = {name: Counter(step for step, _ in points) for name, points in found.points.items()}
    if tracker == "wandb":  # its own columns are in every row
        every = {name: steps for name, steps in every.items() if name not in ("policy_version", "optimizer_step")}
    twice = {name: steps for name, steps in every.items() if max(steps.values()) > 1}
    assert twice == {}, f"points that are there twice after {num_attempts} attempts"
    return found


@pytest.mark.parametrize("tracker", READERS)
def test_a_tracker_has_every_point_once_after_an_interrupt_in_the_middle_of_training(
    tracker: str, tmp_path: Path
) -> None:
    pytest.importorskip(tracker, reason=f"{tracker} is not installed (pip install 'halo-forge[trackers]')")
    config = inputs(tmp_path, tracker)
    with pytest.raises(KeyboardInterrupt):
        execute(config, "run", observer=Interrupting(1, 2))
    again = SilentObserver()
    execute(config, "run", observer=again)
    assert [each for each in again.warnings if "waits" not in each] == []
    found = recorded_by(tracker, tmp_path, 2)
    assert len(found.names) == 1, "both attempts are one run of the tracker"
    expected = expected_points(tmp_path / "run")
    assert {name: sorted(found.points[name]) for name in expected} == expected
    assert len(expected["step/learning_rate"]) == 3, "one step, then two, and the interrupt before the third"
    assert str(found.config["raft.num_cycles"]) == "2"
    assert "notify_command" not in found.config, "it may hold an address that is a secret"
    assert found.place in (("constant_or_decay", "decay"), ())
    if tracker == "tensorboard":
        assert len(found.texts) == 3
        assert all(HOSTILE.split("\r")[0] in text for text in found.texts)
        assert all(line.startswith("    ") for text in found.texts for line in text.splitlines())
    else:
        # The first completion of each of 2 dev prompts, by each of 3 versions; text as the model wrote it.
        assert Counter(found.texts) == Counter(
            row["text"]
            for cycle in (1, 2, 3)
            for row in rows(tmp_path / f"run/cycles/00{cycle}/dev_completions.jsonl")
            if row["index"] == 0
        )
        assert all(HOSTILE in text for text in found.texts)


def test_tensorboard_shows_text_of_the_model_as_text() -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.plugin_util import markdowns_to_safe_html

    shown = markdowns_to_safe_html([as_markdown_code(f"prompt_id: {HOSTILE}\n{HOSTILE}")], lambda parts: parts[0])
    assert "&lt;script&gt;" in shown
    tags = {part.split(">")[0].split()[0].strip("/") for part in shown.split("<")[1:]}
    assert tags <= {"pre", "code"}


def test_a_run_redone_from_a_cycle_on_is_another_run_of_the_tracker_and_whole(
    tmp_path: Path, recorder: Recorder
) -> None:
    config = inputs(tmp_path, "wandb")
    execute(config, "run")
    first = recorder.rows()
    with Run(tmp_path / "run") as run:
        run.supersede(2)
    execute(config, "run")
    ids = [row["id"] for row in recorder.rows() if "id" in row]
    assert len(set(ids)) == 2
    assert [without_id(row) for row in recorder.rows()[len(first) :]] == [without_id(row) for row in first]


def without_id(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "id"}


# --- trackers that fail


class Recorder:
    """A package named wandb that writes what it is told to a file, and misbehaves as the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "told.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        return rows(self.path) if self.path.exists() else []

    def points(self) -> dict[str, list[Point]]:
        found: dict[str, list[Point]] = {}
        for values in (row["values"] for row in self.rows() if "values" in row):
            step = values.pop("optimizer_step", values.get("policy_version"))
            for name, value in values.items():
                if isinstance(value, int | float) and name != "policy_version":
                    found.setdefault(name, []).append((step, near(value)))
        return found

    def misbehave(self, where: str, how: str) -> None:
        (self.folder / "wandb.py").write_text(PACKAGE.replace(f"# at {where}", how), encoding="utf-8")


PACKAGE = """
import json, os, signal, sys, time
# at import

def tell(**row):
    with open(os.path.join(os.path.dirname(__file__), "told.jsonl"), "a") as file:
        file.write(json.dumps(row, default=str) + "\\n")

def Settings(**named):
    return named

class Table:
    def __init__(self, columns, data):
        self.data = data
    def __str__(self):
        return json.dumps(self.data)

class Run:
    num = 0
    def define_metric(self, name, step_metric): pass
    def log(self, values, step):
        self.num += 1
        if self.num == 4:
            # at log
            pass
        tell(values=values)
    def finish(self, exit_code):
        # at finish
        tell(exit_code=exit_code)

def init(**named):
    print("a line on standard output")
    # at init
    tell(id=named["id"])
    return Run()
"""


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    folder = tmp_path / "packages"
    folder.mkdir()
    found = Recorder(folder)
    found.misbehave("nowhere", "")
    monkeypatch.syspath_prepend(folder)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", str(folder) if before is None else f"{folder}{os.pathsep}{before}")
    return found


@pytest.mark.parametrize(
    ("where", "how", "said"),
    [
        ("import", "import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("init", "raise ValueError('no key\\n\\x1b[2Jfound')", "ValueError: no key  [2Jfound"),
        ("init", "time.sleep(60)", "no reply within 1 s"),
        ("log", "raise OSError(28, 'disk full')", "OSError: [Errno 28] disk full"),
        ("log", "time.sleep(60)", "no reply within 1 s"),
        ("log", "os._exit(3)", "its process ended with exit code 3"),
        ("log", "sys.exit(0)", "its process ended with exit code 0"),
        ("log", "os.kill(os.getpid(), signal.SIGSEGV)", "its process ended with SIGSEGV"),
        ("finish", "raise RuntimeError('no connection')", "RuntimeError: no connection"),
        ("finish", "time.sleep(60)", "no reply within 1 s"),
        ("init", "import atexit; atexit.register(time.sleep, 60); 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_tracker_that_fails_costs_a_warning_and_the_next_attempt_reports_what_is_missing(
    where: str, how: str, said: str, tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CALL_SECONDS", 1)
    config = inputs(tmp_path, "wandb")
    execute(inputs(tmp_path / "plain", "wandb", report_to=[]), tmp_path / "undisturbed")
    recorder.misbehave(where, how)
    observer = SilentObserver()
    start = time.monotonic()
    execute(config, "run", observer=observer)
    assert time.monotonic() - start < 30
    (warning,) = observer.warnings
    assert f"report_to: wandb: {said}" in warning
    (event,) = [row for row in rows(tmp_path / "run/events.jsonl") if row["event"] == "tracker_failed"]
    assert event["tracker"] == "wandb"
    assert said in event["reason"]
    assert "run/trackers/wandb/output.log" in warning
    sealed = {name: data for name, data in tree(tmp_path / "run").items() if name.split("/")[0] not in PARTS}
    same = [name for name in differences(sealed, tree(tmp_path / "undisturbed")) if "config" not in name]
    assert [name for name in same if name not in ("run.json", "result.json")] == []
    if where in ("init", "import", "log"):
        recorder.misbehave("nowhere", "")
        again = SilentObserver()
        execute(config, "run", observer=again)
        assert again.warnings == []
        expected = expected_points(tmp_path / "run")
        lost = [] if where != "log" else ["the call that failed"]
        missing = [
            (name, point)
            for name, points in expected.items()
            for point in points
            if point not in recorder.points()[name]
        ]
        assert len(missing) <= len(lost)


@pytest.mark.parametrize(
    ("tracker", "variable"),
    [("trackio", "TRACKIO_DIR"), ("mlflow", "MLFLOW_TRACKING_URI"), ("wandb", "WANDB_DIR")],
)
def test_a_folder_that_cannot_be_written_is_said(
    tracker: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file/below"))
    observer = SilentObserver()
    execute(inputs(tmp_path, tracker), "run", observer=observer)
    (warning,) = [each for each in observer.warnings if "waits for" not in each]
    assert f"report_to: {tracker}: NotADirectoryError: " in warning
    assert not (tmp_path / f"run/trackers/{tracker}/state.json").exists(), "nothing counts as passed on"


def test_what_trackio_drops_with_a_warning_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    adapter = object.__new__(tracker_process._Trackio)
    adapter._failure = None
    adapter._heard(
        UserWarning(
            "trackio failed to flush metric logs: [Errno 28] No space left on device. User code"
            " will continue, but this batch could not be persisted."
        )
    )
    with pytest.raises(OSError, match="No space left"):
        adapter._check()
    assert "No space left" in capsys.readouterr().err


def test_a_killed_run_ends_its_tracker_and_the_next_attempt_doubles_nothing(tmp_path: Path, recorder: Recorder) -> None:
    config = inputs(tmp_path, "wandb")
    program = (
        "import os, signal, sys; from test_trackers import *\n"
        "class Killed(Interrupting):\n"
        "    def step(self, row, num_steps):\n"
        "        if (self.version, int(row['step'])) == self.at:\n"
        "            time.sleep(0.5)\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "verify_in_memory(pytest.MonkeyPatch())\n"
        "execute(Path(sys.argv[1]), 'run', observer=Killed(1, 2))\n"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], *sys.path, str(here)])}
    done = subprocess.run([sys.executable, "-c", program, str(config)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    execute(config, "run")
    points = recorder.points()
    expected = expected_points(tmp_path / "run")
    assert {name: sorted(points[name]) for name in expected} == expected
    # The end of the killed attempt, then that of the finished one.
    assert [row["exit_code"] for row in recorder.rows() if "exit_code" in row] == [1, 0]


def test_a_tracker_that_cannot_keep_up_does_not_hold_up_the_end(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 1.0)
    monkeypatch.setattr(tracking, "QUIET_CLOSE_SECONDS", 0.2)
    recorder.misbehave("log", "time.sleep(20)")
    observer, start = SilentObserver(), time.monotonic()
    execute(inputs(tmp_path, "wandb"), "run", observer=observer)
    assert time.monotonic() - start < 10
    waiting, failed = observer.warnings
    assert "waits for wandb" in waiting
    assert "wandb: did not finish within 1 s" in failed


def test_nothing_is_written_where_no_tracker_is_named(tmp_path: Path) -> None:
    execute(inputs(tmp_path, "wandb", report_to=[]), "run")
    assert not (tmp_path / "run/trackers").exists()


def test_a_long_completion_is_cut_in_the_table_and_says_so(tmp_path: Path, recorder: Recorder) -> None:
    config = write_inputs(tmp_path, answers=lambda prompt_id: ["pass " + "x" * 5000], report_to=["wandb"])
    execute(config, "long")
    *_, last = (row["values"]["samples"] for row in recorder.rows() if "samples" in row.get("values", {}))
    assert [row[-1] for row in json.loads(last)] == ["pass " + "x" * 3995 + "\n[cut: 5005 characters]"] * 2
