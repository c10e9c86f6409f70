"""What one cycle cost.  These vary from run to run, so they belong into the events, not into the sealed files."""

from __future__ import annotations

from halo_forge.core.metrics._facts import CostFacts, MetricInfo

SCOPE = "cost"
_STAGES = ("generate", "verify", "drift", "train", "other")
_WITH_TOKENS = ("generate", "train")
GPU = {
    "gpu_power_watts_mean": MetricInfo("watts", "none", "Mean of the GPU's power, read once a second."),
    "gpu_power_watts_max": MetricInfo("watts", "none", "The highest of the same readings."),
    "gpu_temperature_celsius_max": MetricInfo("degrees Celsius", "down", "The highest temperature of the GPU."),
    "gpu_busy_mean": MetricInfo("rate", "up", "Mean share of the time in which the GPU had something to do."),
    "gpu_memory_bytes_max": MetricInfo("bytes", "none", "The most main memory that the GPU held (GTT)."),
}
CATALOGUE = {
    **{f"seconds/{stage}": MetricInfo("seconds", "down", f"Wall-clock time of {stage}.") for stage in _STAGES},
    **{
        f"tokens_per_second/{stage}": MetricInfo("tokens/s", "up", f"Real tokens of {stage}, no padding / its seconds.")
        for stage in _WITH_TOKENS
    },
    "peak_memory_bytes": MetricInfo("bytes", "down", "The most memory in use at once."),
    **GPU,
}


def measure(facts: CostFacts) -> dict[str, float]:
    """The metrics of `CATALOGUE`; a stage that was not timed is absent, and so is a speed over no time.

    Raises:
        ValueError: `facts` name a stage that the catalogue does not know.
    """
    if foreign := facts.gpu.keys() - GPU.keys():
        raise ValueError(f"unknown figures of the GPU {sorted(foreign)}; allowed: {', '.join(GPU)}")
    if unknown := (facts.seconds.keys() - set(_STAGES)) | (facts.tokens.keys() - set(_WITH_TOKENS)):
        raise ValueError(f"unknown stages {sorted(unknown)}; allowed: {', '.join(_STAGES)}")
    found: dict[str, float] = {f"seconds/{stage}": seconds for stage, seconds in facts.seconds.items()}
    found |= facts.gpu
    for stage, num_tokens in facts.tokens.items():
        seconds = facts.seconds.get(stage)
        if seconds is not None and seconds > 0:
            found[f"tokens_per_second/{stage}"] = num_tokens / seconds
    return found if facts.peak_memory_bytes is None else found | {"peak_memory_bytes": facts.peak_memory_bytes}
