"""`halo-forge raft samples`: what two versions wrote for the same prompts, side by side where there is room."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.core.wording import counted, visible

if TYPE_CHECKING:
    from rich.console import Console

    from halo_forge.store.compared import ComparedPrompt
    from halo_forge.store.samples import StoredSample
    from halo_forge.store.status import Status

RUN = typer.Argument(metavar="RUN", help="Run directory (the output_dir of a run).", show_default=False)
SETS = ("train", "dev", "test")
_SIDE_BY_SIDE = 100
"""Columns from which on two versions are shown beside each other."""
_MOST_LINES, _MOST_CHARACTERS = 60, 4000
"""Of one completion or one diagnostic; `--json` has everything."""


def samples(
    run: Path = RUN,
    gained: bool = typer.Option(False, "--gained", help="Prompts that pass more often than with v0."),
    lost: bool = typer.Option(False, "--lost", help="Prompts that pass less often than with v0."),
    prompt: str | None = typer.Option(None, "--prompt", metavar="ID", help="One prompt."),
    reason: str | None = typer.Option(
        None, "--reason", metavar="R", help="Train samples that were dropped for this reason, such as flaky."
    ),
    flagged: bool = typer.Option(False, "--flagged", help="Prompts with a sample that looks for unearned reward."),
    cut_off: bool = typer.Option(False, "--cut-off", help="Prompts with a completion at the length limit."),
    set_name: str | None = typer.Option(None, "--set", metavar="SET", help="train, dev (default) or test."),
    version: int | None = typer.Option(
        None, "--version", metavar="N", min=0, help="Compare v0 with vN, not with the version chosen on dev."
    ),
    most: int = typer.Option(10, "--most", metavar="N", min=1, help="Show at most N prompts."),
    as_json: bool = typer.Option(False, "--json", help="Print every sample that is found as JSON."),
) -> None:
    """Show what v0 and the chosen version wrote for the same prompts, with verdicts and why samples were dropped."""
    from halo_forge.api import RunDirectory
    from halo_forge.core.errors import ConfigError
    from halo_forge.store.compared import compared_prompts

    directory = RunDirectory(run)
    name = set_name if set_name is not None else "dev" if reason is None else "train"
    if name not in SETS:
        raise ConfigError(f"--set is {name!r}, allowed: {', '.join(SETS)}", "name one of these sets")
    if reason is not None:
        _check_reason(reason, name)
    other, why = _compared_version(directory.status(), version)
    every = compared_prompts(run, name, other)
    if prompt is not None and prompt not in {each.prompt_id for each in every}:
        raise ConfigError(
            f"--prompt is {prompt!r}, but neither v0 nor v{other} has a sealed sample of it in {name}",
            "name a prompt of this set, or another --set",
        )
    changes = [*(["gained"] if gained else []), *(["lost"] if lost else [])]  # either of them: no prompt is both
    wanted: list[Callable[[ComparedPrompt], bool]] = [
        *([lambda each: each.change in changes] if changes else []),
        *([lambda each: each.prompt_id == prompt] if prompt is not None else []),
        *([lambda each: "flagged" in each.marks] if flagged else []),
        *([lambda each: "cut off" in each.marks] if cut_off else []),
        *([lambda each: any(one.dropped_for == reason for one in each.samples)] if reason is not None else []),
    ]
    found = [each for each in every if all(fits(each) for fits in wanted)]
    if as_json:
        print(json.dumps(_rows(found, name, other, reason), indent=2))
        return
    head = f"{run}: v0 and v{other} ({why}) on {name}: {counted(len(found), 'prompt')} of {len(every)}"
    _print_found(head, found[:most], other, reason)
    if len(found) > most:
        print(f"left out: {counted(len(found) - most, 'prompt')}; raise --most, or use --json", file=sys.stderr)


def _compared_version(status: Status, wanted: int | None) -> tuple[int, str]:
    """The version to compare with v0, and what it is.

    Raises:
        ConfigError: The run has no measured version, or none of this number.
    """
    from halo_forge.core.errors import ConfigError
    from halo_forge.store.compared import compared_version

    measured = [row.policy_version for row in status.cycles if row.decision]
    if wanted is not None and wanted not in measured:
        raise ConfigError(
            f"--version is {wanted}, measured: {', '.join(map(str, measured)) or 'none yet'}",
            "name a measured version",
        )
    found = (wanted, "asked for") if wanted is not None else compared_version(status)
    if found is None:
        raise ConfigError(f"{status.root}: no version is measured yet", "wait for the first cycle's decision")
    return found


def _check_reason(reason: str, set_name: str) -> None:
    from halo_forge.core.errors import ConfigError
    from halo_forge.core.selection import REASONS

    if reason not in REASONS:
        raise ConfigError(f"--reason is {reason!r}, allowed: {', '.join(REASONS)}", "name one of these reasons")
    if set_name != "train":
        raise ConfigError(f"--reason needs samples that are selected from, not {set_name}", "drop --set")


def _rows(found: Sequence[ComparedPrompt], set_name: str, other: int, reason: str | None) -> list[dict[str, object]]:
    from halo_forge.store.rows import sample_row

    return [
        {
            "prompt_id": each.prompt_id,
            "set": set_name,
            "versions": [0, other],
            "change": each.change,
            "marks": sorted(each.marks),
            "samples": [sample_row(sample) for sample in each.samples if _is_wanted(sample, reason)],
        }
        for each in found
    ]


def _is_wanted(sample: StoredSample, reason: str | None) -> bool:
    return reason is None or sample.dropped_for == reason


def _print_found(head: str, found: Sequence[ComparedPrompt], other: int, reason: str | None) -> None:
    from halo_forge.cli.render import is_pipe, print_paragraph, stdout
    from halo_forge.store.compared import num_passed

    console = stdout()
    print_paragraph(console, head)
    beside = console.width >= _SIDE_BY_SIDE and not is_pipe(console)
    for prompt in found:
        shares = [
            f"v{version} passes {passed} of {judged}"
            for version, (passed, judged) in ((0, num_passed(prompt.start)), (other, num_passed(prompt.other)))
            if judged
        ]
        words = [word for word in (prompt.change, *sorted(prompt.marks)) if word not in (None, "same")]
        marks = f" ({', '.join(str(word) for word in words)})" if words else ""
        console.out("")
        print_paragraph(console, f"{prompt.prompt_id}: {', '.join(shares)}{marks}", indent="    ")
        columns = [[each for each in samples if _is_wanted(each, reason)] for samples in (prompt.start, prompt.other)]
        _print_samples(console, columns, beside)


def _print_samples(console: Console, columns: Sequence[Sequence[StoredSample]], beside: bool) -> None:
    """The samples of two versions: one of each beside the other, or one after the other."""
    from itertools import zip_longest

    from rich.table import Table
    from rich.text import Text

    blocks = [[Text(sample_text(sample)) for sample in samples] for samples in columns]
    if not beside or not all(blocks):
        for block in (*blocks[0], *blocks[1]):
            console.print(block, soft_wrap=not console.is_terminal)
        return
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for _ in range(2):
        table.add_column(ratio=1, overflow="fold")
    for left, right in zip_longest(*blocks, fillvalue=Text("")):
        table.add_row(left, right)
    console.print(table)


def sample_text(sample: StoredSample) -> str:
    """A completion with its verdict, in lines; nothing in it acts on a terminal."""
    from halo_forge.store.compared import reached

    completion, verdict = sample.completion, sample.verdict
    lines = [f"  v{completion.policy_version} sample {completion.index}: {reached(verdict)}"]
    if verdict is not None:
        lines[0] += f", reward {verdict.reward:.3f}"
        if verdict.stage == "tests" and verdict.tests_total:
            failed = verdict.tests_total - verdict.tests_passed
            lines[0] += f", {failed} of {counted(verdict.tests_total, 'test')} failed"
    notes = {
        "status": "" if verdict is None or verdict.status in ("passed", "failed") else verdict.status,
        "flags": "" if verdict is None else ", ".join(verdict.flags),
        "ended": "cut off by the length limit" if completion.finish == "length" else "",
        "selection": selected(sample),
    }
    lines += [f"  {name}: {visible(note)}" for name, note in notes.items() if note]
    lines += _indented(completion.text, "  | ")
    if verdict is not None and verdict.diagnostics.strip():
        lines += ["  diagnostics:", *_indented(verdict.diagnostics, "    ")]
    return "\n".join([*lines, ""])


def selected(sample: StoredSample) -> str:
    """What the selection made of a sample; empty where nothing is selected from its set."""
    if sample.kept is None:
        return ""
    return "kept" if sample.kept else f"dropped: {sample.dropped_for}"


def _indented(text: str, indent: str) -> list[str]:
    """The lines of a text, and how much of it is not shown."""
    shown = text[:_MOST_CHARACTERS].rstrip().split("\n")[:_MOST_LINES]
    lines = [indent + visible(line).expandtabs(4) for line in shown]
    left_out = len(text.rstrip()) - len("\n".join(shown))
    return lines if left_out <= 0 else [*lines, f"{indent}... {counted(left_out, 'more character')} (--json shows all)"]
