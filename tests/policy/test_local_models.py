"""Models that cannot be used: seen in their files before anything is loaded, or while they are loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny_models import load_policy, prompt

from halo_forge.config import ModelSection
from halo_forge.core.errors import ConfigError, ModelError
from halo_forge.policy import check_local


def test_a_file_or_a_dead_link_is_not_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.gguf").write_bytes(b"GGUF")
    Path("loop").symlink_to("loop")
    for name, said in {
        "model.gguf": "is a file, allowed: a model folder",
        "loop": "can be reached by this link",
    }.items():
        with pytest.raises(ModelError, match=said):
            check_local(ModelSection(model_name_or_path=name))
    check_local(ModelSection(model_name_or_path="gpt2"))


# ---- folders that are no whole model: found before torch is imported


def with_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without_config(folder: Path, other: str) -> None:
    (folder / "config.json").unlink()
    (folder / other).write_bytes(b"{}")


def indexed(folder: Path, names: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def overwrite(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)


def header(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


def cut(folder: Path) -> None:
    overwrite(folder, (folder / "model.safetensors").read_bytes()[:-1])


def folder_instead(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


NO_MODELS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "an adapter": (lambda folder: without_config(folder, "adapter_config.json"), "no config.json", "model.adapter"),
    "GGUF": (lambda folder: without_config(folder, "model.gguf"), "no config.json", "GGUF files cannot be trained"),
    "a folder named config.json": (lambda folder: folder_instead(folder, "config.json"), "no config.json", "name a"),
    "a folder in a file's place": (
        lambda folder: folder_instead(folder, "tokenizer_config.json"),
        "is a folder",
        "whole",
    ),
    "no model_type": (lambda folder: with_config(folder, model_type=None), "model_type is None", "format of"),
    "a number as model_type": (lambda folder: with_config(folder, model_type=3), "model_type is 3", "format of"),
    "a classifier": (
        lambda folder: with_config(folder, architectures=["LlamaForSequenceClassification"]),
        "is a LlamaForSequenceClassification, which writes no text",
        "ForCausalLM",
    ),
    "a masked model": (lambda folder: with_config(folder, architectures=["BertForMaskedLM"]), "ForMaskedLM", "Causal"),
    "an encoder-decoder": (lambda folder: with_config(folder, is_encoder_decoder=True), "encoder-decoder", "Causal"),
    "a missing shard": (
        lambda folder: indexed(folder, {"a": "model.safetensors", "b": "model-2.safetensors"}),
        "1 of them are missing: model-2.safetensors",
        "download it again",
    ),
    "an index of nothing": (lambda folder: indexed(folder, {}), "weight_map names no files", "download it again"),
    "an index of numbers": (lambda folder: indexed(folder, {"a": 1}), "weight_map names no files", "download it again"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights", "download the model again"),
    "a pointer of Git LFS": (
        lambda folder: overwrite(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "Git LFS pointer",
        "git lfs pull",
    ),
    "weights cut off": (cut, "are expected", "download it again"),
    "empty weights": (lambda folder: overwrite(folder, b""), "cut off (0 bytes)", "download it again"),
    "another file": (lambda folder: overwrite(folder, b"PK\3\4" * 99), "no safetensors file", "download it again"),
    "a list as header": (lambda folder: overwrite(folder, header(b"[]")), "header is broken", "download it again"),
    "a header without offsets": (
        lambda folder: overwrite(folder, header(b'{"a": {}}')),
        "header is broken",
        "download it again",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, tiny_models: dict[str, Path]) -> Path:
    return Path(shutil.copytree(tiny_models["llama"], tmp_path / "model"))


def test_a_whole_model_is_accepted(folder: Path) -> None:
    check_local(ModelSection(model_name_or_path=str(folder)))
    indexed(folder, {"a": "model.safetensors"})
    check_local(ModelSection(model_name_or_path=str(folder)))


@pytest.mark.parametrize("what", NO_MODELS)
def test_what_is_no_whole_model_is_found_before_it_is_loaded(what: str, folder: Path) -> None:
    change, said, fix = NO_MODELS[what]
    change(folder)
    with pytest.raises(ModelError) as caught:
        check_local(ModelSection(model_name_or_path=str(folder)))
    assert str(folder) in caught.value.message and said in caught.value.message
    assert fix in caught.value.hint and caught.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_model_of_another_user_is_named(folder: Path) -> None:
    (folder / "config.json").chmod(0)
    with pytest.raises(ModelError, match=r"config\.json: Permission denied"):
        check_local(ModelSection(model_name_or_path=str(folder)))


# ---- models that the loader would accept


def test_a_model_that_lacks_weights_is_refused(folder: Path) -> None:
    """The loader fills them with random numbers, and says so in a log."""
    weights = load_file(folder / "model.safetensors")
    dropped = "model.layers.1.mlp.up_proj.weight"
    save_file({name: value for name, value in weights.items() if name != dropped}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=f"1 of the weights that a LlamaForCausalLM needs .*{dropped}"):
        load_policy(folder)


def test_a_tokenizer_with_tokens_that_the_model_lacks_is_refused_where_they_are_used(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    policy = load_policy(folder)
    policy.check_tokens([prompt(1, "int main")])
    with pytest.raises(ConfigError, match=r"prompt 'p2' has the token \d+ \('<new>'\)") as caught:
        policy.check_tokens([prompt(1, "int main"), prompt(2, "a <new> one")])
    assert "restore the model's own files" in caught.value.hint


def test_a_model_with_code_of_its_own_is_told_the_key(folder: Path) -> None:
    with_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"})
    (folder / "mine.py").write_text("raise SystemExit('code of a model ran')\n")
    with pytest.raises(ModelError) as caught:
        load_policy(folder)
    assert "model.trust_remote_code" in caught.value.hint
