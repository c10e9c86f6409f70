"""The probe against plain passes of two whole models, sequence by sequence, in float32."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tiny_models import LoraOptions, adapter_weights, disturb_adapter, load_policy, prompts

from halo_forge.core.metrics import DriftFacts, measure_drift
from halo_forge.core.records import Completion
from halo_forge.policy import drift_probe as module
from halo_forge.policy.drift_probe import DriftProbe

torch = pytest.importorskip("torch")
PROMPTS = prompts(["add two numbers", "a much longer task: print the sum of all values of an array", "x"])


def answers(seed: int, num: int = 7, most: int = 20) -> list[Completion]:
    draw = random.Random(seed)
    ids = [tuple(draw.choices(range(3, 150), k=draw.randint(1, most))) for _ in range(num)]
    return [Completion(f"p{index % 3}", index, "", each, "stop", 0, 0) for index, each in enumerate(ids)]


def logs_of(policy: Any, completion: Completion) -> Any:
    """(tokens, vocabulary) log-probabilities by one unpadded pass of the whole model."""
    asked = policy.prompt_ids(PROMPTS[completion.prompt_id])
    with torch.inference_mode():
        logits = policy.model(input_ids=torch.tensor([[*asked, *completion.token_ids]])).logits[0].float()
    return logits.log_softmax(dim=-1)[len(asked) - 1 : -1]


def saved_versions(policy: Any, folder: Path) -> dict[int, Path | None]:
    """Adapters v1, v2, v3 with random weights."""
    found: dict[int, Path | None] = {0: None}
    for version in (1, 2, 3):
        disturb_adapter(policy, seed=version, scale=0.1 * version)
        found[version] = folder / str(version)
        policy.save_adapter(found[version])
    policy.load_adapter(None, 0)
    return found


def loader(policy: Any, folders: dict[int, Path | None]) -> Any:
    return lambda version: policy.load_adapter(folders[version], version)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2"])  # gemma2 caps its scores
def test_the_probe_equals_two_plain_models(
    name: str, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_TOKENS", 120)
    monkeypatch.setattr(module, "PORTION_BYTES", 4 * 200 * 7)  # a few tokens: answers come in several portions
    policy = load_policy(tiny_models[name])
    folders = saved_versions(policy, tmp_path)
    plain = {}
    for version in (0, 1, 2):
        plain[version] = load_policy(tiny_models[name])
        plain[version].load_adapter(folders[version], version)
    fixed, own = answers(1), answers(2, num=3)
    probe = DriftProbe(policy, PROMPTS)
    probe.drift(1, 0, loader(policy, folders), fixed, own)
    facts = probe.drift(2, 1, loader(policy, folders), fixed, own)
    for number, each in enumerate(fixed):
        start, previous, mine = (logs_of(plain[version], each) for version in (0, 1, 2))
        expected = {
            "fixed_entropy": -(mine.exp() * mine).sum(1),
            "kl_to_start": (start.exp() * (start - mine)).sum(1),
            "kl_to_previous": (previous.exp() * (previous - mine)).sum(1),
        }
        for field, values in expected.items():
            assert getattr(facts, field)[number] == pytest.approx(values.tolist(), abs=1e-4)
        assert min(expected["kl_to_start"].tolist()) > 1e-4  # the versions do differ
    for number, each in enumerate(own):
        start, mine = logs_of(plain[0], each), logs_of(plain[2], each)
        chosen = torch.tensor(each.token_ids)[:, None]
        assert facts.own_entropy[number] == pytest.approx((-(mine.exp() * mine).sum(1)).tolist(), abs=1e-4)
        assert facts.own_log_probabilities[number] == pytest.approx(mine.gather(1, chosen)[:, 0].tolist(), abs=1e-4)
        assert facts.start_log_probabilities[number] == pytest.approx(start.gather(1, chosen)[:, 0].tolist(), abs=1e-4)


def test_what_is_remembered_is_what_a_resumed_run_computes_anew(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(tiny_models["llama"])
    folders = saved_versions(policy, tmp_path)
    fixed, own, asked = answers(1), answers(2, num=2), loader(policy, folders)
    going = DriftProbe(policy, PROMPTS)
    found = [going.drift(version, max(version - 1, 0), asked, fixed, own) for version in range(4)]
    assert found[2] == DriftProbe(policy, PROMPTS).drift(2, 1, asked, fixed, own)
    # After a rollback a version's parent is an older one, which is no longer remembered.
    assert going.drift(3, 1, asked, fixed, own).kl_to_previous != found[3].kl_to_previous
    assert going.drift(3, 1, asked, fixed, own) == DriftProbe(policy, PROMPTS).drift(3, 1, asked, fixed, own)


def test_a_version_that_did_not_move_has_no_divergence(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """As after a cycle at learning rate 0."""
    policy = load_policy(tiny_models["llama"])
    start = adapter_weights(policy)
    policy.save_adapter(tmp_path / "1")
    found = measure_drift(
        DriftProbe(policy, PROMPTS).drift(1, 0, loader(policy, {0: None, 1: tmp_path / "1"}), answers(1), answers(2))
    )
    kls = {name: value for name, value in found.items() if "kl_" in name}
    assert len(kls) == 6 and set(kls.values()) == {0.0}
    assert found["probe/entropy"] > 0.1
    assert adapter_weights(policy).keys() == start.keys()


def test_with_a_start_adapter_the_start_model_is_not_the_base_model(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    policy = load_policy(tiny_models["llama"])
    folders = saved_versions(policy, tmp_path)
    policy = load_policy(tiny_models["llama"], lora=LoraOptions(), adapter=str(folders[2]))
    facts = DriftProbe(policy, PROMPTS).drift(1, 0, loader(policy, folders), answers(1), [])
    plain = {version: load_policy(tiny_models["llama"]) for version in (1, 2)}
    for version, each in plain.items():
        each.load_adapter(folders[version], version)
    for number, each in enumerate(answers(1)):
        start, mine = logs_of(plain[2], each), logs_of(plain[1], each)
        assert facts.kl_to_start[number] == pytest.approx((start.exp() * (start - mine)).sum(1).tolist(), abs=1e-4)


def test_the_likelihood_of_answers_is_the_loss_on_them(tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"])
    disturb_adapter(policy)
    found = DriftProbe(policy, PROMPTS).negative_log_likelihood(answers(3))
    for number, each in enumerate(answers(3)):
        expected = -logs_of(policy, each).gather(1, torch.tensor(each.token_ids)[:, None])[:, 0]
        assert found[number] == pytest.approx(expected.tolist(), abs=1e-4)


def test_without_answers_there_is_nothing_to_say(tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"])
    facts = DriftProbe(policy, PROMPTS).drift(0, 0, loader(policy, {0: None}), [], [])
    assert isinstance(facts, DriftFacts) and measure_drift(facts) == {}


def test_the_model_is_left_as_it_was(tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"])
    DriftProbe(policy, PROMPTS).drift(0, 0, loader(policy, {0: None}), answers(1), answers(2))
    assert not any("forward" in each.__dict__ for each in policy.model.get_base_model().modules())


def test_the_start_model_is_not_asked_about_truncated_answers(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(tiny_models["llama"])
    folders = saved_versions(policy, tmp_path)
    facts = DriftProbe(policy, PROMPTS).drift(1, 0, loader(policy, folders), answers(1), answers(2), False)
    assert facts.start_log_probabilities == facts.own_log_probabilities
    found = measure_drift(facts)
    assert found["entropy"] > 0.0 and not any(name.startswith("reverse") for name in found)
