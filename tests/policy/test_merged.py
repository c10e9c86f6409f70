"""The merged model: what of the update arrives in bfloat16, and what cannot be merged."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import disturb_adapter, load_policy

from halo_forge.core.errors import ModelError
from halo_forge.policy import save_merged
from halo_forge.policy.merged import Rounding

torch = pytest.importorskip("torch")


def rounding_of(weight: list[float], update: list[float]) -> Rounding:
    found = Rounding()
    found.add(torch.tensor(weight), torch.tensor(update))
    return found


def test_what_rounding_loses_of_an_update_is_computed_by_hand() -> None:
    # Beside 1.0 bfloat16 has steps of 2^-7 above and 2^-8 below.
    whole = rounding_of([1.0, 1.0], [2.0**-7, -(2.0**-8)])
    assert whole.lost == 0.0 and whole.vanished == 0.0 and whole.num_entries == 2
    nothing = rounding_of([1.0, 1.0], [2.0**-9, 0.0])
    assert nothing.lost == 1.0 and nothing.vanished == 1.0 and nothing.num_entries == 1
    half = rounding_of([1.0, 1.0], [2.0**-7, 2.0**-9])
    assert half.vanished == 0.5 and half.lost == pytest.approx((2.0**-9) / (2.0**-14 + 2.0**-18) ** 0.5)
    more = rounding_of([1.0], [2.0**-8 + 2.0**-12])  # rounds up to a whole step
    assert more.vanished == 0.0 and more.lost == pytest.approx((2.0**-8 - 2.0**-12) / (2.0**-8 + 2.0**-12))


def test_rounding_the_weight_itself_is_no_loss_of_the_update() -> None:
    found = rounding_of([1.0 + 2.0**-12], [2.0**-7])
    assert found.lost == 0.0


def test_without_an_update_nothing_is_lost() -> None:
    found = rounding_of([1.0, 2.0], [0.0, 0.0])
    assert found.lost == 0.0 and found.vanished == 0.0 and found.num_entries == 0


def test_another_dtype_loses_by_its_own_steps() -> None:
    # Beside 1.0 float16 has steps of 2^-10 above, an eighth of those of bfloat16.
    found = Rounding("float16")
    merged = found.add(torch.tensor([1.0, 1.0]), torch.tensor([2.0**-10, 2.0**-12]))
    assert found.vanished == 0.5 and merged.tolist() == [1.0 + 2.0**-10, 1.0 + 2.0**-12]
    assert Rounding().dtype == "bfloat16"


def test_weights_that_another_program_rounds_are_written_as_they_are(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    policy = load_policy(tiny_models["llama"])
    disturb_adapter(policy, scale=0.01)
    wide = save_merged(policy, tmp_path / "wide", dtype="float32", rounds_to="float16")
    plain = save_merged(policy, tmp_path / "plain")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "wide", dtype="auto")
    assert loaded.dtype == torch.float32 and wide.lost < plain.lost
    layer = policy.model.get_base_model().model.layers[0].self_attn.q_proj
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    assert torch.equal(loaded.model.layers[0].self_attn.q_proj.weight, expected)


def test_a_smaller_update_loses_more(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    lost = []
    for scale in (0.3, 0.003):
        policy = load_policy(tiny_models["llama"])
        disturb_adapter(policy, scale=scale)
        lost.append(save_merged(policy, tmp_path / str(scale)))
    assert lost[0].lost < 0.05 < lost[1].lost and lost[0].vanished < lost[1].vanished
    assert lost[0].num_entries == lost[1].num_entries > 0


def test_an_adapter_that_is_more_than_a_sum_is_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    for changes, what in (({"use_dora": True}, "Dora"), ({"modules_to_save": ["lm_head"]}, "all weights of lm_head")):
        policy = load_policy(tiny_models["llama"])
        base = policy.model.unload()
        config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **changes)
        policy.model = get_peft_model(base, config)
        with pytest.raises(ModelError, match=what):
            save_merged(policy, tmp_path / what)
        assert not (tmp_path / what).exists()
