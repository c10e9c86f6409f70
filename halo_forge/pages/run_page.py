"""What the page of a run says: read from its directory, in the same way for a running, a stopped and a finished run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halo_forge.api import RunDirectory
from halo_forge.core.records import MASS
from halo_forge.core.wording import duration, outcome_in_words
from halo_forge.pages.charts import REACHED_COLOURS, Chart, Point, Table, lines, stacked, text_of, thinned
from halo_forge.store.compared import REACHED, reached
from halo_forge.store.files import as_written, read_json
from halo_forge.store.rows import step_rows
from halo_forge.store.run import cycle_folders
from halo_forge.store.samples import stored_samples
from halo_forge.store.status import EARLIER_WORDS, CycleRow, Status

PHASES = {
    "generate": "sampling", "verify": "remaining verification", "drift": "drift", "train": "training", "other": "other",
}  # fmt: skip
_NOT_SCHEDULED = frozenset(("cycle", "parent_version", "optimizer"))
_VERSION, _CYCLE = "version", "cycle"


@dataclass(frozen=True)
class Section:
    """One part of a page, under a heading of its own.

    Attributes:
        notes: Paragraphs.
        long_texts: (Title, text) of what is shown only when it is opened.
    """

    id: str
    title: str
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    long_texts: tuple[tuple[str, str], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.notes or self.charts or self.tables or self.long_texts)


@dataclass(frozen=True)
class Facts:
    """The head of a page.

    Attributes:
        lead: What came of it, in one sentence.
        facts: (Name, value) pairs.
        legend: What its names mean, for who knows nothing of it.
    """

    title: str
    state: str
    lead: str
    facts: tuple[tuple[str, str], ...] = field(default=())
    legend: str = ""


def run_facts(root: Path, status: Status, identity: Mapping[str, Any]) -> Facts:
    """The head of the page of a run."""
    num_trained = sum("optimizer_steps" in row.metrics for row in status.cycles)
    facts = [("cycles trained", f"{num_trained} of {status.num_cycles}")]
    result = status.result
    if status.best_version is not None:
        facts.append(("chosen on dev" if result is not None else "best so far", f"v{status.best_version}"))
    set_name = "test" if result is not None and result["test"] else "dev"
    for metric, row in (result or {}).get(set_name, {}).items():
        words = f"{text_of(row['start'])} → {text_of(row['chosen'])}"
        facts.append((f"{metric.replace('_', ' ')}, {set_name}", words))
    if result is not None and result.get("improved") is not None:
        words = "improved" if result["improved"] else "not confirmed"
        facts.append((f"against v0 on {result['confirmed_on']}", words))
    seconds = sum(value for row in status.cycles for name, value in row.metrics.items() if name.startswith("seconds/"))
    if seconds:
        facts.append(("time", duration(seconds)))
    where = "" if status.process is None else f" (running, process {status.process})"
    lead = "" if result is None else f"{result['conclusion'].replace('_', ' ')}: {result['reason']}"
    model = identity["start_model"].get("model_name_or_path")  # the scripted engine has none
    legend = (
        f"v0 is the start model{f' ({model})' if model else ''}; v1 is the model that cycle 1 trained, and so on. Dev"
        f" prompts choose between versions, train prompts are trained on."
    )
    if result is None:
        legend += " The run is not finished: parts that it has not reached yet are missing here."
    return Facts(root.resolve().name, status.state + where, lead, tuple(facts), legend)


def run_sections(root: Path) -> tuple[Facts, list[Section]]:
    """The page of the run in `root`, without its samples.

    Raises:
        RunDirError: It holds no run, or a file of it cannot be read.
    """
    directory = RunDirectory(root)
    status = directory.status()
    with as_written(root):  # a file that lacks something, or holds something else
        sections = [
            _result(status),
            _rates(root, status),
            _decisions(status),
            _schedules(status),
            _training(root, status),
            _model(status),
            _cost(status),
            setup(root, directory.identity),
        ]
        facts = run_facts(root, status, directory.identity)
    return facts, [section for section in sections if not section.is_empty]


def _result(status: Status) -> Section:
    result = status.result
    if result is None:
        return Section("result", "Result")
    rows = []
    for kind, prefix, version in (
        ("chosen", "", result["chosen_version"]),
        ("last", "last_", result["last_version"]),
    ):
        if version == 0 or (kind == "last" and version == result["chosen_version"]):
            continue
        for set_name in ("test", "dev"):
            for metric, row in result[f"{prefix}{set_name}"].items():
                difference = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
                smallest = row.get("minimum_detectable_effect")
                rows.append(
                    (
                        f"{set_name} {metric.replace('_', ' ')}", f"v{version} ({kind})", text_of(row["start"]),
                        text_of(row[kind]), difference, "" if smallest is None else text_of(smallest),
                    )
                )  # fmt: skip
    headers = ("metric", "model", "v0", "tuned", "difference [95 % interval]", "detectable")
    notes = [
        "Differences are paired by prompt. Dev was also used to choose the version, so its differences are biased"
        " upwards; test was not."
    ]
    if "improved" not in result:
        notes.append(EARLIER_WORDS)
    if not rows:
        return Section("result", "Result", ("The start model is kept: no version was ahead of it on dev.",))
    return Section("result", "Result", tuple(notes), (), (Table("Against the start model", headers, tuple(rows)),))


def _rates(root: Path, status: Status) -> Section:
    charts = []
    for set_name in ("dev", "train"):
        wanted = [(name, f"{set_name}/{name}_rate") for name in ("compile", "pass")]
        if points := list(_metrics(status, wanted, _remark)):
            says = f"{set_name} prompts, with 95 % intervals over prompts"
            charts.append(lines(f"Rates on {set_name}", says, points, axis=_VERSION, rate=True))
        if points := _flow(root, set_name):
            says = "how far the completions came, from no program to passing all tests"
            title = f"Outcomes on {set_name}"
            charts.append(stacked(title, says, points, axis=_VERSION, series=REACHED, colours=REACHED_COLOURS))
        others = [("mean reward", f"{set_name}/reward_mean"), ("solved at all", f"{set_name}/coverage")]
        if points := list(_metrics(status, others)):
            says = "mean reward, and the share of prompts with at least one pass"
            charts.append(lines(f"Reward and coverage on {set_name}", says, points, axis=_VERSION, rate=True))
    faults = [("cut off", "truncated_fraction"), ("flagged", "train/flagged_fraction")]
    faults += [("dev cut off", "dev/truncated_fraction"), ("dev flagged", "dev/flagged_fraction")]
    if points := list(_metrics(status, faults)):
        says = "completions at the length limit, and those that look for unearned reward"
        charts.append(lines("Cut off and flagged", says, points, axis=_VERSION, rate=True))
    return Section("outcomes", "Outcomes", (), tuple(charts))


def _remark(row: CycleRow) -> str:
    return str(row.decision.get("outcome", "")).replace("_", " ")


def _metrics(status: Status, wanted: Sequence[tuple[str, str]], remark: Any = None, at: str = _VERSION) -> list[Point]:
    """The points of (series, metric) pairs, by version or by cycle."""
    return [
        Point(
            series,
            f"v{row.policy_version}" if at == _VERSION else str(row.cycle),
            row.metrics[name],
            row.metrics.get(f"{name}_low"),
            row.metrics.get(f"{name}_high"),
            "" if remark is None else remark(row),
        )
        for series, name in wanted
        for row in status.cycles
        if name in row.metrics
    ]


def _flow(root: Path, set_name: str) -> list[Point]:
    found: dict[int, Counter[str]] = {}
    for sample in stored_samples(root, sets=[set_name]):
        if sample.verdict is not None:  # else they are still being checked
            found.setdefault(sample.completion.policy_version, Counter())[reached(sample.verdict)] += 1
    return [
        Point(name, f"v{version}", counts[name], remark=f"{counts[name] / counts.total():.0%} of {counts.total()}")
        for version, counts in sorted(found.items())
        for name in REACHED
        if name in {each for other in found.values() for each in other}
    ]


def _decisions(status: Status) -> Section:
    rows = [_decision(row) for row in status.cycles if row.decision]
    result = status.result
    if result is not None and result.get("improved") is not None:
        outcome = "improved" if result["improved"] else "not_confirmed"
        where = "v0 on test" if result["confirmed_on"] == "test" else "v0 on dev, resampled"
        words = outcome_in_words(outcome, result["confirmation_opposed"])
        rows.append((f"v{result['chosen_version']}", where, _compared(result["confirmation"]), "", words, "keep", ""))
    headers = ("version", "against", "difference on dev", "resampled", "outcome", "action", "reason")
    tables = [Table("What was decided of each version", headers, tuple(rows))] if rows else []
    if advice := tuple(_advice(status)):
        names = ("symptom", "seen in", "likely cause", "suggestion", "confidence")
        tables.append(Table("Advice, with the versions it was given for", names, advice))
    points = [
        Point(
            row.decision["outcome"].replace("_", " "),
            f"v{row.policy_version}",
            screen["difference"],
            screen["difference"] - screen["standard_error"],
            screen["difference"] + screen["standard_error"],
            f"against v{row.decision['compared_with']}; then: {row.decision['action'].replace('_', ' ')}",
        )
        for row in status.cycles
        if (screen := row.decision.get("screen"))
    ]
    says = "difference on dev to the best version before it, plus and minus one standard error, by outcome"
    charts = [lines("Decisions", says, points, axis=_VERSION, limit=0, joined=False)] if points else []
    return Section("decisions", "Decisions and advice", (), tuple(charts), tuple(tables))


def _advice(status: Status) -> Iterator[tuple[str, ...]]:
    """One row for each advice, however often it was given."""
    evidence: dict[tuple[str, str, str, str], list[str]] = {}
    for row in status.cycles:
        for each in row.advice:
            key = (each["symptom"], each["cause"], each["action"], each["power"])
            evidence.setdefault(key, []).append(f"v{row.policy_version}: {each['evidence']}")
    for (symptom, cause, action, power), seen in evidence.items():
        yield symptom, "; ".join(seen), cause, action, power


def _decision(row: CycleRow) -> tuple[str, ...]:
    decision = row.decision
    against = decision.get("compared_with")
    return (
        f"v{row.policy_version}",
        "" if against is None else f"v{against}",
        _compared(decision.get("screen")),
        _compared(decision.get("confirmation")),
        outcome_in_words(decision["outcome"], decision.get("opposed", {})),
        decision["action"].replace("_", " "),
        decision["reason"],
    )


def _compared(comparison: Mapping[str, float] | None) -> str:
    """A difference with its standard error; empty where nothing was compared."""
    if not comparison:
        return ""
    return f"{comparison['difference']:+.3f} (SE {comparison['standard_error']:.3f})"


def _schedules(status: Status) -> Section:
    keys = list(dict.fromkeys(key for row in status.cycles for key in row.settings if key not in _NOT_SCHEDULED))
    values = {key: {str(row.cycle): row.settings[key] for row in status.cycles if key in row.settings} for key in keys}
    moving = [key for key in keys if len({str(value) for value in values[key].values()}) > 1]
    charts = []
    for key in ("learning_rate", *(key for key in moving if key != "learning_rate")):
        known = [(cycle, value) for cycle, value in values.get(key, {}).items() if isinstance(value, int | float)]
        if known:
            form = ".1e" if key.startswith("learning_rate") else None
            points = [Point(key, cycle, value) for cycle, value in known]
            charts.append(
                lines(_words(key).capitalize(), "scheduled value of each cycle", points, axis=_CYCLE, form=form)
            )
    if points := _metrics(status, [("learning-rate mass", MASS)], at=_CYCLE):
        says = "sum of the learning rates of all steps of a cycle"
        charts.append(lines("Learning-rate mass", says, points, axis=_CYCLE, form=".1e"))
    tables = []
    if moving:
        rows = tuple(
            (str(row.cycle), *(_setting(row.settings.get(key)) for key in moving))
            for row in status.cycles
            if row.settings
        )
        tables.append(Table("Settings that change", ("cycle", *map(_words, moving)), rows))
    if fixed := [key for key in keys if key not in moving and any(each is not None for each in values[key].values())]:
        same = tuple((_words(key), _setting(next(iter(values[key].values())))) for key in fixed)
        tables.append(Table("The same in every cycle so far", ("setting", "value"), same))
    return Section("schedules", "Schedules", (), tuple(charts), tuple(tables))


def _words(key: str) -> str:
    return key.replace("_", " ")


def _setting(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def _training(root: Path, status: Status) -> Section:
    limits = {row.settings.get("max_grad_norm") for row in status.cycles} - {None, 0}
    charts, notes = step_charts(list(step_rows(root)), "cycle", limits.pop() if len(limits) == 1 else None)
    if points := _metrics(status, [("clipped steps", "clip_fraction")], at=_CYCLE):
        says = "share of the steps whose gradient norm was above the limit"
        charts.append(lines("Clip fraction", says, points, axis=_CYCLE, rate=True))
    if points := _fates(root):
        says = "what became of the samples that a cycle selected from, by the first rule that dropped them"
        names = list(dict.fromkeys(["kept", *(point.series for point in points)]))
        charts.append(stacked("Selection", says, points, axis=_CYCLE, series=names, unit="samples"))
    return Section("training", "Training", tuple(notes), tuple(charts))


def step_charts(steps: Sequence[Mapping[str, Any]], part: str, limit: float | None) -> tuple[list[Chart], list[str]]:
    """Loss, gradient norm and learning rate of every optimizer step, and how they are drawn where there are many.

    Args:
        steps: Rows of training_log.jsonl, with the part of the run that each is from under the key `part`.
        limit: Of the gradient norm; None where it has none, or several.
    """
    charts = []
    notes: list[str] = []
    for key, title, says in (
        ("loss", "Loss", "mean over the tokens of each step, before the step"),
        ("gradient_norm", "Gradient norm", "before clipping; dashed: the limit"),
        ("learning_rate", "Learning rate of each step", "what each step really used"),
    ):
        points = [
            Point(_words(key), float(number), row[key], remark=f"{part} {row[part]}")
            for number, row in enumerate(steps, start=1)
            if isinstance(row.get(key), int | float)
        ]
        if points:
            dashed = limit if key == "gradient_norm" else None
            form = ".1e" if key == "learning_rate" else None
            charts.append(lines(title, says, thinned(points), axis="step", limit=dashed, form=form))
            if len(thinned(points)) < len(points) and not notes:
                parts = len(thinned(points))
                notes.append(f"{len(points)} steps are drawn as {parts} means, each with the range of its steps.")
    return charts, notes


def _fates(root: Path) -> list[Point]:
    """Kept and dropped samples of each cycle."""
    counts: dict[str, dict[str, int]] = {}
    for folder in cycle_folders(root):
        if (path := folder / "selection.json").is_file():
            selection = read_json(path)
            dropped = {reason.replace("_", " "): len(keys) for reason, keys in selection["dropped"].items()}
            counts[str(int(folder.name))] = {"kept": len(selection["kept"]), **dropped}
    used = list(dict.fromkeys(name for each in counts.values() for name, number in each.items() if number))
    return [Point(name, cycle, each.get(name, 0)) for cycle, each in counts.items() for name in used]


def _model(status: Status) -> Section:
    charts = []
    for title, says, from_zero, wanted in (
        (
            "Entropy", "nats per token: on fixed completions of v0, and on the version's own", False,
            [("fixed completions", "probe/entropy"), ("own completions", "entropy")],
        ),
        (
            "Diversity", "share of the programs of a prompt that are distinct", True,
            [("dev", "dev/diversity/unique_fraction"), ("train", "diversity/unique_fraction")],
        ),
        (
            "Distinct programs among 4", "expected number of distinct programs in 4 samples of a prompt", True,
            [("dev", "dev/diversity/distinct@4"), ("train", "diversity/distinct@4")],
        ),
        (
            "KL divergence", "nats per token, from the start model and from the version it was trained from", True,
            [("from v0", "kl_to_start"), ("from the previous version", "kl_to_previous")],
        ),
        (
            "Length", "mean number of tokens of a completion", False,
            [("train", "completion_tokens_mean"), ("dev", "dev/completion_tokens_mean")],
        ),
    ):  # fmt: skip
        if points := _metrics(status, wanted):
            charts.append(lines(title, says, points, axis=_VERSION, from_zero=from_zero))
    return Section("model", "How the model changes", (), tuple(charts))


def _cost(status: Status) -> Section:
    charts = []
    wanted = [(word, f"seconds/{phase}") for phase, word in PHASES.items()]
    if points := _metrics(status, wanted, at=_CYCLE):
        minutes = [
            Point(point.series, point.at, point.value / 60, remark=duration(point.value))
            for point in points
        ]  # fmt: skip
        says = "wall-clock time of each cycle, all attempts together"
        charts.append(stacked("Time", says, minutes, axis=_CYCLE, series=list(PHASES.values()), unit="minutes"))
    speed = [("sampling", "tokens_per_second/generate"), ("training", "tokens_per_second/train")]
    if points := _metrics(status, speed, at=_CYCLE):
        charts.append(lines("Speed", "tokens per second", points, axis=_CYCLE))
    memory = [("main memory", "peak_memory_bytes"), ("GPU, highest reading", "gpu_memory_bytes_max")]
    if points := _metrics(status, memory, at=_CYCLE):
        gigabytes = [Point(point.series, point.at, point.value / 1e9) for point in points]
        charts.append(lines("Memory", "the most in use at once, in GB", gigabytes, axis=_CYCLE, from_zero=True))
    power = [("mean power, W", "gpu_power_watts_mean"), ("highest temperature, °C", "gpu_temperature_celsius_max")]
    if points := _metrics(status, power, at=_CYCLE):
        charts.append(lines("GPU", "readings of its sensors", points, axis=_CYCLE))
    return Section("cost", "Time and memory", (), tuple(charts))


def setup(root: Path, identity: Mapping[str, Any]) -> Section:
    """Hardware, tools, versions and configuration of a run."""

    def table(caption: str, values: Mapping[str, Any]) -> Table:
        return Table(caption, ("name", "value"), tuple(_flat(values)))

    hardware, toolchain = identity.get("hardware") or {}, identity.get("toolchain") or {}
    rest = {key: value for key, value in identity.items() if key not in ("hardware", "toolchain", "schema_version")}
    tables = (table("Hardware", hardware), table("Verifier", toolchain), table("Run", rest))
    config = (root / "config.resolved.yaml").read_text(encoding="utf-8", errors="replace")
    return Section("setup", "Setup", (), (), tables, (("Configuration, defaults included", config),))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value)) or "none"
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)
