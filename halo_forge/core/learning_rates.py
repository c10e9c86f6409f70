"""A first learning rate for LoRA on a model that nobody has tuned yet, from its family and its width.

The formula, `5e-4 * (2000 / hidden_size) ** p` with p = 0.781 for Llama and 0.0775 for Qwen at 128 rows per optimizer
step, is that of Thinking Machines' tinker-cookbook (`hyperparam_utils.get_lr`, 2025).  Its authors have since replaced
it by the best values of a sweep (supervised, 780 steps, a grid in steps of about 3), which it fits within a factor of
2.2 for the models that can be compared: Llama 3.1 8B 3e-4 (formula 2.9e-4), Llama 3.2 1B 1e-3 (4.9e-4), Qwen3 8B 1e-3
(4.7e-4).  Other families were not calibrated.

Status: reported, for supervised fine-tuning.  For RAFT it is a hypothesis: no sweep of it on RAFT is known.
"""

from __future__ import annotations

import math
from typing import Literal

Family = Literal["llama", "qwen"]

BASE, WIDTH, ROWS = 5e-4, 2000, 128
"""The rate of a model of this width, with this many rows per optimizer step."""
EXPONENTS: dict[Family, float] = {"llama": 0.781, "qwen": 0.0775}
_LIKE_LLAMA = ("llama", "mistral", "smollm", "deepseek-coder")


def family_of(name: str) -> Family | None:
    """The family that a model belongs to, by its `model_type` or its name; None where neither formula was fitted.

    Models with the architecture of Llama under other names count as Llama.
    """
    lowered = name.lower()
    if "qwen" in lowered:
        return "qwen"
    return "llama" if any(word in lowered for word in _LIKE_LLAMA) else None


def lora_learning_rate(family: Family | None, hidden_size: int, rows_per_step: int) -> float:
    """Peak learning rate for LoRA with alpha / r of about 2, to two digits.

    Between numbers of rows it is scaled by their square root, which holds for Adam (Malladi et al. 2022,
    arXiv:2205.10287).  Of an unknown family it is the lower of both formulas.

    Args:
        hidden_size: Of the model, as its config.json has it.
        rows_per_step: Training rows of one optimizer step.

    Raises:
        ValueError: A number is below 1.
    """
    if min(hidden_size, rows_per_step) < 1:
        raise ValueError(f"hidden size {hidden_size}, {rows_per_step} rows per step: both must be at least 1")
    exponents = EXPONENTS.values() if family is None else [EXPONENTS[family]]
    rate = min(BASE * (WIDTH / hidden_size) ** exponent for exponent in exponents)
    return float(f"{rate * math.sqrt(rows_per_step / ROWS):.1e}")
