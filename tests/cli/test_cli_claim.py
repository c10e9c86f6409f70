"""`halo-forge claim` and `halo-forge recheck` on the command line: what they print, and bad input."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from claim_runs import Verifiers, edited, inputs, packed, verify_programs
from cli_calls import Cli, command_line
from scripted_runs import execute


@pytest.fixture
def verifiers(monkeypatch: pytest.MonkeyPatch) -> Verifiers:
    return verify_programs(monkeypatch)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, verifiers: Verifiers
) -> Iterator[Cli]:
    monkeypatch.chdir(tmp_path)
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def run(cli: Cli) -> str:
    execute(inputs(Path("inputs"), raft__num_cycles=1), "runs/mine")
    return "runs/mine"


def test_a_claim_says_what_is_in_it_and_a_recheck_what_it_found(cli: Cli, run: str) -> None:
    done = cli("claim", run)
    assert done.code == 0
    assert "runs/mine.claim.zip (0.0 MB, " in done.out
    assert "prompts of dev: inputs/dev.jsonl (2 prompts): ids and digest only; --with-prompts packs them" in done.out
    assert "not in it: events.jsonl" in done.out
    done = cli("recheck", "runs/mine.claim.zip", "--prompts", "dev=inputs/dev.jsonl")
    assert done.code == 0
    assert done.out.rstrip().endswith("no difference")
    assert "not checked: programs of train: the claim does not hold the prompts" in done.out
    assert "verify, file 1 of " in done.err and "verify, " not in done.out


def test_both_print_json(cli: Cli, run: str) -> None:
    made = cli("claim", run, "--with-prompts", "-o", "a.zip", "--json").json
    assert made["file"] == "a.zip" and made["prompts"]["dev"]["packed"] is True
    found = cli("recheck", "a.zip", "--json", "--workers", "1").json
    assert found["confirmed"] is True and found["sha256"] == made["sha256"]
    assert found["num_verified"] > 0 and set(found["num_differences"].values()) == {0}
    assert found["run"]["seed"] == 0 and found["kind"] == "run"


def test_differences_are_shown_in_groups_and_the_exit_code_is_1(cli: Cli, run: str, verifiers: Verifiers) -> None:
    cli("claim", run, "--with-prompts")

    def edit(found: dict[str, object]) -> None:
        found["conclusion"] = "\x1b[31mimproved"

    verifiers.compiler, verifiers.words = "memory 2", {"bad_versions": {0}}
    path = edited(Path("runs/mine.claim.zip"), "result.json", edit, forged=False)
    done = cli("recheck", path)
    assert done.code == 1
    assert "files that are not what the manifest says" in done.out
    assert "with another toolchain, does not confirm" in done.out and "memory 2" in done.out
    assert "not confirmed: " in done.err
    assert "\x1b" not in done.out and "\\x1b[31mimproved" in done.out
    many = cli("recheck", path, "--json")
    assert many.code == 1 and many.json["confirmed"] is False


def test_more_differences_than_are_shown_are_counted(cli: Cli) -> None:
    def edit(found: list[dict[str, object]]) -> None:
        for row in found:
            row["seed"] = 1

    execute(inputs(Path("inputs"), raft__num_cycles=1, raft__samples_per_prompt=10), "runs/large")
    large = edited(packed(Path("runs/large")), "cycles/001/completions.jsonl", edit)
    done = cli("recheck", large, "--no-programs")
    assert "30 differences: " in done.out and "and 10 more (--json shows all)" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("claim", "nothing"), 3, "not a run directory of halo-forge"),
        (("claim", "inputs"), 3, "not a run directory of halo-forge"),
        (("claim", "runs/mine", "-o", "nowhere/a.zip"), 2, "nowhere/a.zip: cannot be written"),
        (("claim", "runs/mine", "-o", "inputs/dev.jsonl"), 2, "is there, with other content"),
        (("recheck", "nothing.zip"), 2, "nothing.zip: no such file"),
        (("recheck", "runs/mine"), 2, "is a folder"),
        (("recheck", "inputs/dev.jsonl"), 2, "not a claim, or cut"),
        (("recheck", "mine.zip", "--prompts", "dev"), 2, "--prompts dev: allowed: SET=SOURCE"),
        (("recheck", "mine.zip", "--prompts", "valid=inputs/dev.jsonl"), 2, "no such set"),
        (("recheck", "mine.zip", "--prompts", "dev=inputs/train.jsonl"), 2, "not the prompts that were asked"),
        (("recheck", "mine.zip", "--prompts", "dev=nothing.jsonl"), 2, "nothing.jsonl"),
        (("recheck", "mine.zip", "--set", "seed=4"), 2, "cannot be changed"),
        (("recheck", "mine.zip", "--tokenizer", "models/none"), 2, "had no model"),
        (("recheck", "mine.zip", "--work-dir", "inputs"), 2, "no folder of a recheck"),
        (("recheck", "mine.zip", "--work-dir", "inputs/dev.jsonl"), 2, "--work-dir"),
    ],
)
def test_bad_input_is_named_with_its_fix_and_nothing_is_lost(
    cli: Cli, run: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    cli("claim", run, "-o", "mine.zip")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    done = cli(*arguments)
    assert done.code == code
    assert said in done.err and "\n  fix: " in done.err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_full_disk_is_said_and_leaves_no_half_of_a_claim(cli: Cli, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("halo_forge.claims.archive._add", full)
    done = cli("claim", run)
    assert done.code == 2 and "No space left on device" in done.err and "fix: free some space" in done.err
    assert [path.name for path in Path("runs").iterdir()] == ["mine"]
