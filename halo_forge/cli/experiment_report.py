"""`halo-forge experiment report`: a verdict for each hypothesis, the arms side by side, and their order on dev."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.cli.compare import AT_IN_WORDS, p_text, print_curves, run_columns
from halo_forge.cli.config import SET
from halo_forge.cli.render import Column, number, print_paragraph, print_table, stdout

if TYPE_CHECKING:
    from halo_forge.core.comparison import Estimate
    from halo_forge.experiments.report import ExperimentReport, Hypothesis, Rank

FILE = typer.Argument(metavar="FILE", help="Experiment file (YAML).", show_default=False)


def report(
    file: Path = FILE,
    overrides: list[str] | None = SET,
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Judge the hypotheses of an experiment by its finished runs, and show its arms side by side."""
    from halo_forge.experiments.file import load_experiment
    from halo_forge.experiments.report import report as report_of

    found = report_of(load_experiment(file, overrides if overrides is not None else ()))
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    print_report(found)


def print_report(found: ExperimentReport) -> None:
    """The verdicts with their reasons, the ranking, the runs, and the arms version by version."""
    console = stdout()
    print_paragraph(console, f"{found.question} ({found.num_finished} of {found.num_runs} runs finished)")
    if found.hypotheses:
        print_table(list(_verdict_columns(found.hypotheses)), title="verdicts (95% intervals)", console=console)
        for each in found.hypotheses:
            verdict = each.verdict.replace("_", " ")
            print_paragraph(console, f"{each.comparison}: {verdict}: {each.reason}", indent="    ")
    if len(found.ranking) > 1:
        print_table(
            list(_rank_columns(found.ranking)),
            title=f"arms by {found.metric} of the last version, each compared with the best one",
            console=console,
        )
        print_paragraph(console, "Dev also chose the best one, so its lead is biased upwards.")
    metric = found.metric.partition("/")[2]
    print_table(list(run_columns(found.arms, metric)), title=f"runs, by {metric} (95% intervals)", console=console)
    print_curves(console, found.arms, found.metric)
    for remark in found.remarks:
        print_paragraph(console, f"note: {remark}", indent="    ")


def _verdict_columns(hypotheses: Sequence[Hypothesis]) -> Iterator[Column]:
    of = [each.comparison for each in hypotheses]
    yield Column("treatment", [each.treatment for each in of], text=True)
    yield Column("control", [each.control for each in of], text=True)
    yield Column("metric", [each.metric for each in of], 3, text=True)
    yield Column("at", [AT_IN_WORDS[each.at] for each in of], 4, text=True)
    yield Column("expected", [each.expect for each in of], 2, text=True)
    yield from _estimate_columns([each.estimate for each in hypotheses], [each.p_adjusted for each in hypotheses])
    yield Column("verdict", [each.verdict.replace("_", " ") for each in hypotheses], text=True)


def _rank_columns(ranking: Sequence[Rank]) -> Iterator[Column]:
    yield Column("place", [str(each.place) for each in ranking])
    yield Column("arm", [each.arm for each in ranking], text=True)
    yield Column("mean", [f"{each.mean:.3f}" for each in ranking])
    yield from _estimate_columns([each.estimate for each in ranking], [each.p_adjusted for each in ranking])
    yield Column("", ["clearly worse" if each.is_clear else "" for each in ranking], text=True)


def _estimate_columns(estimates: Sequence[Estimate | None], adjusted: Sequence[float | None]) -> Iterator[Column]:
    yield Column("difference", [number(None if each is None else each.difference, "+.3f", "-") for each in estimates])
    yield Column(
        "95% interval", ["-" if each is None else f"{each.low:+.3f} to {each.high:+.3f}" for each in estimates], 1
    )
    yield Column("p (Holm)", ["-" if value is None else p_text(value) for value in adjusted], 1)
    yield Column("seeds", ["-" if each is None else str(len(each.seeds)) for each in estimates], 5)
    yield Column("prompts", ["-" if each is None else str(each.num_prompts) for each in estimates], 6)
