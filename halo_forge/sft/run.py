"""The algorithm of an SFT run: filter the rows, then train a segment, measure it, and repeat.

Every value is a stage of the run directory, as in `halo_forge/loop.py`: it is read if it is sealed, else it is made and
sealed.  So the same lines run and resume, and a segment that was killed is trained again from the sealed state of the
one before it: adapter and optimizer, to the byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from halo_forge.core.errors import LogitsNotFinite, RunDirError
from halo_forge.core.records import Completion, Trained, TrainingRow, Verdict
from halo_forge.policy.drift_probe import DriftProbe
from halo_forge.runtime.effects import ensure_loaded, peak_memory, sealed_optimizer_state, verdict_form
from halo_forge.sft.config import SftConfig
from halo_forge.sft.data import Rows, judged
from halo_forge.sft.plan import Evaluation, SftPlan, SftResult, best_version
from halo_forge.store.files import EDITED
from halo_forge.store.folder import LOST, StageFolder
from halo_forge.store.sft import ROWS, SftRun
from halo_forge.training.lora_sft import LoraSftTrainer
from halo_forge.verifiers import Verifier

_AT_ONCE = 64
"""Held-out rows whose hidden states are in memory together."""
_REDO = (
    "the files of a run must not be edited: delete result.json and the folder segments/NNN that is damaged with all"
    " later ones, and rerun with --resume, or start a new run with another output_dir"
)


class SftObserver(Protocol):
    """Is told what happens."""

    def warned(self, text: str) -> None:
        """Something beside the training did not work; it goes on."""
        ...

    def track(self, label: str, items: Any, total: int) -> Iterator[Any]:
        """The same items, counted as they pass."""
        ...

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        """An optimizer step was taken."""
        ...

    def planned(self, rows: Rows, plan: SftPlan) -> None:
        """The rows are judged: this is what will be done."""
        ...

    def evaluated(self, evaluations: Sequence[Evaluation]) -> None:
        """A version was measured, the last of these."""
        ...


@dataclass(frozen=True)
class SftRuntime:
    """The effects of one training.

    Attributes:
        verifier: Of the filter; None without one.
        telemetry: What the GPU needed since the last call.
    """

    config: SftConfig
    trainer: LoraSftTrainer
    observer: SftObserver
    verifier: Verifier | None = None
    telemetry: Callable[[], Mapping[str, float]] = field(default=dict)

    def verify(self, rows: Sequence[TrainingRow]) -> Iterator[Verdict]:
        """The verdicts on completions, in their order."""
        assert self.verifier is not None, "there is a filter"
        pairs = [(row.prompt, row.completion) for row in rows]
        return self.observer.track("verify", self.verifier.verify(pairs), len(pairs))

    def train(
        self,
        plan: SftPlan,
        segment: int,
        rows: Sequence[TrainingRow],
        adapter: Path | None,
        folder: Path,
        record: Callable[[Mapping[str, Any]], None],
    ) -> Trained:
        """v_k from v_{k-1}, whose adapter is `adapter`; steps are counted over the whole training."""
        ensure_loaded(self.trainer.policy, segment - 1, adapter)
        before = plan.steps_of(segment).start

        def on_step(row: Mapping[str, float], num_steps: int) -> None:
            counted = {**row, "step": row["step"] + before}
            record(counted)
            self.observer.step(counted, plan.num_steps)

        state = None if adapter is None else sealed_optimizer_state(adapter)
        settings = plan.settings(segment)
        return self.trainer.train(
            plan.rows_of(segment, rows), settings, folder, on_step, state, plan.factors_of(segment)
        )

    def evaluate(self, plan: SftPlan, version: int, rows: Sequence[TrainingRow], adapter: Path | None) -> Evaluation:
        """The loss of v_k on the held-out rows, with their ends of turn, as in training."""
        step = plan.last_step(version)
        if not rows:
            return Evaluation(version, step)
        policy = self.trainer.policy
        ensure_loaded(policy, version, adapter)
        probe = DriftProbe(policy, {row.prompt.id: row.prompt for row in rows}, 4 * _AT_ONCE)
        losses: list[tuple[float, int]] = []
        parts = [rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE)]
        for part in self.observer.track(f"held-out loss of v{version}", parts, len(parts)):
            whole = [_with_end(row.completion, policy.end_of_turn_id) for row in part]
            losses += [(math.fsum(values), len(values)) for values in probe.negative_log_likelihood(whole)]
        num_tokens = sum(number for _, number in losses)
        mean = math.fsum(total for total, _ in losses) / num_tokens
        return Evaluation(version, step, mean, _standard_error(losses, mean), len(losses), num_tokens)


@contextmanager
def own_hints() -> Iterator[None]:
    """What fixes damaged files of an SFT run, in place of what fixes those of a RAFT run."""
    try:
        yield
    except RunDirError as error:
        if error.hint not in (EDITED, LOST):
            raise
        raise RunDirError(error.message, _REDO) from error


def run_sft(rows: Rows, run: SftRun, runtime: SftRuntime) -> SftResult:
    """Do what is left of a training.

    Args:
        rows: Before the filter.

    Raises:
        ConfigError: The filter leaves nothing to train on.
        LogitsNotFinite: The loss became infinite or NaN.
        VerifierBroken: The verifier failed too often on the rows; the run stays resumable.
    """
    rows = filtered(rows, run, runtime)
    plan = SftPlan(runtime.config, len(rows.train))
    runtime.observer.planned(rows, plan)
    evaluations = [evaluate(plan, rows, run, runtime, 0)]
    runtime.observer.evaluated(evaluations)
    num_tokens = 0.0
    while not plan.ends(evaluations):
        segment = len(evaluations)
        num_tokens += train(plan, rows, run, runtime, segment)
        evaluations.append(evaluate(plan, rows, run, runtime, segment))
        run.point("latest", segment, cycle=segment)
        run.point("best", best_version(evaluations), cycle=segment)
        runtime.observer.evaluated(evaluations)
    return run.result().stage("result", SftResult, lambda: plan.result(evaluations, int(num_tokens)))


def filtered(rows: Rows, run: SftRun, runtime: SftRuntime) -> Rows:
    """The rows that the verifier lets through, if there is a filter; `rows.jsonl` says what became of each."""
    if runtime.config.data.filter != "none":
        kept = [row.training for row in rows.rows if row.training is not None]
        by_key = {row.completion.key: row for row in kept}
        (verdicts,) = StageFolder(run.root / "filter", run.event).streams(
            "verdicts",
            Verdict,
            {"verdicts": list(by_key)},
            lambda missing: runtime.verify([by_key[key] for key in missing]),
            verdict_form(runtime.config.verifier.max_error_fraction),
        )
        rows = judged(runtime.config, rows, {verdict.prompt_id: verdict for verdict in verdicts})
    run.result().write_rows(ROWS, (row.to_row() for row in rows.rows))
    return rows


def train(plan: SftPlan, rows: Rows, run: SftRun, runtime: SftRuntime, segment: int) -> float:
    """Train one segment; how many tokens its loss was computed on."""
    folder = run.segment(segment)
    trained = folder.training(
        Trained,
        lambda scratch, log: runtime.train(plan, segment, rows.train, run.adapter(segment - 1), scratch, log),
    )
    if trained.metrics["num_nonfinite_steps"] > 0:
        raise _not_finite(f"the loss or a gradient of segment {segment}")
    return trained.metrics["num_tokens"]


def evaluate(plan: SftPlan, rows: Rows, run: SftRun, runtime: SftRuntime, version: int) -> Evaluation:
    """Measure one version."""
    folder = run.segment(version)
    evaluation = folder.stage(
        "evaluation",
        Evaluation,
        lambda: runtime.evaluate(plan, version, rows.held_out, run.adapter(version)),
    )
    if evaluation.held_out_loss is not None and not math.isfinite(evaluation.held_out_loss):
        raise _not_finite(f"the held-out loss of v{version}")
    run.event("resources", segment=version, **peak_memory(), **runtime.telemetry())
    return evaluation


def _with_end(completion: Completion, end_of_turn_id: int) -> Completion:
    ids = (*completion.token_ids, end_of_turn_id)
    return Completion(completion.prompt_id, 0, completion.text, ids, "stop", 0, 0)


def _standard_error(losses: Sequence[tuple[float, int]], mean: float) -> float | None:
    """Of a ratio of sums over rows, by the delta method."""
    if len(losses) < 2:
        return None
    residuals = math.fsum((total - mean * number) ** 2 for total, number in losses)
    scale = len(losses) / (len(losses) - 1)
    return math.sqrt(scale * residuals) / sum(number for _, number in losses)


def _not_finite(what: str) -> LogitsNotFinite:
    return LogitsNotFinite(
        f"{what} is infinite or not a number: the training has diverged",
        "start a new run with a lower training.learning_rate, or with model.dtype float32",
    )
