"""The loop over the stored stages of a claim: every value that is computed is computed again and compared.

`loop.run_raft` runs as in a run.  But a stage is never made: where a run would seal what it computed, the computed
value is compared with the stored one.  The loop goes on with the stored one, so that each edit is one difference and
not all that follows from it.  No model is loaded and no program is run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from halo_forge.api import SilentObserver
from halo_forge.claims.findings import NONSENSE, Findings
from halo_forge.core.errors import HaloForgeError, StoppedByRule
from halo_forge.core.lr_scheduler import num_optimizer_steps, planned_factors
from halo_forge.core.metrics import TrainingFacts, measure_training
from halo_forge.core.metrics.drift import CATALOGUE as DRIFT
from halo_forge.core.plan import Plan
from halo_forge.core.records import (
    Completion,
    Key,
    Measurement,
    Prompt,
    Record,
    SampleRequest,
    SamplingSettings,
    Trained,
    TrainingRow,
    TrainingSettings,
    Verdict,
)
from halo_forge.loop import run_raft
from halo_forge.runtime.effects import Runtime
from halo_forge.store.files import read_json, read_jsonl
from halo_forge.store.folder import StageFolder, StreamForm
from halo_forge.store.run import Run, cycle_folder
from halo_forge.training import StepListener

Value = TypeVar("Value", bound=Record)
Verdicts = Mapping[str, Mapping[Key, Verdict]]
"""File of a claim -> the verdict of each sample."""

TOO_MANY = "asks for more samples than the claim has rows"
_MODEL_ONLY = ("adapter_norm", "kept/nll_before")
"""Metrics of a training that only the model's weights give."""
_NEEDS_MODEL = "needs the model and the adapters"


class CannotGoOn(Exception):
    """Something is not in the claim that all that follows is computed from."""


@dataclass
class Replay:
    """One pass over a claim.

    Attributes:
        root: The claim's files.
        verdicts: Taken in place of the stored ones, where they are given.
        visited: Names of the files that were compared.
        num_rows: Of all files of rows: no honest setting asks for more.
    """

    root: Path
    findings: Findings
    verdicts: Verdicts = field(default_factory=dict)
    visited: set[str] = field(default_factory=set)
    num_rows: int = 0

    def run(self, plan: Plan) -> bool:
        """Compute everything again; whether it came to the end."""
        if (asked := plan.config.evaluation.samples_per_prompt) > self.num_rows:
            self.findings.add("row", "config.json", f"evaluation.samples_per_prompt: {TOO_MANY}", asked)
            self.findings.leave_out("the values of all stages", f"an evaluation would have {asked} samples per prompt")
            return False
        runtime = Runtime(
            prompts=plan.prompts.by_id(),
            engine=_Requested(),
            verifier=_NO_VERIFIER,
            trainer=_StoredTraining(plan, self),
            adapters=None,
            observer=SilentObserver(),
            max_error_fraction=1.0,
        )
        try:
            with _ClaimedRun(self) as run:
                run_raft(plan, run, runtime)
        except CannotGoOn as reason:
            self.findings.leave_out("the values of all later stages", str(reason))
            return False
        except StoppedByRule as error:
            self.findings.add("value", "", "run", "goes on", f"stops by a rule: {error.message}")
            return False
        except NONSENSE as error:
            self.findings.add("value", "", "run", "as stored", f"cannot be computed: {_said(error)}")
            return False
        return True

    def name(self, path: Path) -> str:
        """The name of a file in the claim."""
        return path.relative_to(self.root).as_posix()


class _ClaimedRun(Run):
    """The unpacked claim as a run directory in which nothing is written."""

    def __init__(self, replay: Replay) -> None:
        super().__init__(replay.root)
        self._replay = replay

    def cycle(self, cycle: int) -> StageFolder:
        return _ComparedFolder(cycle_folder(self.root, cycle), self._replay)

    def test(self, version: int) -> StageFolder:
        return _ComparedFolder(self.root / "test" / f"v{version:03d}", self._replay)

    def confirmation(self, version: int) -> StageFolder:
        return _ComparedFolder(self.root / "confirmation" / f"v{version:03d}", self._replay)

    def result(self) -> StageFolder:
        return _ComparedFolder(self.root, self._replay)

    def adapter(self, version: int) -> Path | None:
        return None

    def event(self, event: str, **fields: Any) -> None:
        pass

    def point(self, name: str, version: int, *, cycle: int) -> None:
        pass


class _ComparedFolder(StageFolder):
    """A folder whose stages are compared, not made."""

    def __init__(self, path: Path, replay: Replay) -> None:
        super().__init__(path, lambda event, **fields: None)
        self._replay = replay
        self._findings = replay.findings

    def stage(self, name: str, kind: type[Value], make: Callable[[], Value]) -> Value:
        """The stored value, after comparing it with the computed one."""
        path = self.path / f"{name}.json"
        file = self._replay.name(path)
        stored = self._stored(path, kind)
        if isinstance(stored, SamplingSettings) and stored.samples_per_prompt > self._replay.num_rows:
            self._findings.add("row", file, f"samples_per_prompt: {TOO_MANY}", stored.samples_per_prompt)
            raise CannotGoOn(f"{file} asks for {stored.samples_per_prompt} samples per prompt")
        try:
            computed = make()
        except CannotGoOn:
            raise
        except NONSENSE as error:
            self._findings.add("value", file, "", "as stored", f"cannot be computed: {_said(error)}")
            return stored
        if name == "drift" and isinstance(stored, Measurement) and stored.metrics:
            self._compare_drift(file, stored, computed)
        else:
            self._findings.compare(file, stored.to_row(), computed.to_row())
        return stored

    def _compare_drift(self, file: str, stored: Measurement, computed: Record) -> None:
        """Its numbers need the model; but nothing else may come with them, as they are merged into the measurement."""
        for metric in stored.metrics:
            if metric not in DRIFT:
                self._findings.add("value", file, f"metrics.{metric}", stored.metrics[metric], None)
        self._findings.compare(file, {**stored.to_row(), "metrics": {}}, computed.to_row())
        self._findings.leave_out("entropies and divergences (drift.json)", _NEEDS_MODEL)

    def streams(
        self,
        stage: str,
        kind: type[Value],
        orders: Mapping[str, Sequence[Key]],
        make: Callable[[Sequence[Key]], Iterator[Value]],
        form: StreamForm[Value],
    ) -> list[list[Value]]:
        """The stored records of the keys that were asked for."""
        found: list[list[Value]] = []
        asked = _by_key(make([key for order in orders.values() for key in order])) if kind is Completion else {}
        for name, order in orders.items():
            path = self.path / f"{name}.jsonl"
            file = self._replay.name(path)
            records = self._records(path, kind, order)
            for key, record in records.items():
                wanted: Any = asked.get(key)
                if isinstance(record, Completion) and wanted is not None:
                    for what in ("seed", "policy_version"):
                        self._findings.compare(file, getattr(record, what), getattr(wanted, what), key, what)
            own: Any = self._replay.verdicts.get(file, {})
            found.append([own.get(key, records[key]) for key in order])
        return found

    def _records(self, path: Path, kind: type[Value], order: Sequence[Key]) -> dict[Key, Value]:
        """The rows of a file by their keys, which must be those of `order`, in that order.

        Raises:
            CannotGoOn: One is missing.
        """
        file = self._replay.name(path)
        rows = self._rows(path, kind)
        found = {_key(row): row for row in rows}
        keys, wanted = [_key(row) for row in rows], set(order)
        for key, num in Counter(keys).items():
            if num > 1 or key not in wanted:
                self._findings.add("row", file, "not asked for" if key not in wanted else f"{num} times", key=key)
        missing = [key for key in order if key not in found]
        for key in missing:
            self._findings.add("row", file, "missing", key=key)
        if missing:
            raise CannotGoOn(f"{file} lacks {len(missing)} of {len(order)} rows")
        if keys != list(order) and sorted(keys) == sorted(order):
            self._findings.add("row", file, "not in the order of the requests")
        return found

    def training(self, kind: type[Value], make: Callable[[Path, Callable[[Mapping[str, Any]], None]], Value]) -> Value:
        """The stored value, after comparing it with what follows from the log of the steps."""
        path = self.path / "trained.json"
        file = self._replay.name(path)
        stored = self._stored(path, kind)
        try:
            computed = make(self.path, lambda row: None)
        except CannotGoOn:
            raise
        except NONSENSE as error:
            self._findings.add("value", file, "", "as stored", f"cannot be computed: {_said(error)}")
            return stored
        self._findings.compare(file, stored.to_row(), computed.to_row())
        return stored

    def write_rows(self, name: str, rows: object) -> None:
        """A copy for other programs, which a claim does not have."""

    def _stored(self, path: Path, kind: type[Value]) -> Value:
        file = self._seen(path)
        try:
            return kind.from_row(read_json(path))
        except (*NONSENSE, RecursionError) as error:
            self._findings.add("file", file, f"not a {kind.__name__}: {_said(error)}")
            raise CannotGoOn(f"{file} cannot be read") from error

    def _rows(self, path: Path, kind: type[Value]) -> list[Value]:
        file = self._seen(path)
        try:
            return [kind.from_row(row) for row in read_jsonl(path)]
        except (*NONSENSE, RecursionError) as error:
            self._findings.add("file", file, f"not rows of {kind.__name__}: {_said(error)}")
            raise CannotGoOn(f"{file} cannot be read") from error

    def _seen(self, path: Path) -> str:
        file = self._replay.name(path)
        self._replay.visited.add(file)
        if not path.is_file():
            self._findings.add("file", file, "missing")
            raise CannotGoOn(f"{file} is missing")
        return file


class _Requested:
    """In place of an engine: what a completion of each request must say of itself."""

    saturates_cpu: ClassVar[bool] = True

    def sample(
        self, prompts: Mapping[str, Prompt], requests: Sequence[SampleRequest], policy_version: int
    ) -> Iterator[Completion]:
        for each in requests:
            yield Completion(each.prompt_id, each.index, "", (), "stop", each.seed, policy_version)


class _StoredTraining:
    """In place of a trainer: what follows from the stored log of the steps."""

    def __init__(self, plan: Plan, replay: Replay) -> None:
        self._plan = plan
        self._replay = replay

    def train(
        self,
        rows: Sequence[TrainingRow],
        settings: TrainingSettings,
        folder: Path,
        on_step: StepListener,
        optimizer_state: Path | None = None,
    ) -> Trained:
        """The metrics of the log; what only the weights give is taken as stored."""
        findings, path = self._replay.findings, folder / "training_log.jsonl"
        file = self._replay.name(path)
        self._replay.visited.add(file)
        stored = Trained.from_row(read_json(folder / "trained.json"))
        log = read_jsonl(path)
        self._compare_log(file, log, rows, settings)
        taken = {name: stored.metrics[name] for name in _MODEL_ONLY if name in stored.metrics}
        if taken:
            findings.leave_out(f"{' and '.join(taken)} (trained.json)", _NEEDS_MODEL)
        findings.leave_out("losses and gradients of the steps (training_log.jsonl)", _NEEDS_MODEL)
        metrics = {**measure_training(TrainingFacts(log, settings.max_grad_norm)), **taken}
        return Trained(
            settings.cycle, settings.cycle, len(rows), metrics, stored.adapter_digest, stored.optimizer_digest
        )

    def _compare_log(
        self, file: str, log: Sequence[Mapping[str, Any]], rows: Sequence[TrainingRow], settings: TrainingSettings
    ) -> None:
        """The learning rate of each step by the plan, and how much was trained on."""
        findings, section = self._replay.findings, self._plan.in_cycle(settings.cycle).config.training
        epochs, accumulation = settings.num_train_epochs, settings.gradient_accumulation_steps
        num_steps = num_optimizer_steps(len(rows), epochs, section.per_device_train_batch_size, accumulation)
        findings.compare(file, len(log), num_steps, what="number of steps")
        if len(log) != num_steps:
            return
        factors = planned_factors(section, len(rows), epochs, accumulation)
        for number, (row, factor) in enumerate(zip(log, factors, strict=True), start=1):
            findings.compare(file, row.get("step"), number, what=f"step {number}: step")
            rate = settings.learning_rate * factor
            findings.compare(file, row.get("learning_rate"), rate, what=f"step {number}: learning_rate")
        if epochs.is_integer() and log and all("num_rows" in row for row in log):
            num_rows, num_tokens = (sum(row[name] for row in log) for name in ("num_rows", "num_tokens"))
            tokens = sum(len(row.completion.token_ids) + 1 for row in rows)  # and the end of turn
            findings.compare(file, num_rows, round(epochs) * len(rows), what="rows of all steps")
            findings.compare(file, num_tokens, round(epochs) * tokens, what="tokens of all steps")


class _NoVerifier:
    """In place of a verifier: programs are checked elsewhere, so nothing here is ever asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the replay of a claim verifies nothing, but was asked for {name}")


_NO_VERIFIER: Any = _NoVerifier()


def _by_key(records: Iterator[Any]) -> dict[Key, Any]:
    return {record.key: record for record in records}


def _key(record: Any) -> Key:
    return record.prompt_id, record.index


def _said(error: BaseException) -> str:
    if isinstance(error, HaloForgeError):
        return error.message
    return f"no {error}" if isinstance(error, KeyError) else f"{error}" or type(error).__name__
