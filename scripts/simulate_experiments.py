"""How often the intervals and verdicts of experiments are right, and whether plans promise what they keep.

An experiment is two arms, S seeds, N prompts and k samples per prompt.  Prompts have Beta-distributed pass rates
(intraclass correlation 0.3).  The true difference of a prompt is the effect, plus a part of the seed, plus a part of
the prompt (normal, standard deviations `seed_sd` and 0.1), half of it added to the treatment's rate and half taken
from the control's, both clipped to [0, 1]; the effect is chosen so that its mean is exact in spite of the clipping.
Every sample of both arms is drawn independently.

Three questions, each for all sizes below:

    coverage   of how many experiments does the 95 % interval hold the true mean difference?  `TwoLevelMean`, which
               experiments use, beside the percentile bootstrap over seeds and prompts, and Student's t with
               Satterthwaite's degrees of freedom
    power      how many experiments find an effect of the size that `core.power.detectable` names, through the whole
               chain from passed samples to the verdict?  (to be: 0.8)
    error      how many find one where there is none?  (to be: at most 0.05)

    python scripts/simulate_experiments.py [--experiments 1000] [--seed 0]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from halo_forge.core.comparison import estimate, verdict_of
from halo_forge.core.power import Design, Variation, detectable
from halo_forge.core.statistics import two_level_mean

EFFECT_SD = 0.1
INTRACLASS_CORRELATION = 0.3
NOMINAL, POWER, ERROR = 0.95, 0.8, 0.05
SEEDS = (2, 3, 5)
SIZES = ((32, 4), (64, 8), (200, 8))
"""(prompts, samples per prompt)."""
WORLDS = ((0.5, 0.0), (0.5, 0.02), (0.5, 0.05), (0.1, 0.02))
"""(mean pass rate, standard deviation of the difference over seeds)."""
NUM_BOOTSTRAP = 400
NUM_CALIBRATION = 200_000
DECISIVE = 3.0
"""Standard errors of the simulation beyond which a share is said to differ."""

Table = NDArray[np.float64]
"""Differences of pass shares, seeds x prompts."""


@dataclass(frozen=True)
class World:
    """What is true of an experiment: the mean rate, how much seeds differ, and the mean difference of the arms."""

    rate: float
    seed_sd: float
    effect: float

    @property
    def shape(self) -> tuple[float, float]:
        """Parameters of the Beta distribution of the prompts' rates."""
        total = (1.0 - INTRACLASS_CORRELATION) / INTRACLASS_CORRELATION
        return self.rate * total, (1.0 - self.rate) * total

    def rates(self, generator: np.random.Generator, shift: float, size: tuple[int, ...]) -> tuple[Table, Table]:
        """True pass rates of the treatment and of the control: one for each of `size`, (..., seeds, prompts)."""
        *outer, seeds, prompts = size
        difficulty = generator.beta(*self.shape, size=(*outer, 1, prompts))
        effect = (
            shift
            + self.seed_sd * generator.standard_normal((*outer, seeds, 1))
            + EFFECT_SD * generator.standard_normal((*outer, 1, prompts))
        )
        return np.clip(difficulty + effect / 2.0, 0.0, 1.0), np.clip(difficulty - effect / 2.0, 0.0, 1.0)

    def shift(self) -> float:
        """What to shift the rates by, so that their mean difference is `effect` in spite of the clipping."""
        if self.effect == 0.0:
            return 0.0
        low, high = 0.0, 4.0
        for _ in range(30):
            middle = (low + high) / 2.0
            treatment, control = self.rates(np.random.default_rng(0), middle, (NUM_CALIBRATION, 1, 1))
            low, high = (middle, high) if (treatment - control).mean() < self.effect else (low, middle)
        return (low + high) / 2.0


@dataclass(frozen=True)
class Share:
    """The share of simulated experiments of which something holds."""

    what: str
    world: World
    design: Design
    num_samples: int
    num_experiments: int
    num_true: int
    wanted: float | None

    @property
    def measured(self) -> float:
        return self.num_true / self.num_experiments

    @property
    def error(self) -> float:
        """Monte-Carlo standard error of `measured`, at the share that is wanted if there is one."""
        share = self.measured if self.wanted is None else self.wanted
        return math.sqrt(max(share * (1.0 - share), 1e-4) / self.num_experiments)

    @property
    def z(self) -> float | None:
        """How far it is from what is wanted, in standard errors of the simulation."""
        return None if self.wanted is None else (self.measured - self.wanted) / self.error

    def to_row(self) -> dict[str, object]:
        return {
            "what": self.what, "rate": self.world.rate, "seed_sd": self.world.seed_sd,
            "effect": round(self.world.effect, 4), "seeds": self.design.num_seeds, "prompts": self.design.num_prompts,
            "samples": self.num_samples, "measured": round(self.measured, 4), "error": round(self.error, 4),
            "wanted": self.wanted,
        }  # fmt: skip


def experiments(
    world: World, design: Design, num_samples: int, num: int, generator: np.random.Generator
) -> Iterator[tuple[Table, Table]]:
    """Pass shares of treatment and control, seeds x prompts, of one experiment after the other."""
    shift = world.shift()
    for _ in range(num):
        sides = world.rates(generator, shift, (design.num_seeds, design.num_prompts))
        treatment, control = (generator.binomial(num_samples, side) / num_samples for side in sides)
        yield treatment, control


def bootstrap(table: Table, generator: np.random.Generator) -> tuple[float, float]:
    """Percentile bootstrap: seeds and prompts are drawn with replacement, independently."""
    seeds, prompts = table.shape
    rows = generator.multinomial(seeds, [1.0 / seeds] * seeds, size=NUM_BOOTSTRAP) / seeds
    columns = generator.multinomial(prompts, [1.0 / prompts] * prompts, size=NUM_BOOTSTRAP) / prompts
    low, high = np.quantile(((rows @ table) * columns).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def satterthwaite(table: Table, generator: np.random.Generator) -> tuple[float, float]:
    """Student's t of the whole standard error, with degrees of freedom by Satterthwaite 1946."""
    found = two_level_mean(table.tolist())
    freedoms = (found.num_seeds - 1, found.num_prompts - 1)
    parts = (found.seed_square, found.prompt_square)
    weights = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    freedom = max(sum(parts) ** 2 / weights, freedoms[0]) if weights > 0.0 else freedoms[1]
    half = float(stdtrit(freedom, 0.975)) * found.standard_error
    return found.mean - half, found.mean + half


def used(table: Table, generator: np.random.Generator) -> tuple[float, float]:
    """What experiments use."""
    return two_level_mean(table.tolist()).interval()


METHODS: dict[str, Callable[[Table, np.random.Generator], tuple[float, float]]] = {
    "coverage, as used": used,
    "coverage, Satterthwaite": satterthwaite,
    "coverage, bootstrap": bootstrap,
}


def coverage(world: World, design: Design, num_samples: int, num: int, seed: int) -> list[Share]:
    """How many intervals of each method hold the true difference."""
    generator = np.random.default_rng(seed)
    counts = dict.fromkeys(METHODS, 0)
    for treatment, control in experiments(world, design, num_samples, num, generator):
        for name, method in METHODS.items():
            low, high = method(treatment - control, generator)
            counts[name] += low <= world.effect <= high
    return [Share(name, world, design, num_samples, num, count, NOMINAL) for name, count in counts.items()]


def verdicts(world: World, design: Design, num_samples: int, num: int, seed: int) -> dict[str, int]:
    """Verdict -> how many experiments that expect a higher treatment end in it."""
    generator = np.random.default_rng(seed)
    found = dict.fromkeys(("supported", "against", "cannot_tell"), 0)
    for treatment, control in experiments(world, design, num_samples, num, generator):
        arms = [
            {row: {str(at): float(value) for at, value in enumerate(values)} for row, values in enumerate(side)}
            for side in (treatment, control)
        ]
        compared = estimate(*arms)
        found[verdict_of(compared, "higher", compared.p_value)] += 1
    return found


def power_and_error(rate: float, seed_sd: float, design: Design, num_samples: int, num: int, seed: int) -> list[Share]:
    """Verdicts at the detectable effect, and at none; no share where the effect is beyond what rates can differ by."""
    variation = Variation(rate, INTRACLASS_CORRELATION, EFFECT_SD, seed_sd)
    effect = detectable(design, variation.parts(num_samples))
    assert effect is not None  # two seeds at least
    nothing = World(rate, seed_sd, 0.0)
    ends = verdicts(nothing, design, num_samples, num, seed)
    found = [Share("error", nothing, design, num_samples, num, num - ends["cannot_tell"], ERROR)]
    if effect <= rate:
        world = World(rate, seed_sd, effect)
        ends = verdicts(world, design, num_samples, num, seed + 1)
        found.append(Share("power", world, design, num_samples, num, ends["supported"], POWER))
    return found


def simulate(num: int, seed: int) -> list[Share]:
    """All shares."""
    found = []
    for rate, seed_sd in WORLDS:
        for num_seeds in SEEDS:
            for num_prompts, num_samples in SIZES:
                design = Design(num_seeds, num_prompts)
                found += coverage(World(rate, seed_sd, 0.0), design, num_samples, num, seed)
                found += power_and_error(rate, seed_sd, design, num_samples, num, seed)
    return found


def report(shares: list[Share]) -> str:
    lines = [
        f"{'what':<26}{'rate':>6}{'seed sd':>9}{'seeds':>7}{'size':>8}{'effect':>8}{'measured':>10}{'+-':>7}{'z':>7}"
    ]
    order = [*METHODS, "error", "power"]
    for share in sorted(shares, key=lambda each: order.index(each.what)):
        size = f"{share.design.num_prompts}x{share.num_samples}"
        z = "" if share.z is None else f"{share.z:+.1f}"
        lines.append(
            f"{share.what:<26}{share.world.rate:>6.2f}{share.world.seed_sd:>9.2f}{share.design.num_seeds:>7}{size:>8}"
            f"{share.world.effect:>8.3f}{share.measured:>10.3f}{share.error:>7.3f}{z:>7}"
        )
    return "\n".join(lines)


def agrees(share: Share) -> bool:
    """Whether it is not beyond what is wanted on the wrong side; too wide an interval, or too few errors, is none."""
    assert share.z is not None
    return share.z <= DECISIVE if share.what == "error" else share.z >= -DECISIVE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1000, help="simulated experiments for each size")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shares = simulate(arguments.experiments, arguments.seed)
    print(report(shares))
    summary: dict[str, object] = {"experiments": arguments.experiments, "seed": arguments.seed}
    for what in (*METHODS, "error", "power"):
        own = [share for share in shares if share.what == what]
        values = [share.measured for share in own]
        kept = sum(agrees(share) for share in own)
        summary[what] = {"lowest": min(values), "highest": max(values), "sizes": len(own), "that_agree": kept}
    print(json.dumps({**summary, "shares": [share.to_row() for share in shares]}))


if __name__ == "__main__":
    main()
