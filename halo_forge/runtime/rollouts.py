"""The rounds of a folder: who is asked what, and how the answers are checked; the loop puts them in order.

Each is a stage of the run directory, or some of them: what a kill left is read, and only the rest is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halo_forge.core.decisions import Assessment, Decision
from halo_forge.core.evaluation import judge_again, measure_test
from halo_forge.core.plan import Plan
from halo_forge.core.records import Completion, Measurement, SampleRequest, Verdict
from halo_forge.runtime.effects import Runtime
from halo_forge.store.folder import StageFolder, StreamForm
from halo_forge.store.run import Run

Sampled = tuple[list[Completion], list[Verdict]]
COMPLETIONS = StreamForm[Completion](cost=lambda made: {"num_tokens": sum(len(one.token_ids) for one in made)})


def answer(
    folder: StageFolder, asked: Mapping[str, Sequence[SampleRequest]], version: int, run: Run, runtime: Runtime
) -> list[Sampled]:
    """Sample all requests from v_version in one pass and verify the answers.

    Args:
        asked: What the names of the files begin with -> the requests whose answers they hold, in this order.
    """
    wanted = {(request.prompt_id, request.index): request for requests in asked.values() for request in requests}
    keys = {prefix: [(request.prompt_id, request.index) for request in asked[prefix]] for prefix in asked}
    completions = folder.streams(
        "completions",
        Completion,
        {f"{prefix}completions": keys[prefix] for prefix in asked},
        lambda missing: runtime.sample([wanted[key] for key in missing], version, run.adapter(version)),
        COMPLETIONS,
    )
    answers = {(each.prompt_id, each.index): each for stream in completions for each in stream}
    verdicts = folder.streams(
        "verdicts",
        Verdict,
        {f"{prefix}verdicts": keys[prefix] for prefix in asked},
        lambda missing: runtime.verify([answers[key] for key in missing]),
        runtime.verdict_form(),
    )
    return list(zip(completions, verdicts, strict=True))


def confirm(
    folder: StageFolder, assessment: Assessment, version: int, plan: Plan, run: Run, runtime: Runtime
) -> Assessment:
    """Ask the dev prompts anew, with seeds of this cycle, of a suspect and of what it was compared with."""
    incumbent = assessment.compared_with
    assert incumbent is not None  # the start model is no suspect
    requests = plan.confirm_requests(version)
    ((_, suspect),) = answer(folder, {"confirm_": requests}, version, run, runtime)
    ((_, best),) = answer(folder, {"confirm_incumbent_": requests}, incumbent, run, runtime)
    return judge_again(plan.config.decisions, assessment, best, suspect)


def extended(
    folder: StageFolder, train: Sampled, requests: Sequence[SampleRequest], version: int, run: Run, runtime: Runtime
) -> Sampled:
    """The answers of the first round and those of the second one, which only budgeted sampling has."""
    if not requests:
        return train
    ((completions, verdicts),) = answer(folder, {"further_": requests}, version, run, runtime)
    return [*train[0], *completions], [*train[1], *verdicts]


def tested(plan: Plan, decision: Decision, run: Run, runtime: Runtime) -> dict[int, Sampled]:
    """Policy version -> its answers to the test prompts, which are asked here and nowhere else."""
    versions = plan.tested_versions(decision.best_version, decision.policy_version)
    requests = {"": plan.test_requests()}
    tests = {version: answer(run.test(version), requests, version, run, runtime)[0] for version in versions}

    def measured(version: int) -> None:
        run.test(version).stage("measurement", Measurement, lambda: measure_test(version, tests[version]))

    for version in versions:
        measured(version)
    return tests


def check_again(
    folder: StageFolder, keys: Sequence[tuple[str, int]], completions: Sequence[Completion], runtime: Runtime
) -> list[Verdict]:
    """Run once more what is about to be trained on: a pass that was luck does not come twice."""
    answers = {(each.prompt_id, each.index): each for each in completions}
    (again,) = folder.streams(
        "second_verdicts",
        Verdict,
        {"second_verdicts": keys},
        lambda missing: runtime.verify_again([answers[key] for key in missing]),
        runtime.second_verdict_form(),
    )
    return again
