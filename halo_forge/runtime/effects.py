"""The effects that the loop works with, behind protocols: tests and other executors replace them."""

from __future__ import annotations

import dataclasses
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from halo_forge.core.advice import Advised
from halo_forge.core.errors import RunDirError, VerifierBroken
from halo_forge.core.metrics import DriftFacts, KeptFacts, TokenValues, measure_drift, measure_kept
from halo_forge.core.plan import Plan
from halo_forge.core.records import (
    Completion,
    Decision,
    Measurement,
    Prompt,
    Sample,
    SampleRequest,
    Selection,
    Trained,
    Training,
    TrainingRow,
    TrainingSettings,
    Verdict,
)
from halo_forge.core.wording import counted
from halo_forge.engines import Engine
from halo_forge.policy import OPTIMIZER_FILE, adapter_digest, file_digest
from halo_forge.store.files import EDITED, read_json
from halo_forge.store.folder import StageFolder, StreamForm
from halo_forge.store.run import Run
from halo_forge.training import Trainer
from halo_forge.verifiers import Verifier

Item = TypeVar("Item")


class Adapters(Protocol):
    """The model in memory, as far as the loop moves it: which version it is, and how to make it another."""

    version: int

    def load_adapter(self, folder: Path | None, version: int) -> None: ...


class MeasuresDrift(Protocol):
    """What the model thinks of given completions; see `halo_forge.policy.drift_probe`."""

    def drift(
        self,
        version: int,
        previous: int,
        ensure_loaded: Callable[[int], None],
        fixed: Sequence[Completion],
        own: Sequence[Completion],
        own_is_untruncated: bool,
    ) -> DriftFacts: ...

    def negative_log_likelihood(self, answers: Sequence[Completion]) -> TokenValues: ...


class Observer(Protocol):
    """Is told what happens: a terminal, or nobody."""

    def opened(self, plan: Plan) -> None:
        """Everything is loaded; the first stage follows."""
        ...

    def warned(self, text: str) -> None:
        """Something beside the run did not work; the run goes on."""
        ...

    def track(self, label: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        """The same items, counted as they pass."""
        ...

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        """An optimizer step was taken."""
        ...

    def measured(self, measurement: Measurement) -> None:
        """A policy version was measured."""
        ...

    def advised(self, advised: Advised) -> None:
        """Advice on the version measured last."""
        ...

    def decided(self, decision: Decision) -> None:
        """It was decided what follows."""
        ...

    def trained(self, settings: TrainingSettings, selection: Selection, trained: Trained) -> None:
        """A cycle was trained."""
        ...


class SharesStages(Protocol):
    """Stages that other runs have made already; see `halo_forge.runtime.sharing`."""

    def completions(self, folder: StageFolder, requests: Mapping[str, Sequence[SampleRequest]], version: int) -> None:
        """Put those of v_version into the folder that are to be found elsewhere."""
        ...

    def verdicts(self, folder: StageFolder, names: Sequence[str], version: int) -> None:
        """The same for their verdicts."""
        ...

    def drift(self, folder: StageFolder, version: int, parent: int) -> Measurement | None:
        """The drift of v_version as measured elsewhere."""
        ...


class NothingShared:
    """A run that makes every stage itself."""

    def completions(self, folder: StageFolder, requests: Mapping[str, Sequence[SampleRequest]], version: int) -> None:
        """Nothing."""

    def verdicts(self, folder: StageFolder, names: Sequence[str], version: int) -> None:
        """Nothing."""

    def drift(self, folder: StageFolder, version: int, parent: int) -> Measurement | None:
        """Nothing."""
        return None


@dataclass(frozen=True)
class Runtime:
    """One run's effects."""

    prompts: Mapping[str, Prompt]
    engine: Engine
    verifier: Verifier
    trainer: Trainer
    adapters: Adapters | None
    observer: Observer
    max_error_fraction: float
    probe: MeasuresDrift | None = None
    sharing: SharesStages = NothingShared()  # noqa: RUF009 -- it has no state
    telemetry: Callable[[], Mapping[str, float]] = dict
    """What the GPU needed since the last call; nothing where it has no sensors."""
    hardware: str = "not said"
    """What the model is on, in one line."""
    warnings: Sequence[str] = ()
    """What a person should know before the first cycle, one sentence each."""
    checked_by: Sequence[str] = ()
    """How many prompts of each set have tests, and of which kind, one line each."""
    notes: Sequence[str] = ()
    """What is done to prompts beyond what the configuration says, one line each."""

    def sample(self, requests: Sequence[SampleRequest], version: int, adapter: Path | None) -> Iterator[Completion]:
        """Completions by v_version as they finish; each is verified meanwhile where processors are left for that."""
        self._ensure_loaded(version, adapter)
        drawn = self.engine.sample(self.prompts, requests, version)
        at_once = not self.engine.saturates_cpu
        for completion in self.observer.track(f"sample v{version}", drawn, len(requests)):
            if at_once:
                self.verifier.submit(self.prompts[completion.prompt_id], completion)
            yield completion

    def verify(self, completions: Sequence[Completion]) -> Iterator[Verdict]:
        """Verdicts in the order of `completions`."""
        pairs = [(self.prompts[completion.prompt_id], completion) for completion in completions]
        return self.observer.track("verify", self.verifier.verify(pairs), len(pairs))

    def verify_again(self, completions: Sequence[Completion]) -> Iterator[Verdict]:
        """Second verdicts in the order of `completions`: every program runs again."""
        pairs = [(self.prompts[completion.prompt_id], completion) for completion in completions]
        return self.observer.track("verify again", self.verifier.verify_again(pairs), len(pairs))

    def drift(
        self,
        version: int,
        training: Training | None,
        start: Sequence[Sample],
        own: Sequence[Sample],
        requests: Sequence[SampleRequest],
        run: Run,
    ) -> Measurement:
        """How far v_version has moved; nothing where there is no model to ask.

        Args:
            training: What made it.
            start: Samples of the start model.
            own: Its own samples.
            requests: What those were sampled for.
        """
        metrics: dict[str, float] = {}
        if self.probe is not None:
            parent = 0 if training is None else training.settings.parent_version
            if (shared := self.sharing.drift(run.cycle(version + 1), version, parent)) is not None:
                return shared
            facts = self.probe.drift(
                version,
                parent,
                lambda each: self._ensure_loaded(each, run.adapter(each)),
                [sample.completion for sample in start],
                [sample.completion for sample in own],
                all(request.is_untruncated for request in requests),
            )
            metrics = measure_drift(facts)
        return Measurement(version + 1, version, metrics)

    def train(
        self,
        rows: Sequence[TrainingRow],
        kept: KeptFacts,
        settings: TrainingSettings,
        adapter: Path | None,
        folder: Path,
        record: Callable[[Mapping[str, Any]], None],
    ) -> Trained:
        """v_c from its parent version, whose adapter is `adapter`; every optimizer step goes to `record`."""
        self._ensure_loaded(settings.parent_version, adapter)

        def on_step(row: Mapping[str, float], num_steps: int) -> None:
            record(row)
            self.observer.step(row, num_steps)

        state = None if adapter is None or settings.optimizer == "reset" else sealed_optimizer_state(adapter)
        if self.probe is not None:
            before = self.probe.negative_log_likelihood([row.completion for row in rows])
            kept = dataclasses.replace(kept, negative_log_likelihood=before)
        trained = self.trainer.train(rows, settings, folder, on_step, state)
        return dataclasses.replace(trained, metrics={**trained.metrics, **measure_kept(kept)})

    def resources(self) -> dict[str, float]:
        """What was needed since the last call, for the events."""
        return {**peak_memory(), **self.telemetry()}

    def verdict_form(self) -> StreamForm[Verdict]:
        """See the function of this name."""
        return verdict_form(self.max_error_fraction)

    def second_verdict_form(self) -> StreamForm[Verdict]:
        """The same, but errors of the verifier never stop the run: selection drops the samples that they hit."""
        return _WITHOUT_COST

    def _ensure_loaded(self, version: int, adapter: Path | None) -> None:
        if self.adapters is not None:
            ensure_loaded(self.adapters, version, adapter)


def verdict_form(max_error_fraction: float) -> StreamForm[Verdict]:
    """Verdicts are sealed without their cost; errors of the verifier are retried, and too many stop the command.

    A single one stops nothing, however small the set, unless `max_error_fraction` is 0: then any does.
    """

    def check(verdicts: Sequence[Verdict]) -> None:
        num_errors = sum(verdict.status == "error" for verdict in verdicts)
        allowed = max(1.0, max_error_fraction * len(verdicts)) if max_error_fraction > 0 else 0.0
        if num_errors > allowed:
            first = next(verdict for verdict in verdicts if verdict.status == "error")
            raise VerifierBroken(
                f"the verifier itself failed on {num_errors} of {counted(len(verdicts), 'sample')}"
                f" (verifier.max_error_fraction is {max_error_fraction}); first: {first.diagnostics[:200]}",
                "fix that, then run the same command with --resume: only these samples are verified again",
            )

    return dataclasses.replace(_WITHOUT_COST, check=check)


def ensure_loaded(adapters: Adapters, version: int, adapter: Path | None) -> None:
    """Make the model in memory v_version, whose adapter was sealed in the folder `adapter`; None is the start model.

    Raises:
        RunDirError: The adapter is missing, or not the one that was sealed.
    """
    if adapters.version == version:
        return
    if adapter is not None:
        sealed = read_json(adapter.parent / "trained.json").get("adapter_digest")
        if not adapter.is_dir() or adapter_digest(adapter) != sealed:
            raise RunDirError(f"{adapter}: missing, or not the adapter that cycle {version} trained", EDITED)
    adapters.load_adapter(adapter, version)


def sealed_optimizer_state(adapter: Path) -> Path | None:
    """The optimizer's state beside an adapter; None where the trainer has no optimizer.

    Raises:
        RunDirError: It is missing, or not the one that was sealed.
    """
    path, sealed = adapter.with_name(OPTIMIZER_FILE), read_json(adapter.with_name("trained.json"))["optimizer_digest"]
    if sealed is not None and (not path.is_file() or file_digest(path) != sealed):
        raise RunDirError(f"{path}: missing, or not the optimizer state that this cycle ended with", EDITED)
    return None if sealed is None else path


def _verification_cost(verdicts: Sequence[Verdict]) -> dict[str, float]:
    return {
        "num_verdicts": len(verdicts),
        "cpu_seconds": round(sum(verdict.cpu_seconds for verdict in verdicts), 3),
        "max_rss_bytes": max((verdict.max_rss_bytes for verdict in verdicts), default=0),
    }


_WITHOUT_COST = StreamForm[Verdict](
    sealed=Verdict.without_cost,
    is_final=lambda verdict: verdict.status != "error",
    cost=_verification_cost,
)


def peak_memory() -> dict[str, int]:
    """The most memory this process has used so far: resident bytes, and bytes on the GPU where there is one."""
    peak = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["peak_gpu_memory_bytes"] = int(torch.cuda.max_memory_allocated())
    return peak
