"""What the page of an SFT run says: losses, learning rate, and what became of the rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from halo_forge.pages.charts import Point, Table, lines, text_of
from halo_forge.pages.run_page import Facts, Section, setup, step_charts
from halo_forge.sft.run import own_hints
from halo_forge.sft.status import SftStatus, described, read_sft_status, sft_steps
from halo_forge.store.files import as_written, read_jsonl
from halo_forge.store.sft import ROWS, sft_identity

_MOST_ROWS = 200
"""Dropped rows that the page names one by one."""


def sft_sections(root: Path) -> tuple[Facts, list[Section]]:
    """The page of the stage in `root`, as far as it has come.

    Raises:
        RunDirError: It holds none, or a file of it cannot be read.
    """
    status, identity = read_sft_status(root), sft_identity(root)
    with own_hints(), as_written(root):  # a file that lacks something, or holds something else
        sections = [_losses(status), _training(root, status), _rows(root), setup(root, identity)]
        facts = _facts(root, status)
    return facts, [section for section in sections if not section.is_empty]


def _facts(root: Path, status: SftStatus) -> Facts:
    steps = status.segments[-1].evaluation.step if status.segments else 0
    facts = [("optimizer steps", f"{steps}" if status.num_steps is None else f"{steps} of {status.num_steps}")]
    facts.append(("learning rate", f"{status.config.training.learning_rate:g}"))
    if status.best_version is not None:
        best = status.segments[status.best_version].evaluation
        facts.append(("best so far" if status.result is None else "best", f"v{best.version}"))
        if best.held_out_loss is not None:
            start = status.segments[0].evaluation.held_out_loss
            before = "" if start is None else f"{text_of(start)} → "
            facts.append(("held-out loss, nats per token", f"{before}{text_of(best.held_out_loss)}"))
    facts += [(f"rows, {use.replace('_', ' ')}", str(number)) for use, number in status.uses.items()]
    where = "" if status.process is None else f" (running, process {status.process})"
    lead = "" if status.result is None else f"{described(status.result)}; {status.result.reason}"
    legend = (
        f"v0 is the start model ({status.config.model.model_name_or_path}); v1 is the model after the first segment,"
        f" and so on. Held-out rows are measured, never trained on; the version with the lowest loss there is the best."
    )
    return Facts(root.resolve().name, status.state + where, lead, tuple(facts), legend)


def _losses(status: SftStatus) -> Section:
    held_out = [
        Point(
            "held out", f"v{each.version}", each.held_out_loss,
            None if each.standard_error is None else each.held_out_loss - 1.96 * each.standard_error,
            None if each.standard_error is None else each.held_out_loss + 1.96 * each.standard_error,
            f"step {each.step}",
        )
        for each in (segment.evaluation for segment in status.segments)
        if each.held_out_loss is not None
    ]  # fmt: skip
    trained = [
        Point("trained on", f"v{each.evaluation.version}", each.metrics["loss_mean"], remark="mean over the segment")
        for each in status.segments
        if "loss_mean" in each.metrics
    ]
    if not held_out and not trained:
        return Section("losses", "Loss of each version")
    says = "nats per token of the completion; the bars are 95 % intervals over rows, which all versions share"
    chart = lines("Loss", says, [*held_out, *trained], axis="version")
    notes = ("The loss of rows that are trained on is that before each step, so it lags behind.",)
    return Section("losses", "Loss of each version", notes, (chart,))


def _training(root: Path, status: SftStatus) -> Section:
    limit = status.config.training.max_grad_norm
    charts, notes = step_charts(sft_steps(root), "segment", limit if limit > 0 else None)
    return Section("training", "Training", tuple(notes), tuple(charts))


def _rows(root: Path) -> Section:
    path = root / ROWS
    rows = read_jsonl(path) if path.is_file() else []
    if not rows:
        return Section("rows", "Rows")
    uses = Counter(row["used_as"].replace("_", " ") for row in rows)
    tokens = [row["num_tokens"] for row in rows if row["num_tokens"] is not None]
    counts = Table("Rows by use", ("use", "rows"), tuple((use, str(number)) for use, number in uses.items()))
    dropped = [row for row in rows if row["used_as"] == "dropped"]
    notes = [f"{min(tokens)} to {max(tokens)} tokens a row, prompt and completion together."] if tokens else []
    if len(dropped) > _MOST_ROWS:
        notes.append(f"{_MOST_ROWS} of {len(dropped)} dropped rows are listed; rows.jsonl has all.")
    listed = tuple((row["id"], row["place"], row["reason"]) for row in dropped[:_MOST_ROWS])
    tables = [counts, *([Table("Dropped rows", ("id", "where", "why"), listed)] if listed else [])]
    return Section("rows", "Rows", tuple(notes), (), tuple(tables))
