"""`halo-forge eval`: what models, adapters, runs and servers achieve on task sets, and how they differ."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from halo_forge.cli.help import Command, Group
from halo_forge.cli.render import Column, number, print_paragraph, print_table, stdout

if TYPE_CHECKING:
    from halo_forge.evaluations.result import EvaluationResult

app = typer.Typer(cls=Group, help="Measure models, adapters, runs and servers on task sets.", no_args_is_help=True)

SUBJECTS = typer.Argument(
    metavar="SUBJECT...",
    help="RUN, RUN@v2, RUN@last, an adapter folder, a model folder or hub id, or server:URL#MODEL.",
    show_default=False,
)
TASKS = typer.Option(
    [], "--tasks", metavar="SET", help="builtin:c/test, a .jsonl or .parquet file, or a data set id; repeatable."
)
SET = typer.Option(
    None, "--set", metavar="KEY=VALUE", help="Override a configuration key, for all subjects alike; repeatable."
)
OUTPUT = typer.Option(None, "-o", "--output-dir", metavar="DIR", help="Default: a folder below runs/evaluations/.")
FOLDER = typer.Argument(metavar="EVAL_DIR", help="Folder of an evaluation.", show_default=False)
JSON = typer.Option(False, "--json", help="Print the result as JSON.")
_MOST_PAIRS = 3
"""Pairs of subjects that are printed; of more, those with the first subject."""


@app.command(cls=Command)
def run(
    subjects: list[str] = SUBJECTS,
    tasks: list[str] = TASKS,
    decoding: str = typer.Option("both", "--decoding", metavar="HOW", help="greedy, sampled or both."),
    limit: int | None = typer.Option(
        None, "--limit", metavar="N", min=1, help="At most this many prompts of each set."
    ),
    output: Path | None = OUTPUT,
    resume: bool = typer.Option(False, "--resume", help="Continue this evaluation, or start it."),
    overrides: list[str] | None = SET,
    as_json: bool = JSON,
) -> None:
    """Ask every subject every task, greedily and sampled; rates with intervals, and paired differences."""
    from halo_forge.cli.observer import PlainObserver
    from halo_forge.core.errors import ConfigError
    from halo_forge.evaluations.execute import execute
    from halo_forge.evaluations.plan import DECODINGS, plan

    if decoding not in (*DECODINGS, "both"):
        raise ConfigError(f"--decoding: found {decoding!r}, allowed: greedy, sampled, both", "choose one")
    planned = plan(
        subjects,
        tasks,
        overrides=overrides if overrides is not None else (),
        decodings=[each for each in DECODINGS if decoding in (each, "both")],
        limit=limit,
        output_dir=output,
    )
    for line in (*(f"note: {each}" for each in planned.notes), *(f"warning: {each}" for each in planned.warnings)):
        _say(line)
    result = execute(planned, PlainObserver(), resume=resume, say=_say)
    _print(planned.root, result, as_json)


@app.command(cls=Command)
def report(
    folder: Path = FOLDER,
    as_json: bool = JSON,
) -> None:
    """Show what an evaluation found; `halo-forge report EVAL_DIR` makes its page."""
    from halo_forge.core.errors import RunDirError
    from halo_forge.evaluations.execute import read_evaluation

    found = read_evaluation(folder)
    if found.result is None:
        raise RunDirError(
            f"{folder}: not finished: {len(found.samples)} of {_num_columns(found.identity)} measurements are done",
            "run the same `halo-forge eval run` command with --resume",
        )
    _print(folder, found.result, as_json)


def _num_columns(identity: Mapping[str, Any]) -> int:
    return len(identity["subjects"]) * sum(len(each["decodings"]) for each in identity["sets"].values())


def _say(line: str) -> None:
    from halo_forge.core.wording import visible

    print(visible(line), file=sys.stderr, flush=True)


def _print(root: Path, result: EvaluationResult, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"folder": str(root), **result.to_row()}, indent=2))
        return
    from halo_forge.core.wording import counted

    console = stdout()
    sets = dict.fromkeys(column["task_set"] for column in result.columns)
    for name in sets:
        rows = [column for column in result.columns if column["task_set"] == name]
        title = f"{name}: {counted(rows[0]['num_prompts'], 'prompt')} (95% intervals, clustered by prompt)"
        print_table(list(_rates(rows)), title=title, console=console)
        print_table(list(_outcomes(rows)), title="furthest stage and how it ended, in samples", console=console)
        pairs = [row for row in result.differences if row["task_set"] == name]
        if pairs:
            shown = _shown(pairs)
            print_table(list(_pairs(shown)), title="second minus first, paired by prompt", console=console)
            if len(shown) < len(pairs):
                print_paragraph(console, f"{len(pairs) - len(shown)} further differences: --json, or the page")
    for note in result.notes:
        print_paragraph(console, f"note: {note}", indent="    ")
    print_paragraph(console, f"{root}: `halo-forge report {root}` makes the page")


def _rates(rows: list[Mapping[str, Any]]) -> Iterator[Column]:
    def of(name: str) -> list[str]:
        return [_rate(row["metrics"], name) for row in rows]

    yield Column("subject", [row["subject"] for row in rows], text=True)
    yield Column("decoding", [row["decoding"] for row in rows], text=True)
    yield Column("samples", [str(row["num_samples"]) for row in rows], 5)
    names = sorted({name for row in rows for name in row["metrics"] if name.startswith("pass@") and "_" not in name})
    for name in sorted(names, key=lambda each: int(each[5:])):
        yield Column(name, of(name), 0 if name == "pass@1" else 2)
    yield Column("compile rate", of("compile_rate"), 1)
    yield Column("cut off", [number(row["metrics"].get("truncated_fraction"), ".3f") for row in rows], 4)
    yield Column("hack flags", [number(row["metrics"].get("flagged_fraction"), ".3f") for row in rows], 6)
    yield Column("verifier errors", [number(row["metrics"].get("verifier_error_fraction"), ".3f") for row in rows], 7)
    yield Column("tokens", [number(row["metrics"].get("completion_tokens_mean"), ".0f") for row in rows], 8)


def _rate(metrics: Mapping[str, float], name: str) -> str:
    """Such as "0.417 [0.31, 0.53]"."""
    if name not in metrics:
        return ""
    return f"{metrics[name]:.3f} [{metrics[f'{name}_low']:.2f}, {metrics[f'{name}_high']:.2f}]"


def _outcomes(rows: list[Mapping[str, Any]]) -> Iterator[Column]:
    from halo_forge.evaluations.result import outcome_names

    yield Column("subject", [row["subject"] for row in rows], text=True)
    yield Column("decoding", [row["decoding"] for row in rows], text=True)
    for name in outcome_names(rows):
        yield Column(name, [str(row["outcomes"].get(name, 0)) for row in rows])


def _shown(pairs: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len({(row["first"], row["second"]) for row in pairs if row["first"] != row["second"]}) <= _MOST_PAIRS:
        return pairs
    return [row for row in pairs if row["first"] == pairs[0]["first"]]


def _pairs(rows: list[Mapping[str, Any]]) -> Iterator[Column]:
    from halo_forge.evaluations.result import decodings_of

    def of(key: str, form: str) -> list[str]:
        return [format(row["values"][key], form) for row in rows]

    yield Column("first", [row["first"] for row in rows], text=True)
    yield Column("second", [row["second"] for row in rows], text=True)
    decodings = [decodings_of(row) for row in rows]
    yield Column("decoding", decodings, 4 if len(set(decodings)) == 1 else 0, text=True)
    yield Column("metric", [row["metric"] for row in rows], text=True)
    yield Column("of first", of("first", ".3f"), 2)
    yield Column("of second", of("second", ".3f"), 2)
    yield Column("difference", of("difference", "+.3f"))
    yield Column("95% interval", [f"{row['values']['low']:+.3f} to {row['values']['high']:+.3f}" for row in rows])
    yield Column("detectable", of("minimum_detectable_effect", ".3f"), 1)
    yield Column("prompts", of("num_prompts", "d"), 3)
