"""The first learning rate of a model: published values, families, batch sizes."""

from __future__ import annotations

import pytest

from halo_forge.core.learning_rates import Family, family_of, lora_learning_rate


@pytest.mark.parametrize(
    ("family", "hidden_size", "rows", "rate"),
    [
        ("llama", 2000, 128, 5e-4),  # the formula's own point
        ("llama", 4096, 128, 2.9e-4),  # 5e-4 * (2000 / 4096) ** 0.781 = 2.857e-4
        ("llama", 576, 128, 1.3e-3),  # 5e-4 * 3.4722 ** 0.781 = 1.322e-3
        ("llama", 576, 8, 3.3e-4),  # a quarter of it: sqrt(8 / 128)
        ("qwen", 896, 128, 5.3e-4),  # 5e-4 * 2.2321 ** 0.0775 = 5.321e-4
        ("qwen", 3584, 32, 2.4e-4),  # 5e-4 * 0.5580 ** 0.0775 / 2 = 2.390e-4
    ],
)
def test_values_computed_by_hand(family: Family, hidden_size: int, rows: int, rate: float) -> None:
    assert lora_learning_rate(family, hidden_size, rows) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("hidden_size", [576, 2000, 4096])
def test_an_unknown_family_gets_the_lower_of_both(hidden_size: int) -> None:
    rates = {family: lora_learning_rate(family, hidden_size, 32) for family in ("llama", "qwen")}
    assert lora_learning_rate(None, hidden_size, 32) == min(rates.values())


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("qwen2", "qwen"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen"),
        ("llama", "llama"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "llama"),
        ("mistral", "llama"),
        ("deepseek-ai/deepseek-coder-1.3b-instruct", "llama"),
        ("deepseek_v3", None),
        ("starcoder2", None),
        ("gemma2", None),
        ("my-model", None),
    ],
)
def test_families_by_type_or_name(name: str, family: Family | None) -> None:
    assert family_of(name) == family


@pytest.mark.parametrize(("hidden_size", "rows"), [(0, 8), (576, 0)])
def test_impossible_sizes_are_refused(hidden_size: int, rows: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        lora_learning_rate("llama", hidden_size, rows)
