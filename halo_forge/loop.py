"""RAFT, as it runs: sample, verify, measure, decide, select, train, and once more around.

Read this file first.  Every assignment is a stage of the run directory: it is read if it is sealed, else it is made
and sealed.  So the same lines run, resume and replay.  Cycle c samples from v_{c-1} and trains v_c; the last lap only
measures the last model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halo_forge.measuring import choose, compare, measure_lap, measure_test
from halo_forge.plan import Plan
from halo_forge.records import (
    Completion,
    CycleReport,
    Decision,
    Measurement,
    Result,
    SampleRequest,
    SamplingSettings,
    Selection,
    Trained,
    TrainingSettings,
    Verdict,
)
from halo_forge.store.folder import StageFolder, StreamForm
from halo_forge.store.run import Run
from halo_forge.tools import Tools, peak_memory

COMPLETIONS = StreamForm[Completion](cost=lambda made: {"num_tokens": sum(len(one.token_ids) for one in made)})


def run_raft(plan: Plan, run: Run, tools: Tools) -> Result:
    """Run what is left of `plan` in `run`.

    Raises:
        TooFewSamples: Fewer samples than `raft.min_selected` were selected; the run stays resumable.
        VerifierBroken: The verifier failed too often; the run stays resumable.
    """
    history: list[Measurement] = []
    dev_verdicts: list[list[Verdict]] = []
    for cycle in range(1, plan.num_cycles + 2):
        lap, version = run.lap(cycle), cycle - 1

        sampling = lap.stage("sampling", SamplingSettings, lambda: plan.sampling_settings(cycle, history))
        asked = {"": plan.train_requests(cycle, sampling), "dev_": plan.dev_requests()}
        train, dev = answer(lap, asked, version, run, tools)
        measurement = lap.stage("measurement", Measurement, lambda: measure_lap(cycle, train, dev))
        history.append(measurement)
        dev_verdicts.append(dev[1])
        tools.watch.measured(measurement)

        decision = lap.stage("decision", Decision, lambda: choose(history, plan.choose_by, plan.num_cycles))
        run.point("best", decision.best_version, cycle=cycle)
        if decision.action == "finish":
            break

        settings = lap.stage("settings", TrainingSettings, lambda: plan.training_settings(cycle, history))
        candidates = plan.select(*train, settings)
        again = check_again(lap, plan.to_check_again(candidates, train[1]), train[0], tools)
        selection = lap.stage("selection", Selection, lambda: plan.without_flaky(candidates, train[1], again, cycle))
        rows = plan.training_rows(train[0], selection)
        lap.write_rows("selection.jsonl", [row.to_row() for row in rows])
        trained = lap.training(
            Trained, lambda folder, record: tools.train(rows, settings, run.adapter(version), folder, record)
        )
        lap.stage("report", CycleReport, lambda: plan.report(measurement, settings, selection, trained))
        run.point("latest", cycle, cycle=cycle)
        run.event("resources", cycle=cycle, **peak_memory())
        tools.watch.trained(settings, selection, trained)

    tests = {
        version: answer(run.test(version), {"": plan.test_requests()}, version, run, tools)[0]
        for version in plan.tested_versions(decision.best_version)
    }
    for version, test in tests.items():
        run.test(version).stage("measurement", Measurement, lambda: measure_test(version, test))
    return run.result().stage("result", Result, lambda: compare(decision.best_version, dev_verdicts, tests))


def answer(
    folder: StageFolder, asked: Mapping[str, Sequence[SampleRequest]], version: int, run: Run, tools: Tools
) -> list[tuple[list[Completion], list[Verdict]]]:
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
        lambda missing: tools.sample([wanted[key] for key in missing], version, run.adapter(version)),
        COMPLETIONS,
    )
    answers = {(each.prompt_id, each.index): each for stream in completions for each in stream}
    verdicts = folder.streams(
        "verdicts",
        Verdict,
        {f"{prefix}verdicts": keys[prefix] for prefix in asked},
        lambda missing: tools.verify([answers[key] for key in missing]),
        tools.verdict_form(),
    )
    return list(zip(completions, verdicts, strict=True))


def check_again(
    lap: StageFolder, keys: Sequence[tuple[str, int]], completions: Sequence[Completion], tools: Tools
) -> list[Verdict]:
    """Run once more what is about to be trained on: a pass that was luck does not come twice."""
    answers = {(each.prompt_id, each.index): each for each in completions}
    (again,) = lap.streams(
        "second_verdicts",
        Verdict,
        {"second_verdicts": keys},
        lambda missing: tools.verify_again([answers[key] for key in missing]),
        tools.second_verdict_form(),
    )
    return again
