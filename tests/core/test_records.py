"""The rows that records are kept as, in files that older runs have written too."""

from __future__ import annotations

import json

from halo_forge.core.records import CheckResult, Completion, Verdict

VERDICT = Verdict(
    prompt_id="p",
    index=3,
    stage="run",
    status="failed",
    reward=0.5,
    warnings=1,
    flags=("no_fence",),
    exit_code=7,
    extraction={"how": "fence", "lines": (1, 4)},
    cpu_seconds=0.25,
)


def test_a_verdict_keeps_the_keys_of_its_row_and_their_order() -> None:
    keys = (
        "prompt_id index stage status reward tests_passed tests_total warnings diagnostics exit_code signal flags"
        " source_digest normal_digest extraction isolation policy_version wall_seconds cpu_seconds max_rss_bytes"
    )
    assert list(VERDICT.to_row()) == keys.split()
    assert Verdict.from_row(VERDICT.to_row()) == VERDICT


def test_a_verdict_is_the_result_of_the_check_that_it_was_made_from() -> None:
    assert isinstance(VERDICT, CheckResult)
    assert VERDICT.compiled and not VERDICT.passed
    assert VERDICT.without_cost() == Verdict.from_row({**VERDICT.to_row(), "cpu_seconds": 0.0})


def test_completions_that_were_read_share_the_objects_of_their_token_ids() -> None:
    """A run keeps the completions of all versions: an object per token would need several times the memory."""
    line = '{"prompt_id": "p", "index": 0, "text": "x", "token_ids": [70000, 70001], "finish": "stop", "seed": 1'
    first, second = (Completion.from_row(json.loads(f'{line}, "policy_version": {version}}}')) for version in (0, 1))
    assert first.token_ids == second.token_ids == (70000, 70001)
    assert all(mine is other for mine, other in zip(first.token_ids, second.token_ids, strict=True))
    assert first.to_row()["token_ids"] == [70000, 70001]
