"""What one cycle cost.  These vary from run to run, so they belong into the events, not into the sealed files."""

from __future__ import annotations

from halo_forge.metrics._facts import CostFacts, MetricInfo

SCOPE = "cost"
_STAGES = ("generate", "verify", "train", "other")
_WITH_TOKENS = ("generate", "train")
CATALOGUE = {
    **{f"seconds/{stage}": MetricInfo("seconds", "down", f"Wall-clock time of {stage}.") for stage in _STAGES},
    **{
        f"tokens_per_second/{stage}": MetricInfo("tokens/s", "up", f"Real tokens of {stage}, no padding / its seconds.")
        for stage in _WITH_TOKENS
    },
    "peak_memory_bytes": MetricInfo("bytes", "down", "The most memory in use at once."),
}


def measure(facts: CostFacts) -> dict[str, float]:
    """The metrics of `CATALOGUE`; a stage that was not timed is absent, and so is a speed over no time.

    Raises:
        ValueError: `facts` name a stage that the catalogue does not know.
    """
    if unknown := (facts.seconds.keys() - set(_STAGES)) | (facts.tokens.keys() - set(_WITH_TOKENS)):
        raise ValueError(f"unknown stages {sorted(unknown)}; allowed: {', '.join(_STAGES)}")
    found: dict[str, float] = {f"seconds/{stage}": seconds for stage, seconds in facts.seconds.items()}
    for stage, num_tokens in facts.tokens.items():
        seconds = facts.seconds.get(stage)
        if seconds is not None and seconds > 0:
            found[f"tokens_per_second/{stage}"] = num_tokens / seconds
    return found if facts.peak_memory_bytes is None else found | {"peak_memory_bytes": facts.peak_memory_bytes}
