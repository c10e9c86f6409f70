"""A run repeated from the completions of another: same answers, other settings, and what is not in the record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import MemoryVerifier, differences, execute, read, rows, tree, write_inputs

from halo_forge.config import load_config
from halo_forge.core.errors import ConfigError, RunDirError
from halo_forge.core.records import Completion, Prompt, SampleRequest, Verdict
from halo_forge.engines.recorded import RecordedEngine

SAMPLED = ("completions.jsonl", "dev_completions.jsonl")


@pytest.fixture(autouse=True)
def memory_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A finished run of 2 cycles."""
    execute(write_inputs(tmp_path / "inputs"), tmp_path / "first")
    return tmp_path / "first"


def write_rows(path: Path, found: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))


class EveryAnswerPasses(MemoryVerifier):
    def verdict(self, completion: Completion) -> Verdict:
        where = completion.prompt_id, completion.index
        return Verdict(
            prompt_id=where[0], index=where[1], stage="tests", status="passed", reward=1.0, source_digest=str(where)
        )


def again(folder: Path, run: Path, *, engine: dict[str, Any] | None = None, **changes: Any) -> Path:
    settings = {"kind": "recorded", "run": str(run), "train": False, **(engine or {})}
    return write_inputs(folder / "inputs", **{"engine": settings, **changes})


def test_the_same_settings_give_the_same_run(tmp_path: Path, recorded: Path) -> None:
    execute(again(tmp_path, recorded), tmp_path / "second")
    names = differences(tree(recorded), tree(tmp_path / "second"))
    assert names == ["config.resolved.yaml", "config.yaml", "run.json"]


def test_another_selection_of_the_same_completions(tmp_path: Path, recorded: Path) -> None:
    execute(again(tmp_path, recorded, selection={"reward_threshold": 0.0}), tmp_path / "second")
    for cycle in ("001", "002"):
        there, here = recorded / "cycles" / cycle, tmp_path / "second/cycles" / cycle
        assert all((there / name).read_bytes() == (here / name).read_bytes() for name in SAMPLED)
        assert len(rows(here / "selection.jsonl")) > len(rows(there / "selection.jsonl"))


def test_fewer_samples_and_cycles_than_recorded(tmp_path: Path, recorded: Path) -> None:
    changes: dict[str, Any] = {"raft__num_cycles": 1, "raft__samples_per_prompt": 1, "evaluation__test_at_end": False}
    execute(again(tmp_path, recorded, **changes), tmp_path / "second")
    first = rows(recorded / "cycles/001/completions.jsonl")
    assert rows(tmp_path / "second/cycles/001/completions.jsonl") == [row for row in first if row["index"] == 0]


def test_the_run_directory_says_what_it_was_made_from(tmp_path: Path, recorded: Path) -> None:
    config = again(tmp_path, recorded)
    execute(config, tmp_path / "second")
    digest = read(tmp_path / "second/run.json")["start_model"]["recorded_sha256"]
    assert len(digest) == 64
    (tmp_path / "second/result.json").unlink()
    path = recorded / "cycles/001/completions.jsonl"
    path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    with pytest.raises(RunDirError, match="recorded_sha256 changed"):
        execute(config, tmp_path / "second")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raft__samples_per_prompt": 3}, r"holds no sample 2 of prompt 'train\d' by v0: 2 samples of this prompt"),
        ({"raft__num_cycles": 3}, "by v2: 0 samples of this prompt by this version, 3 cycles"),
        ({"evaluation__samples_per_prompt": 3}, r"no sample 2 of prompt 'dev\d'"),
        ({"num_prompts": (4, 2, 1)}, "prompt 'train4' by v0: 0 samples"),
        ({"evaluation__temperature": 0.5}, r"temperature: found 0.5 for prompt 'dev1', but .* was sampled at 0.7"),
        ({"engine": {"temperature": [1.0, 0.5]}}, r"temperature: found 0.5 for prompt 'train1'"),
        ({"engine": {"max_new_tokens": 9}}, "max_new_tokens: found 9"),
    ],
)
def test_what_is_not_in_the_record(tmp_path: Path, recorded: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        execute(again(tmp_path, recorded, **changes), tmp_path / "second")


def test_no_run_there(tmp_path: Path, recorded: Path) -> None:
    with pytest.raises(ConfigError, match="no sealed completions"):
        execute(again(tmp_path, tmp_path / "nowhere"), tmp_path / "second")
    for path in recorded.rglob("*completions.jsonl"):
        shutil.move(path, f"{path}.part")
    with pytest.raises(ConfigError, match="no sealed completions"):
        execute(again(tmp_path, recorded), tmp_path / "third")


def test_a_spoiled_line_is_named(tmp_path: Path, recorded: Path) -> None:
    path = recorded / "cycles/001/completions.jsonl"
    path.write_text(path.read_text() + '{"prompt_id": "train1"}\n')
    with pytest.raises(ConfigError, match=r"completions.jsonl:7: not a completion"):
        execute(again(tmp_path, recorded), tmp_path / "second")


def test_the_same_adapters_are_trained(
    tmp_path: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: EveryAnswerPasses())
    common: dict[str, Any] = {
        "model": {"model_name_or_path": str(tiny_models["llama"]), "dtype": "float32"},
        "prompts__response_prefix": "```c\n",
        "lora": {"r": 4, "lora_alpha": 8},
    }
    common_engine = {"max_new_tokens": 40, "stop": ["e", "}"]}
    sampling = {"kind": "transformers", **common_engine}
    execute(write_inputs(tmp_path / "first_inputs", engine=sampling, **common), tmp_path / "first")
    settings = {"train": True, **common_engine}
    config = again(tmp_path, tmp_path / "first", engine=settings, **common)
    execute(config, tmp_path / "second")
    names = differences(tree(tmp_path / "first"), tree(tmp_path / "second"))
    assert names == ["config.resolved.yaml", "config.yaml", "run.json"]
    start = read(tmp_path / "second/run.json")["start_model"]
    assert start.keys() >= {"model_name_or_path", "sha256", "recorded_sha256"}


def test_the_model_is_loaded_unless_nothing_is_trained(tmp_path: Path, recorded: Path) -> None:
    assert load_config(again(tmp_path, recorded, engine={"train": True})).config.engine.needs_policy
    assert not load_config(again(tmp_path, recorded)).config.engine.needs_policy


def test_answers_must_open_with_the_prefix(tmp_path: Path, recorded: Path) -> None:
    class Prefixed:
        def response_start(self, prompt: Prompt) -> str:
            return "```c\n"

    engine = load_config(again(tmp_path, recorded)).config.engine.open(Prefixed())  # type: ignore[arg-type]
    first = rows(recorded / "cycles/001/completions.jsonl")[0]

    request = SampleRequest(first["prompt_id"], first["index"], first["seed"], 1.0, 1.0, None, 256)
    asked = Prompt(first["prompt_id"], ({"role": "user", "content": "Write it."},))
    with pytest.raises(ConfigError, match=r"prompts\.response_prefix: found"):
        next(engine.sample({asked.id: asked}, [request], 0))


def test_confirmations_second_rounds_and_settings_are_told_apart(recorded: Path) -> None:
    folder = recorded / "cycles/002"
    dev, train = rows(folder / "dev_completions.jsonl")[0], rows(folder / "completions.jsonl")[0]
    suspect, incumbent = {**dev, "seed": 7, "text": "suspect"}, {**dev, "seed": 7, "text": "incumbent"}
    write_rows(folder / "confirm_completions.jsonl", [suspect])
    write_rows(folder / "confirm_incumbent_completions.jsonl", [{**incumbent, "policy_version": 0}])
    write_rows(folder / "further_completions.jsonl", [{**train, "index": 99, "seed": 8, "text": "further"}])
    engine = RecordedEngine(recorded, None)

    def asked(index: int, seed: int, version: int = 1, kind: str = "evaluation", **changes: Any) -> str:
        config = load_config(recorded / "config.resolved.yaml").config
        drawn_at = read(folder / "sampling.json") if kind == "train" else config.evaluation.model_dump()
        settings = {
            "temperature": drawn_at["temperature"], "top_p": drawn_at["top_p"], "min_p": 0.0,
            "top_k": config.engine.top_k, "max_new_tokens": config.engine.max_new_tokens,
        }  # fmt: skip
        prompt_id = train["prompt_id"] if kind == "train" else dev["prompt_id"]
        wanted = SampleRequest(prompt_id=prompt_id, index=index, seed=seed, **{**settings, **changes})
        (found,) = engine.sample({}, [wanted], version)
        return found.text

    assert asked(dev["index"], dev["seed"]) == dev["text"]
    assert asked(dev["index"], 7) == "suspect"
    assert asked(dev["index"], 7, version=0) == "incumbent"
    assert asked(99, 8, kind="train") == "further"
    with pytest.raises(ConfigError, match="holds no sample"):
        asked(dev["index"], 9)
    with pytest.raises(ConfigError, match=r"min_p: found 0\.1"):
        asked(dev["index"], dev["seed"], min_p=0.1)
