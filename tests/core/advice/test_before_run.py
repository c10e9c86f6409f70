"""Every rule about a plan, with the numbers it gives."""

from __future__ import annotations

from typing import Any

import pytest

from halo_forge.core.advice import PlanFacts, PlanRule, advise_plan
from halo_forge.core.registry import discover

RULES = discover("halo_forge.core.advice.before_run")


def facts(**changes: Any) -> PlanFacts:
    """A plan that nothing is to be said of."""
    usual: dict[str, Any] = {
        "learning_rates": [1e-3, 8e-4],
        "optimizer_steps": [40, 40],
        "requested_warmup_steps": 1,
        "effective_batch_size": 16,
        "temperatures": [1.0, 1.0],
        "rank": 16,
        "alpha": 32,
        "use_rslora": False,
        "model_name": "models/smollm2-135m-instruct",
    }
    return PlanFacts(**{**usual, **changes})


# (rule, changes with which it speaks, changes with which it does not, words of what it says)
CASES: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    # 1e-3 sqrt(1.24e9 / 135e6) = 3.03e-3 at batch 128; batch 16: 1.07e-3 by the square root, 3.8e-4 linear.
    (
        "published_rate",
        {"learning_rates": [5e-5]},
        {"learning_rates": [1.3e-4]},
        ("below", "0.003 at batch 128", "0.001 (square root)", "0.0004 (linear)"),
    ),
    ("published_rate", {"learning_rates": [1e-2]}, {"learning_rates": [9e-3]}, ("above",)),
    ("published_rate", {"learning_rates": [5e-5]}, {"learning_rates": [5e-5], "model_name": "models/mine"}, ("5e-05",)),
    (
        "batch_size",
        {"effective_batch_size": 64, "learning_rates": [1e-3]},
        {"effective_batch_size": 32},
        ("0.00071 (square-root", "0.0005 (linear"),
    ),
    ("rank", {"rank": 64, "alpha": 128}, {"rank": 64}, ("keep alpha at 32", "0.00025 instead of 0.001")),
    ("adapter_scale", {"alpha": 128}, {"alpha": 64}, ("0.008", "a learning rate of 0.004")),
    ("adapter_scale", {"alpha": 2}, {"alpha": 4}, ("0.125",)),
    ("adapter_scale", {"alpha": 32, "use_rslora": True}, {"alpha": 16, "use_rslora": True}, ("gives 8",)),
    # 0.7^-6 = 8.5, 0.85^-6 = 2.65; a little below 1 does not add up to anything.
    ("temperature", {"temperatures": [0.7] * 6}, {"temperatures": [0.9] * 6}, ("scaled by up to 8.5",)),
    ("temperature", {"temperatures": [0.85] * 6}, {"temperatures": [0.0] * 6}, ("scaled by up to 2.7",)),
    ("temperature", {"temperatures": [0.9, 0.7, 0.5]}, {"temperatures": [1.0, 0.9, 0.8]}, ("more in each cycle",)),
    (
        "effective_steps",
        {"optimizer_steps": [16, 10], "requested_warmup_steps": 5},
        {"optimizer_steps": [17, 10], "requested_warmup_steps": 5},
        ("3 of 16",),
    ),
    (
        "effective_steps",
        {"optimizer_steps": [8, None], "requested_warmup_steps": 10},
        {"optimizer_steps": [None], "requested_warmup_steps": 10},
        ("1 of 8",),
    ),
]


@pytest.mark.parametrize(("kind", "speaks", "silent", "words"), CASES)
def test_a_rule_speaks_and_is_silent(
    kind: str, speaks: dict[str, Any], silent: dict[str, Any], words: tuple[str, ...]
) -> None:
    rule = RULES[kind]()
    assert isinstance(rule, PlanRule)
    advice = rule.look(facts(**speaks))
    assert advice is not None and advice.kind == kind
    said = " ".join(advice.to_row().values())
    assert all(word in said for word in words), said
    assert rule.look(facts(**silent)) is None


def test_every_rule_has_a_case_and_the_usual_plan_none() -> None:
    assert {case[0] for case in CASES} == RULES.keys()
    assert advise_plan(facts()) == ()


def test_at_learning_rate_zero_nothing_is_said_of_it() -> None:
    wild = facts(learning_rates=[0.0], effective_batch_size=512, rank=256, alpha=51200, temperatures=[0.1] * 9)
    assert advise_plan(wild) == ()


def test_a_rate_that_follows_from_a_mass_is_not_known_yet() -> None:
    assert {each.kind for each in advise_plan(facts(learning_rates=[None], rank=256, alpha=51200))} == set()
    assert facts(learning_rates=[None, 1e-4, 3e-4]).learning_rate == 3e-4


@pytest.mark.parametrize(
    ("name", "num"),
    [
        ("models/smollm2-135m-instruct", 135e6),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.7e9),
        ("Qwen/Qwen2.5-Coder-0.5B", 0.5e9),
        ("models/v2-mine", None),
        ("models/run-3-best", None),
        ("gpt2", None),
    ],
)
def test_the_size_is_read_from_the_name(name: str, num: float | None) -> None:
    assert facts(model_name=name).num_parameters == num
