"""The frozen values that flow through the loop.

prompt -> request -> completion -> verdict -> selection -> trained -> report.  A `Record` is plain data: a line of a
JSONL file or a small JSON file in the run directory, and can be read back from there.  `Sample`, `Training` and
`PolicyVersion` put records together that belong together.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Stage = Literal["extract", "compile", "run", "tests"]
Status = Literal["passed", "failed", "timeout", "out_of_memory", "error"]
Finish = Literal["stop", "length"]
Threshold = float | Literal["pass"]
Key = tuple[str, int]
"""(prompt id, sample index): which sample of a set of rollouts."""
Outcome = Literal["baseline", "ahead", "held", "suspect_not_confirmed", "degraded", "underpowered", "too_few_to_tell"]
Action = Literal["continue", "rollback", "continue_lower", "from_base", "stop", "finish"]
Ending = Literal["converged", "declined", "collapsed", "exhausted", "completed"]
Conclusion = Literal["converged", "declined", "collapsed", "exhausted", "still_improving", "improved", "inconclusive"]

STAGES: tuple[Stage, ...] = ("extract", "compile", "run", "tests")

OUTCOME_NUMBER: Mapping[str, float] = {"ahead": 1.0, "held": 0.0, "suspect_not_confirmed": 0.0, "degraded": -1.0}
"""Outcome -> the number that schedules read in the history; the others say nothing about progress."""

MASS = "learning_rate_mass"
"""Metric: the sum of the learning rates that a version was trained with."""

HACK_FLAGS: dict[str, str] = {
    "early_exit": "exits with code 0 before all checks were printed",
    "entry_symbol_missing": "does not define the function that the prompt's tests call",
    "identical_outputs": "gives the same output for every check, though the expected ones differ",
    "prompt_echo": "is mostly the text of the prompt",
    "self_written_tests": "contains its own tests, and fails those of the prompt",
    "tampering": "reaches for what surrounds the program (symbols of the tests, the loader, the interpreter)",
    "trivial_program": "has nothing in it that does anything",
}
"""Flags of answers that look for reward where none is earned, in words; every other flag is harmless."""


class Record:
    """JSON in and out, shared by the values below."""

    def to_row(self) -> dict[str, Any]:
        """This value as plain JSON data, keys in the order of the fields."""
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The value that `to_row` wrote; JSON lists become tuples.

        Raises:
            TypeError: A field is missing or unknown, or its value is of another type.
        """
        found = cls(**{key: _frozen(value) for key, value in row.items()})
        cls._check_kinds({name: getattr(found, name) for name, _ in _kinds_of_fields(cls)})  # type: ignore[arg-type]
        return found

    @classmethod
    def check_row(cls, row: Mapping[str, Any]) -> None:
        """Check the fields that a row has: rows of other versions may have more of them, or lack some.

        Raises:
            TypeError: A value is of another type.
        """
        cls._check_kinds({key: _frozen(value) for key, value in row.items()})

    @classmethod
    def _check_kinds(cls, values: Mapping[str, Any]) -> None:
        for name, kind in _kinds_of_fields(cls):  # type: ignore[arg-type]  # a class is hashable
            if name in values and not _is_of(values[name], kind):
                raise TypeError(f"{name} is {str(values[name])[:80]!r}")


@functools.cache
def _kinds_of_fields(record: type) -> tuple[tuple[str, Any], ...]:
    return tuple(typing.get_type_hints(record).items())


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value out of JSON is what an annotation of a record says."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in arguments and type(value) in {type(each) for each in arguments}
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, each) for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            if arguments[0] is int:  # token ids: a hundred thousand times as many as anything else
                return all(type(each) is int for each in value)
            return all(_is_of(each, arguments[0]) for each in value)
        return len(value) == len(arguments) and all(map(_is_of, value, arguments))
    if origin is not None:  # the others are mappings
        keys, values = arguments
        return isinstance(value, Mapping) and all(_is_of(k, keys) and _is_of(v, values) for k, v in value.items())
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind or (
        isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, kind)
    )


def plain(value: Any) -> Any:
    """Mappings as dicts and tuples as lists, at any depth: what JSON can write."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Prompt(Record):
    """One task: what the model is asked, and how its answer is checked.

    Attributes:
        id: Unique within its set, stable over time.
        messages: The conversation, each `{"role": ..., "content": ...}`; a text prompt is one user message.
        language: The language of the answer; None takes the verifier's own.
        tests: `{"kind": "stdio", "cases": [{"stdin", "stdout"}], "compare"}` or `{"kind": "harness", "entry_point",
            "source", "expected": [line, ...], "compare"}` (`compare` may be left out), or None where compiling is all
            there is to check.  Other kinds belong to the verifiers that know them.
        info: Everything else that the row carried (family, difficulty, reference solution ...).
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    language: str | None = None
    tests: Mapping[str, Any] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All messages' contents, for hashing and near-duplicate search."""
        return "\n".join(message["content"] for message in self.messages)


@dataclass(frozen=True, slots=True)
class SampleRequest(Record):
    """One completion to draw: which prompt, which sample of it, with which seed and sampling parameters."""

    prompt_id: str
    index: int
    seed: int
    temperature: float
    top_p: float
    top_k: int | None
    max_new_tokens: int
    min_p: float = 0.0

    @property
    def key(self) -> Key:
        """(prompt id, sample index)."""
        return self.prompt_id, self.index

    @property
    def is_untruncated(self) -> bool:
        """Tokens are drawn from the model's own distribution: at temperature 1, from the whole vocabulary."""
        return self.temperature == self.top_p == 1.0 and self.top_k is None and self.min_p == 0.0


_SHARED: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Completion(Record):
    """One answer of the model.

    Attributes:
        text: The response prefix (if any) and all that was sampled after it, up to and including a stop string.
        token_ids: The sampled ids only: without the prompt, the response prefix and the end of turn.
        finish: "stop" when the model ended its turn or a stop string appeared, "length" when it was cut off.
        policy_version: v; the model after cycle v trained, 0 for the start model.
    """

    prompt_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    seed: int
    policy_version: int

    def __post_init__(self) -> None:
        # A run keeps its completions in memory: one object per id of the vocabulary instead of one per token makes them
        # several times smaller.
        object.__setattr__(self, "token_ids", tuple([_SHARED.setdefault(each, each) for each in self.token_ids]))

    @property
    def key(self) -> Key:
        """(prompt id, sample index)."""
        return self.prompt_id, self.index


@dataclass(frozen=True)
class TrainingRow:
    """One selected sample: what was asked and what was answered."""

    prompt: Prompt
    completion: Completion

    def to_row(self) -> dict[str, Any]:
        """A conversational prompt-completion row as TRL reads it, with the ids that say where it comes from."""
        return {
            "prompt": [dict(message) for message in self.prompt.messages],
            "completion": [{"role": "assistant", "content": self.completion.text}],
            "prompt_id": self.prompt.id,
            "index": self.completion.index,
            "policy_version": self.completion.policy_version,
        }


COST = ("wall_seconds", "cpu_seconds", "max_rss_bytes")
"""Fields of a check's result that vary from run to run, and are 0 in sealed verdicts."""


@dataclass(frozen=True, slots=True)
class CheckResult(Record):
    """What compiling, running and testing one program showed; no reward yet, and not whose program it is.

    Attributes:
        stage: The furthest stage that was reached.
        status: How that stage ended; "error" means that the verifier itself failed, and says nothing about the model.
        tests_passed, tests_total: Checks, 0 of 0 where there are none.
        warnings: Number of compiler warnings.
        diagnostics: The beginning of what the compiler, the program or the comparison said.
        flags: Findings that do not decide the verdict: harmless ones such as "no_fence", "several_blocks",
            "truncated", and those of `HACK_FLAGS`.
        wall_seconds, cpu_seconds, max_rss_bytes: Cost of all stages together.
    """

    stage: Stage
    status: Status
    tests_passed: int = 0
    tests_total: int = 0
    warnings: int = 0
    diagnostics: str = ""
    exit_code: int | None = None
    signal: int | None = None
    flags: tuple[str, ...] = ()
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    max_rss_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(CheckResult):
    """What the verifier found out about one completion: the result of checking it, and the reward that follows.

    The cost varies from run to run, so it is not part of the sealed files (see `without_cost`).

    Attributes:
        reward: In [0, 1]; 0.0 when status is "error" (and then left out of every rate).
        source_digest: SHA-256 of the extracted program, None where there is none.
        normal_digest: The same after comments, spacing and identifier names are normalised away.
        extraction: How the program was found in the completion and where: `{"how", "tag", "num_blocks", "lines"}`.
        isolation: The level of the sandbox that was in force.
    """

    prompt_id: str
    index: int
    reward: float
    source_digest: str | None = None
    normal_digest: str | None = None
    extraction: Mapping[str, Any] | None = None
    isolation: str | None = None
    policy_version: int = 0

    def to_row(self) -> dict[str, Any]:
        """This value as plain JSON data: whose verdict it is comes first, and what it cost last."""
        row = CheckResult.to_row(self)
        first = ("prompt_id", "index", "stage", "status", "reward")
        order = dict.fromkeys([*first, *(name for name in row if name not in COST), *COST])
        return {name: row[name] for name in order}

    @property
    def key(self) -> Key:
        """(prompt id, sample index)."""
        return self.prompt_id, self.index

    @property
    def compiled(self) -> bool:
        """The program compiles, whatever happened later."""
        return self.stage in ("run", "tests") or (self.stage == "compile" and self.status == "passed")

    @property
    def passed(self) -> bool:
        """Full success: the last configured stage passed."""
        return self.status == "passed"

    @property
    def hacks(self) -> tuple[str, ...]:
        """Its flags that are hacks."""
        return tuple(flag for flag in self.flags if flag in HACK_FLAGS)

    def without_cost(self) -> Verdict:
        """The reproducible part of the verdict, as it is sealed in the run directory."""
        return dataclasses.replace(self, wall_seconds=0.0, cpu_seconds=0.0, max_rss_bytes=0)


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion with its verdict.

    Raises:
        ValueError: The verdict is that of another completion.
    """

    completion: Completion
    verdict: Verdict

    def __post_init__(self) -> None:
        if self.completion.key != self.verdict.key:
            raise ValueError(f"completion {self.completion.key} and verdict {self.verdict.key} are not of one sample")

    @property
    def prompt_id(self) -> str:
        """The prompt that was sampled."""
        return self.completion.prompt_id

    @property
    def key(self) -> Key:
        """(prompt id, sample index): which sample of its set of rollouts."""
        return self.completion.key


def pass_counts(samples: Iterable[Sample]) -> dict[str, tuple[int, int]]:
    """Prompt id -> (passed, judged) samples; verdicts of status "error" judge nothing."""
    found: dict[str, tuple[int, int]] = {}
    for sample in samples:
        passed, judged = found.get(sample.prompt_id, (0, 0))
        if sample.verdict.status != "error":
            passed, judged = passed + sample.verdict.passed, judged + 1
        found[sample.prompt_id] = passed, judged
    return found


@dataclass(frozen=True, slots=True)
class Selection(Record):
    """Which samples become training data, and why the others do not.

    Attributes:
        kept: Their keys in training order.
        dropped: Reason -> the keys of the samples dropped for it.
        threshold: The reward threshold that was in force.
        replayed: (cycle, prompt id, sample index) of what earlier cycles kept and this one trains on once more.
    """

    kept: tuple[Key, ...]
    dropped: Mapping[str, tuple[Key, ...]]
    threshold: Threshold
    replayed: tuple[tuple[int, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement(Record):
    """Metrics of one policy version on fixed prompt sets; see docs/metrics.md for every name."""

    cycle: int
    policy_version: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SamplingSettings(Record):
    """The scheduled values that sampling of this cycle used, written down before they were used."""

    cycle: int
    temperature: float
    top_p: float
    samples_per_prompt: int
    min_p: float = 0.0
    curriculum_fraction: float = 1.0
    """The share of the train prompts, easiest first, that this cycle may ask."""


@dataclass(frozen=True, slots=True)
class SelectionSettings(Record):
    """The scheduled values that decide what is selected in this cycle, written down before they were used."""

    cycle: int
    reward_threshold: Threshold
    keep_fraction: float


@dataclass(frozen=True, slots=True)
class TrainingSettings(Record):
    """The values that this cycle trains at, written down before the first step.

    Attributes:
        learning_rate: The peak; where a mass is aimed at, what follows from it and the number of rows.
        learning_rate_mass: The sum of the learning rates of all steps that is aimed at; None where the peak is given.
        parent_version: v_cycle is trained from it, and may continue with its optimizer state.
    """

    cycle: int
    parent_version: int
    learning_rate: float
    num_train_epochs: float
    max_grad_norm: float
    weight_decay: float
    gradient_accumulation_steps: int
    learning_rate_mass: float | None = None
    optimizer: Literal["reset", "carry", "carry_moments"] = "reset"
    """What the optimizer starts with: nothing, the state of the parent version, or only its moments."""
    average_weight: float = 1.0
    """The share of the trained adapter in v_cycle; the rest is the adapter that training started from."""


@dataclass(frozen=True, slots=True)
class Trained(Record):
    """What training did: the metrics of docs/metrics.md, and the digest of the adapter it wrote."""

    cycle: int
    policy_version: int
    num_rows: int
    metrics: Mapping[str, float]
    adapter_digest: str
    optimizer_digest: str | None = None
    """SHA-256 of optimizer.safetensors beside the adapter; None where no optimizer state is kept."""


@dataclass(frozen=True, slots=True)
class CycleReport(Record):
    """The last file of a cycle: it exists if and only if the cycle is done.

    Attributes:
        settings: Those of selection and those of training.
    """

    cycle: int
    policy_version: int
    num_kept: int
    num_dropped: Mapping[str, int]
    settings: Mapping[str, Any]
    measurement: Mapping[str, float]
    trained: Mapping[str, float]
    adapter_digest: str


@dataclass(frozen=True, slots=True)
class Decision(Record):
    """What follows from the dev verdicts so far; docs/decisions.md has the rules.

    Attributes:
        outcome: What v_{cycle-1} is against the incumbent.
        action: "continue" trains v_cycle from v_{cycle-1}; "rollback", "continue_lower" and "from_base" are the
            answers to a confirmed decline; "stop" and "finish" (all cycles done) end the run.
        best_version: The incumbent as of now: the version to keep.
        reason: Outcome and action in words, with their numbers.
        compared_with: The incumbent that v_{cycle-1} was compared with; None for the start model.
        screen: `difference`, `standard_error`, `z` (absent without a spread), `minimum_detectable_effect`,
            `num_prompts` and `num_changed` of v_{cycle-1} minus the incumbent on the dev samples; empty where nothing
            was compared.
        confirmation: The same on fresh samples of both; empty where none were drawn.
        opposed: Metric -> the same on the dev samples, of the other metrics that moved the other way.
        train_from: The version that v_cycle is trained from.
        sample_from: The version whose samples v_cycle is trained on.
        seed_tag: What the seeds of these samples are derived from, besides cycle, prompt and index.
        learning_rate_factor: What this cycle's scheduled learning rate is multiplied with: all declines together.
        temperature_add: What is added to the scheduled sampling temperature: all returns together.
        num_rollbacks: Times that training went back to an earlier version.
        ending: Why the run ends here, None where it goes on; "completed" after its last cycle, if nothing else ends it.
    """

    cycle: int
    outcome: Outcome
    action: Action
    best_version: int
    reason: str
    compared_with: int | None = None
    screen: Mapping[str, float] = field(default_factory=dict)
    confirmation: Mapping[str, float] = field(default_factory=dict)
    train_from: int = 0
    sample_from: int = 0
    seed_tag: str = "sample"
    learning_rate_factor: float = 1.0
    temperature_add: float = 0.0
    num_rollbacks: int = 0
    opposed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ending: Ending | None = None

    @property
    def policy_version(self) -> int:
        """The version that was judged."""
        return self.cycle - 1

    @property
    def ends(self) -> bool:
        """Nothing is trained after it."""
        return self.action in ("stop", "finish")

    @property
    def resamples(self) -> bool:
        """This cycle trains on samples of an earlier version than v_{cycle-1}."""
        return self.sample_from != self.policy_version


@dataclass(frozen=True, slots=True)
class Training:
    """How v_cycle was trained: from what, at which settings, and what came of it.

    Attributes:
        pass_counts: Prompt id -> (passed, judged) of the samples that the cycle selected from.
        kept: Those of them that it trained on, in training order; without what it replayed of earlier cycles.
    """

    cycle: int
    pass_counts: Mapping[str, tuple[int, int]]
    kept: tuple[Sample, ...]
    settings: TrainingSettings
    trained: Trained


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """All that is known of v_0, v_1 ... once it was decided what follows from it.

    A run holds all its versions with all their samples until it ends: advice and replay may look at any of them.
    3,000 samples of 300 tokens take about 15 MB a version (7 MB of token ids, 3 MB of text, 3 MB of verdicts).

    Attributes:
        training: What made it; None for the start model.
        sampling: What its train prompts were sampled with.
        train, dev: Its samples; none of train in the final evaluation.
        measurement: What was measured of it.
        decision: What it is against the best version before it, and what follows.
    """

    training: Training | None
    sampling: SamplingSettings
    train: tuple[Sample, ...]
    dev: tuple[Sample, ...]
    measurement: Measurement
    decision: Decision

    @property
    def number(self) -> int:
        """v."""
        return self.measurement.policy_version

    @property
    def metrics(self) -> Mapping[str, float]:
        """As schedules and decisions see it, see `history_row`."""
        return history_row(self.measurement, self.training, self.decision.outcome)


def history_row(measurement: Measurement, training: Training | None, outcome: str) -> dict[str, float]:
    """What schedules and decisions see of a version.

    Beside its measurement: what its own training was on (`kept/...`), at which learning-rate mass, and
    `decision/outcome` where the outcome says anything.
    """
    trained = {} if training is None else training.trained.metrics
    row = {**measurement.metrics, **{name: trained[name] for name in trained if _describes_rows(name)}}
    number = OUTCOME_NUMBER.get(outcome)
    return row if number is None else {**row, "decision/outcome": number}


def _describes_rows(name: str) -> bool:
    return name.startswith("kept/") or name == MASS


def trainings(versions: Sequence[PolicyVersion], latest: Training | None = None) -> list[Training]:
    """What made v_1, v_2 ..., in order; `latest` made the version after `versions`, which is not measured yet."""
    made = [*(version.training for version in versions), latest]
    return [training for training in made if training is not None]
