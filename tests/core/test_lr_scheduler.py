"""Steps of a cycle and the share of the peak that each uses: hand tables, the mission's example, and transformers."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.core.lr_scheduler import (
    SHAPE_SETTINGS,
    LrSchedulerType,
    clamp_warmup,
    learning_rate_factors,
    learning_rate_mass,
    num_optimizer_steps,
    peak_of_mass,
)

TYPES = get_args(LrSchedulerType)


@pytest.mark.parametrize(
    ("num_rows", "expected"), [(500, 16), (21, 1), (19, 1), (43, 2), (63, 2), (32, 1), (33, 2), (0, 0)]
)
def test_steps_of_one_epoch(num_rows: int, expected: int) -> None:
    assert num_optimizer_steps(num_rows, 1, 2, 16) == expected


@pytest.mark.parametrize(("epochs", "expected"), [(2, 6), (0.5, 2), (1.5, 5), (0.01, 1), (1 / 3, 1)])
def test_an_epoch_ends_with_a_step_and_a_fraction_is_rounded_up(epochs: float, expected: int) -> None:
    assert num_optimizer_steps(10, epochs, 2, 2) == expected


def test_steps_equal_those_of_the_trainer_of_transformers(tmp_path: Any) -> None:
    """The real Trainer on a model of one parameter counts its own steps."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": ((self.slope * x - 1) ** 2).mean()}

    for num_rows, epochs, batch_size, accumulation in [(10, 1.5, 2, 2), (7, 2, 2, 3), (5, 0.3, 1, 2), (11, 1.1, 1, 1)]:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(Line(), arguments, train_dataset=[{"x": torch.ones(1)} for _ in range(num_rows)])
        trainer.train()
        assert trainer.state.global_step == num_optimizer_steps(num_rows, epochs, batch_size, accumulation)


@pytest.mark.parametrize("arguments", [(-1, 1, 2, 2), (5, 0, 2, 2), (5, math.nan, 2, 2), (5, 1, 0, 2), (5, 1, 2, 0)])
def test_steps_refuse_what_makes_no_sense(arguments: tuple[int, float, int, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        num_optimizer_steps(*arguments)


@pytest.mark.parametrize(
    ("requested", "num_steps", "expected"),
    [(10, 1, 0), (10, 4, 0), (10, 5, 1), (10, 9, 1), (10, 16, 3), (2, 16, 2), (0, 100, 0), (10_000, 1_000_000, 10_000)],
)
def test_warmup_is_at_most_a_fifth(requested: int, num_steps: int, expected: int) -> None:
    assert clamp_warmup(requested, num_steps) == expected


def test_warmup_refuses_negative_numbers() -> None:
    with pytest.raises(ValueError, match="negative"):
        clamp_warmup(-1, 10)


@pytest.mark.parametrize(
    ("lr_scheduler_type", "settings", "expected"),
    [
        ("constant", {}, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", {}, [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("linear", {"final_ratio": 0.2}, [1 / 3, 2 / 3, 1, 0.8, 0.6, 0.4]),
        ("cosine", {}, [1 / 3, 2 / 3, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
        ("cosine", {"final_ratio": 1.0}, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("cosine_with_restarts", {"num_cycles": 2}, [1 / 3, 2 / 3, 1, 0.5, 1, 0.5]),
        ("polynomial", {"power": 2.0}, [1 / 3, 2 / 3, 1, 9 / 16, 4 / 16, 1 / 16]),
        ("polynomial", {"power": 2.0, "final_ratio": 0.2}, [1 / 3, 2 / 3, 1, 0.65, 0.4, 0.25]),
        ("warmup_stable_decay", {}, [1 / 3, 2 / 3, 1, 1, 1, 1 / 2]),
        ("warmup_stable_decay", {"decay_fraction": 0.5}, [1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3]),
        ("warmup_stable_decay", {"decay_fraction": 1, "final_ratio": 0.2}, [1 / 3, 2 / 3, 1, 0.8, 0.6, 0.4]),
        ("warmup_stable_decay", {"decay_fraction": 0.0}, [1 / 3, 2 / 3, 1, 1, 1, 1]),
    ],
)
def test_six_steps_with_two_of_warmup(
    lr_scheduler_type: LrSchedulerType, settings: dict[str, float], expected: list[float]
) -> None:
    assert learning_rate_factors(lr_scheduler_type, 6, 2, **settings) == pytest.approx(expected, rel=1e-12)


def test_the_default_decay_of_warmup_stable_decay_is_three_tenths() -> None:
    assert learning_rate_factors("warmup_stable_decay", 10) == pytest.approx([1] * 8 + [2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("lr_scheduler_type", "ours", "theirs"),
    [
        ("linear", {}, {}),
        ("cosine", {}, {}),
        ("cosine_with_restarts", {"num_cycles": 3}, {"num_cycles": 3}),
        ("polynomial", {"power": 1.7, "final_ratio": 0.01}, {"power": 1.7, "lr_end": 0.01}),
        (
            "warmup_stable_decay",
            {"decay_fraction": 0.4, "final_ratio": 0.1},
            {"num_decay_steps": 8, "min_lr_ratio": 0.1, "decay_type": "linear"},
        ),
    ],
)
def test_after_the_warmup_the_factors_are_those_of_transformers(
    lr_scheduler_type: LrSchedulerType, ours: dict[str, float], theirs: dict[str, Any]
) -> None:
    import torch
    from transformers import get_scheduler

    num_steps, warmup_steps = 20, 4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(lr_scheduler_type, optimizer, warmup_steps, num_steps, scheduler_specific_kwargs=theirs)
    applied = []
    for _ in range(num_steps):
        applied.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert applied[0] == pytest.approx(0.1 if lr_scheduler_type == "warmup_stable_decay" else 0.0)
    factors = learning_rate_factors(lr_scheduler_type, num_steps, warmup_steps, **ours)
    assert factors[warmup_steps:] == pytest.approx(applied[warmup_steps:], rel=1e-9)


@given(
    lr_scheduler_type=st.sampled_from(TYPES),
    num_steps=st.integers(1, 300),
    warmup_share=st.floats(0, 1, exclude_max=True),
    settings=st.fixed_dictionaries(
        {
            "final_ratio": st.floats(0, 1),
            "num_cycles": st.integers(1, 400),
            "power": st.floats(0.01, 10),
            "decay_fraction": st.floats(0, 1),
        }
    ),
)
def test_no_step_is_at_0_and_the_peak_is_reached(
    lr_scheduler_type: LrSchedulerType, num_steps: int, warmup_share: float, settings: dict[str, float]
) -> None:
    warmup_steps = int(warmup_share * num_steps)
    own = {name: value for name, value in settings.items() if name in SHAPE_SETTINGS[lr_scheduler_type]}
    factors = learning_rate_factors(lr_scheduler_type, num_steps, warmup_steps, **own)
    assert len(factors) == num_steps
    assert all(0.0 < factor <= 1.0 for factor in factors)
    assert factors[warmup_steps] == 1.0
    assert all(before < after for before, after in itertools.pairwise(factors[: warmup_steps + 1]))
    if lr_scheduler_type != "cosine_with_restarts":
        assert all(before >= after for before, after in itertools.pairwise(factors[warmup_steps:]))
        assert factors[-1] >= own.get("final_ratio", 0.0)


def test_the_last_step_of_a_long_cosine_is_not_rounded_to_0() -> None:
    assert learning_rate_factors("cosine", 1_000_000)[-1] == pytest.approx((math.pi / 2e6) ** 2, rel=1e-6)


@pytest.mark.parametrize(
    ("lr_scheduler_type", "num_steps", "warmup_steps", "settings", "message"),
    [
        ("linaer", 5, 0, {}, "lr_scheduler_type is 'linaer'; it must be one of constant, linear"),
        ("linear", 5, 5, {}, "5 warm-up steps leave none of the 5 steps"),
        ("linear", 5, -1, {}, "negative"),
        ("linear", -1, 0, {}, "negative"),
        ("linear", 5, 0, {"power": 2.0}, "linear has no setting power; it has final_ratio"),
        ("constant", 5, 0, {"final_ratio": 0.1}, "it has no settings"),
        ("cosine", 5, 0, {"final_ratio": 1.1}, r"final_ratio is 1.1; it must be in \[0, 1\]"),
        ("cosine", 5, 0, {"final_ratio": "0.1"}, "final_ratio is '0.1'"),
        ("cosine_with_restarts", 5, 0, {"num_cycles": 1.5}, "num_cycles is 1.5; it must be a whole number"),
        ("cosine_with_restarts", 5, 0, {"num_cycles": math.inf}, "num_cycles is inf"),
        ("cosine_with_restarts", 5, 0, {"num_cycles": True}, "num_cycles is True"),
        ("polynomial", 5, 0, {"power": 0}, "power is 0; it must be above 0"),
        ("polynomial", 5, 0, {"power": math.nan}, "power is nan"),
        ("warmup_stable_decay", 0, 0, {"decay_fraction": -0.1}, "decay_fraction is -0.1"),
    ],
)
def test_refusals(
    lr_scheduler_type: Any, num_steps: int, warmup_steps: int, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learning_rate_factors(lr_scheduler_type, num_steps, warmup_steps, **settings)


def test_no_steps() -> None:
    assert learning_rate_factors("linear", 0) == []
    assert learning_rate_mass(1e-3, []) == 0.0


@pytest.mark.parametrize("num_steps", [1, 2, 5, 16, 40])
@pytest.mark.parametrize("lr_scheduler_type", TYPES)
def test_the_peak_of_a_mass_spends_it(lr_scheduler_type: Any, num_steps: int) -> None:
    factors = learning_rate_factors(lr_scheduler_type, num_steps, clamp_warmup(3, num_steps))
    assert learning_rate_mass(peak_of_mass(4e-4, factors), factors) == pytest.approx(4e-4, rel=1e-12)


def test_the_peak_of_a_mass_by_hand() -> None:
    assert peak_of_mass(4e-4, [0.5, 1.0, 0.5]) == pytest.approx(2e-4)
    assert peak_of_mass(0.0, [1.0]) == 0.0
    assert peak_of_mass(4e-4, []) == 0.0


@pytest.mark.parametrize(("num_steps", "share"), [(16, 0.53), (4, 0.63), (2, 0.75), (1, 1.0)])
def test_mass_of_a_linear_cycle_without_warmup(num_steps: int, share: float) -> None:
    mass = learning_rate_mass(5e-5, learning_rate_factors("linear", num_steps))
    assert mass / (5e-5 * num_steps) == pytest.approx(share, abs=0.006)


def test_warmup_stays_above_a_quarter_of_the_nominal_mass() -> None:
    for lr_scheduler_type, num_steps in itertools.product(TYPES, range(1, 60)):
        factors = learning_rate_factors(lr_scheduler_type, num_steps, clamp_warmup(1000, num_steps))
        assert learning_rate_mass(1.0, factors) > 0.25 * num_steps


def test_worked_example_of_the_training_schedulers_document() -> None:
    """Warm-up 10,000 of 1,000,000 steps, 3e-4 to 3e-6, cosine.

    The document's warm-up is t / w and starts at 0; ours is (t+1) / (w+1) and does not.  They differ by
    (w-t) / (w (w+1)) of the peak, at most 1 / (w+1), and not at all from the end of the warm-up on.
    """
    total, warmup, base, final = 1_000_000, 10_000, 3e-4, 3e-6

    def document(step: int) -> float:
        if step < warmup:
            return base * (step / warmup)
        progress = (step - warmup) / (total - warmup)
        return final + 0.5 * (base - final) * (1 + math.cos(math.pi * progress))

    reference = {5_000: 1.5e-4, 10_000: 3e-4, 505_000: 1.515e-4, 1_000_000: 3e-6}
    assert {step: document(step) for step in reference} == pytest.approx(reference)

    assert clamp_warmup(warmup, total) == warmup
    factors = learning_rate_factors("cosine", total, warmup, final_ratio=final / base)
    ours = [base * factor for factor in factors]
    assert ours[0] == pytest.approx(base / (warmup + 1))
    for step in (0, 1, 5_000, 9_999):
        shift = base * (warmup - step) / (warmup * (warmup + 1))
        assert ours[step] - document(step) == pytest.approx(shift, rel=1e-6)
        assert shift <= base / (warmup + 1)
    for step in (10_000, 10_001, 505_000, 999_999):
        assert ours[step] == pytest.approx(document(step), rel=1e-12)
    # Step 1,000,000 would be one after the last: the final rate is approached, and reached only in print.
    assert f"{ours[-1]:.6e}" == "3.000000e-06"
