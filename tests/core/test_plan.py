"""What each cycle asks, with which seeds: a pure function of configuration and prompts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_versions import decided, samples_of, version

from halo_forge.config import RaftConfig
from halo_forge.core.decisions import Assessment, VersionComparison
from halo_forge.core.errors import TooFewSamples
from halo_forge.core.lr_scheduler import planned_factors
from halo_forge.core.plan import Plan, PromptSets
from halo_forge.core.records import (
    PolicyVersion,
    Prompt,
    Sample,
    SamplingSettings,
    Selection,
    SelectionSettings,
    Verdict,
)


def prompts(name: str, num: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(f"{name}{number}", ({"role": "user", "content": "write"},)) for number in range(num))


def plan(num_train: int = 5, num_dev: int = 2, num_test: int = 2, **sections: Any) -> Plan:
    data = {"model": {"model_name_or_path": "nobody/nothing"}, "output_dir": "run", **sections}
    sets = PromptSets(prompts("train", num_train), prompts("dev", num_dev), prompts("test", num_test))
    return Plan(RaftConfig.model_validate(data), sets)


SAMPLING = SamplingSettings(cycle=1, temperature=0.9, top_p=0.8, samples_per_prompt=2)


def in_cycle(cycle: int) -> SamplingSettings:
    return dataclasses.replace(SAMPLING, cycle=cycle)


def up_to(cycle: int, *metrics: dict[str, float], **decision: Any) -> list[PolicyVersion]:
    """v_0 .. v_{cycle-1}, the last one with this decision."""
    found = [version(number, metrics=metrics[number] if metrics else None) for number in range(cycle)]
    found[-1] = dataclasses.replace(found[-1], decision=dataclasses.replace(found[-1].decision, **decision))
    return found


@pytest.mark.parametrize("share", [None, 5, 6])
def test_all_train_prompts_in_their_order(share: int | None) -> None:
    whole = plan(raft={"prompts_per_cycle": share, "min_selected": 1})
    for cycle in (1, 2, 7):
        assert [prompt.id for prompt in whole.train_prompts(cycle)] == [f"train{number}" for number in range(5)]


@given(st.integers(1, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_prompts_go_round_without_repetition(num_train: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(1, num_train))
    some = plan(num_train, raft={"prompts_per_cycle": share, "min_selected": 1})
    cycles = [[prompt.id for prompt in some.train_prompts(cycle)] for cycle in range(1, 2 * num_train + 1)]
    for chosen in cycles:
        assert len(chosen) == len(set(chosen))  # never twice in one cycle
        assert len(chosen) <= share
    if num_train % share == 0:
        per_round = num_train // share
        for start in range(0, len(cycles), per_round):
            one_round = [each for chosen in cycles[start : start + per_round] for each in chosen]
            assert len(one_round) == num_train == len(set(one_round))
    # No prompt is forgotten, and none is drawn more often than rounds were begun.
    drawn = Counter(each for chosen in cycles[:num_train] for each in chosen)
    assert len(drawn) == num_train
    assert max(drawn.values()) <= share


def test_the_shuffle_follows_the_seed_and_not_the_order_of_the_file() -> None:
    def order(run_seed: int, reverse: bool = False) -> list[str]:
        some = plan(20, raft={"prompts_per_cycle": 10, "min_selected": 1}, seed=run_seed)
        if reverse:
            some = Plan(some.config, PromptSets(some.prompts.train[::-1], some.prompts.dev, some.prompts.test))
        return [prompt.id for cycle in (1, 2) for prompt in some.train_prompts(cycle)]

    assert order(0) == order(0) == order(0, reverse=True)
    assert order(0) != order(1)
    assert order(0) != [f"train{number}" for number in range(20)]


def test_train_requests() -> None:
    requests = plan(engine={"top_k": 7, "max_new_tokens": 33}).train_requests(SAMPLING)
    assert [(each.prompt_id, each.index) for each in requests] == [
        (f"train{number}", index) for number in range(5) for index in range(2)
    ]
    assert {(each.temperature, each.top_p, each.top_k, each.max_new_tokens) for each in requests} == {(0.9, 0.8, 7, 33)}


def test_the_final_evaluation_asks_no_train_prompts() -> None:
    three = plan(raft={"num_cycles": 3})
    assert [len(three.train_requests(in_cycle(cycle))) for cycle in (1, 2, 3, 4, 5)] == [10, 10, 10, 0, 0]


def test_seeds_differ_by_run_cycle_set_prompt_and_sample() -> None:
    seeds = []
    for one in (plan(seed=0), plan(seed=1)):
        cycles = [*one.train_requests(SAMPLING), *one.train_requests(in_cycle(2))]
        seeds += [request.seed for request in (*cycles, *one.dev_requests(), *one.test_requests())]
    assert len(seeds) == len(set(seeds)) == 2 * (10 + 10 + 8 + 8)


def test_a_seed_depends_on_names_and_on_nothing_else() -> None:
    """Neither more prompts nor more samples change what a sample draws."""

    def seeds(one: Plan, sampling: SamplingSettings) -> dict[tuple[str, int], int]:
        return {(each.prompt_id, each.index): each.seed for each in one.train_requests(sampling)}

    few = seeds(plan(3), SAMPLING)
    many = seeds(plan(9, raft={"num_cycles": 2}), SamplingSettings(1, 0.1, 1.0, 5))
    assert few.items() <= many.items()


def test_evaluation_requests_are_the_same_for_every_version() -> None:
    one = plan(
        evaluation={"samples_per_prompt": 3, "temperature": 0.3, "top_p": 0.9}, engine={"temperature": [1.0, 0.5]}
    )
    assert one.dev_requests() == one.dev_requests()
    assert [(each.prompt_id, each.index) for each in one.dev_requests()] == [
        (f"dev{number}", index) for number in range(2) for index in range(3)
    ]
    for each in (*one.dev_requests(), *one.test_requests()):
        assert (each.temperature, each.top_p) == (0.3, 0.9)


def test_tested_versions() -> None:
    assert plan().tested_versions(decided(5, best=3)) == [0, 3, 5]
    assert plan().tested_versions(decided(3, best=3)) == [0, 3]
    assert plan().tested_versions(decided(0)) == [0]
    assert plan(evaluation={"test_at_end": False}).tested_versions(decided(5, best=3)) == []
    assert plan(num_test=0).tested_versions(decided(5, best=3)) == []


def test_confirmations_ask_the_dev_prompts_with_seeds_of_their_own() -> None:
    one = plan(evaluation={"samples_per_prompt": 3, "temperature": 0.3})
    dev, third, fourth = one.dev_requests(), one.confirm_requests(3), one.confirm_requests(4)
    assert one.confirm_requests(3) == third
    for other in (third, fourth):
        assert [(each.prompt_id, each.index) for each in other] == [(each.prompt_id, each.index) for each in dev]
        assert {each.temperature for each in other} == {0.3}
    seeds = [each.seed for each in (*dev, *third, *fourth)]
    assert len(set(seeds)) == len(seeds)


def test_settings_after_a_decline() -> None:
    one = plan(training={"learning_rate": 1e-3}, engine={"temperature": 0.8})
    back = up_to(3, action="rollback", train_from=1, sample_from=1, learning_rate_factor=0.25, temperature_add=0.2)
    settings = one.training_settings(back, 4)
    assert (settings.parent_version, settings.learning_rate) == (1, pytest.approx(2.5e-4))
    assert one.sampling_settings(back).temperature == pytest.approx(1.0)
    assert one.sampling_settings(up_to(3)).temperature == 0.8
    again = one.resampling_settings(back)
    assert (again.cycle, again.temperature) == (3, pytest.approx(1.0))
    plain = one.train_requests(one.sampling_settings(up_to(2)))
    tagged = one.train_requests(again, (), "rollback")
    assert {each.seed for each in plain}.isdisjoint(each.seed for each in tagged)
    assert [each.prompt_id for each in plain] == [each.prompt_id for each in tagged]


HELD = Assessment("held", 1, VersionComparison(0.0, 0.02, 0.0, 64))
FELL = Assessment("degraded", 1, VersionComparison(-0.1, 0.02, -5.0, 64), VersionComparison(-0.1, 0.02, -5.0, 64))


def after(one: Plan, assessment: Assessment) -> list[PolicyVersion]:
    """The versions before cycle 3 trains: v1 improved, and v2 was assessed like this."""
    earlier = up_to(2, outcome="ahead", best_version=1)
    measured = version(2)
    decision = one.decide(assessment, earlier, measured.measurement, measured.training)
    return [*earlier, dataclasses.replace(measured, decision=decision)]


@pytest.mark.parametrize(("start_from", "parent"), [("previous", 2), ("average", 2), ("base", 0), ("best", 1)])
def test_whose_adapter_is_trained(start_from: str, parent: int) -> None:
    one = plan(training={"start_from": start_from, "learning_rate": 1e-3})
    assert one.training_settings(after(one, HELD), 4).parent_version == parent


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [({"kind": "plateau", "base": 1e-3, "decay_on_decline": 0.6}, 6e-4), ({"kind": "constant", "value": 1e-3}, 5e-4)],
)
def test_a_decline_lowers_the_learning_rate_once(schedule: dict[str, Any], rate: float) -> None:
    """By its schedule where that answers declines, else by `decisions.learning_rate_factor`."""
    one = plan(training={"learning_rate": schedule})
    assert one.training_settings(after(one, FELL), 4).learning_rate == pytest.approx(rate)
    mass = plan(training={"learning_rate": None, "learning_rate_mass": 1e-2})
    assert mass.training_settings(up_to(3, learning_rate_factor=0.5), 4).learning_rate_mass == 5e-3


def test_settings_follow_their_schedules() -> None:
    one = plan(
        engine={"temperature": [1.0, 0.5], "top_p": 0.9},
        selection={"reward_threshold": [0.5, "pass"], "keep_fraction": [1.0, 0.25]},
        training={"num_train_epochs": [2, 1], "weight_decay": 0.1, "max_grad_norm": 0, "learning_rate": [1e-3, 5e-4]},
        raft={"samples_per_prompt": {"kind": "linear", "base": 4, "final": 8}, "num_cycles": 2},
    )
    assert one.sampling_settings([]) == SamplingSettings(1, 1.0, 0.9, 4)
    assert one.sampling_settings(up_to(1)) == SamplingSettings(2, 0.5, 0.9, 8)
    # The final evaluation has settings too, those of the last cycle, though it samples nothing.
    assert one.sampling_settings(up_to(2)) == SamplingSettings(3, 0.5, 0.9, 8)
    first, second = (one.training_settings(up_to(cycle), 64) for cycle in (1, 2))
    assert (first.learning_rate, first.num_train_epochs, first.max_grad_norm, first.weight_decay) == (1e-3, 2, 0, 0.1)
    assert (first.gradient_accumulation_steps, first.learning_rate_mass) == (8, None)
    assert (second.learning_rate, second.num_train_epochs) == (5e-4, 1.0)
    assert one.selection_settings(up_to(1)) == SelectionSettings(1, 0.5, 1.0)
    assert one.selection_settings(up_to(2)) == SelectionSettings(2, "pass", 0.25)


@pytest.mark.parametrize(("num_rows", "num_steps"), [(64, 8), (20, 3), (8, 1)])
def test_a_mass_gives_the_peak_that_spends_it_on_the_rows(num_rows: int, num_steps: int) -> None:
    training = {"learning_rate_mass": [4e-4, 0], "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    one = plan(training=training)
    settings = one.training_settings(up_to(1), num_rows)
    factors = planned_factors(one.config.training, num_rows, 1.0, 4)
    assert len(factors) == num_steps
    assert settings.learning_rate_mass == 4e-4
    assert settings.learning_rate * sum(factors) == pytest.approx(4e-4)
    assert one.training_settings(up_to(2), num_rows).learning_rate == 0.0


def test_accumulation_min_p_and_curriculum_follow_their_schedules() -> None:
    one = plan(
        engine={"min_p": [0.0, 0.1]},
        training={"gradient_accumulation_steps": {"kind": "linear", "base": 2, "final": 8}},
        raft={"curriculum_fraction": [0.2, 1.0], "num_cycles": 3, "min_selected": 1},
    )
    assert [one.training_settings(up_to(cycle), 64).gradient_accumulation_steps for cycle in (1, 2, 3)] == [2, 5, 8]
    sampling = [one.sampling_settings(up_to(cycle)[:-1]) for cycle in (1, 2, 3)]
    assert [(each.min_p, each.curriculum_fraction) for each in sampling] == [(0.0, 0.2), (0.1, 1.0), (0.1, 1.0)]
    (request, *_) = one.train_requests(sampling[1])
    assert request.min_p == 0.1
    assert {each.min_p for each in one.dev_requests()} == {0.0}, "evaluation is the same in every cycle"


@pytest.mark.parametrize(("samples", "rounded"), [(2.4, 2), (2.6, 3)])
def test_a_scheduled_count_is_rounded(samples: float, rounded: int) -> None:
    one = plan(raft={"samples_per_prompt": [2, samples], "num_cycles": 2})
    assert one.sampling_settings(up_to(1)).samples_per_prompt == rounded


def test_a_schedule_that_looks_at_results_gets_them() -> None:
    one = plan(
        training={
            "learning_rate": {
                "kind": "plateau",
                "metric": "dev/pass_rate",
                "base": 1e-4,
                "decay": 0.5,
                "patience": 1,
                "cooldown": 0,
            }
        }
    )
    rates = [0.2, 0.2, 0.5, 0.4]
    history = [{"dev/pass_rate": rate} for rate in rates]
    found = [one.training_settings(up_to(cycle, *history), 64).learning_rate for cycle in (1, 2, 3, 4)]
    assert found == pytest.approx([1e-4, 5e-5, 5e-5, 2.5e-5])


def samples(num_passed: int, num_failed: int) -> tuple[Sample, ...]:
    return samples_of(
        Verdict(prompt_id="train0", index=index, stage="tests", status="passed", reward=1.0, source_digest=str(index))
        if index < num_passed
        else Verdict(
            prompt_id="train0", index=index, stage="compile", status="failed", reward=0.0, source_digest=str(index)
        )
        for index in range(num_passed + num_failed)
    )


def select(one: Plan, found: tuple[Sample, ...], cycle: int) -> Selection:
    return one.select(found, one.selection_settings(up_to(cycle)), up_to(cycle))


def test_selection_and_its_rows() -> None:
    one = plan(raft={"min_selected": 2}, selection={"per_prompt_cap": 3})
    found = samples(4, 2)
    selection = select(one, found, 1)
    assert len(selection.kept) == 3
    assert {reason: len(keys) for reason, keys in selection.dropped.items() if keys} == {
        "below_threshold": 2,
        "over_cap": 1,
    }
    rows = one.training_rows(found, selection, up_to(1))
    assert [(row.prompt.id, row.completion.index) for row in rows] == list(selection.kept)
    # Another cycle breaks ties in another way, the same cycle in the same way.
    kept = {select(one, found, cycle).kept for cycle in range(1, 7)}
    assert len(kept) > 1
    assert select(one, found, 1) == selection


@pytest.mark.parametrize("num_passed", [0, 1])
def test_too_few_samples(num_passed: int) -> None:
    one = plan(raft={"min_selected": 2})
    with pytest.raises(TooFewSamples) as caught:
        select(one, samples(num_passed, 3), 1)
    assert caught.value.exit_code == 5
    assert caught.value.message == (
        f"cycle 1: {num_passed} of {num_passed + 3} samples were selected, fewer than raft.min_selected (2);"
        " dropped: below_threshold 3"
    )
