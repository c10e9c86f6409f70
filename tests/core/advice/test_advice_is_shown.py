"""Advice on the screen: symptom, evidence, cause, action and power, each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import command_line
from scripted_runs import write_inputs

from halo_forge.cli.observer import PlainObserver
from halo_forge.core.advice import Advice, Advised

ADVICE = Advice("truncation", "completions are truncated", "14% of 24", "max_new_tokens", "raise it", "exact")


def test_after_a_cycle(capsys: pytest.CaptureFixture[str]) -> None:
    PlainObserver().advised(Advised(2, 1, (ADVICE.to_row(),)))
    said = capsys.readouterr().err
    assert said.startswith("advice: completions are truncated (14% of 24)\n")
    assert all(text in said for text in ("likely cause: max_new_tokens", "suggestion: raise it", "confidence: exact"))
    PlainObserver().advised(Advised(2, 1, ()))
    assert capsys.readouterr().err == ""


def test_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_inputs(tmp_path, lora={"r": 16, "lora_alpha": 256})
    with command_line(monkeypatch, capsys) as cli:
        shown = cli("raft", "run", config, "--output-dir", tmp_path / "run", "--dry-run")
        (advice,) = cli("raft", "run", config, "--output-dir", tmp_path / "run", "--dry-run", "--json").json["advice"]
    assert advice["kind"] == "adapter_scale"
    assert f"advice: {advice['symptom']} ({advice['evidence']})" in shown.out.replace("\n", "")
    assert all(advice[part] in shown.out for part in ("cause", "action", "power"))
