"""The frozen values that flow through the loop.

prompt -> completion -> verdict -> selection -> trained -> report.  All of them are plain data: each one is a line
of a JSONL file or a small JSON file in the run directory, and can be read back from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Stage = Literal["extract", "compile", "run", "tests"]
Status = Literal["passed", "failed", "timeout", "out_of_memory", "error"]
Finish = Literal["stop", "length"]
Threshold = float | Literal["pass"]

STAGES: tuple[Stage, ...] = ("extract", "compile", "run", "tests")

HACK_FLAGS: dict[str, str] = {
    "early_exit": "exits with code 0 before all checks were printed",
    "entry_symbol_missing": "does not define the function that the prompt's tests call",
    "identical_outputs": "gives the same output for every check, though the expected ones differ",
    "prompt_echo": "is mostly the text of the prompt",
    "self_written_tests": "brings tests of its own, and does not pass those of the prompt",
    "tampering": "reaches for what surrounds the program (symbols of the tests, the loader, the interpreter)",
    "trivial_program": "has nothing in it that does anything",
}
"""Flags of answers that look for reward where none is earned, in words; every other flag is harmless."""


class Record:
    """JSON in and out, shared by the values below."""

    def to_row(self) -> dict[str, Any]:
        """This value as plain JSON data, keys in the order of the fields."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The value that `to_row` wrote; JSON lists become tuples.

        Raises:
            TypeError: A field is missing or unknown.
        """
        return cls(**{key: _frozen(value) for key, value in row.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


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
        tests: `{"kind": "stdio", "cases": [{"stdin", "stdout"}]}` or `{"kind": "harness", "entry_point", "source",
            "expected": [line, ...]}` or None where compiling is all there is to check.  Other kinds belong to the
            verifiers that know them.
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
    def is_untruncated(self) -> bool:
        """Tokens are drawn from the model's own distribution: at temperature 1, from the whole vocabulary."""
        return self.temperature == self.top_p == 1.0 and self.top_k is None and self.min_p == 0.0


@dataclass(frozen=True, slots=True)
class Completion(Record):
    """One answer of the model.

    Attributes:
        text: The response prefix (if any) and all that was sampled after it, up to and including a stop string.
        token_ids: The sampled ids alone: without the prompt, the response prefix and the end of turn.
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


_COST = ("wall_seconds", "cpu_seconds", "max_rss_bytes")


@dataclass(frozen=True, slots=True)
class CheckResult(Record):
    """What compiling, running and testing one program showed; no reward yet, and not whose program it is.

    Attributes:
        stage: The furthest stage that was reached.
        status: How that stage ended; "error" is our own fault and says nothing about the model.
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
        extraction: How the program was found in the answer and where: `{"how", "tag", "num_blocks", "lines"}`.
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
        order = dict.fromkeys([*first, *(name for name in row if name not in _COST), *_COST])
        return {name: row[name] for name in order}

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
class Selection(Record):
    """Which completions become training data, and why the others do not.

    Attributes:
        kept: (prompt id, sample index) in training order.
        dropped: Reason -> the (prompt id, sample index) pairs dropped for it.
        threshold: The reward threshold that was in force.
        replayed: (cycle, prompt id, sample index) of what earlier cycles kept and this one trains on once more.
    """

    kept: tuple[tuple[str, int], ...]
    dropped: Mapping[str, tuple[tuple[str, int], ...]]
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
    """The scheduled values that decide what is selected in this cycle; `TrainingSettings` repeats them."""

    cycle: int
    reward_threshold: Threshold
    keep_fraction: float


@dataclass(frozen=True, slots=True)
class TrainingSettings(Record):
    """The values that this cycle trains at, written down before the first step.

    Attributes:
        learning_rate: The peak; where a mass is aimed at, what follows from it and the number of rows.
        learning_rate_mass: The sum of the learning rates of all steps that is aimed at; None where the peak is given.
        parent_version: v_cycle is trained from it, and may go on with its optimizer state.
    """

    cycle: int
    parent_version: int
    reward_threshold: Threshold
    keep_fraction: float
    learning_rate: float
    num_train_epochs: float
    max_grad_norm: float
    weight_decay: float
    gradient_accumulation_steps: int
    learning_rate_mass: float | None = None
    optimizer: Literal["reset", "carry", "carry_moments"] = "reset"
    """What the optimizer starts with: nothing, the state of the parent version, or its moments alone."""
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
    """The last file of a cycle: it exists if and only if the cycle is done."""

    cycle: int
    policy_version: int
    num_kept: int
    num_dropped: Mapping[str, int]
    settings: Mapping[str, Any]
    measurement: Mapping[str, float]
    trained: Mapping[str, float]
    adapter_digest: str
