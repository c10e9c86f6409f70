"""RAFT, as it runs: sample, verify, measure, decide, select, train, and repeat.

Read this file first.  Every assignment is a stage of the run directory: it is read if it is sealed, else it is made
and sealed.  So the same lines run, resume and replay.  Cycle c samples from v_{c-1} and trains v_c; cycle C + 1 is
the final evaluation, which only measures v_C.
"""

from __future__ import annotations

from collections.abc import Sequence

from halo_forge.core.advice import Advised, advise
from halo_forge.core.evaluation import Result, compare, kept_facts, measure_version, screen
from halo_forge.core.plan import Plan
from halo_forge.core.records import (
    CycleReport,
    Decision,
    Measurement,
    PolicyVersion,
    SamplingSettings,
    Selection,
    SelectionSettings,
    Trained,
    Training,
    TrainingSettings,
    pass_counts,
    trainings,
)
from halo_forge.core.selection import kept_samples
from halo_forge.runtime.effects import Runtime
from halo_forge.runtime.rollouts import (
    check_again,
    resample_and_confirm,
    rollout,
    rollouts_on_test,
    rollouts_to_confirm,
    with_second_round,
)
from halo_forge.store.run import Run


def run_raft(plan: Plan, run: Run, runtime: Runtime) -> Result:
    """Run what is left of `plan` in `run`.

    Raises:
        TooFewSamples: Fewer samples than `raft.min_selected` were selected; the run stays resumable.
        VerifierBroken: The verifier failed too often; the run stays resumable.
    """
    versions = [evaluate(plan, run, runtime, [], None)]
    while not versions[-1].decision.ends:
        training = train_next(plan, run, runtime, versions)
        versions.append(evaluate(plan, run, runtime, versions, training))
    tests = rollouts_on_test(plan, versions[-1].decision, run, runtime)
    fresh = rollouts_to_confirm(plan, versions[-1].decision, tests, run, runtime)
    applied = plan.decisions(versions[0].measurement)
    return run.result().stage("result", Result, lambda: compare(applied, versions, tests, plan.confirms_on, fresh))


def evaluate(
    plan: Plan, run: Run, runtime: Runtime, earlier: Sequence[PolicyVersion], training: Training | None
) -> PolicyVersion:
    """Sample, verify and measure the version after `earlier`, which `training` made, and decide what follows."""
    number = len(earlier)
    plan, folder = plan.in_cycle(number + 1), run.cycle(number + 1)

    sampling = folder.stage("sampling", SamplingSettings, lambda: plan.sampling_settings(earlier))
    requests = {"train": plan.train_requests(sampling, trainings(earlier, training)), "dev": plan.dev_requests()}
    train, dev = rollout(folder, requests, number, run, runtime)
    start = earlier[0].dev if earlier else dev
    drift = folder.stage(
        "drift", Measurement, lambda: runtime.drift(number, training, start, train, requests["train"], run)
    )
    measurement = folder.stage("measurement", Measurement, lambda: measure_version(number, train, dev, drift.metrics))
    runtime.observer.measured(measurement)

    assessment = screen(plan.config.decisions, earlier, dev)
    if assessment.outcome == "suspect":
        assessment = resample_and_confirm(folder, assessment, number, plan, run, runtime)
    decision = folder.stage(
        "decision",
        Decision,
        lambda: run.announced("decision", plan.decide(assessment, earlier, measurement, training)),
    )
    runtime.observer.decided(decision)
    version = PolicyVersion(training, sampling, train, dev, measurement, decision)
    runtime.observer.advised(folder.stage("advice", Advised, lambda: advise([*earlier, version])))
    run.point("best", decision.best_version, cycle=decision.cycle)
    return version


def train_next(plan: Plan, run: Run, runtime: Runtime, versions: Sequence[PolicyVersion]) -> Training:
    """Select from the samples of the version measured last, or of the one to go back to, and train the next one."""
    cycle, now, decision = len(versions), versions[-1], versions[-1].decision
    plan, folder, sampling, samples = plan.in_cycle(cycle), run.cycle(cycle), now.sampling, now.train

    if decision.resamples:
        sampling = folder.stage("rollback_sampling", SamplingSettings, lambda: plan.resampling_settings(versions))
        requests = {"rollback": plan.train_requests(sampling, trainings(versions), decision.seed_tag)}
        (samples,) = rollout(folder, requests, decision.sample_from, run, runtime)
    further = plan.second_round(sampling, samples, decision.seed_tag)
    samples = with_second_round(folder, samples, further, decision.sample_from, run, runtime)

    chosen = folder.stage("selection_settings", SelectionSettings, lambda: plan.selection_settings(versions))
    candidates = plan.select(samples, chosen, versions)
    again = check_again(folder, plan.to_check_again(candidates, samples), samples, runtime)
    selection = folder.stage("selection", Selection, lambda: plan.selected(candidates, samples, again, versions))
    rows = plan.training_rows(samples, selection, versions)
    folder.write_rows("selection.jsonl", [row.to_row() for row in rows])

    settings = folder.stage("settings", TrainingSettings, lambda: plan.training_settings(versions, len(rows)))
    kept, start = kept_samples(samples, selection), run.adapter(settings.parent_version)
    trained = folder.training(
        Trained,
        lambda scratch, log: runtime.train(rows, kept_facts(kept, versions), settings, start, scratch, log),
    )
    folder.stage("report", CycleReport, lambda: plan.report(now.measurement, chosen, selection, settings, trained))
    run.point("latest", cycle, cycle=cycle)
    run.event("resources", cycle=cycle, **runtime.resources())
    runtime.observer.trained(settings, selection, trained)
    return Training(cycle, pass_counts(samples), kept, settings, trained)
