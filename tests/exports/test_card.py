"""The model card: nothing of the base model acts on it, and it says what an adapter was trained by."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halo_forge.config.sections import ModelSection
from halo_forge.evaluations.subject import Subject
from halo_forge.exports.card import Made, base_licence, code, model_card
from halo_forge.exports.proof import Proof
from halo_forge.exports.source import Source
from halo_forge.store.run import SCHEMA_VERSION


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("apache-2.0", "apache-2.0"),
        ('"mit\\nbase_model: somebody/else"', None),
        ('"[x](https://example.org)"', None),
        ("[mit, apache-2.0]", None),
    ],
)
def test_the_licence_of_the_base_is_an_identifier_or_not_stated(tmp_path: Path, stated: str, found: str | None) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: {stated}\n---\n# A model\n")
    assert base_licence(tmp_path) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v2", "`v2`"),
        ("['```']", "````['```']````"),
        ("`x", "`` `x ``"),
        ("</s><b>", "`</s><b>`"),
    ],
)
def test_code_is_shown_as_it_is(text: str, expected: str) -> None:
    assert code(text) == expected


def card(folder: Path, modules: Any = ("q_proj",), adapter: Path | None = None) -> str:
    """Of an adapter on a local base."""
    adapter = folder / "adapter" if adapter is None else adapter
    (folder / "secret/base").mkdir(parents=True, exist_ok=True)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": modules}
    adapter.mkdir(parents=True, exist_ok=True)
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    model = ModelSection(model_name_or_path=str(folder / "secret/base"))
    source = Source(Subject("adapter", model, adapter), None)
    made = Made("merged", "bf16", {"model.safetensors": 1}, None, (), False)
    return model_card(source, made, Proof("not_proved", "nothing was asked"), None, None)


def test_the_card_of_an_adapter_without_a_run_claims_no_training(tmp_path: Path) -> None:
    found = card(tmp_path, modules=".*_proj")
    assert "RAFT" not in found and "raft" not in found
    assert "rank 4, alpha 8, on .*_proj" in found and "How it was trained is not known here" in found
    assert "`base`" in found and "secret" not in found


def supervised(root: Path) -> Path:
    """What a card reads of an SFT run, and its best adapter."""
    (root / "segments/001/adapter").mkdir(parents=True)
    identity = {"kind": "sft", "schema_version": SCHEMA_VERSION, "learning_rate": 2e-4, "start_model": {}}
    (root / "run.json").write_text(json.dumps(identity))
    (root / "config.resolved.yaml").write_text("data: {train: some/where/rows.jsonl}\n")
    return root / "segments/001/adapter"


def test_the_card_of_a_supervised_stage_says_so(tmp_path: Path) -> None:
    found = card(tmp_path, adapter=supervised(tmp_path / "my_sft"))
    assert "tuned by supervised fine-tuning (SFT)" in found and "RAFT" not in found
    assert "run `my_sft` on the rows of `rows.jsonl`, peak learning rate 2.00e-04" in found
    assert "tags: [code, halo-forge, sft]" in found


def test_the_card_of_a_run_says_what_it_started_from(tmp_path: Path) -> None:
    from halo_forge.exports.card import _before

    model = ModelSection(model_name_or_path="owner/base", adapter=str(supervised(tmp_path / "my_sft")))
    config: Any = SimpleNamespace(model=model)
    (sentence,) = filter(None, _before(Source(Subject("run", model), config)))
    assert sentence.startswith("It started from an adapter of supervised fine-tuning (SFT)") and "my_sft" in sentence
    config.model = model.model_copy(update={"adapter": None})
    assert list(_before(Source(Subject("run", model), config))) == []
