"""A configuration as text: every value with its reason above it, and what it was chosen by at the top."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import halo_forge
from halo_forge.config.yaml_io import parse_value
from halo_forge.core.errors import ConfigError
from halo_forge.core.wording import counted, roughly, visible
from halo_forge.hardware import ModelSize
from halo_forge.prompts.split import SPLITS
from halo_forge.prompts.summary import summarise
from halo_forge.starter.choose import Choice, Wanted, number
from halo_forge.starter.model import in_billions

_WIDTH = 80
_SPARE = 0.2
"""A run that takes less than this share of the time could have more prompts."""
_PLAIN = re.compile(r"[\w./~][\w./~:-]*")


def configuration_text(wanted: Wanted, choice: Choice) -> str:
    """The file."""
    lines = [*_head(wanted, choice), ""]
    for section, settings in choice.sections.items():
        lines.append(f"{section}:")
        for setting in settings:
            lines += [*_comment(setting.reason, "  "), f"  {setting.key}: {inline(setting.value)}"]
        lines.append("")
    lines += [
        *_comment("[tensorboard], [wandb], [trackio] or [mlflow]: curves while it runs; the run directory has all"),
        "report_to: []",
        *_comment("every random draw follows it; runs that are compared share it"),
        "seed: 0",
        f"output_dir: {inline(f'runs/{wanted.name}')}",
    ]
    return "\n".join(lines) + "\n"


def inline(value: Any) -> str:
    """A value on one line, as `yaml_io` reads it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and _reads_back(value) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(inline, value)) + "]"
    return str(value)


def _reads_back(text: str) -> bool:
    try:
        return bool(parse_value(text, "") == text)
    except ConfigError:
        return False


def _comment(text: str, indent: str = "", hanging: str = "") -> list[str]:
    if not text:
        return []
    start = f"{indent}# "
    wrapped = textwrap.wrap(
        visible(text).replace("\n", " "),
        _WIDTH,
        initial_indent=start,
        subsequent_indent=start + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped


def _head(wanted: Wanted, choice: Choice) -> Iterator[str]:
    file = f"{wanted.name}.yaml"
    commands = {
        f"halo-forge config check {file}": "is anything wrong?",
        f"halo-forge raft run {file} --dry-run": "what will it do?",
        f"halo-forge raft run {file}": "start (--resume: go on)",
    }
    if files := _files(wanted):
        commands = {f"halo-forge tasks check {shlex.join(files)}": "are the tests right?", **commands}
    width = max(map(len, commands))
    yield f"# {file}, written by halo-forge {halo_forge.__version__} (`halo-forge init`)"
    yield "#"
    for command, what in commands.items():
        yield f"#   {command:<{width}}   # {what}"
    yield "#"
    yield "# What is known about these values, and what is not: halo-forge docs starting"
    yield "#"
    yield "# Found:"
    for name, text in found_lines(wanted):
        yield from _comment(f"{name:<9} {text}", hanging=" " * 10)
    for title, lines in (("Assumed", assumed_lines(wanted)), ("Look at this first", choice.warnings)):
        if lines:
            yield f"# {title}:"
        for line in lines:
            yield from _comment(f"- {line}", hanging="    ")
    yield "#"
    yield from _comment(time_line(wanted, choice), hanging="  ")
    yield from _comment(memory_line(choice), hanging="  ")
    if (seen := sight_line(choice)) is not None:
        yield from _comment(seen, hanging="  ")
    yield from _checklist(wanted, choice)


def _files(wanted: Wanted) -> list[str]:
    """The prompt files, without their splits; none where the prompts are packaged or a data set."""
    specs = wanted.prompts.specs.values()
    names = [spec.rpartition(":")[0] if spec.endswith(tuple(f":{each}" for each in SPLITS)) else spec for spec in specs]
    return [name for name in dict.fromkeys(names) if name.endswith((".jsonl", ".parquet"))]


def found_lines(wanted: Wanted) -> list[tuple[str, str]]:
    """What was looked at, in words: model, prompts, machine, tools."""
    return [
        ("model", _model_in_words(wanted)),
        ("prompts", _prompts_in_words(wanted)),
        ("language", f"{wanted.language}{f' ({wanted.language_reason})' if wanted.language_reason else ''}"),
        ("machine", _machine_in_words(wanted)),
        ("tools", wanted.tools),
    ]


def _machine_in_words(wanted: Wanted) -> str:
    processors = f"{counted(wanted.processors, 'processor')}{'' if wanted.is_here else ' assumed'}"
    profile, model = wanted.profile, wanted.model
    size = ModelSize(model.shape.num_parameters, model.shape, 4 if profile.dtype() == "float32" else 2)
    tokens, recomputed = profile.training_pass(size, 1)
    return (
        f"{profile.name} ({profile.why}), {processors}. What `auto` becomes: {profile.dtype()},"
        f" {profile.rows_in_flight(size.num_parameters)} rows sampled together, training passes of {tokens} tokens"
        f"{' with checkpointing' if recomputed else ''}"
    )


def _model_in_words(wanted: Wanted) -> str:
    model, template = wanted.model, wanted.model.template
    size = "size unknown" if model.num_parameters is None else f"{in_billions(model.num_parameters)} parameters"
    parts = [f"{model.name}: {size}"]
    if template is None:
        parts.append("not looked at")
    else:
        reasons = "mentions reasoning" if template.mentions_reasoning else "no reasoning"
        reasoning = f"opens the reasoning with {template.opens_reasoning}" if template.opens_reasoning else reasons
        parts.append(f"chat template ({reasoning}; {'takes' if template.takes_system else 'no'} system messages)")
    if model.positions is not None:
        parts.append(f"{model.positions} positions")
    return ", ".join(parts)


def _prompts_in_words(wanted: Wanted) -> str:
    prompts = wanted.prompts
    if prompts.sets is None:
        return f"{prompts.specs['train'].partition(':')[0]}: not read"
    sizes = ", ".join(f"{name} {len(own)}" for name, own in prompts.sets.items())
    unit = "tokens" if wanted.model.count is not None else "tokens, estimated from characters"
    low, high = min(wanted.prompt_lengths), max(wanted.prompt_lengths)
    num_measured, num_prompts = len(wanted.prompt_lengths), len(prompts.every)
    measured = "" if num_measured == num_prompts else f" ({num_measured} of them measured)"
    return (
        f"{sizes}; {summarise(prompts.every).tests}; each {low} to {high} {unit}, median"
        f" {median(wanted.prompt_lengths):.0f}{measured}"
    )


def assumed_lines(wanted: Wanted) -> list[str]:
    """What could not be looked at, and what was assumed in its place."""
    lines = [*wanted.model.assumed, *wanted.prompts.assumed]
    if wanted.model.family is None:
        lines.append("no learning rate is published for this family of models: the lower of two formulas is used")
    if wanted.prompts.sets is None:
        lines.append("the prompts are assumed to have tests; without them set decisions.metric: dev/compile_rate")
    return lines


def time_line(wanted: Wanted, choice: Choice) -> str:
    """The estimated time, and what it rests on."""
    assert choice.sized is not None and choice.speed is not None
    found = choice.sized
    spare = ""
    if wanted.prompts.sets is not None and found.run_seconds < _SPARE * wanted.seconds:
        spare = " Time that is left over is best spent on more prompts, or on more seeds (halo-forge experiment)."
    return (
        f"Time: {roughly(found.cycle_seconds)} for each of {found.size.cycles} cycles, {roughly(found.run_seconds)} in"
        f" all; you have {roughly(wanted.seconds).removeprefix('about ')}. By arithmetic, good within a factor of 3,"
        f" with {choice.speed.basis}. After one cycle the run says what is left.{spare}"
    )


def memory_line(choice: Choice) -> str:
    """The estimated memory."""
    assert choice.memory is not None
    return (
        f"Memory: at least {choice.memory / 1e9:.1f} GB, for weights, adapter and a small training pass; what there is"
        " beyond that makes passes larger and samples more rows together."
    )


def sight_line(choice: Choice) -> str | None:
    """What difference a run can see; None if the prompts were not read."""
    if choice.detectable is None or choice.sized is None:
        return None
    size = choice.sized.size
    return (
        f"What it can show: differences between versions of {choice.detectable:.2f} or more in a rate near 0.5"
        f" ({counted(size.dev, 'dev prompt')} x {counted(size.dev_samples, 'sample')}); smaller ones are lost in noise."
    )


def _checklist(wanted: Wanted, choice: Choice) -> Iterator[str]:
    rate = next(each.value for each in choice.sections["training"] if each.key == "learning_rate")
    base = rate["base"] if isinstance(rate, Mapping) else rate
    low, high = (number(float(f"{factor * base:.1e}")) for factor in (1 / 3, 3))
    steps = [
        f"training.learning_rate: one cycle each at {low} and {high} (halo-forge raft run {wanted.name}.yaml --set"
        f" raft.num_cycles=1 --set training.learning_rate={low} --output-dir runs/{wanted.name}-low). Too low if"
        " nothing moves (kl_to_start), too high if dev falls",
        "prompts: more of them show smaller differences and last longer; solved ones teach nothing",
        "raft.samples_per_prompt, engine.temperature: if distinct@4 falls or too few samples are kept",
        "the decay last: compare it with a constant rate of the same sum (kind budget_matched)",
    ]
    yield "#"
    yield "# What to change first, one thing at a time, with the same seed:"
    for place, step in enumerate(steps, start=1):
        yield from _comment(f"{place}. {step}", hanging="   ")
    yield from _comment(
        "What to watch (all of it is logged; halo-forge report shows it): the applied learning rate and its sum, dev"
        " rates with their intervals, kept samples, loss before training, gradient norm and clipped steps, kl_to_start,"
        " distinct@4, completions that are cut off, tokens per second.",
        hanging="  ",
    )
