"""Asking one subject: paired seeds, sealed and continued, one base for several adapters."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from measuring import prompts, scripted, settings
from openai_stand_in import choice, stand_in
from scripted_runs import rows, verify_in_memory
from tiny_models import LoraOptions, disturb_adapter, load_policy, save_model

from halo_forge.api import SilentObserver
from halo_forge.core.errors import ConfigError, ModelError, RunDirError
from halo_forge.engines.scripted import ScriptedEngine
from halo_forge.evaluations.ask import measure
from halo_forge.evaluations.models import Models
from halo_forge.evaluations.subject import Subject, subject_of
from halo_forge.policy import Policy

ANSWERS = {"a": ["pass one", "pass two", "fail"], "b": ["broken", "pass"]}


@pytest.fixture
def subject() -> Subject:
    return subject_of("owner/name")


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    verify_in_memory(monkeypatch)


@pytest.fixture(scope="module")
def adapters(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of different weights and one shape, on the tiny Llama."""
    policy = load_policy(tiny_models["llama"], lora=LoraOptions(r=4))
    folders = [tmp_path_factory.mktemp("adapters") / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        disturb_adapter(policy, seed=seed)
        policy.save_adapter(folder)
    return folders


def test_every_prompt_is_asked_as_often_as_the_settings_say(subject: Subject, tmp_path: Path) -> None:
    asked = scripted(tmp_path, ANSWERS, evaluation__samples_per_prompt=3)
    samples = measure(subject, prompts("a", "b"), asked, tmp_path / "m", SilentObserver())
    assert [sample.key for sample in samples] == [(each, index) for each in "ab" for index in range(3)]
    assert {sample.completion.text for sample in samples} <= {text for texts in ANSWERS.values() for text in texts}
    assert all(sample.verdict.passed == sample.completion.text.startswith("pass") for sample in samples)


def test_greedy_decoding_asks_once(subject: Subject, tmp_path: Path) -> None:
    asked = dataclasses.replace(scripted(tmp_path, ANSWERS), temperature=0.0)
    assert len(measure(subject, prompts("a", "b"), asked, tmp_path / "m", SilentObserver())) == 2


def test_all_subjects_are_asked_with_the_same_seeds(subject: Subject, tmp_path: Path) -> None:
    asked = scripted(tmp_path, ANSWERS)
    other = dataclasses.replace(subject, name="other")
    first, second = (
        measure(each, prompts("a", "b"), asked, tmp_path / each.name.replace("/", "_"), SilentObserver())
        for each in (subject, other)
    )
    assert [sample.completion.seed for sample in first] == [sample.completion.seed for sample in second]
    assert len({sample.completion.seed for sample in first}) == len(first)


def test_an_interrupted_measurement_asks_only_for_what_is_missing(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, whole = scripted(tmp_path, ANSWERS), measure
    expected = whole(subject, prompts("a", "b"), scripted(tmp_path, ANSWERS), tmp_path / "whole", SilentObserver())
    sample, counts = ScriptedEngine.sample, []

    def counted(self, known, requests, version):  # type: ignore[no-untyped-def]
        counts.append(len(requests))
        for number, completion in enumerate(sample(self, known, requests, version)):
            if len(counts) == 1 and number == 3:
                raise KeyboardInterrupt
            yield completion

    monkeypatch.setattr(ScriptedEngine, "sample", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(subject, prompts("a", "b"), asked, tmp_path / "m", SilentObserver())
    assert measure(subject, prompts("a", "b"), asked, tmp_path / "m", SilentObserver()) == expected
    assert counts == [8, 5]
    sealed = [(tmp_path / name / "completions.jsonl").read_bytes() for name in ("m", "whole")]
    assert sealed[0] == sealed[1]


def test_a_sealed_measurement_is_read_and_nothing_is_opened(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted(tmp_path, ANSWERS)
    first = measure(subject, prompts("a", "b"), asked, tmp_path / "m", SilentObserver())
    monkeypatch.setattr(ScriptedEngine, "sample", None)
    monkeypatch.setattr("halo_forge.evaluations.ask.open_verifier", None)
    assert measure(subject, prompts("a", "b"), asked, tmp_path / "m", SilentObserver()) == first


@pytest.mark.parametrize("damage", ["lost", "edited"])
def test_a_lost_or_edited_file_is_never_made_again_and_the_fix_is_about_this_folder(
    subject: Subject, tmp_path: Path, damage: str
) -> None:
    measure(subject, prompts("a", "b"), scripted(tmp_path, ANSWERS), tmp_path / "m", SilentObserver())
    path = tmp_path / "m" / "completions.jsonl"
    if damage == "lost":
        path.unlink()
    else:
        path.write_text(path.read_text().replace('"seed"', '"sown"'))
    with pytest.raises(RunDirError) as refused:
        measure(subject, prompts("a", "b"), scripted(tmp_path, ANSWERS), tmp_path / "m", SilentObserver())
    assert f"remove {tmp_path / 'm'}" in refused.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation__temperature": 0.2}, r"sampling\.temperature: was 0\.7, is 0\.2"),
        ({"verifier__timeout_seconds": 3.0}, r"verifier\.timeout_seconds"),
    ],
)
def test_a_folder_with_another_measurement_is_refused(
    subject: Subject, tmp_path: Path, change: dict[str, float], message: str
) -> None:
    measure(subject, prompts("a", "b"), scripted(tmp_path, ANSWERS), tmp_path / "m", SilentObserver())
    before = rows(tmp_path / "m" / "completions.jsonl")
    with pytest.raises(RunDirError, match=message):
        measure(subject, prompts("a", "b"), scripted(tmp_path, ANSWERS, **change), tmp_path / "m", SilentObserver())
    with pytest.raises(RunDirError, match=r"prompts\.num: was 2, is 1"):
        measure(subject, prompts("a"), scripted(tmp_path, ANSWERS), tmp_path / "m", SilentObserver())
    assert rows(tmp_path / "m" / "completions.jsonl") == before


def test_a_folder_with_something_else_is_refused_and_left_alone(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("mine")
    with pytest.raises(RunDirError, match=r"not a measurement of halo-forge \(holds thesis.txt\)"):
        measure(subject, prompts("a"), scripted(tmp_path, ANSWERS), tmp_path / "m", SilentObserver())
    assert [each.name for each in (tmp_path / "m").iterdir()] == ["thesis.txt"]


def test_one_base_is_loaded_for_several_adapters_and_the_base_itself(
    adapters: list[Path], tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = [], Policy.load
    monkeypatch.setattr(Policy, "load", lambda *given, **named: (loads.append(given), load(*given, **named))[1])
    monkeypatch.setattr("scripted_runs.MemoryVerifier.verdict", lambda self, each: _failed(each))
    subjects = [subject_of(str(each), {"dtype": "float32"}) for each in (tiny_models["llama"], *adapters)]
    asked = settings(engine__max_new_tokens=12, evaluation__samples_per_prompt=2)
    models = Models(subjects)
    together = [
        measure(each, prompts("a", "b"), asked, tmp_path / str(number), SilentObserver(), models)
        for number, each in enumerate(subjects)
    ]
    assert len(loads) == 1
    texts = [[sample.completion.text for sample in samples] for samples in together]
    assert texts[0] != texts[1] != texts[2] != texts[0]
    alone = measure(subjects[2], prompts("a", "b"), asked, tmp_path / "alone", SilentObserver())
    assert alone == together[2]
    assert {sample.completion.policy_version for sample in alone} == {1}


def test_an_adapter_of_a_base_with_other_shapes_is_refused_and_nothing_is_sealed(
    adapters: list[Path], tmp_path: Path
) -> None:
    other = save_model(tmp_path / "llama", hidden_size=64)  # of the same name as the base that the adapter names
    subject = subject_of(str(adapters[0]), {"model_name_or_path": str(other)})
    with pytest.raises(ModelError, match="the adapter does not match this model"):
        measure(subject, prompts("a"), settings(engine__max_new_tokens=4), tmp_path / "m", SilentObserver())
    assert not (tmp_path / "m" / "completions.jsonl").exists()


def test_prompts_without_room_for_a_completion_are_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    asked = settings(engine__max_new_tokens=500)
    with pytest.raises(ConfigError, match="2 of 2 prompts are too long"):
        measure(subject_of(str(tiny_models["llama"])), prompts("a", "b"), asked, tmp_path / "m", SilentObserver())


def test_a_server_is_sent_the_prompts_that_the_tokenizer_renders(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    asked = settings(engine__max_new_tokens=12, engine__stop=["END"], evaluation__samples_per_prompt=2)
    with stand_in() as server:
        server.completion = lambda body: (200, choice("pass END more"))
        text = f"server:{server.base_url}#base"
        subject = subject_of(text, {"model_name_or_path": str(tiny_models["llama"])})
        samples = measure(subject, prompts("a"), asked, tmp_path / "m", SilentObserver())
        bodies = server.bodies()
    assert [sample.completion.text for sample in samples] == ["pass END", "pass END"]
    assert {body["prompt"] for body in bodies} == {"<|im_start|>user\nWrite a.<|im_end|>\n<|im_start|>assistant\n"}
    assert {body["seed"] for body in bodies} == {sample.completion.seed % 2**31 for sample in samples}


def _failed(completion):  # type: ignore[no-untyped-def]
    from halo_forge.core.records import Verdict

    return Verdict(prompt_id=completion.prompt_id, index=completion.index, stage="extract", status="failed", reward=0.0)


def test_the_date_of_the_first_attempt_is_kept(subject: Subject, tmp_path: Path) -> None:
    asked = scripted(tmp_path, ANSWERS)
    measure(subject, prompts("a"), asked, tmp_path / "m", SilentObserver())
    kept = json.loads((tmp_path / "m" / "asked.json").read_text())["date"]
    measure(subject, prompts("a"), asked, tmp_path / "m", SilentObserver())
    assert json.loads((tmp_path / "m" / "asked.json").read_text())["date"] == kept
    with pytest.raises(RunDirError, match="date: was"):
        other = scripted(tmp_path, ANSWERS, prompts__date="2020-01-01")
        measure(subject, prompts("a"), other, tmp_path / "m", SilentObserver())
