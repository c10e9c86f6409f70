"""Which model, adapter, version or server a text names, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import run_three_cycles, verify_in_memory
from tiny_models import LoraOptions, disturb_adapter, load_policy

from halo_forge.core.errors import ConfigError, ModelError, RunDirError
from halo_forge.evaluations.subject import Server, subject_of


@pytest.fixture(scope="module")
def adapter(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT adapter on the tiny Llama."""
    policy = load_policy(tiny_models["llama"], lora=LoraOptions(r=4))
    disturb_adapter(policy)
    folder = tmp_path_factory.mktemp("adapters") / "first"
    policy.save_adapter(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    verify_in_memory(monkeypatch)
    run_three_cycles(tmp_path)
    return tmp_path / "run"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_model_folder_is_a_model_without_an_adapter(tiny_models: dict[str, Path]) -> None:
    found = subject_of(str(tiny_models["llama"]))
    assert (found.model.model_name_or_path, found.adapter, found.run, found.label) == (
        str(tiny_models["llama"]),
        None,
        None,
        0,
    )


def test_a_hub_id_is_a_model_that_is_checked_when_it_is_loaded() -> None:
    assert subject_of("owner/name").model.model_name_or_path == "owner/name"


def test_an_adapter_folder_brings_the_base_that_it_names(adapter: Path, tiny_models: dict[str, Path]) -> None:
    found = subject_of(str(adapter))
    assert found.model.model_name_or_path == str(tiny_models["llama"])
    assert (found.adapter, found.label) == (adapter, 1)


def test_equal_subjects_have_one_identity_and_other_weights_another(adapter: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(adapter, copy)
    shutil.copytree(adapter, other)
    weights = other / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    identities = [subject_of(str(each)).identity() for each in (adapter, copy, other)]
    assert identities[0] == identities[1] != identities[2]


def test_a_run_is_its_chosen_version_and_at_names_another_one(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert subject_of(str(run)).version == result["chosen_version"]
    assert subject_of(f"{run}@v1").version == 1
    assert subject_of(f"{run}@last").version == 3
    start = subject_of(f"{run}@v0")
    assert (start.version, start.adapter, start.label) == (0, None, 0)
    assert start.config is not None and start.config.raft.num_cycles == 3


@pytest.mark.parametrize(
    ("version", "allowed"), [("v9", "v0 to v3"), ("best", "@v0, @v1 ... or @last"), ("", "@v0, @v1 ... or @last")]
)
def test_a_version_that_a_run_does_not_have_is_refused(run: Path, version: str, allowed: str) -> None:
    with pytest.raises((ConfigError, RunDirError), match=allowed):
        subject_of(f"{run}@{version}")


@pytest.mark.parametrize("at", ["", "@last"])
def test_an_unfinished_run_needs_a_version(run: Path, at: str) -> None:
    (run / "result.json").unlink()
    with pytest.raises(RunDirError, match="is not finished") as refused:
        subject_of(f"{run}{at}")
    assert f"{run}@v3" in refused.value.hint
    assert subject_of(f"{run}@v2").version == 2


def test_an_adapter_in_a_cycle_is_that_version_of_its_run(run: Path, adapter: Path) -> None:
    cycle = run / "cycles" / "002"
    shutil.rmtree(cycle / "adapter", ignore_errors=True)
    shutil.copytree(adapter, cycle / "adapter")
    edit(cycle / "trained.json", adapter_digest=None)
    found = subject_of(str(cycle / "adapter"))
    assert (found.run, found.version) == (run, 2)


def test_an_adapter_that_its_cycle_did_not_train_is_refused(run: Path, adapter: Path) -> None:
    cycle = run / "cycles" / "002"
    shutil.rmtree(cycle / "adapter", ignore_errors=True)
    shutil.copytree(adapter, cycle / "adapter")
    edit(cycle / "trained.json", adapter_digest="0" * 64)
    with pytest.raises(RunDirError, match="not the adapter that this cycle trained"):
        subject_of(f"{run}@v2")


def test_an_sft_run_is_its_best_adapter_once_it_is_finished(
    adapter: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "sft"
    shutil.copytree(adapter, root / "segments" / "002" / "adapter")
    (root / "best").symlink_to("segments/002/adapter")
    identity = {"schema_version": 3, "kind": "sft", "start_model": {"model_name_or_path": str(tiny_models["llama"])}}
    (root / "run.json").write_text(json.dumps(identity))
    with pytest.raises(RunDirError, match="the SFT run is not finished") as refused:
        subject_of(str(root))
    assert subject_of(refused.value.hint.rpartition(" ")[2]).adapter == root / "best"
    (root / "result.json").write_text("{}")
    assert subject_of(str(root)).adapter == root / "segments" / "002" / "adapter"
    with pytest.raises(ConfigError, match="not named by @"):
        subject_of(f"{root}@v1")
    (root / "best").unlink()
    assert subject_of(str(root)).adapter is None


def test_a_missing_model_is_refused_with_its_name() -> None:
    with pytest.raises(ModelError, match=r"subject \./no/such/model: .*no such folder"):
        subject_of("./no/such/model")


def test_a_misspelt_run_is_not_taken_for_a_hub_id(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    with pytest.raises(ModelError, match=rf"did you mean {run.parent.name}/run\?"):
        subject_of(f"{run.parent.name}/rum")
    assert subject_of("owner/name").adapter is None


def test_a_folder_that_holds_none_of_the_three_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run \(run.json\), no adapter .* and no model"):
        subject_of(str(tmp_path))


def test_an_adapter_of_another_base_is_refused(adapter: Path, tiny_models: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="was trained on"):
        subject_of(str(adapter), {"model_name_or_path": str(tiny_models["qwen2"])})


def test_an_adapter_that_names_no_base_needs_one(adapter: Path, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "nameless")
    edit(tmp_path / "nameless" / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ModelError, match="names no base model"):
        subject_of(str(tmp_path / "nameless"))
    given = subject_of(str(tmp_path / "nameless"), {"model_name_or_path": str(tiny_models["llama"])})
    assert given.model.model_name_or_path == str(tiny_models["llama"])


def test_a_server_is_an_address_and_the_name_of_a_model(tiny_models: dict[str, Path]) -> None:
    found = subject_of(f"llama_cpp:http://127.0.0.1:8080/v1/#{tiny_models['llama']}")
    assert found.server == Server("llama_cpp", "http://127.0.0.1:8080/v1", str(tiny_models["llama"]))
    plain = subject_of("server:http://127.0.0.1:8080/v1#tuned", {"model_name_or_path": str(tiny_models["llama"])})
    assert plain.server == Server("openai", "http://127.0.0.1:8080/v1", "tuned")
    assert plain.identity() != found.identity()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server:http://127.0.0.1:8080/v1", "the name of the model on the server is missing"),
        ("ollama:http://127.0.0.1:8080/v1#model", "'ollama' is no kind of server"),
        ("server:http://127.0.0.1:8080/v1#a/b/c", "its tokenizer renders the prompts"),
        ("  ", "is empty"),
    ],
)
def test_a_text_that_names_no_server_and_no_model_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        subject_of(text)


def test_a_wrong_key_of_the_model_section_is_named(tiny_models: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"model\.dtype: found \"int8\""):
        subject_of(str(tiny_models["llama"]), {"dtype": "int8"})


def test_a_version_of_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} is not a run directory, so it has no @v1"):
        subject_of(f"{tmp_path}@v1")


def test_a_missing_base_is_said_to_be_the_one_that_the_adapter_names(adapter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapter, tmp_path / "copy")
    edit(copy / "adapter_config.json", base_model_name_or_path="./elsewhere/base")
    with pytest.raises(ModelError, match=r"no such folder \(the base model that its adapter_config") as refused:
        subject_of(str(copy))
    assert "base_model_name_or_path" in refused.value.hint
