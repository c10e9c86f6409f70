"""The data that rules use, and the advice they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from halo_forge.core.metrics.compare import prompt_totals
from halo_forge.core.records import MASS, PolicyVersion, Record, SamplingSettings, Training, trainings
from halo_forge.core.statistics import Difference, paired_difference
from halo_forge.core.wording import counted

What = Literal["compiles", "passes", "covered"]
SetName = Literal["train", "dev"]
MIN_PROMPTS = 10
"""With fewer prompts, shares and intervals are meaningless, and the rules give no advice."""


@dataclass(frozen=True, slots=True)
class Advice(Record):
    """One finding, in words.

    Attributes:
        kind: The rule that found it.
        symptom: What was observed.
        evidence: The numbers, and what they are compared with.
        cause: The likely cause.
        action: What to do.
        power: How conclusive the numbers are.
    """

    kind: str
    symptom: str
    evidence: str
    cause: str
    action: str
    power: str


@dataclass(frozen=True, slots=True)
class Advised(Record):
    """All advice after a version was measured; advice.json of its cycle.

    Attributes:
        advice: Rows of `Advice`.
    """

    cycle: int
    policy_version: int
    advice: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run so far.

    Attributes:
        versions: v_0 .. v_c.
    """

    versions: Sequence[PolicyVersion]

    @property
    def now(self) -> PolicyVersion:
        """The version measured last."""
        return self.versions[-1]

    @property
    def start(self) -> PolicyVersion:
        """The start model."""
        return self.versions[0]

    @property
    def trainings(self) -> list[Training]:
        """The trainings that produced v_1 .. v_c."""
        return trainings(self.versions)

    @property
    def last(self) -> Training | None:
        """The training that produced `now`; None for the start model."""
        return self.now.training

    @property
    def has_trained(self) -> bool:
        """Whether the training that produced `now` had a learning rate above 0."""
        mass = self.trained(MASS)
        return mass is not None and mass > 0.0

    def trained(self, name: str) -> float | None:
        """A metric of the training that produced `now`."""
        return None if self.last is None else self.last.trained.metrics.get(name)

    def change(self, what: What, since: PolicyVersion, set_name: SetName = "dev") -> Difference | None:
        """`now` minus `since`, paired by prompt; None with too few shared prompts.

        Train prompts are compared only if both versions were sampled in the same way.
        """
        if set_name == "train" and _distribution(since.sampling) != _distribution(self.now.sampling):
            return None
        before, after = rates(since, what, set_name), rates(self.now, what, set_name)
        return paired_difference(before, after) if len(before.keys() & after.keys()) >= MIN_PROMPTS else None

    def num_prompts(self, set_name: SetName) -> int:
        """Prompts of `now` with a judged sample."""
        return len(rates(self.now, "passes", set_name))

    def pass_rate(self, set_name: SetName) -> str:
        """What to call the share of passes of a set: without tests a pass is a compilation, and called so."""
        metrics = self.now.metrics
        untested = f"{set_name}/pass_rate" not in metrics and f"{set_name}/compile_rate" in metrics
        return f"{set_name} {'compile' if untested else 'pass'} rate"

    def ratio(self, name: str) -> float | None:
        """A metric of `now` over that of the start model; None if either is missing, or the latter is 0."""
        before, after = self.start.metrics.get(name), self.now.metrics.get(name)
        return None if before is None or after is None or before == 0.0 else after / before


def rates(version: PolicyVersion, what: What, set_name: SetName) -> dict[str, float]:
    """Prompt id -> the share of its judged samples; for `covered`, 1 if one of them passes."""
    samples = version.train if set_name == "train" else version.dev
    totals = prompt_totals(samples, "compiled" if what == "compiles" else "passed")
    if what == "covered":
        return {prompt_id: float(num_passed > 0) for prompt_id, (num_passed, _) in totals.items()}
    return {prompt_id: total / num for prompt_id, (total, num) in totals.items()}


def _distribution(sampling: SamplingSettings) -> tuple[float, float, float]:
    """The sampling settings that change the distribution of tokens."""
    return sampling.temperature, sampling.top_p, sampling.min_p


def in_words(name: str, difference: Difference) -> str:
    """Such as "dev pass rate -0.081 [-0.130, -0.031]"."""
    return f"{name} {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def power(difference: Difference) -> str:
    """The smallest true difference that would be detected."""
    prompts = counted(difference.num_prompts, "prompt")
    if difference.standard_error == 0.0:
        return f"{prompts}, all with the same difference, so its error is unknown"
    return (
        f"{prompts}: a true difference of {difference.minimum_detectable_effect:.3f} would be"
        " detected in 80% of such comparisons"
    )
