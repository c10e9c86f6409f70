"""The rollouts of a cycle: which prompts are sampled, by which version, and how the completions are verified.

Each is a stage of the run directory, or two: what a killed run left is read, and only the rest is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halo_forge.core import evaluation
from halo_forge.core.decisions import Assessment
from halo_forge.core.plan import Plan
from halo_forge.core.records import Completion, Decision, Key, Measurement, Sample, SampleRequest, Verdict
from halo_forge.runtime.effects import Runtime
from halo_forge.store.folder import StageFolder, StreamForm
from halo_forge.store.run import FILE_PREFIX, Run

Samples = tuple[Sample, ...]
COMPLETIONS = StreamForm[Completion](cost=lambda made: {"num_tokens": sum(len(one.token_ids) for one in made)})


def rollout(
    folder: StageFolder, requests: Mapping[str, Sequence[SampleRequest]], version: int, run: Run, runtime: Runtime
) -> list[Samples]:
    """Sample all requests from v_version in one pass and verify the completions, but for what other runs did already.

    Args:
        requests: Set of rollouts (see `FILE_PREFIX`) -> what to sample.

    Returns:
        The samples of each set, in the order of its requests.
    """
    wanted = {request.key: request for each in requests.values() for request in each}
    keys = {name: [request.key for request in each] for name, each in requests.items()}
    runtime.sharing.completions(folder, requests, version)
    completions = folder.streams(
        "completions",
        Completion,
        {f"{FILE_PREFIX[name]}completions": keys[name] for name in requests},
        lambda missing: runtime.sample([wanted[key] for key in missing], version, run.adapter(version)),
        COMPLETIONS,
    )
    found = {each.key: each for stream in completions for each in stream}
    runtime.sharing.verdicts(folder, list(requests), version)
    verdicts = folder.streams(
        "verdicts",
        Verdict,
        {f"{FILE_PREFIX[name]}verdicts": keys[name] for name in requests},
        lambda missing: runtime.verify([found[key] for key in missing]),
        runtime.verdict_form(),
    )
    return [tuple(map(Sample, *streams)) for streams in zip(completions, verdicts, strict=True)]


def resample_and_confirm(
    folder: StageFolder, assessment: Assessment, version: int, plan: Plan, run: Run, runtime: Runtime
) -> Assessment:
    """Sample the dev prompts once more, with seeds of this cycle, from a suspect and from the incumbent."""
    incumbent = assessment.compared_with
    assert incumbent is not None  # the start model is no suspect
    requests = plan.confirm_requests(version)
    (suspect,) = rollout(folder, {"confirm": requests}, version, run, runtime)
    (best,) = rollout(folder, {"confirm_incumbent": requests}, incumbent, run, runtime)
    return evaluation.confirm(plan.config.decisions, assessment, best, suspect)


def with_second_round(
    folder: StageFolder, samples: Samples, requests: Sequence[SampleRequest], version: int, run: Run, runtime: Runtime
) -> Samples:
    """The samples of the first round and those of the second one, which only budgeted sampling has."""
    if not requests:
        return samples
    (further,) = rollout(folder, {"further": requests}, version, run, runtime)
    return (*samples, *further)


def check_again(folder: StageFolder, keys: Sequence[Key], samples: Samples, runtime: Runtime) -> list[Verdict]:
    """Run once more what is about to be trained on: a lucky pass does not come twice."""
    completions = {sample.key: sample.completion for sample in samples}
    (again,) = folder.streams(
        "second_verdicts",
        Verdict,
        {"second_verdicts": keys},
        lambda missing: runtime.verify_again([completions[key] for key in missing]),
        runtime.second_verdict_form(),
    )
    return again


def rollouts_on_test(plan: Plan, decision: Decision, run: Run, runtime: Runtime) -> dict[int, Samples]:
    """Policy version -> its samples of the test prompts, which are used here and nowhere else."""
    requests = {"test": plan.test_requests()}
    tests: dict[int, Samples] = {}
    for version in plan.tested_versions(decision):
        (tests[version],) = rollout(run.test(version), requests, version, run, runtime)
    for version, samples in tests.items():
        seal_test_measurement(run.test(version), version, samples)
    return tests


def rollouts_to_confirm(
    plan: Plan, decision: Decision, tests: dict[int, Samples], run: Run, runtime: Runtime
) -> dict[int, Samples]:
    """Policy version -> samples that nothing was chosen by: those of test, or of the dev prompts with new seeds."""
    if plan.confirms_on == "test":
        return tests
    requests = {"confirmation": plan.resampling_requests()}
    return {
        version: rollout(run.confirmation(version), requests, version, run, runtime)[0]
        for version in plan.resampled_versions(decision)
    }


def seal_test_measurement(folder: StageFolder, version: int, samples: Samples) -> Measurement:
    """The sealed measurement of one version on test."""
    return folder.stage("measurement", Measurement, lambda: evaluation.measure_test(version, samples))
