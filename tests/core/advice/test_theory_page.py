"""docs/THEORY.md names every rule and every threshold that it claims."""

from __future__ import annotations

import re
from pathlib import Path

from halo_forge.core.registry import discover

PAGE = (Path(__file__).parents[3] / "docs" / "THEORY.md").read_text(encoding="utf-8")
ADVICE = PAGE.split("## Advice")[1].split("## The hypotheses")[0]


def test_every_rule_has_a_row_and_every_row_a_rule() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|", ADVICE, re.MULTILINE)
    kinds = [*discover("halo_forge.core.advice.after_cycle"), *discover("halo_forge.core.advice.before_run")]
    assert rows == kinds  # both tables in the order in which advice is given


def test_what_a_learning_rate_of_zero_leaves_standing_is_marked() -> None:
    about = dict(re.findall(r"^\| `([a-z_]+)` \| (training|prompts|measuring|sampling) \|", ADVICE, re.MULTILINE))
    rules = discover("halo_forge.core.advice.after_cycle")
    assert about.keys() == rules.keys()
    for kind, rule in rules.items():
        # It speaks of training, and of a rate of 0 itself.
        expected = about[kind] == "training" and kind != "zero_learning_rate"
        assert rule.about_training == expected, kind  # type: ignore[attr-defined]
