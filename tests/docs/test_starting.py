"""docs/starting.md: the configurations of the three made-up people are what `init` writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import command_line
from docs_text import ROOT, blocks
from made_up_users import USERS, make_inputs, without_network

from halo_forge.hardware import Machine, ModelShape
from halo_forge.hardware.cpu import Cpu
from halo_forge.starter import init as starter
from halo_forge.starter.estimate import Work, cycle_seconds, speed_of


def test_the_three_files_are_what_init_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_inputs(tmp_path)
    without_network(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(starter, "detect", lambda: Cpu(Machine(), "a test"))
    texts = {}
    with command_line(monkeypatch, capsys) as cli:
        for name, (model, prompts, *options) in USERS.items():
            done = cli("init", "--yes", "--model", model, "--prompts", prompts, *options, "--name", name)
            assert done.code == 0, done.err
            texts[name] = Path(f"{name}.yaml").read_text()
    page = ROOT / "docs/starting.md"
    shown = [each.text for each in blocks(page) if each.language == "yaml"]
    assert len(shown) == 5
    assert [block for block in shown if not any(block in text for text in texts.values())] == []
    assert shown[0] == texts["one"]  # one of them is shown whole
    words = " ".join(page.read_text().split())
    for model, prompts, *options in USERS.values():
        assert all(word in words for word in (model.rpartition("/")[2], prompts, " ".join(options)))


def test_the_estimate_of_the_demo_is_the_one_that_is_named() -> None:
    shape = ModelShape(576, 1536, 30, 576, 192, 49_152, tied=True)
    work = Work(96, 84, 96, prompt_tokens=80, completion_tokens=85, kept=32)
    seconds = cycle_seconds(shape, speed_of("cpu", 2, "bfloat16"), work)
    assert f"The demo is estimated at {seconds:.0f} s for a cycle" in (ROOT / "docs/starting.md").read_text()
