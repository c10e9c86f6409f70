"""Finished runs for the tests of the page: with programs, families, losses, and with text that attacks a browser."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from scripted_runs import MemoryVerifier, execute, write_inputs

from halo_forge.core.records import Completion, Verdict
from halo_forge.store.files import read_json, write_json

PROGRAM = '```c\n#include <stdio.h>\nint main(void) {\n    printf("%d\\n", 42); // {word}\n    return 0;\n}\n```'
PROGRAM_LINES = (3, 7)
"""Of a completion: its first line is the word that the verifier goes by."""

ATTACKS = (
    "<script>window.pwned=1;alert(1)</script>",
    "</script><script>window.pwned=2</script>",
    "</style><script>window.pwned=3</script>",
    '"><img src="http://evil.invalid/x.png" onerror="window.pwned=4">',
    "--><script>window.pwned=5</script><!--",
    "<svg onload=window.pwned=6><animate onbegin=window.pwned=6 attributeName=x dur=1s>",
    '<iframe srcdoc="<script>parent.pwned=7</script>"></iframe>',
    '<a href="javascript:window.pwned=8" autofocus onfocus="window.pwned=8">x</a>',
    '<details open ontoggle="window.pwned=9"><summary>x</summary></details>',
    '<meta http-equiv="refresh" content="0;url=http://evil.invalid/">',
    '<link rel="stylesheet" href="http://evil.invalid/x.css"><base href="http://evil.invalid/">',
    '<form action="http://evil.invalid/"><button autofocus>x</button></form>',
    "</textarea></title></noscript><script>window.pwned=10</script>",
    "{{ 7 * 191 }}{% raw %}${window.pwned=11}#{7*191}",
    "' onmouseover='window.pwned=12' x='",
    "\u202e\u2066gnorts\u2069\u202c \u200b\ufeff",
    "\x1b[2J\x1b]0;owned\x07\x9b31m\x00\x08\x7f",
    "\u0e49" * 200,  # marks of one character that no line can be broken at
    "]]>\u2028\u2029<![CDATA[<script>window.pwned=13</script>]]>",
)
LONG_LINE = "A" * 1_000_000


def _long(number: int) -> str:
    """The long line for some numbers, so that a run does not take a gigabyte."""
    return LONG_LINE if number % 8 == 0 else "A line"


class PageVerifier(MemoryVerifier):
    """Knows where the program is, says something about each failure, and flags what contains "hack"."""

    def __init__(self, say: Callable[[Completion], str], flaky: Sequence[str] = ()) -> None:
        super().__init__(flaky=flaky, bad_versions=[0])
        self.say = say

    def verdict(self, completion: Completion) -> Verdict:
        found = super().verdict(completion)
        return dataclasses.replace(
            found,
            diagnostics=found.diagnostics if found.passed else self.say(completion),
            flags=("trivial_program",) if "hack" in completion.text else (),
            extraction={"how": "fence", "tag": "c", "num_blocks": 1, "lines": PROGRAM_LINES},
        )


def programs(prompt_id: str) -> list[str]:
    """Two that pass; for train prompts, one that a second run does not confirm and one that does not compile, too."""
    program = PROGRAM.replace("{word}", f"for {prompt_id}")
    passing = [f"pass one\n{program}", f"pass two\n{program}"]
    return passing if not prompt_id.startswith("train") else [*passing, _flaky(prompt_id), f"broken hack\n{program}"]


def _flaky(prompt_id: str) -> str:
    return f"pass flaky\n{PROGRAM.replace('{word}', f'for {prompt_id}')}"


def ordinary_run(folder: Path, *, num_dev: int = 6, num_train: int = 6) -> Path:
    """A finished run: v0 fails on dev, v1 passes there; steps have a loss, versions an entropy."""
    flaky = [_flaky(f"train{number}") for number in range(1, num_train + 1)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        verifier = PageVerifier(lambda completion: f"check 1: expected '42', found '{completion.index}'", flaky)
        monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: verifier)
        config = write_inputs(folder, num_prompts=(num_train, num_dev, 2), answers=programs)
        for name in ("train", "dev", "test"):
            _with_families(folder / f"{name}.jsonl")
        execute(config, folder / "run")
    _with_training(folder / "run")
    return folder / "run"


def hostile_run(folder: Path) -> Path:
    """A finished run whose folder, ids, families, completions, diagnostics and configuration attack a browser."""
    root = folder / "run \u202e\x1b<i onclick=x>"
    with pytest.MonkeyPatch.context() as monkeypatch:
        verifier = PageVerifier(
            lambda completion: f"{ATTACKS[completion.index % len(ATTACKS)]}\n{ATTACKS[3]}{LONG_LINE}"
        )
        monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: verifier)
        config = write_inputs(
            folder,
            num_prompts=(len(ATTACKS), len(ATTACKS), 1),
            raft__num_cycles=1,
            model__model_name_or_path=f"nobody/{ATTACKS[1]}",
            prompts__system_prompt="\n".join(each for each in ATTACKS if each.isprintable()),
        )
        names = {f"{name}{at}": f"{name} {attack}" for name in ("train", "dev") for at, attack in enumerate(ATTACKS, 1)}
        for name in ("train", "dev"):
            rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
            changed = [
                {
                    **row,
                    "id": names[row["id"]],
                    "prompt": names[row["id"]],
                    "family": names[row["id"]],
                    "difficulty": ATTACKS[0],
                }
                for row in rows
            ]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed), encoding="utf-8")
        attacking = [
            {"prompt_id": "*", "answers": ["pass x", f"fail\n{LONG_LINE}"]},
            *(
                {"prompt_id": each, "answers": [f"pass\n{each}\n{PROGRAM}", f"fail hack\n{each}\n{_long(at)}"]}
                for at, each in enumerate(names.values())
            ),
        ]
        (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in attacking), encoding="utf-8")
        execute(config, root)
    _with_training(root)
    return root


def _with_families(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = (("strings", "easy"), ("strings", "hard"), ("sorting", "easy"))
    for at, row in enumerate(rows):
        row["family"], row["difficulty"] = kinds[at % len(kinds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _with_training(root: Path) -> None:
    """What the scripted run does not compute: losses, gradient norms, entropies, the diversity of more samples."""
    for folder in sorted((root / "cycles").iterdir()):
        measurement = read_json(folder / "measurement.json")
        version = measurement["policy_version"]
        measurement["metrics"] |= {"entropy": 0.9 - version / 10, "probe/entropy": 0.8 - version / 10}
        measurement["metrics"] |= {"kl_to_start": version / 100, "dev/diversity/unique_fraction": 0.9 - version / 50}
        write_json(folder / "measurement.json", measurement)
        log = folder / "training_log.jsonl"
        if log.is_file():
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            rows = [{**row, "loss": 1 / row["step"], "gradient_norm": 0.5 + row["step"] / 10} for row in rows]
            log.write_text("".join(json.dumps(row) + "\n" for row in rows))
            trained = read_json(folder / "trained.json")
            trained["metrics"]["clip_fraction"] = 0.25
            write_json(folder / "trained.json", trained)
