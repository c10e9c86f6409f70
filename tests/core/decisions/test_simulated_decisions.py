"""scripts/simulate_decisions.py: our rules make as few errors as the documentation says."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "simulate_decisions.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("simulate_decisions", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


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
    assert len(last["shares"]) == 3 * 4 * 8
