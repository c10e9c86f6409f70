"""What rules look at, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from halo_forge.core.metrics.compare import prompt_totals
from halo_forge.core.records import CycleReport, Measurement, Record, SamplingSettings, Verdict
from halo_forge.core.statistics import Difference, paired_difference

What = Literal["compiles", "passes", "covered"]
SetName = Literal["train", "dev"]
MIN_PROMPTS = 10
"""Over fewer prompts neither a share nor an interval says anything, and the rules stay silent."""
Rates = Mapping[str, float]
"""Prompt id -> its share, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Advice(Record):
    """One finding, in words.

    Attributes:
        kind: The rule that found it.
        symptom: What is to be seen.
        evidence: The numbers, and what they were compared with.
        cause: What is likely behind it.
        action: What to do.
        power: How much the numbers can tell.
    """

    kind: str
    symptom: str
    evidence: str
    cause: str
    action: str
    power: str


@dataclass(frozen=True, slots=True)
class Advised(Record):
    """All that is to be said after a version was measured; advice.json of its cycle.

    Attributes:
        advice: Rows of `Advice`.
    """

    cycle: int
    policy_version: int
    advice: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Version:
    """One policy version as it was measured.

    Attributes:
        sampling: What its train prompts were sampled with; for dev it is the same in the whole run.
        rates: What -> set -> prompt id -> share of its judged samples; `covered` is 1 where one passes.
    """

    policy_version: int
    metrics: Mapping[str, float]
    sampling: tuple[float, float, float]
    rates: Mapping[What, Mapping[SetName, Rates]]

    @classmethod
    def of(
        cls,
        measurement: Measurement,
        sampling: SamplingSettings,
        train: Sequence[Verdict],
        dev: Sequence[Verdict],
    ) -> Version:
        """What the loop has at hand at the end of a cycle's measuring."""
        sets: dict[SetName, Sequence[Verdict]] = {"train": train, "dev": dev}
        passes = {name: prompt_totals(verdicts, "passed") for name, verdicts in sets.items()}
        compiles = {name: prompt_totals(verdicts, "compiled") for name, verdicts in sets.items()}
        return cls(
            measurement.policy_version,
            measurement.metrics,
            (sampling.temperature, sampling.top_p, sampling.min_p),
            {
                "passes": {name: {key: c / n for key, (c, n) in each.items()} for name, each in passes.items()},
                "compiles": {name: {key: c / n for key, (c, n) in each.items()} for name, each in compiles.items()},
                "covered": {name: {key: float(c > 0) for key, (c, _) in each.items()} for name, each in passes.items()},
            },
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """A run so far.

    Attributes:
        versions: v_0 .. v_c as measured.
        reports: Of the cycles that trained v_1 .. v_c.
    """

    versions: Sequence[Version]
    reports: Sequence[CycleReport]

    @property
    def now(self) -> Version:
        """The version measured last."""
        return self.versions[-1]

    @property
    def start(self) -> Version:
        """The start model."""
        return self.versions[0]

    @property
    def last(self) -> CycleReport | None:
        """The training that made `now`; None for the start model."""
        return self.reports[-1] if self.reports else None

    @property
    def has_trained(self) -> bool:
        """The training that made `now` had a learning rate above 0."""
        return self.last is not None and self.last.trained.get("learning_rate_mass", 0.0) > 0.0

    def trained(self, name: str) -> float | None:
        """A metric of the training that made `now`."""
        return None if self.last is None else self.last.trained.get(name)

    def change(self, what: What, since: Version, set_name: SetName = "dev") -> Difference | None:
        """`now` minus `since`, paired by prompt; None with too few shared prompts.

        Train prompts are compared where both versions were sampled in the same way.
        """
        before, after = since.rates[what][set_name], self.now.rates[what][set_name]
        if len(before.keys() & after.keys()) < MIN_PROMPTS:
            return None
        if set_name == "train" and since.sampling != self.now.sampling:
            return None
        return paired_difference(before, after)

    def num_prompts(self, set_name: SetName) -> int:
        """Prompts of `now` with a judged sample."""
        return len(self.now.rates["passes"][set_name])

    def ratio(self, name: str) -> float | None:
        """A metric of `now` over that of the start model; None where either is missing, or the latter is 0."""
        before, after = self.start.metrics.get(name), self.now.metrics.get(name)
        return None if before is None or after is None or before == 0.0 else after / before


def in_words(name: str, difference: Difference) -> str:
    """Such as "dev pass rate -0.081 [-0.130, -0.031]"."""
    return f"{name} {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def power(difference: Difference) -> str:
    """How small a true difference could be and still be found."""
    if difference.standard_error == 0.0:
        return f"{difference.num_prompts} prompts, all with the same difference, whose error is not known"
    return (
        f"{difference.num_prompts} prompts: a true difference of {difference.minimum_detectable_effect:.3f} is found in"
        " 80 % of such comparisons"
    )
