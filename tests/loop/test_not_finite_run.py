"""A run whose logits become NaN, and what its error tells the user to do about it, done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli, command_line
from test_drift_run import HashVerifier, configured, verifier  # noqa: F401

torch = pytest.importorskip("torch")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.mark.parametrize("bad_version", [0, 1])
def test_the_printed_hint_starts_a_run_that_ends(
    bad_version: int,
    tmp_path: Path,
    tiny_models: dict[str, Path],
    verifier: HashVerifier,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
) -> None:
    """As if the attention of `auto` gave NaN with the weights of one version, and no other attention did."""
    from halo_forge.engines.transformers import TransformersEngine
    from halo_forge.policy import Policy

    attention: list[str] = []
    load, sample = Policy.load, TransformersEngine.sample

    def watched_load(settings: Any, *arguments: Any, **options: Any) -> Policy:
        attention.append(settings.attn_implementation)
        return load(settings, *arguments, **options)

    def spoilt_sample(self: TransformersEngine, prompts: Any, requests: Any, policy_version: int) -> Iterator[Any]:
        if (attention[-1], policy_version) == ("auto", bad_version):
            with torch.no_grad():
                self.policy.model.get_input_embeddings().weight.fill_(float("nan"))
        yield from sample(self, prompts, requests, policy_version)

    monkeypatch.setattr(Policy, "load", watched_load)
    monkeypatch.setattr(TransformersEngine, "sample", spoilt_sample)
    root = tmp_path / "run"
    config = configured(tmp_path, tiny_models["llama"], 1e-2, raft__num_cycles=1 + bad_version)
    failed = cli("raft", "run", config, "--output-dir", root)
    assert failed.code == 5 and f"v{bad_version} gave logits that are not finite" in failed.err
    hint = failed.err[failed.err.index("fix: ") :].replace("RUN/", f"{root}/")
    assert "start a new run, the same command with another output_dir" in hint
    settings = re.findall(r"--set ([^\s,]+)", hint)
    assert len(settings) == 1 + bad_version
    overrides = [word for setting in settings for word in ("--set", setting)]
    assert "another configuration" in cli("raft", "run", config, "--output-dir", root, "--resume", *overrides).err
    done = cli("raft", "run", config, "--output-dir", tmp_path / "other", *overrides)
    assert done.code == 0, done.err
    assert json.loads(cli("raft", "status", tmp_path / "other", "--json").out)["state"] == "finished"
