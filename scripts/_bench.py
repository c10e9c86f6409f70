"""Shared by the benchmarks: two sides measured alternately in one run, and a last line of JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One comparison.

    Attributes:
        ours, baseline: One number per repeat, in `unit`; more is better unless `less_is_better`.
        target: The smallest acceptable ratio (the largest, if less is better); None if there is no target.
        ceiling: The most that this machine could do, in `unit`.
    """

    name: str
    ours: Sequence[float]
    baseline: Sequence[float]
    unit: str
    target: float | None = None
    ceiling: float | None = None
    less_is_better: bool = False

    def ratios(self) -> list[float]:
        """Ours / baseline for each repeat."""
        return [mine / theirs for mine, theirs in zip(self.ours, self.baseline, strict=True)]

    def as_json(self) -> dict[str, object]:
        """The object of the last line."""
        ratios = self.ratios()
        found: dict[str, object] = {
            "benchmark": self.name,
            "ratio": round(statistics.median(ratios), 3),
            "ratio_low": round(min(ratios), 3),
            "ratio_high": round(max(ratios), 3),
            "ours": round(statistics.median(self.ours), 3),
            "baseline": round(statistics.median(self.baseline), 3),
            "unit": self.unit,
        }
        if self.ceiling is not None:
            found["ceiling_fraction"] = round(statistics.median(self.ours) / self.ceiling, 3)
        return {**found, "machine": machine()}

    def show(self) -> None:
        """Print the comparison in words, then its JSON object."""
        found = self.as_json()
        print(
            f"{self.name}: ours {found['ours']}, baseline {found['baseline']} {self.unit}; ratio {found['ratio']}"
            f" ({found['ratio_low']}..{found['ratio_high']}, {len(self.ours)} repeats)"
        )
        if self.ceiling is not None:
            print(f"ceiling {self.ceiling:.4g} {self.unit}: {found['ceiling_fraction']} of it")
        if self.target is not None:
            ratio = statistics.median(self.ratios())
            met = ratio <= self.target if self.less_is_better else ratio >= self.target
            sign = "<=" if self.less_is_better else ">="
            print(f"target ratio {sign} {self.target:g}: {'met' if met else 'MISSED'}")
        print(json.dumps(found), flush=True)


def alternately(
    repeats: int, baseline: Callable[[], float], ours: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """(ours, baseline): each side measured `repeats` times, alternately, so that both see the same machine."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats):
        # The first side may see a colder machine, so the order changes.
        for side in ((1, 0), (0, 1))[number % 2]:
            found[side].append((ours, baseline)[side]())
    return found


def machine() -> str:
    """Processor, cores, kernel, and the GPU if torch is loaded and has one."""
    import sys

    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    words = [models[0] if models else platform.machine(), f"{cores} cores", f"Linux {platform.release()}"]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        words.insert(0, torch.cuda.get_device_name())
    return ", ".join(words)
