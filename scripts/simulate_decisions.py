"""How often decisions are wrong: false alarms and power of halo_forge.core.decisions, on simulated runs.

A run is a start model and 8 retrainings, each measured on the same N dev prompts with k samples per prompt.  The true
pass rates are Beta-distributed over prompts (mean 0.5, intraclass correlation 0.3) plus a shift that all prompts share,
clipped to [0, 1]; every version is sampled independently.  Four scenarios: no change at all; a rise of 3 points in each
of the first three retrainings, then a plateau; the same with a fall of 9 points in the last retraining; and with a fall
of 3.5 points.  A fall affects prompts unequally (standard deviation 10 points); shifts are chosen so that the means are
exact in spite of the clipping.  An alarm is a version that is found to have degraded (anywhere in the run, so the power
includes the few false alarms before the fall).

The rules are `screen_totals` and `confirm_totals`, first without the limit on the standard error, then with the default
limit; then simpler rules that look only once, for comparison.  Every share is shown beside the one in
docs/decisions.md, with its Monte-Carlo error.

A second table is about what a run says of its gains: how often some version is "ahead" at the end, and how often it is
concluded that it "improved", by as many test prompts or by the dev prompts with fresh samples, and that it is "still
improving".  "Unequal" has no gain either, but every version moves the prompts by 10 points (standard deviation); with
"hard prompts" the mean pass rate is 0.03; "rising" gains 2 points with every retraining.  No limit on the standard
error.  A third table says how much better than the start model the chosen version truly is, in points, if the newest
version that is `screen_z` standard errors ahead is chosen, the one with the highest dev rate, or the last one.

    python scripts/simulate_decisions.py [--runs 2000] [--seed 0]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from halo_forge.core.decisions import (
    Assessment,
    Confirmation,
    DecisionsSection,
    Totals,
    compare_totals,
    conclude,
    confirm_totals,
    screen_totals,
)
from halo_forge.core.records import Decision

INTRACLASS_CORRELATION = 0.3
WEIGHT = (1.0 - INTRACLASS_CORRELATION) / INTRACLASS_CORRELATION
"""The sum of both parameters of the Beta distribution with this intraclass correlation."""
SPREAD_OF_FALL = 0.1
MEAN_AT_START = 0.5
RISE = (0.0, 0.03, 0.06, 0.09, 0.09, 0.09, 0.09, 0.09)
TRUTHS: Mapping[str, tuple[float, ...]] = {
    "flat": (0.0,) * 9,
    "plateau": (*RISE, 0.09),
    "fall of 9 points": (*RISE, 0.0),
    "fall of 3.5 points": (*RISE, 0.055),
}
SIZES = ((24, 4), (64, 8), (200, 8))
GAINS: Mapping[str, tuple[float, ...]] = {
    "flat": (0.0,) * 9,
    "flat, hard prompts": (0.0,) * 9,
    "flat, unequal": (0.0,) * 9,
    "plateau": TRUTHS["plateau"],
    "rising": tuple(0.02 * version for version in range(9)),
    "fall of 9 points": TRUTHS["fall of 9 points"],
}
MEAN_OF_HARD = 0.03
GAIN_SIZES = ((42, 2), *SIZES)
CHOICES = ("ahead by 1 standard error", "ahead by 2 standard errors", "highest dev rate", "last version")
LOOSE = {"max_standard_error": 1.0}
RULES: Mapping[str, DecisionsSection] = {
    "screen, confirm at -1.645": DecisionsSection(confirm_z=-1.645, **LOOSE),
    "screen, confirm at -2.0": DecisionsSection(confirm_z=-2.0, **LOOSE),
    "as shipped": DecisionsSection(),
}

Interval = tuple[float, float]
STATED: Mapping[tuple[str, str], Interval | Mapping[tuple[int, int], float]] = {
    ("screen, confirm at -1.645", "flat"): (0.11, 0.12),
    ("screen, confirm at -1.645", "plateau"): (0.06, 0.08),
    ("screen, confirm at -1.645", "fall of 9 points"): {(24, 4): 0.33, (64, 8): 0.91, (200, 8): 1.0},
    ("screen, confirm at -1.645", "fall of 3.5 points"): {(24, 4): 0.11, (64, 8): 0.27, (200, 8): 0.66},
    ("screen, confirm at -2.0", "flat"): (0.05, 0.07),
    ("screen, confirm at -2.0", "plateau"): (0.03, 0.04),
    ("screen, confirm at -2.0", "fall of 9 points"): {(24, 4): 0.22, (64, 8): 0.85, (200, 8): 1.0},
    ("screen, confirm at -2.0", "fall of 3.5 points"): {(24, 4): 0.06, (64, 8): 0.17, (200, 8): 0.54},
    ("lower than the one before", "flat"): (1.0, 1.0),
    ("lower than the one before", "plateau"): (1.0, 1.0),
    ("two falls in a row", "flat"): (0.65, 0.70),
    ("two falls in a row", "plateau"): (0.50, 0.53),
    ("z below -1.645 against the best", "flat"): (0.62, 0.65),
    ("z below -1.645 against the best", "plateau"): (0.40, 0.51),
    ("Bonferroni against the best", "flat"): (0.14, 0.21),
    ("Bonferroni against the best", "plateau"): (0.08, 0.13),
    ("CUSUM against the best", "flat"): (0.43, 0.47),
    ("CUSUM against the best", "plateau"): (0.19, 0.27),
}
"""(rule, scenario) -> the share of runs with an alarm stated in docs/decisions.md."""

NUM_CALIBRATION = 200_000

Rates = NDArray[np.float64]
"""Measured pass rates, versions x prompts."""


@dataclass(frozen=True)
class Share:
    """The share of simulated runs with an alarm, for one rule, scenario and size."""

    rule: str
    truth: str
    num_prompts: int
    num_samples: int
    num_runs: int
    num_alarms: int

    @property
    def measured(self) -> float:
        return self.num_alarms / self.num_runs

    @property
    def error(self) -> float:
        """Monte-Carlo standard error of `measured`."""
        return _error(self.measured, self.num_runs)

    @property
    def stated(self) -> Interval | None:
        found = STATED.get((self.rule, self.truth))
        if isinstance(found, Mapping):
            value = found[self.num_prompts, self.num_samples]
            return value, value
        return found

    @property
    def agrees(self) -> bool:
        """Whether it is within 3 standard errors of both simulations and of the rounding; True if none is stated.

        The errors are those at the stated share, and the stated shares are assumed to come from 2,000 runs.
        """
        if self.stated is None:
            return True
        nearest = min(max(self.measured, self.stated[0]), self.stated[1])
        room = 3.0 * math.hypot(_error(nearest, self.num_runs), _error(nearest, 2000)) + 0.005
        return abs(self.measured - nearest) <= room


@functools.cache
def calibrated(truth: str) -> tuple[Rates, Rates]:
    """The shift of every version, and its spread over prompts, that give the mean pass rates of a scenario."""
    generator = np.random.default_rng(0)
    mean_at_start = _mean_at_start(truth)
    difficulty = generator.beta(WEIGHT * mean_at_start, WEIGHT * (1.0 - mean_at_start), NUM_CALIBRATION)
    normal = generator.standard_normal(NUM_CALIBRATION)
    levels = (TRUTHS | GAINS)[truth]
    shifts, spreads = [], []
    for number, level in enumerate(levels):
        falls = number > 0 and (level < levels[number - 1] or truth == "flat, unequal")
        spreads.append(SPREAD_OF_FALL if falls else 0.0)
        low, high = -0.5, 0.5
        for _ in range(20):
            middle = (low + high) / 2
            mean = np.clip(difficulty + middle + spreads[-1] * normal, 0.0, 1.0).mean()
            low, high = (middle, high) if mean < mean_at_start + level else (low, middle)
        shifts.append((low + high) / 2 if level != 0.0 or falls else 0.0)
    return np.asarray(shifts), np.asarray(spreads)


def _mean_at_start(truth: str) -> float:
    return MEAN_OF_HARD if truth == "flat, hard prompts" else MEAN_AT_START


def drawn(generator: np.random.Generator, truth: str, num_prompts: int) -> Rates:
    """The true pass rates of all versions on so many new prompts."""
    shifts, spreads = calibrated(truth)
    mean = _mean_at_start(truth)
    difficulty = generator.beta(WEIGHT * mean, WEIGHT * (1.0 - mean), num_prompts)
    unequal = spreads[:, None] * generator.standard_normal((len(spreads), num_prompts))
    return np.clip(difficulty + shifts[:, None] + unequal, 0.0, 1.0)


class Fresh:
    """Resampled prompts of one run, once per incumbent and suspect, so that all rules see the same samples."""

    def __init__(self, generator: np.random.Generator, chances: Rates, num_samples: int) -> None:
        self._generator = generator
        self._chances = chances
        self._num_samples = num_samples
        self._drawn: dict[tuple[int, int], list[Totals]] = {}

    def of(self, incumbent: int, suspect: int) -> list[Totals]:
        """Samples of the incumbent, and of the suspect."""
        if (incumbent, suspect) not in self._drawn:
            passed = self._generator.binomial(self._num_samples, self._chances[[incumbent, suspect]])
            self._drawn[incumbent, suspect] = _totals(passed, self._num_samples)
        return self._drawn[incumbent, suspect]


def _error(share: float, num_runs: int) -> float:
    """The standard error of a share, with half a run added on either side so that it is not 0 at 0 and 1."""
    rate = (share * num_runs + 0.5) / (num_runs + 1)
    return math.sqrt(rate * (1.0 - rate) / num_runs)


def simulate(num_prompts: int, num_samples: int, truth: str, num_runs: int, seed: int) -> list[Share]:
    """The shares of all rules, on the same simulated runs."""
    generator = np.random.default_rng([seed, num_prompts, num_samples, list(TRUTHS).index(truth)])
    alarms = dict.fromkeys((*RULES, *SINGLE_LOOK), 0)
    for _ in range(num_runs):
        chances = drawn(generator, truth, num_prompts)
        seen = generator.binomial(num_samples, chances)
        totals = _totals(seen, num_samples)
        fresh = Fresh(generator, chances, num_samples)
        for rule, settings in RULES.items():
            alarms[rule] += _alarm(settings, totals, fresh)
        rates = seen / num_samples
        for rule, alarm in SINGLE_LOOK.items():
            alarms[rule] += alarm(rates)
    return [Share(rule, truth, num_prompts, num_samples, num_runs, num) for rule, num in alarms.items()]


def _totals(passed: NDArray[np.int64], num_samples: int) -> list[Totals]:
    return [{str(prompt): (float(each), num_samples) for prompt, each in enumerate(row)} for row in passed]


def _alarm(settings: DecisionsSection, seen: Sequence[Totals], fresh: Fresh) -> bool:
    """Whether a version of the run is found to have degraded, by the production code."""
    incumbent = 0
    for version in range(1, len(seen)):
        assessment: Assessment = screen_totals(settings, incumbent, seen[incumbent], seen[version])
        if assessment.outcome == "suspect":
            assessment = confirm_totals(settings, assessment, *fresh.of(incumbent, version))
        if assessment.outcome == "degraded":
            return True
        if assessment.outcome == "ahead":
            incumbent = version
    return False


@dataclass(frozen=True)
class Gains:
    """What simulated runs of one scenario and size say of their gains.

    Attributes:
        shares: What is said -> the share of runs.
        chosen: Rule of choosing a version -> how much better than the start model it truly is, mean over the runs.
    """

    truth: str
    num_prompts: int
    num_samples: int
    num_runs: int
    shares: Mapping[str, float]
    chosen: Mapping[str, float]


def simulate_gains(num_prompts: int, num_samples: int, truth: str, num_runs: int, seed: int) -> Gains:
    """What whole runs conclude, by the production code; as if no rule but the number of cycles ended a run."""
    generator = np.random.default_rng([seed, num_prompts, num_samples, 100 + list(GAINS).index(truth)])
    said = dict.fromkeys(
        ("ahead", "improved on test", "still improving on test", "improved on dev", "still improving on dev"), 0
    )
    better = dict.fromkeys(CHOICES, 0.0)
    levels = GAINS[truth]
    for _ in range(num_runs):
        chances = {"dev": drawn(generator, truth, num_prompts), "test": drawn(generator, truth, num_prompts)}
        seen = generator.binomial(num_samples, chances["dev"])
        totals = _totals(seen, num_samples)
        last = led(RULES["screen, confirm at -2.0"], totals)
        means = seen.mean(axis=1)
        careful = led(DecisionsSection(screen_z=2.0, **LOOSE), totals)
        picks = (last.best_version, careful.best_version, int(means.argmax()), len(levels) - 1)
        for name, pick in zip(CHOICES, picks, strict=True):
            better[name] += levels[pick] / num_runs
        if last.best_version == 0:
            continue
        said["ahead"] += 1
        for name, rates in chances.items():
            fresh = _totals(generator.binomial(num_samples, rates), num_samples)
            conclusion = concluded(last, fresh, "test" if name == "test" else "dev")
            said[f"improved on {name}"] += conclusion in ("improved", "still_improving")
            said[f"still improving on {name}"] += conclusion == "still_improving"
    shares = {name: number / num_runs for name, number in said.items()}
    return Gains(truth, num_prompts, num_samples, num_runs, shares, better)


def led(settings: DecisionsSection, seen: Sequence[Totals]) -> Decision:
    """The last decision of a run, as far as its lead is concerned."""
    incumbent, outcome, against = 0, "held", 0
    for version in range(1, len(seen)):
        against = incumbent
        outcome = screen_totals(settings, incumbent, seen[incumbent], seen[version]).outcome
        if outcome == "ahead":
            incumbent = version
    shown = "ahead" if outcome == "ahead" else "held"
    return Decision(len(seen), shown, "finish", incumbent, "", compared_with=against, ending="completed")  # type: ignore[arg-type]


def concluded(last: Decision, fresh: Sequence[Totals], set_name: Literal["test", "dev"]) -> str:
    """The conclusion of a run by fresh samples of its versions."""
    settings, best, previous = RULES["screen, confirm at -2.0"], last.best_version, last.compared_with
    step = compare_totals(fresh[previous], fresh[best]) if last.outcome == "ahead" and previous is not None else None
    confirmation = Confirmation(set_name, compare_totals(fresh[0], fresh[best]), step)
    return conclude(settings, last, confirmation).conclusion


def _lower(rates: Rates) -> bool:
    return bool((np.diff(rates.mean(axis=1)) < 0).any())


def _two_falls(rates: Rates) -> bool:
    falls = np.diff(rates.mean(axis=1)) < 0
    return bool((falls[1:] & falls[:-1]).any())


def _below_best(limit: float) -> Callable[[Rates], bool]:
    return lambda rates: bool(min(_z_against_best(rates)) < limit)


def _cusum(rates: Rates, slack: float = 0.5, limit: float = 3.0) -> bool:
    total = 0.0
    for z in _z_against_best(rates):
        total = max(0.0, total - z - slack)
        if total > limit:
            return True
    return False


def _z_against_best(rates: Rates) -> list[float]:
    """z of every version against the best one before it, paired by prompt."""
    best, found = 0, []
    for version in range(1, len(rates)):
        differences = rates[version] - rates[best]
        found.append(float(differences.mean() / (differences.std(ddof=1) / math.sqrt(len(differences)))))
        if rates[version].mean() > rates[best].mean():
            best = version
    return found


SINGLE_LOOK: Mapping[str, Callable[[Rates], bool]] = {
    "lower than the one before": _lower,
    "two falls in a row": _two_falls,
    "z below -1.645 against the best": _below_best(-1.645),
    "Bonferroni against the best": _below_best(NormalDist().inv_cdf(0.05 / 8)),
    "CUSUM against the best": _cusum,
}


def report(shares: Sequence[Share]) -> str:
    """One line per share."""
    lines = [f"{'rule':<34}{'truth':<20}{'N x k':>8}{'measured':>10}{'+-':>7}  stated"]
    for share in shares:
        stated = "-" if share.stated is None else " to ".join(f"{each:.2f}" for each in sorted(set(share.stated)))
        verdict = "" if share.agrees else "  DIFFERS"
        size = f"{share.num_prompts}x{share.num_samples}"
        lines.append(
            f"{share.rule:<34}{share.truth:<20}{size:>8}{share.measured:>10.3f}{share.error:>7.3f}  {stated}{verdict}"
        )
    return "\n".join(lines)


def report_gains(found: Sequence[Gains]) -> str:
    """One line per scenario and size for what is said, then one for what is chosen."""
    lines = []
    for title, of in (("share of runs", lambda each: each.shares), ("points above v0", lambda each: each.chosen)):
        names = list(of(found[0]))
        lines += ["", f"{title}: " + ", ".join(names)]
        for each in found:
            values = of(each).values()
            scale = 100.0 if title.startswith("points") else 1.0
            cells = "".join(f"{scale * value:>9.3f}" for value in values)
            lines.append(f"{each.truth:<20}{f'{each.num_prompts}x{each.num_samples}':>8}{cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs per scenario and size")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shares = [
        share
        for num_prompts, num_samples in SIZES
        for truth in TRUTHS
        for share in simulate(num_prompts, num_samples, truth, arguments.runs, arguments.seed)
    ]
    shares.sort(key=lambda share: ([*RULES, *SINGLE_LOOK].index(share.rule), list(TRUTHS).index(share.truth)))
    print(report(shares))
    stated = [share for share in shares if share.stated is not None]
    rows = [
        {"rule": share.rule, "truth": share.truth, "size": f"{share.num_prompts}x{share.num_samples}",
         "measured": round(share.measured, 4), "error": round(share.error, 4), "stated": share.stated}
        for share in shares
    ]  # fmt: skip
    summary: dict[str, Any] = {"runs": arguments.runs, "seed": arguments.seed, "num_stated": len(stated)}
    gains = [simulate_gains(*size, truth, arguments.runs, arguments.seed) for truth in GAINS for size in GAIN_SIZES]
    print(report_gains(gains))
    summary["gains"] = [
        {"truth": each.truth, "size": f"{each.num_prompts}x{each.num_samples}",
         "shares": {name: round(value, 4) for name, value in each.shares.items()},
         "points": {name: round(100.0 * value, 3) for name, value in each.chosen.items()}}
        for each in gains
    ]  # fmt: skip
    print(json.dumps({**summary, "num_that_agree": sum(share.agrees for share in stated), "shares": rows}))


if __name__ == "__main__":
    main()
