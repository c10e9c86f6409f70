"""The loop itself, with the `scripted` engine: what it asks, in which order, and what it leaves behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_runs import (
    MemoryVerifier,
    SilentObserver,
    answers_in_words,
    differences,
    execute,
    read,
    rows,
    tree,
    write_inputs,
)

from halo_forge.config import load_config
from halo_forge.core.errors import TooFewSamples, VerifierBroken
from halo_forge.core.lr_scheduler import planned_factors
from halo_forge.core.records import Completion, SampleRequest
from halo_forge.engines.scripted import ScriptedEngine
from halo_forge.runtime.effects import Runtime
from halo_forge.store.run import Run


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> MemoryVerifier:
    """In the place of the compiler."""
    found = MemoryVerifier()
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: found)
    return found


def test_one_lap_more_than_cycles(tmp_path: Path, verifier: MemoryVerifier) -> None:
    observer = SilentObserver()
    execute(write_inputs(tmp_path, raft__num_cycles=3), tmp_path / "run", observer=observer)
    folders = sorted((tmp_path / "run/cycles").iterdir())
    assert [folder.name for folder in folders] == ["001", "002", "003", "004"]
    for number, folder in enumerate(folders, start=1):
        train, dev = rows(folder / "completions.jsonl"), rows(folder / "dev_completions.jsonl")
        assert len(dev) == 2 * 2
        assert len(train) == (0 if number == 4 else 3 * 2)
        every = train + dev + rows(folder / "verdicts.jsonl") + rows(folder / "dev_verdicts.jsonl")
        assert {row["policy_version"] for row in every} == {number - 1}
        measurement = read(folder / "measurement.json")
        assert (measurement["cycle"], measurement["policy_version"]) == (number, number - 1)
        assert any(name.startswith("train/") for name in measurement["metrics"]) == (number < 4)
        assert read(folder / "decision.json")["action"] == ("continue" if number < 4 else "finish")
        trained = ["settings.json", "selection.json", "selection.jsonl", "trained.json", "report.json", "adapter"]
        assert [(folder / name).exists() for name in trained] == [number < 4] * len(trained)
    measured = [f"{what} {version}" for what, version in observer.heard if what in ("measured", "trained")]
    assert measured == [
        "measured 0", "trained 1", "measured 1", "trained 2", "measured 2", "trained 3", "measured 3",
    ]  # fmt: skip


def test_a_cycle_holds_what_the_page_says(tmp_path: Path, verifier: MemoryVerifier) -> None:
    config = load_config(write_inputs(tmp_path)).config
    execute(tmp_path / "run.yaml", tmp_path / "run")
    folder = tmp_path / "run/cycles/001"
    settings, trained, report = (read(folder / f"{name}.json") for name in ("settings", "trained", "report"))
    selection, log = read(folder / "selection.json"), rows(folder / "training_log.jsonl")
    verdicts = {(row["prompt_id"], row["index"]): row for row in rows(folder / "verdicts.jsonl")}
    kept = [tuple(key) for key in selection["kept"]]
    assert kept
    assert all(verdicts[key]["status"] == "passed" for key in kept)
    factors = planned_factors(config.training, len(kept), 1.0, 1)
    assert [row["learning_rate"] for row in log] == [settings["learning_rate"] * factor for factor in factors]
    assert trained["num_rows"] == report["num_kept"] == len(kept)
    assert trained["metrics"]["learning_rate_mass"] == pytest.approx(sum(row["learning_rate"] for row in log))
    assert report["settings"] == read(folder / "selection_settings.json") | settings
    assert report["measurement"] == read(folder / "measurement.json")["metrics"]
    assert report["adapter_digest"] == trained["adapter_digest"]
    # What verification cost varies from run to run, so it is in the events alone.
    assert {row["wall_seconds"] for row in verdicts.values()} == {0.0}
    for row in rows(folder / "selection.jsonl"):
        assert row["prompt"] == [{"role": "user", "content": f"Write {row['prompt_id']}."}]
        assert row["completion"][0]["content"].startswith("pass")
    # The settings of cycle 2 follow the schedule.
    assert settings["learning_rate"] == 5e-5
    assert read(tmp_path / "run/cycles/002/settings.json")["learning_rate"] == pytest.approx(4.25e-5)


def test_dev_is_asked_the_same_at_every_lap_and_train_is_not(tmp_path: Path, verifier: MemoryVerifier) -> None:
    execute(write_inputs(tmp_path), tmp_path / "run")
    folders = [tmp_path / f"run/cycles/00{cycle}" for cycle in (1, 2, 3)]
    dev = [
        [(row["prompt_id"], row["index"], row["seed"]) for row in rows(folder / "dev_completions.jsonl")]
        for folder in folders
    ]
    assert dev[0] == dev[1] == dev[2]
    assert dev[0] == sorted(dev[0], key=lambda key: key[:2])
    seeds = [row["seed"] for folder in folders for row in rows(folder / "completions.jsonl")] + [
        key[2] for key in dev[0]
    ]
    assert len(seeds) == len(set(seeds)) == 2 * 6 + 4


def better_later(monkeypatch: pytest.MonkeyPatch, from_version: int, until: int = 99) -> None:
    """v_`from_version` .. v_`until` pass everything, the others nothing."""

    def verdict(self: MemoryVerifier, completion: Any) -> Any:
        good = from_version <= completion.policy_version <= until
        train = completion.prompt_id.startswith("train")
        return check(
            self,
            type(completion).from_row(
                {**completion.to_row(), "text": f"{'pass' if good or train else 'fail'} {completion.text}"}
            ),
        )

    check = MemoryVerifier.verdict
    monkeypatch.setattr(MemoryVerifier, "verdict", verdict)


def test_test_prompts_are_asked_once_of_the_start_and_of_the_chosen_model(
    tmp_path: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    better_later(monkeypatch, 1)
    result = execute(write_inputs(tmp_path, num_prompts=(3, 2, 2)), tmp_path / "run")
    # v2 is as good as v1: the earlier one of equals is kept.
    assert (result.chosen_version, result.adapter) == (1, "cycles/001/adapter")
    assert sorted(path.name for path in (tmp_path / "run/test").iterdir()) == ["v000", "v001", "v002"]
    for version, rate in ((0, 0.0), (1, 1.0), (2, 1.0)):
        folder = tmp_path / f"run/test/v00{version}"
        assert {row["policy_version"] for row in rows(folder / "completions.jsonl")} == {version}
        assert read(folder / "measurement.json")["metrics"]["test/pass_rate"] == rate
    assert [key for key in verifier.checked if key[0].startswith("test")] == 3 * [
        ("test1", 0), ("test1", 1), ("test2", 0), ("test2", 1),
    ]  # fmt: skip
    assert result.to_row() == read(tmp_path / "run/result.json")
    assert (result.last_version, result.last_test["pass_rate"]["last"]) == (2, 1.0)
    for found in (result.dev, result.test):
        assert set(found) == {"compile_rate", "pass_rate", "reward_mean"}
        expected = {"start": 0.0, "chosen": 1.0, "difference": 1.0, "high": 1.0, "num_prompts": 2}
        assert found["pass_rate"].items() >= expected.items()
        assert found["pass_rate"]["low"] < 1.0, "two prompts that agree leave other differences open"
        assert found["compile_rate"]["difference"] == 0.0
        assert "minimum_detectable_effect" in found["pass_rate"]
    assert (tmp_path / "run/best").readlink() == Path("cycles/001/adapter")
    assert (tmp_path / "run/latest").readlink() == Path("cycles/002/adapter")


def test_the_start_model_is_kept_where_nothing_is_better(
    tmp_path: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    better_later(monkeypatch, 0, 1)
    result = execute(write_inputs(tmp_path), tmp_path / "run")
    assert (result.chosen_version, result.adapter) == (0, None)
    assert sorted(path.name for path in (tmp_path / "run/test").iterdir()) == ["v000", "v002"]
    assert (result.last_version, result.last_dev["pass_rate"]["difference"]) == (2, -1.0)
    assert not (tmp_path / "run/best").is_symlink()
    assert result.dev["pass_rate"]["difference"] == 0.0


def test_a_best_that_was_overtaken_comes_back_on_resume(
    tmp_path: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    better_later(monkeypatch, 1, 1)
    assert execute(write_inputs(tmp_path), tmp_path / "run").chosen_version == 1
    before = tree(tmp_path / "run")
    execute(tmp_path / "run.yaml", tmp_path / "run")
    assert differences(before, tree(tmp_path / "run")) == []


def test_no_test_at_end(tmp_path: Path, verifier: MemoryVerifier) -> None:
    result = execute(write_inputs(tmp_path, evaluation__test_at_end=False), tmp_path / "run")
    assert result.test == {}
    assert not (tmp_path / "run/test").exists()


def test_one_prompt_has_no_spread_to_compare_with(tmp_path: Path, verifier: MemoryVerifier) -> None:
    result = execute(write_inputs(tmp_path, num_prompts=(2, 1, 1)), tmp_path / "run")
    assert (result.dev, result.test) == ({}, {})


def test_resuming_a_finished_run_changes_nothing_and_samples_nothing(
    tmp_path: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = execute(write_inputs(tmp_path), tmp_path / "run")
    before, num_checked = tree(tmp_path / "run"), len(verifier.checked)
    monkeypatch.setattr(Runtime, "sample", None)
    monkeypatch.setattr(Runtime, "train", None)
    observer = SilentObserver()
    assert execute(tmp_path / "run.yaml", tmp_path / "run", observer=observer) == first
    assert tree(tmp_path / "run") == before
    assert len(verifier.checked) == num_checked
    # A tracker hears the finished cycles again, so that the record of each attempt is whole.
    heard = [what for what, _ in observer.heard if what != "advised"]
    one_cycle = ["measured", "decided", "trained"]
    assert heard == [*one_cycle, *one_cycle, "measured", "decided"]


def test_too_few_samples_stop_the_run_and_leave_it_resumable(
    tmp_path: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_inputs(tmp_path, raft__min_selected=7)
    for _ in range(2):
        with pytest.raises(TooFewSamples) as caught:
            execute(config, tmp_path / "run")
        assert caught.value.exit_code == 5
        assert "of 6 samples were selected, fewer than raft.min_selected (7)" in caught.value.message
        assert "below_threshold" in caught.value.message
    folder = tmp_path / "run/cycles/001"
    assert (folder / "decision.json").exists()
    assert not (folder / "selection.json").exists()
    # What was sampled and checked was not sampled and checked again.
    assert len(verifier.checked) == 6 + 4


def test_a_verifier_that_fails_too_often_stops_the_run_and_checks_only_those_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sets(prompt_id: str) -> list[str]:
        return [f"pass one {prompt_id}", f"pass two {prompt_id}"]

    # The answers of train1 fail at our hands until it is mended.
    verifier = MemoryVerifier(error_once=sets("train1"))
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: verifier)
    config = write_inputs(tmp_path, answers=sets, verifier__kind="c", verifier__max_error_fraction=0.0)
    with pytest.raises(VerifierBroken, match=r"failed on [12] of 6 samples .*no sandbox here") as caught:
        execute(config, tmp_path / "run")
    assert caught.value.exit_code == 5
    assert not (tmp_path / "run/cycles/001/verdicts.jsonl").exists()
    part = rows(tmp_path / "run/cycles/001/verdicts.jsonl.part")
    assert part
    assert all(row["status"] != "error" for row in part)
    num_checked = len(verifier.checked)
    verifier.error_once.clear()
    execute(config, tmp_path / "run")
    assert {key[0] for key in verifier.checked[num_checked : num_checked + 6 - len(part)]} == {"train1"}
    # The same as if nothing had happened.
    undisturbed = MemoryVerifier()
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: undisturbed)
    execute(config, tmp_path / "other")
    left, right = tree(tmp_path / "run"), tree(tmp_path / "other")
    assert differences(left, right) == ["config.resolved.yaml"]


def test_few_errors_of_the_verifier_are_left_out_of_the_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sets(prompt_id: str) -> list[str]:
        return [f"error {prompt_id}"] if prompt_id == "train1" else answers_in_words(prompt_id)[:2]

    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())
    execute(
        write_inputs(tmp_path, answers=sets, verifier__kind="c", verifier__max_error_fraction=0.5), tmp_path / "run"
    )
    metrics = read(tmp_path / "run/cycles/001/measurement.json")["metrics"]
    assert metrics["verifier_error_fraction"] == pytest.approx(2 / 6)
    assert metrics["train/pass_rate"] == 1.0
    dropped = read(tmp_path / "run/cycles/001/selection.json")["dropped"]
    assert dropped["verifier_error"] == [["train1", 0], ["train1", 1]]


@pytest.mark.parametrize(
    ("fraction", "num_errors", "num_verdicts", "stops"),
    [
        (0.01, 0, 6, False),
        (0.01, 1, 1, False),
        (0.01, 1, 6, False),
        (0.01, 2, 6, True),
        (0.01, 2, 200, False),
        (0.01, 3, 200, True),
        (0.5, 3, 6, False),
        (0.5, 4, 6, True),
        (0.0, 0, 6, False),
        (0.0, 1, 1000, True),
        (1.0, 6, 6, False),
    ],
)
def test_how_many_errors_stop_a_run(fraction: float, num_errors: int, num_verdicts: int, stops: bool) -> None:
    memory = MemoryVerifier()
    words = ["error"] * num_errors + ["pass"] * (num_verdicts - num_errors)
    verdicts = [memory.verdict(Completion("p", index, word, (), "stop", 0, 0)) for index, word in enumerate(words)]
    runtime: Any = SimpleNamespace(max_error_fraction=fraction)
    runtime.second_verdict_form = lambda: Runtime.second_verdict_form(runtime)
    form = Runtime.verdict_form(runtime)
    if stops:
        with pytest.raises(VerifierBroken, match=f"failed on {num_errors} of {num_verdicts} samples"):
            form.check(verdicts)
    else:
        form.check(verdicts)
    runtime.second_verdict_form().check(verdicts)  # never


def test_what_fails_the_second_time_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = MemoryVerifier(flaky=["pass one train1", "pass two train1"])
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: verifier)
    config = write_inputs(tmp_path, answers=lambda prompt_id: [f"pass one {prompt_id}", f"pass two {prompt_id}"])
    execute(config, tmp_path / "run")
    folder = tmp_path / "run/cycles/001"
    selection = read(folder / "selection.json")
    again = {(row["prompt_id"], row["index"]): row["status"] for row in rows(folder / "second_verdicts.jsonl")}
    flaky = [["train1", index] for index in (0, 1) if again.get(("train1", index)) == "failed"]
    assert flaky
    assert selection["dropped"]["flaky"] == flaky
    assert not any(key in selection["kept"] for key in flaky)
    # Everything that was to be kept was run again, and nothing else was.
    assert sorted(map(list, again)) == sorted(selection["kept"] + flaky)
    assert {row["prompt_id"] for row in rows(folder / "selection.jsonl")} <= {"train2", "train3"}
    assert {row["wall_seconds"] for row in rows(folder / "second_verdicts.jsonl")} == {0.0}
    assert read(folder / "report.json")["num_dropped"]["flaky"] == len(flaky)


def test_nothing_is_run_again_where_that_is_turned_off(tmp_path: Path, verifier: MemoryVerifier) -> None:
    execute(write_inputs(tmp_path, verifier__kind="c", verifier__rerun_kept=False), tmp_path / "run")
    assert verifier.checked_again == []
    assert rows(tmp_path / "run/cycles/001/second_verdicts.jsonl") == []
    assert read(tmp_path / "run/cycles/001/selection.json")["kept"]


def test_a_failure_of_our_own_the_second_time_drops_the_sample_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(MemoryVerifier):
        def verify_again(self, pairs: Any) -> Any:
            self.error_once = {completion.text for _, completion in pairs if completion.prompt_id == "train1"}
            yield from super().verify_again(pairs)

    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: Failing())

    def sets(prompt_id: str) -> list[str]:
        return [f"pass one {prompt_id}", f"pass two {prompt_id}"]

    config = write_inputs(tmp_path, answers=sets, verifier__kind="c", verifier__max_error_fraction=0.0)
    execute(config, tmp_path / "run")
    folder = tmp_path / "run/cycles/001"
    again = [
        (row["prompt_id"], row["index"]) for row in rows(folder / "second_verdicts.jsonl") if row["status"] == "error"
    ]
    assert again and {prompt_id for prompt_id, _ in again} == {"train1"}
    selection = read(folder / "selection.json")
    assert selection["dropped"]["flaky"] == []
    assert selection["dropped"]["flaky_unknown"] == sorted(map(list, again))
    assert not {tuple(key) for key in selection["kept"]} & set(again)
    # Where that leaves too few, redoing the cycle is what helps.
    config = write_inputs(tmp_path / "few", answers=sets, raft__min_selected=len(selection["kept"]) + 1)
    with pytest.raises(TooFewSamples, match="flaky_unknown") as caught:
        execute(config, tmp_path / "other")
    assert "--from-cycle 1" in caught.value.hint


def test_too_few_are_left_when_the_flaky_ones_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = MemoryVerifier(flaky=[f"pass {word} train{n}" for word in ("one", "two") for n in (1, 2, 3)])
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: verifier)
    config = write_inputs(tmp_path)
    for _ in range(2):
        with pytest.raises(TooFewSamples, match=r"0 of 6 samples were selected.*flaky"):
            execute(config, tmp_path / "run")
    num_again = len(rows(tmp_path / "run/cycles/001/second_verdicts.jsonl"))
    assert len(verifier.checked_again) == num_again > 0


def test_scheduled_values_are_written_before_they_are_used(
    tmp_path: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_inputs(
        tmp_path,
        raft__num_cycles=4,
        # The answers to dev never change, so every version from v1 on is held and a decay.
        decisions__stop_patience=None,
        answers=lambda prompt_id: [f"pass one {prompt_id}", f"pass two {prompt_id}"],
        training__learning_rate={"kind": "plateau", "base": 1e-4, "decay": 0.5, "patience": 1, "cooldown": 0},
        training__max_grad_norm=[1.0, 0.5],
        engine__temperature={"kind": "linear", "base": 1.0, "final": 0.4},
        raft__samples_per_prompt=[2, 1],
        selection__reward_threshold={"kind": "phases", "phases": [{"until": 1, "value": 0.5}, {"value": "pass"}]},
    )
    seen: list[tuple[str, dict[str, Any]]] = []

    def sample(self: Runtime, requests: list[SampleRequest], version: int, adapter: Path | None) -> Any:
        if requests and requests[0].prompt_id.startswith("train"):
            written = read(tmp_path / f"run/cycles/{version + 1:03d}/sampling.json")
            train = [request for request in requests if request.prompt_id.startswith("train")]
            assert {request.temperature for request in train} == {written["temperature"]}
            assert len(train) == 3 * written["samples_per_prompt"]
            seen.append(("sampling", written))
        return really_sample(self, requests, version, adapter)

    def train(self: Runtime, chosen: Any, facts: Any, settings: Any, *more: Any) -> Any:
        assert settings.to_row() == read(tmp_path / f"run/cycles/{settings.cycle:03d}/settings.json")
        chosen_at = read(tmp_path / f"run/cycles/{settings.cycle:03d}/selection_settings.json")
        seen.extend([("settings", settings.to_row()), ("selection_settings", chosen_at)])
        return really_train(self, chosen, facts, settings, *more)

    really_sample, really_train = Runtime.sample, Runtime.train
    monkeypatch.setattr(Runtime, "sample", sample)
    monkeypatch.setattr(Runtime, "train", train)
    execute(config, tmp_path / "run")

    def column(stage: str, name: str) -> list[Any]:
        return [values[name] for where, values in seen if where == stage]

    assert column("settings", "learning_rate") == pytest.approx([1e-4, 5e-5, 2.5e-5, 1.25e-5])
    assert column("settings", "max_grad_norm") == [1.0, 0.5, 0.5, 0.5]
    assert column("selection_settings", "reward_threshold") == [0.5, "pass", "pass", "pass"]
    assert column("sampling", "temperature") == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert column("sampling", "samples_per_prompt") == [2, 1, 1, 1]


def test_answers_are_checked_while_others_are_sampled_where_processors_are_left(
    tmp_path: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_inputs(tmp_path)
    execute(config, tmp_path / "meanwhile")
    assert verifier.submitted == verifier.checked != []
    verifier.submitted.clear()
    monkeypatch.setattr(ScriptedEngine, "saturates_cpu", True)
    execute(config, tmp_path / "afterwards")
    assert verifier.submitted == []
    assert differences(tree(tmp_path / "meanwhile/cycles"), tree(tmp_path / "afterwards/cycles")) == []


@pytest.mark.parametrize("from_cycle", [1, 2, 3])
def test_going_back_keeps_the_old_files_and_gives_the_same_bytes(
    tmp_path: Path, verifier: MemoryVerifier, from_cycle: int
) -> None:
    root = tmp_path / "run"
    execute(write_inputs(tmp_path), root)
    before = tree(root)
    with Run(root) as run:
        moved_to = run.supersede(from_cycle)
    assert moved_to is not None
    assert sorted(path.name for path in (root / "cycles").iterdir()) == [f"00{c}" for c in range(1, from_cycle)]
    old = tree(moved_to)
    assert "result.json" in old
    assert "test/v000/measurement.json" in old
    assert {name for name in old if name.startswith("cycles/")} == {
        name for name in before if name.startswith("cycles/") and int(name.split("/")[1]) >= from_cycle
    }
    assert all(before[name] == data for name, data in old.items())
    execute(tmp_path / "run.yaml", root)
    redone = {name: data for name, data in tree(root).items() if not name.startswith("superseded")}
    assert differences(before, redone) == []
    assert tree(moved_to) == old


SUM = '#include <stdio.h>\nint main(void) { int a, b; if (scanf("%d %d", &a, &b) != 2) return 1;'
PROGRAMS = {
    "good": SUM + ' printf("%d\\n", a + b); return 0; }',
    "also good": SUM + ' a += b; printf("%d\\n", a); return 0; }',
    "wrong": SUM + ' printf("%d\\n", a - b); return 0; }',
    "broken": "int main(void) { return nowhere; }",
}
SUMS = {"kind": "stdio", "cases": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "5 5\n", "stdout": "10\n"}]}


def test_with_a_real_compiler(tmp_path: Path) -> None:
    def answers(prompt_id: str) -> list[str]:
        return [f"```c\n/* {prompt_id} */ {program}\n```" for program in PROGRAMS.values()]

    config = write_inputs(tmp_path, answers=answers, tests=SUMS, raft__samples_per_prompt=4, seed=2)
    execute(config, tmp_path / "run")
    folder = tmp_path / "run/cycles/001"
    texts = {(row["prompt_id"], row["index"]): row["text"] for row in rows(folder / "completions.jsonl")}
    found = {}
    for verdict in rows(folder / "verdicts.jsonl"):
        text = texts[verdict["prompt_id"], verdict["index"]]
        name = next(name for name, program in PROGRAMS.items() if program in text)
        found[name] = (verdict["stage"], verdict["status"], verdict["reward"])
    assert found == {
        "good": ("tests", "passed", 1.0),
        "also good": ("tests", "passed", 1.0),
        "wrong": ("tests", "failed", 0.7),
        "broken": ("compile", "failed", 0.0),
    }
    kept = {texts[tuple(key)] for key in read(folder / "selection.json")["kept"]}
    assert kept
    assert all("a + b" in text or "a += b" in text for text in kept)
    assert read(tmp_path / "run/run.json")["toolchain"]["compiler"] == "gcc"
    # Resumed from half a stage, the real verifier gives the same bytes too.
    before = tree(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/cycles/002")
    shutil.rmtree(tmp_path / "run/cycles/003")
    (tmp_path / "run/result.json").unlink()
    execute(config, tmp_path / "run")
    assert differences(before, tree(tmp_path / "run")) == []


def test_sealed_files_are_plain_json(tmp_path: Path, verifier: MemoryVerifier) -> None:
    execute(write_inputs(tmp_path), tmp_path / "run")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for path in (tmp_path / "run").rglob("*.json*"):
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line, parse_constant=refuse)
