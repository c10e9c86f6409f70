"""What the topics measure, and what is said about each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from halo_forge.core.records import Completion, Sample, Verdict

TokenValues = Sequence[Sequence[float]]
"""One number for each token of each answer."""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """Attributes:
    unit: "rate" (in [0, 1]), "count", "tokens", "seconds", "bytes", "tokens/s", "nats", "nats/token",
        "watts", "degrees Celsius", "ratio" or "1".
    direction: Which way is better; "none" where neither is.
    doc: The formula in words, and its source where it has one.
    bare_on_train: On the train set the name has no prefix: it describes how sampling went.
    """

    unit: str
    direction: Literal["up", "down", "none"]
    doc: str
    bare_on_train: bool = False


@dataclass(frozen=True, slots=True)
class SetFacts:
    """The samples of one policy version on one prompt set.

    Attributes:
        samples: What was sampled, with what the verifier found.
        prompt_ids: Every prompt of the set, sampled or not.
        num_samples_expected: Samples drawn of each prompt; pass@k is reported up to this k.

    Raises:
        ValueError: A sample belongs to no prompt of the set.
    """

    samples: Sequence[Sample]
    prompt_ids: Sequence[str]
    num_samples_expected: int

    def __post_init__(self) -> None:
        if unknown := sorted({sample.prompt_id for sample in self.samples} - set(self.prompt_ids)):
            raise ValueError(f"a sample is of {unknown[0]!r}, which is no prompt of this set")

    @property
    def completions(self) -> list[Completion]:
        """Of all samples."""
        return [sample.completion for sample in self.samples]

    @property
    def verdicts(self) -> list[Verdict]:
        """Of all samples."""
        return [sample.verdict for sample in self.samples]

    def judged(self) -> dict[str, list[Verdict]]:
        """Prompt id -> its verdicts without those of status "error", in the order of `prompt_ids`; none is empty."""
        groups: dict[str, list[Verdict]] = {prompt_id: [] for prompt_id in self.prompt_ids}
        for sample in self.samples:
            if sample.verdict.status != "error":
                groups[sample.prompt_id].append(sample.verdict)
        return {prompt_id: group for prompt_id, group in groups.items() if group}


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What training did in one cycle.

    Attributes:
        steps: One row per optimizer step: `step`, `learning_rate` (applied), `loss` (mean over its tokens, nats per
            token), `gradient_norm` (before clipping), `num_tokens` (trained on), `num_rows`.
        max_grad_norm: The norm that gradients were clipped to; 0 means no clipping, as in transformers.
        adapter_norm: Frobenius norm of the adapter's weights after training, None if it was not measured.
    """

    steps: Sequence[Mapping[str, Any]]
    max_grad_norm: float
    adapter_norm: float | None = None


@dataclass(frozen=True, slots=True)
class CostFacts:
    """What one cycle cost.

    Attributes:
        seconds: Stage name ("generate", "verify", "train", "other" ...) -> wall-clock seconds; stages that overlap
            each count their own time.
        tokens: Stage name -> real tokens that it handled, padding not counted.
        peak_memory_bytes: The most memory in use at once, None if it was not measured.
        gpu: Name of the catalogue -> value, of what the GPU's sensors said; empty where it has none.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    gpu: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DriftFacts:
    """What a version thinks of given answers, token by token, in nats.

    Attributes:
        version: Which version it is.
        fixed_entropy, kl_to_start, kl_to_previous: On answers of the start model, over the whole vocabulary.
        own_entropy: On the version's own answers.
        own_log_probabilities, start_log_probabilities: Of the tokens of its own answers, under it and under v0.
        own_is_untruncated: Its own answers were drawn at temperature 1 from the whole vocabulary.
    """

    version: int
    fixed_entropy: TokenValues
    kl_to_start: TokenValues
    kl_to_previous: TokenValues
    own_entropy: TokenValues
    own_log_probabilities: TokenValues
    start_log_probabilities: TokenValues
    own_is_untruncated: bool = True


@dataclass(frozen=True, slots=True)
class KeptFacts:
    """What a cycle kept.

    Attributes:
        digests: Normalised digest of each kept sample that has a program.
        earlier: Those that earlier cycles kept.
        negative_log_likelihood: Of each token of (a sample of) the rows to train on, under the model before the step.
    """

    digests: Sequence[str] = ()
    earlier: Set[str] = frozenset()
    negative_log_likelihood: TokenValues = ()
