"""What the decisions of a run will be able to see, before it is started."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from halo_forge.config import RaftConfig
from halo_forge.core.power import Variation, between_versions, prompts_between_versions
from halo_forge.core.statistics import DETECTABLE
from halo_forge.core.wording import counted

RATES = (0.5, 0.1)
"""The mean rates that the statement is made for; at 0.5 samples vary most."""
_MOST_SAMPLES = 64
"""More samples of one prompt than this are no advice."""


@dataclass(frozen=True)
class Sensitivity:
    """What a comparison of two versions on one prompt set is expected to see, at an assumed mean rate.

    Attributes:
        set_name: "dev", which decides, or the set that confirms a lead at the end.
        rate, intraclass_correlation, effect_sd: Assumed, see `halo_forge.core.power.Variation`.
        standard_error: Of the difference; for a mean reward, whose samples vary less than passes, an upper bound.
        detectable: The difference that 80 % of such comparisons find at 5 % two-sided error.
    """

    set_name: str
    num_prompts: int
    num_samples: int
    rate: float
    intraclass_correlation: float
    effect_sd: float
    standard_error: float
    detectable: float


def sensitivity(config: RaftConfig, num_prompts: Mapping[str, int | None]) -> tuple[Sensitivity, ...]:
    """For dev, and for test if it is measured, one at each of `RATES`; nothing of sets whose size is not known.

    Args:
        num_prompts: Name of a prompt set -> its size, None where it is on a hub.
    """
    num_samples, found = config.evaluation.samples_per_prompt, []
    for name in ("dev", "test") if config.evaluation.test_at_end else ("dev",):
        num = num_prompts.get(name)
        for rate in RATES if num else ():
            assert num is not None
            assumed = Variation(rate=rate)
            seen = between_versions(num, num_samples, assumed)
            found.append(
                Sensitivity(
                    name,
                    num,
                    num_samples,
                    rate,
                    assumed.intraclass_correlation,
                    assumed.effect_sd,
                    seen.standard_error,
                    seen.detectable,
                )
            )
    return tuple(found)


def sensitivity_warnings(config: RaftConfig, found: tuple[Sensitivity, ...]) -> Iterator[str]:
    """That versions will be underpowered, or that no lead can be confirmed on test."""
    decisions = config.decisions
    dev = [each for each in found if each.set_name == "dev"]
    test = [each for each in found if each.set_name == "test"]
    if dev and dev[0].num_prompts < decisions.min_prompts:
        yield (
            f"prompts.dev has {counted(dev[0].num_prompts, 'prompt')}, fewer than decisions.min_prompts"
            f" ({decisions.min_prompts}): every version will be underpowered, and the start model is kept (fix:"
            " more dev prompts, or a lower decisions.min_prompts)"
        )
        return
    vague = [each for each in dev if each.standard_error > decisions.max_standard_error]
    if vague:
        yield _underpowered(config, vague, every=len(vague) == len(dev))
    if test and test[0].num_prompts < decisions.min_prompts:
        yield (
            f"prompts.test has {counted(test[0].num_prompts, 'prompt')}, fewer than decisions.min_prompts"
            f" ({decisions.min_prompts}): whether the chosen version improved is looked at on the dev prompts, sampled"
            " once more with other seeds"
        )


def _underpowered(config: RaftConfig, vague: list[Sensitivity], *, every: bool) -> str:
    worst, limit = vague[0], config.decisions.max_standard_error
    which = "every version" if every else f"a version near a rate of {worst.rate:g}"
    errors = " and ".join(f"{each.standard_error:.3f} at a rate of {each.rate:g}" for each in vague)
    by_rate = [f"{each.detectable:.2f} at a rate of {each.rate:g}" for each in vague]
    smaller = " or ".join(by_rate) if len(by_rate) > 1 else f"{vague[0].detectable:.2f}"
    assumed = Variation(rate=worst.rate)
    prompts = prompts_between_versions(DETECTABLE * limit, worst.num_samples, assumed)
    room = worst.num_prompts * limit**2 - assumed.effect_sd**2
    samples = math.ceil(2.0 * assumed.within / room) if room > 0.0 else _MOST_SAMPLES + 1
    fixes = [f"{prompts} dev prompts"]
    if samples <= _MOST_SAMPLES:
        fixes.append(f"evaluation.samples_per_prompt: {samples}")
    # Rounded up, so that what is advised is enough.
    fixes.append(f"decisions.max_standard_error: {math.ceil(100.0 * worst.standard_error) / 100.0:g}")
    return (
        f"{which} that differs by less than {smaller} will be underpowered: with {worst.num_prompts} dev prompts x"
        f" {counted(worst.num_samples, 'sample')} the expected standard error is {errors}, above"
        f" decisions.max_standard_error ({limit:g}) (fix: {', or '.join(fixes)})"
    )


def lines_of_sensitivity(metric: str, found: tuple[Sensitivity, ...]) -> list[str]:
    """One line for each set, and the assumptions; none where no size is known."""
    lines = []
    for name in dict.fromkeys(each.set_name for each in found):
        own = [each for each in found if each.set_name == name]
        effects = ", ".join(f"{each.detectable:.2f} at a rate of {each.rate:g}" for each in own)
        use = "decisions" if name == "dev" else "confirming an improvement"
        size = f"{counted(own[0].num_prompts, 'prompt')} x {counted(own[0].num_samples, 'sample')}"
        lines.append(f"{use} ({size} of {name}): detectable difference {effects}")
    if lines:
        bound = "; for a mean reward, which varies less, upper bounds" if metric == "dev/reward_mean" else ""
        lines.append(
            f"  assumed: intraclass correlation {found[0].intraclass_correlation:g}, true effects that vary by"
            f" {found[0].effect_sd:g} (standard deviation) over prompts{bound}"
        )
    return lines
