"""scripts/simulate_decisions.py: our rules make as few errors as the documentation says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from benchmarks import script

SCRIPT = Path(__file__).parents[3] / "scripts" / "simulate_decisions.py"


@pytest.fixture(scope="module", name="script")
def _script() -> Iterator[ModuleType]:
    with script("simulate_decisions") as module:
        yield module


@pytest.mark.parametrize("truth", ["flat", "fall of 9 points"])
def test_operating_points(script: ModuleType, truth: str) -> None:
    shares = script.simulate(64, 8, truth, num_runs=150, seed=3)
    stated = [share for share in shares if share.stated is not None]
    assert len(stated) >= 2
    assert [(share.rule, share.measured) for share in stated if not share.agrees] == []
    by_rule = {share.rule: share.measured for share in shares}
    assert by_rule["screen, confirm at -2.0"] <= by_rule["screen, confirm at -1.645"]
    if truth == "flat":
        # A rule that looks at noise once, and again at every version, nearly always finds something.
        assert by_rule["lower than the one before"] > 0.95
        assert by_rule["screen, confirm at -2.0"] < by_rule["z below -1.645 against the best"] / 3


def test_a_share_that_differs_is_seen(script: ModuleType) -> None:
    def share(num_alarms: int) -> bool:
        return bool(script.Share("screen, confirm at -2.0", "flat", 64, 8, 2000, num_alarms).agrees)

    # Stated .05 to .07: 3 x sqrt(2) standard errors and the rounding reach from .024 to .099.
    assert [share(num) for num in (0, 40, 60, 120, 190, 220)] == [False, False, True, True, True, False]
    error = script.Share("any", "flat", 64, 8, 2000, 120).error
    assert error == pytest.approx(math.sqrt(0.06 * 0.94 / 2000), rel=0.01)


def test_the_last_line_is_json() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--runs", "2"], capture_output=True, text=True, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["runs"], last["num_stated"]) == (2, 54)
    assert len(last["gains"]) == 6 * 4
    assert len(last["shares"]) == 3 * 4 * 8


@pytest.mark.parametrize("size", [(42, 2), (64, 8)])
@pytest.mark.parametrize("truth", ["flat", "flat, hard prompts", "flat, unequal"])
def test_a_run_without_a_gain_is_rarely_said_to_have_improved(
    script: ModuleType, truth: str, size: tuple[int, int]
) -> None:
    found = script.simulate_gains(*size, truth, num_runs=300, seed=3)
    # 5 % of whole runs, and 3 standard errors of 300 of them.
    assert max(share for name, share in found.shares.items() if name != "ahead") <= 0.05 + 3 * 0.0126
    assert found.shares["improved on test"] <= found.shares["ahead"]
    assert found.shares["still improving on test"] <= found.shares["improved on test"]
    if truth == "flat":
        assert found.shares["ahead"] > 0.35, "one standard error in 8 comparisons is nothing unusual"


def test_a_run_with_a_gain_is_found_and_the_leading_version_is_a_good_choice(script: ModuleType) -> None:
    found = script.simulate_gains(200, 8, "plateau", num_runs=100, seed=3)
    assert found.shares["improved on test"] > 0.8
    fallen = script.simulate_gains(64, 8, "fall of 9 points", num_runs=100, seed=3)
    assert fallen.chosen["ahead by 1 standard error"] > fallen.chosen["last version"] + 0.03
