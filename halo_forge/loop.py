"""RAFT, as it runs: sample, verify, measure, decide, select, train, and once more around.

Read this file first.  Every assignment is a stage of the run directory: it is read if it is sealed, else it is made
and sealed.  So the same lines run, resume and replay.  Cycle c samples from v_{c-1} and trains v_c; the last lap only
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
    measure_lap,
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
from halo_forge.runtime.effects import Tools
from halo_forge.runtime.rollouts import answer, check_again, confirm, extended, tested
from halo_forge.store.run import Run


def run_raft(plan: Plan, run: Run, tools: Tools) -> Result:
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
        lap, version = run.lap(cycle), cycle - 1

        sampling = lap.stage("sampling", SamplingSettings, lambda: plan.sampling_settings(cycle, history, decisions))
        asked = {"": plan.train_requests(cycle, sampling, past), "dev_": plan.dev_requests()}
        train, dev = answer(lap, asked, version, run, tools)
        fixed = dev[0] if version == 0 else fixed
        parent = reports[-1].settings["parent_version"] if reports else 0
        drift = lap.stage("drift", Measurement, lambda: tools.drift(version, parent, run, fixed, train[0], asked[""]))
        measurement = lap.stage("measurement", Measurement, lambda: measure_lap(cycle, train, dev, drift.metrics))
        history.append(with_kept(measurement, reports))
        dev_verdicts.append(dev[1])
        tools.watch.measured(measurement)

        judgement = judge(plan.config.decisions, decisions, dev_verdicts)
        if judgement.outcome == "suspect":
            judgement = confirm(lap, judgement, version, plan, run, tools)
        history[-1] = with_outcome(history[-1], judgement)
        decision = lap.stage(
            "decision", Decision, lambda: run.announced("decision", plan.decide(judgement, decisions, history))
        )
        decisions.append(decision)
        tools.watch.decided(decision)
        versions.append(Version.of(history[-1], sampling, train[1], dev[1]))
        tools.watch.advised(lap.stage("advice", Advised, lambda: advise(versions, reports)))
        run.point("best", decision.best_version, cycle=cycle)
        if decision.ends:
            break

        if decision.samples_anew:
            sampling = lap.stage("rollback_sampling", SamplingSettings, lambda: plan.sampling_anew(history, decisions))
            asked = {"rollback_": plan.train_requests(cycle, sampling, past, decision.seed_tag)}
            (train,) = answer(lap, asked, decision.sample_from, run, tools)

        further = plan.further_requests(sampling, train[1], decision.seed_tag)
        train = extended(lap, train, further, decision.sample_from, run, tools)
        candidates = plan.select(*train, plan.selection_settings(cycle, history), past)
        again = check_again(lap, plan.to_check_again(candidates, train[1]), train[0], tools)
        selection = lap.stage("selection", Selection, lambda: plan.selected(candidates, train, again, past, decisions))
        rows = plan.training_rows(train[0], selection, past)
        past.append(PastCycle.of(cycle, *train, selection))
        lap.write_rows("selection.jsonl", [row.to_row() for row in rows])
        settings = lap.stage(
            "settings", TrainingSettings, lambda: plan.training_settings(cycle, history, len(rows), decisions)
        )
        start, kept = run.adapter(settings.parent_version), kept_facts(past, decisions)
        trained = lap.training(Trained, lambda folder, log: tools.train(rows, kept, settings, start, folder, log))
        reports.append(lap.stage("report", CycleReport, lambda: plan.report(measurement, settings, selection, trained)))
        run.point("latest", cycle, cycle=cycle)
        run.event("resources", cycle=cycle, **tools.resources())
        tools.watch.trained(settings, selection, trained)

    tests = tested(plan, decision, run, tools)
    return run.result().stage("result", Result, lambda: compare(decision, dev_verdicts, tests))
