"""The cost of one cycle.  It varies from run to run, so it belongs in the events, not in the sealed files."""

from __future__ import annotations

from halo_forge.core.metrics._facts import CostFacts, MetricInfo

SCOPE = "cost"
_STAGES = ("generate", "verify", "drift", "train", "other")
_WITH_TOKENS = ("generate", "train")
GPU = {
    "gpu_power_watts_mean": MetricInfo("watts", "none", "Mean of the GPU's power, read once a second."),
    "gpu_power_watts_max": MetricInfo("watts", "none", "The highest of the same readings."),
    "gpu_temperature_celsius_max": MetricInfo("degrees Celsius", "down", "The highest temperature of the GPU."),
    "gpu_busy_mean": MetricInfo("rate", "up", "Mean share of the time in which the GPU was busy."),
    "gpu_memory_bytes_max": MetricInfo(
        "bytes", "none", "The most memory in use by the GPU, its own and main memory (VRAM and GTT)."
    ),
}
CATALOGUE = {
    **{f"seconds/{stage}": MetricInfo("seconds", "down", f"Wall-clock time of {stage}.") for stage in _STAGES},
    **{
        f"tokens_per_second/{stage}": MetricInfo(
            "tokens/s", "up", f"Real tokens of {stage}, without padding / its seconds."
        )
        for stage in _WITH_TOKENS
    },
    "peak_memory_bytes": MetricInfo("bytes", "down", "The most memory in use at once."),
    **GPU,
}


def measure(facts: CostFacts) -> dict[str, float]:
    """The metrics of `CATALOGUE`; a stage that was not timed is absent, and so is a speed over 0 seconds.

    Raises:
        ValueError: `facts` have a stage or a GPU value that is not in the catalogue.
    """
    if foreign := facts.gpu.keys() - GPU.keys():
        raise ValueError(f"unknown GPU values {sorted(foreign)}; allowed: {', '.join(GPU)}")
    if unknown := (facts.seconds.keys() - set(_STAGES)) | (facts.tokens.keys() - set(_WITH_TOKENS)):
        raise ValueError(f"unknown stages {sorted(unknown)}; allowed: {', '.join(_STAGES)}")
    found: dict[str, float] = {f"seconds/{stage}": seconds for stage, seconds in facts.seconds.items()}
    found |= facts.gpu
    for stage, num_tokens in facts.tokens.items():
        seconds = facts.seconds.get(stage)
        if seconds is not None and seconds > 0:
            found[f"tokens_per_second/{stage}"] = num_tokens / seconds
    return found if facts.peak_memory_bytes is None else found | {"peak_memory_bytes": facts.peak_memory_bytes}
