"""Every rule on hand-made runs: the case it is for, the case beside it, and missing data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import policy_versions
import pytest
from policy_versions import samples_of, training

from halo_forge.core.advice import Advised, Rule, RunFacts, advise
from halo_forge.core.records import Decision, PolicyVersion, Sample, SamplingSettings, Training, Verdict
from halo_forge.core.registry import discover

NUM = 40
RULES = discover("halo_forge.core.advice.after_cycle")


def samples(
    prefix: str, passed: Sequence[int], compiled: Sequence[int] | None = None, num: int = 4
) -> Sequence[Sample]:
    """`passed[i]` of `num` samples of prompt i pass, `compiled[i]` compile (all, unless given)."""
    found = []
    for prompt, num_passed in enumerate(passed):
        num_compiled = num if compiled is None else compiled[prompt]
        for index in range(num):
            stage, status = ("compile", "failed") if index >= num_compiled else ("tests", "failed")
            if index < num_passed:
                stage, status = "tests", "passed"
            found.append(Verdict(prompt_id=f"{prefix}{prompt}", index=index, stage=stage, status=status, reward=0.0))  # type: ignore[arg-type]
    return samples_of(found)


def mixed(mean: float, num: int = NUM) -> list[int]:
    """Passes of `num` prompts with 4 samples each, spread around the mean."""
    return [min(4, max(0, round(4 * mean + (prompt % 3 - 1)))) for prompt in range(num)]


def version(
    number: int,
    metrics: Mapping[str, float] | None = None,
    *,
    dev: Sequence[int] = (),
    train: Sequence[int] = (),
    temperature: float = 1.0,
    min_p: float = 0.0,
    compiled: Sequence[int] | None = None,
) -> PolicyVersion:
    settings = SamplingSettings(number + 1, temperature, 1.0, 4, min_p=min_p)
    return policy_versions.version(
        number, metrics=metrics, train=samples("t", train), dev=samples("d", dev, compiled), sampling=settings
    )


def undeclared(number: int) -> PolicyVersion:
    """v_0, of whose 80 programs the first `number` call a function that is not declared."""
    said = "a.c:3:15: warning: implicit declaration of function 'strdup' [-Wimplicit-function-declaration]"
    found = version(0, dev=[2] * 20)
    samples = [
        dataclasses.replace(each, verdict=dataclasses.replace(each.verdict, diagnostics=said if at < number else ""))
        for at, each in enumerate(found.dev)
    ]
    return dataclasses.replace(found, dev=tuple(samples))


def report(cycle: int, *, rate: float = 1e-4, num_kept: int = 100, parent: int | None = None, **trained: float) -> Any:
    """The training that made v_cycle."""
    found = {"learning_rate_mass": 0.5 * rate * 20, "optimizer_steps": 20.0}
    found |= {name.replace("__", "/"): value for name, value in trained.items()}
    kept = samples_of(
        Verdict(prompt_id="t0", index=index, stage="tests", status="passed", reward=1.0) for index in range(num_kept)
    )
    return training(cycle, kept, parent=parent, rate=rate, metrics=found)


def run(versions: Sequence[PolicyVersion], reports: Sequence[Training] = ()) -> list[PolicyVersion]:
    """The versions, each with the training that made it."""
    made = [None, *reports]
    return [dataclasses.replace(each, training=by) for each, by in zip(versions, made, strict=True)]


def look(kind: str, versions: Sequence[PolicyVersion], reports: Sequence[Training] = ()) -> Any:
    rule = RULES[kind]()
    assert isinstance(rule, Rule)
    return rule.look(RunFacts(run(versions, reports)))


def four_cycles(*, spread: bool) -> tuple[list[PolicyVersion], list[Training]]:
    """400 prompts and no gain: a few rise, as many fall, or every one stays as it is."""
    last = [2 + (1 if prompt % 20 == 0 else -1 if prompt % 20 == 1 else 0) * spread for prompt in range(400)]
    found = [version(number, {"kl_to_previous": 0.01}, dev=[2] * 400) for number in range(3)]
    return [*found, version(3, {"kl_to_previous": 0.01}, dev=last)], [report(1), report(2), report(3)]


def improved_on_another_metric() -> tuple[list[PolicyVersion], list[Training]]:
    """The same, but v2 was judged better on what decisions look at, such as the compile rate."""
    versions, reports = four_cycles(spread=True)
    better = Decision(3, "ahead", "continue", 2, "")
    return [*versions[:2], dataclasses.replace(versions[2], decision=better), versions[3]], reports


def two(name: str, before: float, after: float, **options: Any) -> list[PolicyVersion]:
    """v0 and v1 with one metric each, on enough prompts."""
    return [version(number, {name: each}, dev=mixed(0.5), **options) for number, each in enumerate((before, after))]


# (rule, facts in which it speaks, facts in which it does not, a word of what it says)
CASES: list[tuple[str, Callable[[], tuple[Any, ...]], Callable[[], tuple[Any, ...]], str]] = [
    (
        "zero_learning_rate",
        lambda: (two("x", 1, 1), [report(1, rate=0.0)]),
        lambda: (two("x", 1, 1), [report(1)]),
        "none",
    ),
    (
        "low_mass",
        lambda: ([version(0), version(1)], [report(1, learning_rate_mass=4e-4)]),  # of 2e-3
        lambda: ([version(0), version(1)], [report(1, learning_rate_mass=5e-4)]),
        "0.0004 of 0.002",
    ),
    (
        "low_mass",
        lambda: ([version(0), version(1)], [report(1, optimizer_steps=4.0, learning_rate_mass=4e-4)]),
        lambda: ([version(0), version(1)], [report(1, optimizer_steps=5.0, learning_rate_mass=4e-4)]),
        "4 optimizer steps",
    ),
    (
        "low_mass",  # not where the few steps did move the model
        lambda: ([version(0), version(1, {"kl_to_previous": 0.009})], [report(1, optimizer_steps=4.0)]),
        lambda: ([version(0), version(1, {"kl_to_previous": 0.01})], [report(1, optimizer_steps=4.0)]),
        "4 optimizer steps",
    ),
    (
        "no_movement",
        lambda: ([version(n, {"kl_to_start": 9e-4}, dev=mixed(0.5)) for n in range(3)], [report(1), report(2)]),
        lambda: ([version(n, {"kl_to_start": 1e-3}, dev=mixed(0.5)) for n in range(3)], [report(1), report(2)]),
        "3 times the learning rate",
    ),
    (
        "no_movement",
        lambda: ([version(n, {"kl_to_start": 0.0}, dev=mixed(0.5)) for n in range(3)], [report(1), report(2)]),
        lambda: ([version(n, {"kl_to_start": 0.0}, dev=mixed(0.5)) for n in range(2)], [report(1)]),
        "KL to the start model 0",
    ),
    (
        "large_step",
        lambda: (
            [
                version(0, dev=mixed(0.5)),
                version(1, {"kl_to_previous": 0.004}, dev=mixed(0.5)),
                version(2, {"kl_to_previous": 0.013, "decision/outcome": -1.0}, dev=mixed(0.25)),
            ],
            [report(1), report(2)],
        ),
        lambda: (
            [
                version(0, dev=mixed(0.5)),
                version(1, {"kl_to_previous": 0.004}, dev=mixed(0.5)),
                version(2, {"kl_to_previous": 0.013, "decision/outcome": 0.0}, dev=mixed(0.25)),
            ],
            [report(1), report(2)],
        ),
        "0.5 times",
    ),
    (
        "large_step",  # in the first cycle there is nothing to compare the step with but its size
        lambda: ([version(0), version(1, {"kl_to_previous": 0.3, "decision/outcome": -1.0})], [report(1)]),
        lambda: ([version(0), version(1, {"kl_to_previous": 0.03, "decision/outcome": -1.0})], [report(1)]),
        "too high",
    ),
    (
        "overfit",
        lambda: ([version(n, dev=mixed(0.5), train=mixed(0.25 + 0.5 * n)) for n in range(2)], [report(1)]),
        lambda: ([version(n, dev=mixed(0.25 + 0.5 * n), train=mixed(0.25 + 0.5 * n)) for n in range(2)], [report(1)]),
        "learns the prompts",
    ),
    (
        "sharpening",
        lambda: ([version(0, dev=[1] * 16 + [2] * 24), version(1, dev=[0] * 16 + [3] * 24)], [report(1)]),
        lambda: ([version(0, dev=[1] * 16 + [2] * 24), version(1, dev=[0] * 16 + [1] * 24)], [report(1)]),
        "coverage -0.400",
    ),
    (
        "collapse",
        lambda: (two("dev/diversity/distinct@4", 3.5, 1.7), [report(1)]),
        lambda: (two("dev/diversity/distinct@4", 3.5, 1.8), [report(1)]),
        "1.7, v0 had 3.5",
    ),
    (
        "collapse",
        lambda: (two("probe/entropy", 0.9, 0.4), [report(1)]),
        lambda: (two("entropy", 0.9, 0.4), [report(1)]),  # other contexts: other prompts may be the reason
        "probe/entropy",
    ),
    (
        "collapse",
        lambda: (two("dev/diversity/duplicate_probability", 0.1, 0.25), [report(1)]),
        lambda: (two("dev/diversity/duplicate_probability", 0.02, 0.06), [report(1)]),
        "duplicate_probability",
    ),
    (
        "exhausted",
        lambda: ([version(0), version(1)], [report(1, kept__nll_before=0.09)]),
        lambda: ([version(0), version(1)], [report(1, kept__nll_before=0.1, kept__stale_fraction=0.5)]),
        "0.090 nats/token",
    ),
    (
        "exhausted",
        lambda: ([version(0), version(1)], [report(1, kept__stale_fraction=0.51)]),
        lambda: ([version(0), version(1)], [report(1)]),
        "51% of the kept programs",
    ),
    (
        "gaming",
        lambda: (
            [version(0, dev=[2] * NUM, compiled=[2, 3] * 20), version(1, dev=[0, 2] * 20, compiled=[4] * NUM)],
            [report(1)],
        ),
        lambda: (
            [version(0, dev=[2] * NUM, compiled=[2, 3] * 20), version(1, dev=[2] * NUM, compiled=[4] * NUM)],
            [report(1)],
        ),
        "compile rate +0.375",
    ),
    (
        "gaming",
        lambda: (
            [
                version(0, {"dev/completion_tokens_mean": 100.0}, dev=[1] * NUM, compiled=[2, 3] * 20),
                version(1, {"dev/completion_tokens_mean": 60.0}, dev=[1] * NUM, compiled=[4] * NUM),
            ],
            [report(1)],
        ),
        lambda: (
            [
                version(0, {"dev/completion_tokens_mean": 100.0}, dev=[1] * NUM, compiled=[2, 3] * 20),
                version(1, {"dev/completion_tokens_mean": 60.0}, dev=[2, 3] * 20, compiled=[4] * NUM),
            ],
            [report(1)],
        ),
        "60% as long",
    ),
    (
        "instability",
        lambda: ([version(0), version(1)], [report(1, clip_fraction=0.6, loss_spike=2.5)]),
        lambda: ([version(0), version(1)], [report(1, clip_fraction=1.0, loss_spike=1.9)]),  # clipping alone
        "60% of the steps clipped",
    ),
    (
        "divergence",
        lambda: ([version(0), version(1)], [report(1, loss_slope=0.02, loss_slope_error=0.0069, loss_mean=1.0)]),
        lambda: ([version(0), version(1)], [report(1, loss_slope=0.02, loss_slope_error=0.007, loss_mean=1.0)]),
        "+0.02 nats/token per step",
    ),
    (
        "divergence",
        lambda: ([version(0), version(1)], [report(1, num_nonfinite_steps=1.0)]),
        lambda: ([version(0), version(1)], [report(1, num_nonfinite_steps=0.0)]),
        "infinite or NaN",
    ),
    (
        "gradient_scale",
        lambda: (
            [version(n) for n in range(3)],
            [report(1, gradient_norm_median=1.0), report(2, gradient_norm_p90=5.1)],
        ),
        lambda: (
            [version(n) for n in range(3)],
            [report(1, gradient_norm_median=1.0), report(2, gradient_norm_p90=0.2)],
        ),
        "keep the learning rate",
    ),
    (
        "saturated",
        lambda: ([version(0, {"train/always": 0.7}, train=mixed(0.9))],),
        lambda: ([version(0, {"train/always": 0.6}, train=mixed(0.9))],),
        "70% of 40 prompts",
    ),
    (
        "too_hard",
        lambda: ([version(n, {"train/never": 0.7}, train=mixed(0.1)) for n in range(2)], [report(1, num_kept=31)]),
        lambda: ([version(n, {"train/never": 0.7}, train=mixed(0.1)) for n in range(2)], [report(1, num_kept=32)]),
        "31 samples kept",
    ),
    (
        "truncation",
        lambda: ([version(0, {"truncated_fraction": 0.0, "dev/truncated_fraction": 0.11})],),
        lambda: ([version(0, {"truncated_fraction": 0.1, "dev/truncated_fraction": 0.0})],),
        "dev/truncated_fraction 11%",
    ),
    (
        "implicit_declaration",
        lambda: ([undeclared(9)],),
        lambda: ([undeclared(8)],),
        "9 of 80 samples",
    ),
    (
        "irreproducible",
        lambda: ([version(0, dev=[2] * NUM), version(1, dev=[1, 2] * 20)], [report(1, rate=0.0)]),
        lambda: ([version(0, dev=[2] * NUM), version(1, dev=[1, 3] * 20)], [report(1, rate=0.0)]),
        "before anything else",
    ),
    ("slow", lambda: four_cycles(spread=True), lambda: four_cycles(spread=False), "a gain of 0.02 is ruled out"),
    ("slow", lambda: four_cycles(spread=True), improved_on_another_metric, "a gain of 0.02 is ruled out"),
    (
        "overfit",  # not where the train prompts were sampled in another way
        lambda: ([version(0, dev=[2] * NUM, train=[1] * NUM), version(1, dev=[2] * NUM, train=[3] * NUM)], [report(1)]),
        lambda: (
            [version(0, dev=[2] * NUM, train=[1] * NUM), version(1, dev=[2] * NUM, train=[3] * NUM, min_p=0.1)],
            [report(1)],
        ),
        "train pass rate",
    ),
]


@pytest.mark.parametrize(("kind", "speaks", "silent", "word"), CASES, ids=[case[0] for case in CASES])
def test_a_rule_speaks_and_is_silent(
    kind: str, speaks: Callable[[], tuple[Any, ...]], silent: Callable[[], tuple[Any, ...]], word: str
) -> None:
    advice = look(kind, *speaks())
    assert advice is not None
    assert word in " ".join(advice.to_row().values())
    assert all(len(text) > 3 for text in advice.to_row().values()) and advice.kind == kind
    assert look(kind, *silent()) is None


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == RULES.keys()


@pytest.mark.parametrize("kind", RULES)
def test_without_data_every_rule_is_silent(kind: str) -> None:
    """A scripted run knows neither losses nor divergences, and the start model no training."""
    kept = samples_of(
        Verdict(prompt_id="t0", index=index, stage="tests", status="passed", reward=1.0) for index in range(100)
    )

    def bare(num: int) -> list[Training]:
        return [training(cycle, kept, parent=0) for cycle in range(1, num + 1)]

    rule = RULES[kind]()
    assert isinstance(rule, Rule)
    for facts in (
        RunFacts(run([version(0), version(1)], bare(1))),
        RunFacts(run([version(number, dev=mixed(0.5), train=mixed(0.5)) for number in range(5)], bare(4))),
    ):
        assert rule.look(facts) is None
    if not rule.about_training:
        assert rule.look(RunFacts([version(0)])) is None


@pytest.mark.parametrize("kind", RULES)
def test_on_a_handful_of_prompts_shares_and_intervals_say_nothing(kind: str) -> None:
    before = version(0, {"train/always": 1.0, "train/never": 1.0, "dev/diversity/distinct@4": 4.0}, dev=[0] * 9)
    after = version(1, {**before.metrics, "dev/diversity/distinct@4": 1.0}, dev=[4] * 9, train=[4] * 9)
    assert look(kind, [before, after, after, after], [report(1), report(2), report(3)]) is None


def test_train_prompts_at_another_temperature_are_not_compared() -> None:
    versions = [version(n, dev=mixed(0.5), train=mixed(0.25 + 0.5 * n), temperature=1.0 - 0.1 * n) for n in range(2)]
    assert look("overfit", versions, [report(1)]) is None


def test_after_a_rollback_the_parent_is_the_version_to_compare_with() -> None:
    versions = [version(0, dev=[2] * NUM), version(1, dev=[0] * NUM), version(2, dev=[2] * NUM)]
    advice = look("zero_learning_rate", versions, [report(1), report(2, rate=0.0, parent=0)])
    assert "+0.000" in advice.evidence


# --- all together -------------------------------------------------------------------------------------------------


def kinds(advised: Advised) -> list[str]:
    return [row["kind"] for row in advised.advice]


def test_a_run_at_learning_rate_zero_gets_no_alarm_and_no_other_learning_rate() -> None:
    """Whatever its numbers look like, they are chance."""
    alarming = {
        "kl_to_start": 0.0,
        "kl_to_previous": 0.0,
        "decision/outcome": -1.0,
        "probe/entropy": 0.1,
        "dev/diversity/distinct@4": 1.0,
    }
    versions = [version(0, {"probe/entropy": 1.0, "dev/diversity/distinct@4": 4.0}, dev=mixed(0.6), train=mixed(0.2))]
    versions += [version(n, alarming, dev=mixed(0.6), train=mixed(0.7)) for n in range(1, 5)]
    trained = {"clip_fraction": 1.0, "loss_spike": 9.0, "loss_slope": 1.0, "loss_slope_error": 0.1, "loss_mean": 1.0}
    reports = [report(n, rate=0.0, num_kept=3, gradient_norm_p90=10.0**n, **trained) for n in range(1, 5)]
    for last in range(1, 5):
        advised = advise(run(versions[: last + 1], reports[:last]))
        assert kinds(advised) == ["zero_learning_rate"]
        assert "learning rate" not in advised.advice[0]["action"]
        assert (
            "a true difference of" in advised.advice[0]["power"] or "its error is unknown" in advised.advice[0]["power"]
        )


def test_what_is_said_is_plain_data_in_the_order_of_the_rules() -> None:
    metrics = {"train/always": 0.9, "truncated_fraction": 0.5}
    advised = advise([version(0, metrics, train=mixed(0.9))])
    assert kinds(advised) == ["saturated", "truncation"]
    assert (advised.cycle, advised.policy_version) == (1, 0)
    assert Advised.from_row(advised.to_row()) == advised


def test_a_quiet_run_hears_nothing() -> None:
    versions = [version(n, {"kl_to_start": 0.01 * n}, dev=mixed(0.4 + 0.1 * n), train=mixed(0.5)) for n in range(3)]
    trained = {"clip_fraction": 0.9, "loss_spike": 1.3, "kept__nll_before": 0.4, "kept__stale_fraction": 0.1}
    assert advise(run(versions, [report(1, **trained), report(2, **trained)])).advice == ()


def test_a_rule_can_be_asked_with_other_thresholds() -> None:
    strict = RULES["truncation"](limit=0.01)
    assert isinstance(strict, Rule)
    facts = RunFacts([version(0, {"truncated_fraction": 0.05})])
    assert strict.look(facts) is not None and look("truncation", facts.versions) is None
