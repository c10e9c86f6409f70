"""The data that metrics are computed from, and the description of each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from halo_forge.core.records import Completion, Sample, Verdict

TokenValues = Sequence[Sequence[float]]
"""One number per token of each completion."""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """Attributes:
    unit: "rate" (in [0, 1]), "count", "tokens", "seconds", "bytes", "tokens/s", "nats", "nats/token",
        "watts", "degrees Celsius", "ratio" or "1".
    direction: Which direction is better; "none" if neither is.
    doc: The formula in words, and its source if it has one.
    bare_on_train: On the train set the name has no prefix: it describes the sampling.
    """

    unit: str
    direction: Literal["up", "down", "none"]
    doc: str
    bare_on_train: bool = False


@dataclass(frozen=True, slots=True)
class SetFacts:
    """The samples of one policy version on one prompt set.

    Attributes:
        samples: Completions with their verdicts.
        prompt_ids: Every prompt of the set, sampled or not.
        num_samples_expected: Samples per prompt; pass@k is reported up to this k.

    Raises:
        ValueError: A sample does not belong to a prompt of the set.
    """

    samples: Sequence[Sample]
    prompt_ids: Sequence[str]
    num_samples_expected: int

    def __post_init__(self) -> None:
        if unknown := sorted({sample.prompt_id for sample in self.samples} - set(self.prompt_ids)):
            raise ValueError(f"a sample is of {unknown[0]!r}, which is not a prompt of this set")

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
    """The training of one cycle.

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
        tokens: Stage name -> real tokens that it processed, without padding.
        peak_memory_bytes: The most memory in use at once, None if it was not measured.
        gpu: Name of the catalogue -> value, from the GPU's sensors; empty if there are none.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    gpu: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DriftFacts:
    """Token-level entropies, divergences and log-probabilities of given completions under a version, in nats.

    Attributes:
        version: The policy version.
        fixed_entropy, kl_to_start, kl_to_previous: On completions of the start model, over the whole vocabulary.
        own_entropy: On the version's own completions.
        own_log_probabilities, start_log_probabilities: Of the tokens of its own completions, under it and under v0.
        own_is_untruncated: Its own completions were sampled at temperature 1 from the whole vocabulary.
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
    """The samples that a cycle kept.

    Attributes:
        digests: Normalised digest of each kept sample that has a program.
        earlier: Digests of what earlier cycles kept.
        negative_log_likelihood: Of each token of (a sample of) the training rows, under the model before training.
    """

    digests: Sequence[str] = ()
    earlier: Set[str] = frozenset()
    negative_log_likelihood: TokenValues = ()
