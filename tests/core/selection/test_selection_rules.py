"""The rules that all policies share: order of the reasons, duplicates, caps, and independence of the input's order."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_versions import samples_of
from pydantic import ValidationError
from selection_samples import completion, paired, verdict

from halo_forge.core.records import HACK_FLAGS, Completion, Sample, Selection, Threshold, Verdict
from halo_forge.core.registry import discover
from halo_forge.core.selection import REASONS, SelectionSpec, kinds, quota, without_flaky
from halo_forge.core.selection.threshold import KeepThreshold

SPECS = discover("halo_forge.core.selection")
EVERY_POLICY = [pytest.param(spec, id=kind) for kind, spec in SPECS.items()]
POLICIES = [pytest.param(spec, id=kind) for kind, spec in SPECS.items() if not spec.is_control]


def select(policy: SelectionSpec, verdicts: list[Verdict], **options: Any) -> Selection:
    completions = options.pop("completions", [completion(each.prompt_id, each.index) for each in verdicts])
    arguments: dict[str, Any] = {"threshold": "pass", "keep_fraction": 1.0, "seed": 0}
    return policy.select(paired(completions, verdicts), **(arguments | options))


def dropped(selection: Selection) -> dict[str, set[tuple[str, int]]]:
    return {reason: set(keys) for reason, keys in selection.dropped.items() if keys}


def test_kinds() -> None:
    assert kinds() == ("best_per_prompt", "threshold", "top_fraction", "unfiltered")
    assert [kind for kind, spec in SPECS.items() if spec.is_control] == ["unfiltered"]


@pytest.mark.parametrize("spec", POLICIES)
def test_defaults(spec: type[SelectionSpec]) -> None:
    policy = spec()
    assert policy.reward_threshold.value(1, 3) == "pass"
    assert policy.keep_fraction.value(1, 3) == 1.0
    assert policy.deduplicate is True
    assert policy.drop_flagged is True
    assert policy.per_prompt_cap == (None if policy.kind == "threshold" else 4)


@pytest.mark.parametrize("spec", POLICIES)
@pytest.mark.parametrize(
    "wrong", [{"per_prompt_cap": 0}, {"per_prompt_cap": 1.5}, {"keep_fraction": "pass"}, {"cap": 1}]
)
def test_wrong_settings_are_refused(spec: type[SelectionSpec], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**wrong)


def test_the_first_rule_that_applies_is_the_reason() -> None:
    # Each sample breaks its own rule and all later ones.
    completions = [
        completion("a", 0, finish="length"),
        completion("a", 1, finish="length"),
        completion("a", 2),
        completion("a", 3),
        completion("a", 4),
        completion("a", 5),
    ]
    verdicts = [
        verdict("a", 0, 0.0, status="error", normal="same"),
        verdict("a", 1, 0.2, normal="same"),
        verdict("a", 2, 0.2, normal="same", flags=("trivial_program",)),
        verdict("a", 3, normal="same", flags=("trivial_program",)),
        verdict("a", 4, normal="same", warnings=1),
        verdict("a", 5, normal="same"),
    ]
    selection = select(KeepThreshold(), verdicts, completions=completions)
    assert selection.kept == (("a", 5),)
    assert dropped(selection) == {
        "verifier_error": {("a", 0)},
        "truncated": {("a", 1)},
        "below_threshold": {("a", 2)},
        "flagged": {("a", 3)},
        "duplicate": {("a", 4)},
    }
    assert tuple(selection.dropped) == REASONS


HARMLESS = ("no_fence", "several_blocks", "truncated", "closing_fence_inline", "html_escaped", "tool_call")


@pytest.mark.parametrize("spec", POLICIES)
def test_hacks_are_dropped_and_harmless_flags_are_not(spec: type[SelectionSpec]) -> None:
    verdicts = [verdict("a", 0, flags=HARMLESS), *(verdict(name, 0, flags=(*HARMLESS, name)) for name in HACK_FLAGS)]
    selection = select(spec(), verdicts)
    assert selection.kept == (("a", 0),)
    assert dropped(selection) == {"flagged": {(name, 0) for name in HACK_FLAGS}}
    assert len(select(spec(drop_flagged=False), verdicts).kept) == 1 + len(HACK_FLAGS)


def test_flaky_samples_leave_and_nobody_takes_their_place() -> None:
    verdicts = [verdict("a", index) for index in range(6)]
    selection = select(KeepThreshold(per_prompt_cap=5), verdicts)
    again = [
        verdict("a", 0, 0.0, status="error"),  # ours: nobody knows
        verdict("a", 1, 0.7),
        verdict("a", 2, status="timeout"),
        verdict("a", 3),
        dataclasses.replace(verdict("a", 4), warnings=7, wall_seconds=9.0),
    ]
    again = [each for each in again if ("a", each.index) in selection.kept]
    steady = without_flaky(selection, samples_of(verdicts), again)
    flaky = {key for key in selection.kept if key in {("a", 1), ("a", 2)}}
    unknown = {key for key in selection.kept if key == ("a", 0)}
    assert flaky and unknown
    assert steady.kept == tuple(key for key in selection.kept if key not in flaky | unknown)
    assert dropped(steady) == {**dropped(selection), "flaky": flaky, "flaky_unknown": unknown}
    assert tuple(steady.dropped) == REASONS
    assert without_flaky(selection, samples_of(verdicts), []) == selection


def test_another_number_of_passed_tests_is_another_verdict() -> None:
    verdicts = [dataclasses.replace(verdict("a", 0, 0.8), tests_passed=2, tests_total=3)]
    selection = select(KeepThreshold(), verdicts, threshold=0.5)
    again = [dataclasses.replace(verdicts[0], tests_passed=1)]
    assert without_flaky(selection, samples_of(verdicts), again).kept == ()


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [("pass", {2}), (0.0, {0, 1, 2, 3}), (0.5, {1, 2, 3}), (0.51, {2, 3}), (1.0, {2}), (1.1, set())],
)
def test_thresholds(threshold: Threshold, kept: set[int]) -> None:
    verdicts = [
        verdict("a", 0, 0.0),
        verdict("a", 1, 0.5),
        verdict("a", 2, 1.0),
        verdict("a", 3, 0.9, status="timeout"),
    ]
    selection = select(KeepThreshold(), verdicts, threshold=threshold)
    assert {index for _, index in selection.kept} == kept
    assert selection.threshold == threshold


def test_pass_means_status_not_reward() -> None:
    # Where compiling is all there is to check, a pass is worth 0.5.
    verdicts = [verdict("a", 0, 0.5, status="passed"), verdict("a", 1, 0.9, status="failed")]
    assert select(KeepThreshold(), verdicts).kept == (("a", 0),)


def test_of_equal_programs_the_higher_reward_survives_then_fewer_warnings() -> None:
    verdicts = [
        verdict("a", 0, 0.5, normal="n"),
        verdict("a", 1, 0.7, normal="n", warnings=3),
        verdict("a", 2, 0.7, normal="n", warnings=1),
    ]
    selection = select(KeepThreshold(), verdicts, threshold=0.0)
    assert selection.kept == (("a", 2),)
    assert dropped(selection) == {"duplicate": {("a", 0), ("a", 1)}}


def sample(index: int, **changes: Any) -> tuple[Completion, Verdict]:
    num_tokens = changes.pop("num_tokens", 40)
    ranked = dataclasses.replace(verdict("a", index, 0.8, normal=changes.pop("normal", "")), **changes)
    return dataclasses.replace(completion("a", index), token_ids=(0,) * num_tokens), ranked


RANKED = [
    sample(3, tests_passed=3, tests_total=4, warnings=9, num_tokens=900),  # a larger share of the checks
    sample(7, tests_passed=2, tests_total=4, num_tokens=900),  # fewer warnings
    sample(0, tests_passed=2, tests_total=4, warnings=1, num_tokens=32),  # shorter
    sample(5, tests_passed=1, tests_total=2, warnings=1, num_tokens=90),  # about as long as the next one, and new
    sample(2, tests_passed=2, tests_total=4, warnings=1, num_tokens=70, normal="kept before"),
    sample(6, tests_passed=0, tests_total=0),  # nothing was checked
]


@pytest.mark.parametrize("kind", ["best_per_prompt", "top_fraction"])
@pytest.mark.parametrize("seed", range(4))
def test_equal_rewards_are_ranked_by_checks_warnings_length_and_novelty(kind: str, seed: int) -> None:
    completions, verdicts = ([pair[part] for pair in RANKED[::-1]] for part in (0, 1))
    expected = [verdict.index for _, verdict in RANKED]
    for num in range(1, len(expected) + 1):
        policy = SPECS[kind](per_prompt_cap=num)
        options: dict[str, Any] = {"completions": completions, "threshold": 0.0, "seed": seed}
        selection = select(policy, verdicts, kept_before={("normal", "a", "kept before")}, **options)
        assert {index for _, index in selection.kept} == set(expected[:num])


def test_equal_programs_of_earlier_cycles_do_not_bar_new_ones() -> None:
    """What was kept before goes behind its equals; it is not refused."""
    verdicts = [verdict("a", 0, normal="old"), verdict("a", 1)]
    for cap, kept in ((1, {1}), (2, {0, 1})):
        selection = select(SPECS["best_per_prompt"](per_prompt_cap=cap), verdicts, kept_before={("normal", "a", "old")})
        assert {index for _, index in selection.kept} == kept


@pytest.mark.parametrize(
    ("drop", "kept"),
    [([], {"some", "all", "none"}), (["always"], {"some", "none"}), (["never", "always"], {"some"})],
)
@pytest.mark.parametrize("spec", POLICIES)
def test_prompts_that_teach_nothing_can_be_dropped(spec: type[SelectionSpec], drop: list[str], kept: set[str]) -> None:
    verdicts = [
        *(verdict("some", index, reward) for index, reward in enumerate((1.0, 0.7))),
        *(verdict("all", index) for index in range(2)),
        verdict("all", 2, 0.0, status="error"),  # ours: it does not spoil the prompt's record
        *(verdict("none", index, 0.7) for index in range(2)),
    ]
    selection = select(spec(drop_prompts=drop), verdicts, threshold=0.5)
    assert {prompt_id for prompt_id, _ in selection.kept} == kept
    reasons = {"never_solved": "none", "always_solved": "all"}
    expected = {reason: {(name, 0), (name, 1)} for reason, name in reasons.items() if name not in kept}
    assert dropped(selection) == {"verifier_error": {("all", 2)}, **expected}


def test_the_control_arm_keeps_what_the_verifier_refuses() -> None:
    """Unverified self-samples: only what the length limit cut off is left out."""
    verdicts = [
        verdict("a", 0, 0.0, status="error"),
        verdict("a", 1, 0.0),
        verdict("a", 2, flags=("tampering",)),
        verdict("a", 3, normal="n", source="s"),
        verdict("a", 4, normal="n", source="s"),
        verdict("a", 5),
    ]
    completions = [completion("a", index, finish="length" if index == 5 else "stop") for index in range(6)]
    policy = SPECS["unfiltered"]()
    selection = select(policy, verdicts, completions=completions, threshold="pass")
    assert {index for _, index in selection.kept} == {0, 1, 2, 3, 4}
    assert dropped(selection) == {"truncated": {("a", 5)}}
    assert len(select(policy, verdicts, keep_fraction=0.5).kept) == policy.max_kept(1, 6, 0.5) == 3
    kept = {key for seed in range(30) for key in select(policy, verdicts, keep_fraction=0.2, seed=seed).kept}
    assert len(kept) == 6  # by chance, never by reward


@pytest.mark.parametrize(
    "wrong",
    [
        {"deduplicate": True},
        {"drop_flagged": True},
        {"drop_prompts": ["never"]},
        {"reward_threshold": "pass"},
        {"reward_threshold": [0, 0.5]},
    ],
)
def test_the_control_arm_has_no_filter_to_turn_on(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SPECS["unfiltered"](**wrong)


def test_among_equals_the_seed_chooses_not_the_file() -> None:
    verdicts = [verdict("a", index, normal="n") for index in range(8)]
    survivors = {select(KeepThreshold(), verdicts, seed=seed).kept[0] for seed in range(40)}
    assert len(survivors) > 4


def test_two_prompts_may_share_a_normalised_program_but_not_the_text() -> None:
    same_names_aside = [verdict("a", 0, normal="n"), verdict("b", 0, normal="n")]
    assert len(select(KeepThreshold(), same_names_aside).kept) == 2
    same_text = [verdict("a", 0, normal="n", source="s"), verdict("b", 0, normal="n", source="s")]
    selection = select(KeepThreshold(), same_text)
    assert len(selection.kept) == len(selection.dropped["duplicate"]) == 1


def test_answers_without_a_program_are_compared_by_their_text() -> None:
    completions = [completion("a", 0, text="no"), completion("a", 1, text="no"), completion("a", 2, text="never")]
    verdicts = [verdict("a", index, 0.0, source=None, normal=None) for index in range(3)]
    selection = select(KeepThreshold(), verdicts, completions=completions, threshold=0.0)
    assert len(selection.kept) == 2 and ("a", 2) in selection.kept


def test_without_deduplication_nothing_is_a_duplicate() -> None:
    verdicts = [verdict("a", index, normal="n", source="s") for index in range(3)]
    assert len(select(KeepThreshold(deduplicate=False), verdicts).kept) == 3


@pytest.mark.parametrize(
    ("num", "fraction", "expected"),
    [(30, 0.1, 3), (8, 0.125, 1), (5, 0.5, 3), (1, 0.01, 1), (0, 0.5, 0), (7, 1.0, 7), (3, 1 / 3, 1), (100, 0.07, 7)],
)
def test_quota(num: int, fraction: float, expected: int) -> None:
    assert quota(num, fraction) == expected


@pytest.mark.parametrize("spec", EVERY_POLICY)
@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_a_fraction_outside_is_an_error_even_without_samples(spec: type[SelectionSpec], fraction: float) -> None:
    with pytest.raises(ValueError, match="keep_fraction is"):
        select(spec(), [], keep_fraction=fraction)


def test_a_verdict_belongs_to_its_completion() -> None:
    with pytest.raises(ValueError, match="not of one sample"):
        Sample(completion("a", 1), verdict("a", 0))


def test_a_sample_that_occurs_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="twice"):
        select(KeepThreshold(), [verdict("a", 0), verdict("a", 0)])


@st.composite
def sample_sets(draw: st.DrawFn) -> tuple[list[Completion], list[Verdict]]:
    keys = draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 7)), unique=True, max_size=16))
    completions, verdicts = [], []
    for prompt_id, index in keys:
        finish = draw(st.sampled_from(["stop", "stop", "stop", "length"]))
        completions.append(completion(prompt_id, index, finish=finish))
        verdicts.append(
            verdict(
                prompt_id,
                index,
                draw(st.sampled_from([0.0, 0.5, 1.0, 1.0])),
                status=draw(st.sampled_from([None, None, None, "error"])),
                warnings=draw(st.integers(0, 1)),
                source=draw(st.sampled_from(["", "s", "t", None])),
                normal=draw(st.sampled_from(["", "", "n", None])),
            )
        )
    return completions, verdicts


@pytest.mark.parametrize("spec", POLICIES)
@settings(max_examples=60, deadline=None)
@given(
    samples=sample_sets(),
    random=st.randoms(use_true_random=False),
    threshold=st.sampled_from(["pass", 0.0, 0.5]),
    fraction=st.sampled_from([0.1, 0.5, 1.0]),
    cap=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 5),
)
def test_properties_of_every_policy(
    spec: type[SelectionSpec],
    samples: tuple[list[Completion], list[Verdict]],
    random: Any,
    threshold: Threshold,
    fraction: float,
    cap: int | None,
    seed: int,
) -> None:
    completions, verdicts = samples
    policy = spec(per_prompt_cap=cap)
    options: dict[str, Any] = {"threshold": threshold, "keep_fraction": fraction, "seed": seed}
    selection = policy.select(paired(completions, verdicts), **options)

    # Every sample is kept or dropped, once.
    accounted = [*selection.kept, *(key for keys in selection.dropped.values() for key in keys)]
    assert sorted(accounted) == sorted((each.prompt_id, each.index) for each in completions)

    # What is kept cleared every rule.
    by_key = {(each.prompt_id, each.index): each for each in verdicts}
    finish = {(each.prompt_id, each.index): each.finish for each in completions}
    for key in selection.kept:
        assert by_key[key].status != "error" and finish[key] == "stop"
        assert by_key[key].passed if threshold == "pass" else by_key[key].reward >= threshold
    prompts = [prompt_id for prompt_id, _ in selection.kept]
    assert cap is None or all(prompts.count(prompt_id) <= cap for prompt_id in set(prompts))
    assert len(selection.kept) <= policy.max_kept(3, 8, fraction)

    # Their order does not matter.
    shuffled = list(paired(completions, verdicts))
    random.shuffle(shuffled)
    assert policy.select(shuffled, **options) == selection


@pytest.mark.parametrize("spec", EVERY_POLICY)
def test_kept_samples_are_shuffled_by_the_seed(spec: type[SelectionSpec]) -> None:
    verdicts = [verdict(f"p{number:02d}", 0) for number in range(30)]
    first, second = (select(spec(), verdicts, seed=seed).kept for seed in (1, 2))
    assert first == select(spec(), verdicts, seed=1).kept
    assert sorted(first) == sorted(second)
    assert len({tuple(sorted(first)), first, second}) == 3
