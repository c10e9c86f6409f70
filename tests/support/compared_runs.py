"""Finished runs of scripted answers to compare: arms whose programs pass more or less often, with several seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import MemoryVerifier, SilentObserver, write_inputs

from halo_forge.config import load_config
from halo_forge.core.records import Completion, Verdict
from halo_forge.loop import run_raft
from halo_forge.runtime.assembly import open_run


class ShareVerifier(MemoryVerifier):
    """Passes a share of the answers: of v_0 the first number, of v_1 the second ..., by a hash of seed and answer."""

    def __init__(self, shares: list[float]) -> None:
        super().__init__()
        self.shares = shares

    def verdict(self, completion: Completion) -> Verdict:
        names = (completion.prompt_id, completion.index, completion.seed, completion.policy_version)
        number = int.from_bytes(hashlib.sha256(json.dumps(names).encode()).digest()[:4], "big") / 2**32
        share = self.shares[min(completion.policy_version, len(self.shares) - 1)]
        word = "pass" if number < share or completion.prompt_id.startswith("train") else "fail"
        return super().verdict(
            Completion(
                completion.prompt_id,
                completion.index,
                f"{word} {completion.text}",
                completion.token_ids,
                completion.finish,
                completion.seed,
                completion.policy_version,
            )
        )


def run_arm(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    root: Path,
    shares: list[float],
    overrides: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    num_prompts: tuple[int, int, int] = (3, 30, 24),
    **changes: Any,
) -> Path:
    """Run 2 cycles in `root`; v_n passes a share of about `shares[n]` of dev and test.

    Args:
        overrides: Dotted key -> value; what an arm changes.
        changes: As `write_inputs` takes them.
    """
    inputs = write_inputs(
        folder, num_prompts=num_prompts, tests={"kind": "stdio", "cases": [{"stdin": "", "stdout": "1"}]}, **changes
    )
    settings = {**(overrides or {}), "seed": seed, "output_dir": str(root)}
    loaded = load_config(inputs, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: ShareVerifier(shares))
    with open_run(loaded, SilentObserver(), resume=True) as (plan, run, runtime):
        run_raft(plan, run, runtime)
    return root
