"""A RAFT run that starts from an SFT run: what has to fit, and the learning rate as a share of the stage's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_calls import Cli, command_line
from sft_stages import completions, execute, write_config, write_jsonl

from halo_forge.config import json_schema, load_config, resolved
from halo_forge.config.load import config_digest
from halo_forge.core.errors import ConfigError, ModelError
from halo_forge.runtime.sft_start import check_same_base, start_notes

pytest.importorskip("torch")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture(scope="module")
def stage(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a finished stage with a learning rate of 0.01."""
    folder = tmp_path_factory.mktemp("stage")
    return execute(write_config(folder, tiny_models["llama"], completions(16)))[2]


def raft(folder: Path, stage: Path, model: Path, **sections: Any) -> Path:
    """A configuration that starts from the stage, with prompts of its own."""
    for name in ("train", "dev", "test"):
        prompts = [{"id": f"{name}{at}", "language": "c", "prompt": f"{name} {at}"} for at in range(2)]
        write_jsonl(folder / f"{name}.jsonl", prompts)
    data: dict[str, Any] = {
        "model": {"model_name_or_path": str(model), "adapter": str(stage / "best"), "dtype": "float32"},
        "prompts": {name: str(folder / f"{name}.jsonl") for name in ("train", "dev", "test")},
        "lora": {"r": 4, "lora_alpha": 8},
        "decisions": {"metric": "dev/compile_rate"},
        "training": {"learning_rate": {"kind": "exponential", "base": {"share": 0.25, "of": str(stage)}, "decay": 0.5}},
        "output_dir": str(folder / "run"),
    }
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values}
    path = folder / "raft.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


SHARE = {"share": 0.25}
FORMS: list[tuple[Any, str, Any]] = [
    (SHARE, "learning_rate", 0.0025),
    ({"kind": "constant", "value": SHARE}, "learning_rate.value", 0.0025),
    ({"kind": "exponential", "base": SHARE, "decay": 0.5, "min": {"share": 0.1}}, "learning_rate.min", None),
    ({"kind": "wsd", "base": SHARE}, "learning_rate.base", None),
    ({"kind": "manual", "values": {"cycle_1": SHARE, "cycle_2": 1e-3}}, "learning_rate.values.cycle_1", None),
    ({"kind": "phases", "phases": [{"until": 1, "value": SHARE}, {"value": 1e-4}]},
     "learning_rate.phases[0].value", None),
]  # fmt: skip


@pytest.mark.parametrize(("written", "key", "expected"), FORMS, ids=[key for _, key, _ in FORMS])
def test_a_share_works_within_every_schedule_and_becomes_a_number_with_its_origin(
    written: Any, key: str, expected: Any, stage: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    path = raft(tmp_path, stage, tiny_models["llama"], training={"learning_rate": written})
    config = load_config(path).config
    training = resolved(config)["training"]
    assert "share" not in json.dumps(training["learning_rate"])
    assert config.training.learning_rate.value(1, 6) == 0.0025
    assert training["learning_rate_origin"][key].endswith(f"of 0.01, the learning rate of {stage / 'best'}")
    if expected is not None:
        assert training["learning_rate"] == expected


def test_the_stored_configuration_needs_the_stage_no_more(
    stage: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    from halo_forge.config.yaml_io import dump

    config = load_config(raft(tmp_path, stage, tiny_models["llama"])).config
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(resolved(config)))
    assert load_config(copy).config == config
    plain = raft(tmp_path, stage, tiny_models["llama"], training={
        "learning_rate": {"kind": "exponential", "base": 0.0025, "decay": 0.5},
    })  # fmt: skip
    assert config_digest(load_config(plain).config) == config_digest(config), "a number is a number"


WRONG: list[tuple[Any, str]] = [
    ({"share": 0.25, "of": "runs/nothing"}, r'learning_rate\.base: found "runs/nothing": no SFT run is there'),
    ({"share": "x"}, r'learning_rate\.base\.share: found "x", allowed: a number above 0'),
    ({"share": 0}, r"learning_rate\.base\.share: found 0, allowed: a number above 0"),
    ({"share": 0.1, "off": "x"}, r"learning_rate\.base: unknown key off beside share"),
    ({"share": 0.1, "of": 3}, r"learning_rate\.base\.of: found 3, allowed"),
]


@pytest.mark.parametrize(("base", "said"), WRONG, ids=[said[-30:] for _, said in WRONG])
def test_a_share_that_cannot_be_resolved_is_refused_with_its_line(
    base: Any, said: str, stage: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    rate = {"kind": "exponential", "base": base, "decay": 0.5}
    path = raft(tmp_path, stage, tiny_models["llama"], training={"learning_rate": rate})
    with pytest.raises(ConfigError, match=rf"raft\.yaml:\d+: training\.{said}"):
        load_config(path)


@pytest.mark.parametrize("key", ["decay", "decay_on_decline", "min_improvement"])
def test_a_share_is_refused_where_a_number_is_no_learning_rate(
    key: str, stage: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    rate = {"kind": "plateau", "base": SHARE, key: SHARE}
    path = raft(tmp_path, stage, tiny_models["llama"], training={"learning_rate": rate})
    with pytest.raises(ConfigError, match=rf"training\.learning_rate\.{key}: found a share .* this is none"):
        load_config(path)


def test_without_an_adapter_a_share_has_to_say_of_what(tmp_path: Path) -> None:
    path = tmp_path / "raft.yaml"
    path.write_text("model: {model_name_or_path: owner/name}\ntraining:\n  learning_rate: {share: 0.25}\n")
    with pytest.raises(ConfigError, match=r"raft\.yaml:3: training\.learning_rate: of what the share is, is not said"):
        load_config(path)


def test_the_dry_run_and_config_check_say_where_the_run_starts(
    cli: Cli, stage: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    path = raft(tmp_path, stage, tiny_models["llama"])
    for words in (("raft", "run", path, "--dry-run"), ("config", "check", path)):
        done = cli(*words)
        assert done.code == 0 and f"of the SFT run in {stage}" in done.out, done.err
        assert "lora settings, response prefix and system prompt are the same" in done.out
        assert "none of the dev and test prompts was trained on there" in done.out
        assert "training.learning_rate.base is a share: 0.25 of 0.01" in done.out
    assert "base: 0.0025" in cli("config", "show", path).out


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"lora": {"r": 8}}, r"lora\.r: found 8, but the SFT run .* has 4"),
    ({"lora": {"use_rslora": True}}, r"lora\.use_rslora: found true"),
    ({"prompts": {"response_prefix": "x"}}, r'prompts\.response_prefix: found "x", but .* has null'),
    ({"prompts": {"system_prompt": "x"}}, r'prompts\.system_prompt: found "x"'),
]


@pytest.mark.parametrize(("sections", "said"), MISFITS, ids=[said[:20] for _, said in MISFITS])
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    sections: dict[str, Any], said: str, stage: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    config = load_config(raft(tmp_path, stage, tiny_models["llama"], **sections)).config
    with pytest.raises(ConfigError, match=said):
        start_notes(config, {})


def test_prompts_that_the_stage_was_trained_on_cannot_be_measured(
    cli: Cli, stage: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    path = raft(tmp_path, stage, tiny_models["llama"])
    seen = {"id": "other", "language": "c", "prompt": completions(16)[3]["prompt"]}
    write_jsonl(tmp_path / "test.jsonl", [seen])
    done = cli("raft", "run", path, "--dry-run")
    assert done.code == 2 and "prompts.test: it has 1 prompt that the SFT run" in done.err
    assert "'other'" in done.err or "other" in done.err


def test_an_unfinished_stage_and_another_base_are_refused(
    stage: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(stage, copy, symlinks=True)
    config = load_config(raft(tmp_path, copy, tiny_models["llama"])).config
    with pytest.raises(ModelError, match="was trained on another"):
        check_same_base(config, {"sha256": "0" * 64})
    (copy / "result.json").unlink()
    with pytest.raises(ConfigError, match="is not finished, so its best version may still change"):
        start_notes(config, {})
    other = load_config(raft(tmp_path, stage, tiny_models["qwen2"])).config
    from halo_forge.policy import check_local

    with pytest.raises(ModelError, match=r"was trained on .*llama.*, but model\.model_name_or_path is"):
        check_local(other.model)


def test_the_json_schema_has_a_share_wherever_a_schedule_has_a_number() -> None:
    definitions = json_schema()["$defs"]
    share = {"$ref": "#/$defs/Share"}
    assert share in definitions["TrainingSection"]["properties"]["learning_rate"]["anyOf"]
    for kind, key in (("Exponential", "base"), ("Constant", "value"), ("Phase", "value")):
        assert share["$ref"] in json.dumps(definitions[kind]["properties"][key]), kind
    assert share["$ref"] not in json.dumps(definitions["EvaluationSection"])
