"""`halo-forge sft`: supervised fine-tuning before RAFT."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.cli.config import CONFIG, SET
from halo_forge.cli.help import Command, Group
from halo_forge.cli.raft import JSON

if TYPE_CHECKING:
    from halo_forge.sft.config import LoadedSft
    from halo_forge.sft.open import SftPreview
    from halo_forge.sft.run import SftObserver
    from halo_forge.sft.status import SftStatus

app = typer.Typer(
    cls=Group, help="Train on given completions before RAFT, or show the progress of that.", no_args_is_help=True
)

RUN = typer.Argument(metavar="RUN", help="Run directory of `sft run`.", show_default=False)


@app.command(cls=Command)
def run(
    config: Path = CONFIG,
    dry_run: bool = typer.Option(False, "--dry-run", help="Preview the training; loads no model and writes nothing."),
    resume: bool = typer.Option(False, "--resume", help="Continue an unfinished training, or start it."),
    output_dir: str | None = typer.Option(None, metavar="DIR", help="Run directory; overrides output_dir."),
    overrides: list[str] | None = SET,
    as_json: bool = JSON,
) -> None:
    """Train a LoRA adapter on the rows of a configuration; `raft` starts from RUN/best."""
    from halo_forge.sft.config import load_sft_config

    changes = list(overrides) if overrides is not None else []
    if output_dir is not None:
        changes.append(f"output_dir={json.dumps(output_dir)}")
    loaded = load_sft_config(config, changes)
    if dry_run:
        _preview(loaded, as_json)
        return
    from halo_forge.sft.open import execute_sft, is_finished_sft

    if not (resume and is_finished_sft(loaded)):
        execute_sft(loaded, _observer(), resume=resume)
    status(Path(loaded.config.output_dir), as_json)


@app.command(cls=Command)
def status(run: Path = RUN, as_json: bool = JSON) -> None:
    """Show the progress and the losses of a training, one row per measurement."""
    from halo_forge.sft.status import read_sft_status

    found = read_sft_status(run)
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    _print_status(found)


def _preview(loaded: LoadedSft, as_json: bool) -> None:
    from halo_forge.sft.open import preview_sft

    found = preview_sft(loaded.config)
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    _print_preview(found)


def _print_preview(found: SftPreview) -> None:
    from halo_forge.cli.render import LEARNING_RATE, Column, print_paragraph, print_table, stdout
    from halo_forge.cli.status import advice_lines
    from halo_forge.sft.plan import advice_of, segments_of

    console = stdout()
    if found.plan is not None:
        plan = found.plan
        rows = segments_of(plan)
        columns = [
            Column("segment", [str(row["segment"]) for row in rows]),
            Column("steps", [str(row["steps"]) for row in rows]),
            Column("epochs", [f"{row['epochs']:.2f}" for row in rows], 2),
            Column("learning rate, first", [f"{row['learning_rate_first']:{LEARNING_RATE}}" for row in rows], 1),
            Column("last", [f"{row['learning_rate_last']:{LEARNING_RATE}}" for row in rows]),
        ]
        title = (
            f"{plan.num_steps} optimizer steps of {found.config.batch_size} rows, {plan.warmup_steps} of warm-up; the"
            f" held-out loss is measured before, and after each segment"
        )
        if not found.config.holds_out:
            title = title.partition(";")[0] + "; nothing is held out"
        print_table(columns, title=title, console=console)
    for line in found.lines:
        print_paragraph(console, line, indent="    ")
    for warning in found.warnings:
        print_paragraph(console, f"warning: {warning}", indent="    ")
    for advice in advice_of(found.plan, found.config):
        for line in advice_lines(advice.to_row()):
            print_paragraph(console, line, indent=" " * 8)


def _print_status(found: SftStatus) -> None:
    from halo_forge.cli.render import LEARNING_RATE, Column, print_paragraph, print_table, stdout
    from halo_forge.sft.status import described

    console = stdout()
    if found.segments:
        losses = [each.evaluation.held_out_loss for each in found.segments]
        errors = [each.evaluation.standard_error for each in found.segments]
        train = [each.metrics.get("loss_mean") for each in found.segments]
        rates = [each.learning_rate_last for each in found.segments]
        best = [each.evaluation.version == found.best_version for each in found.segments]
        columns = [
            Column("version", [f"v{each.evaluation.version}" for each in found.segments]),
            Column("steps", [str(each.evaluation.step) for each in found.segments]),
            Column("learning rate", ["" if each is None else f"{each:{LEARNING_RATE}}" for each in rates], 2),
            Column("train loss", ["" if each is None else f"{each:.4f}" for each in train], 1),
            Column("held-out loss", ["" if each is None else f"{each:.4f}" for each in losses]),
            Column("standard error", ["" if each is None else f"{each:.4f}" for each in errors], 3),
            Column("best", ["best" if each else "" for each in best]),
        ]
        print_table(columns, title="losses in nats per token", console=console)
    where = "" if found.process is None else f" (process {found.process})"
    steps = "" if found.num_steps is None else f", {_done(found)} of {found.num_steps} optimizer steps"
    print_paragraph(console, f"{found.root}: {found.state}{where}{steps}")
    if found.uses:
        used = ", ".join(f"{number} {use.replace('_', ' ')}" for use, number in found.uses.items())
        print_paragraph(console, f"rows: {used} (rows.jsonl names each)")
    if found.result is not None:
        print_paragraph(console, f"{described(found.result)}; {found.result.reason}", indent="    ")
    if found.result is not None and (found.root / "best").exists():
        print_paragraph(console, f"start RAFT from it with model.adapter: {found.root}/best", indent="    ")


def _done(found: SftStatus) -> int:
    return found.segments[-1].evaluation.step if found.segments else 0


def _observer() -> SftObserver:
    from collections.abc import Iterator
    from typing import Any

    from halo_forge.cli.observer import PlainObserver
    from halo_forge.sft.data import Rows
    from halo_forge.sft.plan import Evaluation, SftPlan, best_version

    plain = PlainObserver()

    class Lines:
        """Plain lines on standard error."""

        def warned(self, text: str) -> None:
            plain.warned(text)

        def track(self, label: str, items: Any, total: int) -> Iterator[Any]:
            return plain.track(label, items, total)

        def step(self, row: Mapping[str, float], num_steps: int) -> None:
            plain.step(row, num_steps)

        def planned(self, rows: Rows, plan: SftPlan) -> None:
            for line in rows.lines():
                print(line, file=sys.stderr, flush=True)
            segments = f"{plan.num_steps} optimizer steps in {plan.num_segments} segments"
            print(f"plan: {segments}, peak learning rate {plan.config.training.learning_rate:g}", file=sys.stderr)

        def evaluated(self, evaluations: Sequence[Evaluation]) -> None:
            last = evaluations[-1]
            loss = "nothing held out" if last.held_out_loss is None else f"held-out loss {last.held_out_loss:.4f}"
            best = f"best v{best_version(evaluations)}"
            print(f"v{last.version}: step {last.step}, {loss}, {best}", file=sys.stderr, flush=True)

    return Lines()
