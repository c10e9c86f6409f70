"""RAFT, as it runs: sample, verify, measure, decide, select, train, and once more around.

Read this file first.  Every assignment is a stage of the run directory: it is read if it is sealed, else it is made
and sealed.  So the same lines run, resume and replay.  Cycle c samples from v_{c-1} and trains v_c; cycle C + 1 only
measures the last model.
"""

from __future__ import annotations

from halo_forge.core.advice import Advised, Version, advise
from halo_forge.core.decisions import Decision
from halo_forge.core.evaluation import (
    Result,
    compare,
    judge,
    kept_facts,
    measure_version,
    with_kept,
    with_outcome,
)
from halo_forge.core.plan import Plan
from halo_forge.core.records import (
    Completion,
    CycleReport,
    Measurement,
    SamplingSettings,
    Selection,
    Trained,
    TrainingSettings,
    Verdict,
)
from halo_forge.core.selection import PastCycle
from halo_forge.runtime.effects import Runtime
from halo_forge.runtime.rollouts import answer, check_again, confirm, extended, tested
from halo_forge.store.run import Run


def run_raft(plan: Plan, run: Run, runtime: Runtime) -> Result:
    """Run what is left of `plan` in `run`.

    Raises:
        TooFewSamples: Fewer samples than `raft.min_selected` were selected; the run stays resumable.
        VerifierBroken: The verifier failed too often; the run stays resumable.
    """
    history: list[Measurement] = []
    dev_verdicts: list[list[Verdict]] = []
    decisions: list[Decision] = []
    past: list[PastCycle] = []
    reports: list[CycleReport] = []
    versions: list[Version] = []
    fixed: list[Completion] = []
    for cycle in range(1, plan.num_cycles + 2):
        folder, version = run.cycle(cycle), cycle - 1

        sampling = folder.stage("sampling", SamplingSettings, lambda: plan.sampling_settings(cycle, history, decisions))
        asked = {"": plan.train_requests(cycle, sampling, past), "dev_": plan.dev_requests()}
        train, dev = answer(folder, asked, version, run, runtime)
        fixed = dev[0] if version == 0 else fixed
        parent = reports[-1].settings["parent_version"] if reports else 0
        drift = folder.stage(
            "drift", Measurement, lambda: runtime.drift(version, parent, run, fixed, train[0], asked[""])
        )
        measurement = folder.stage(
            "measurement", Measurement, lambda: measure_version(cycle, train, dev, drift.metrics)
        )
        history.append(with_kept(measurement, reports))
        dev_verdicts.append(dev[1])
        runtime.observer.measured(measurement)

        assessment = judge(plan.config.decisions, decisions, dev_verdicts)
        if assessment.outcome == "suspect":
            assessment = confirm(folder, assessment, version, plan, run, runtime)
        history[-1] = with_outcome(history[-1], assessment)
        decision = folder.stage(
            "decision", Decision, lambda: run.announced("decision", plan.decide(assessment, decisions, history))
        )
        decisions.append(decision)
        runtime.observer.decided(decision)
        versions.append(Version.of(history[-1], sampling, train[1], dev[1]))
        runtime.observer.advised(folder.stage("advice", Advised, lambda: advise(versions, reports)))
        run.point("best", decision.best_version, cycle=cycle)
        if decision.ends:
            break

        if decision.resamples:
            sampling = folder.stage(
                "rollback_sampling", SamplingSettings, lambda: plan.resampling_settings(history, decisions)
            )
            asked = {"rollback_": plan.train_requests(cycle, sampling, past, decision.seed_tag)}
            (train,) = answer(folder, asked, decision.sample_from, run, runtime)

        further = plan.further_requests(sampling, train[1], decision.seed_tag)
        train = extended(folder, train, further, decision.sample_from, run, runtime)
        candidates = plan.select(*train, plan.selection_settings(cycle, history), past)
        again = check_again(folder, plan.to_check_again(candidates, train[1]), train[0], runtime)
        selection = folder.stage(
            "selection", Selection, lambda: plan.selected(candidates, train, again, past, decisions)
        )
        rows = plan.training_rows(train[0], selection, past)
        past.append(PastCycle.of(cycle, *train, selection))
        folder.write_rows("selection.jsonl", [row.to_row() for row in rows])
        settings = folder.stage(
            "settings", TrainingSettings, lambda: plan.training_settings(cycle, history, len(rows), decisions)
        )
        start, kept = run.adapter(settings.parent_version), kept_facts(past, decisions)
        trained = folder.training(Trained, lambda folder, log: runtime.train(rows, kept, settings, start, folder, log))
        reports.append(
            folder.stage("report", CycleReport, lambda: plan.report(measurement, settings, selection, trained))
        )
        run.point("latest", cycle, cycle=cycle)
        run.event("resources", cycle=cycle, **runtime.resources())
        runtime.observer.trained(settings, selection, trained)

    tests = tested(plan, decision, run, runtime)
    return run.result().stage("result", Result, lambda: compare(decision, dev_verdicts, tests))
