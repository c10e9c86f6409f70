"""The values of a first configuration, each with its reason: a function of what was found, following the checklist.

The checklist (docs/starting.md): a short warm-up and a linear decay within each cycle; a decay across cycles, or a
constant rate to compare with; change one thing at a time; log what was applied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from halo_forge.core.errors import ConfigError
from halo_forge.core.learning_rates import BASE, EXPONENTS, ROWS, WIDTH, lora_learning_rate
from halo_forge.core.power import Variation, between_versions
from halo_forge.core.records import Prompt
from halo_forge.core.wording import counted, roughly
from halo_forge.hardware import ModelSize, Profile
from halo_forge.prompts.row_limits import longest_limits
from halo_forge.prompts.split import limited
from halo_forge.starter.estimate import Speed, Work, least_memory_bytes, speed_of
from halo_forge.starter.model import ModelFound, tokens
from halo_forge.starter.prompts import SETS, PromptsFound
from halo_forge.starter.size import LADDER, PER_PROMPT, RunSize, Sized, sized

RANK = 16
MOST_MEASURED = 2000
"""Prompts whose tokens are counted: in a set of a hundred thousand, all of them would take minutes."""
SMALL = 1_000_000_000
"""Models below this size are assumed to pass few tests at first."""
CHECKPOINTED = 2_500_000_000
_ASSUMED_PROMPTS, _ASSUMED_LENGTH = (300, 100), 200.0
"""Train and dev prompts of a data set that could not be read, and tokens of each."""
_REASONING_TOKENS, _PROGRAM_TOKENS, _LEAST_TOKENS, _MOST_TOKENS = 2048, 512, 256, 1024
_PREFIX_TOKENS = 16
"""Left for the response prefix."""
_USED, _LONGER = 0.6, 1.5
"""The assumed mean length of a completion: a share of the longest that is allowed, or of the reference solutions'."""
_DEFAULT_ERROR = 0.04  # of decisions.max_standard_error
_MIN_PROMPTS = 20  # of decisions.min_prompts
_ENOUGH_ROWS = 135
"""A fifth of them by a hash is `_MIN_PROMPTS` or more in 19 of 20 cases."""
_MOST_FIT = 0.9
"""A smaller share of prompts that fit is a warning."""
_DECAY = 0.85
_BENCHMARKS = ("humaneval", "livecodebench", "bigcodebench", "evalplus", "multipl-e")
_FENCES = {"c": "c", "cpp": "cpp", "rust": "rust", "go": "go", "python": "python"}


@dataclass(frozen=True)
class Wanted:
    """What somebody wants to do, and what was found.

    Attributes:
        language: A `verifier.kind`.
        language_reason: How it was found, if nobody said it; "" otherwise.
        profile: Of the machine that the run is for.
        is_here: That is this machine.
        processors: Of that machine; assumed for another one.
        tools: Which compilers are there, in words.
        seconds: The time for the whole run.
        name: Of the configuration and of its run directory.
        prompt_lengths: Tokens of each prompt that was read.
    """

    model: ModelFound
    prompts: PromptsFound
    language: str
    language_reason: str
    profile: Profile
    is_here: bool
    processors: int
    tools: str
    seconds: float
    name: str
    prompt_lengths: Sequence[int]


@dataclass(frozen=True)
class Setting:
    """One value of the configuration, and why."""

    key: str
    value: Any
    reason: str = ""


@dataclass
class Choice:
    """The configuration: sections with their settings, in order, and what it was chosen by.

    Attributes:
        detectable: The smallest difference between two versions that dev is expected to show; None if it was not read.
        memory: The fewest bytes that the run needs on its device.
        warnings: What to look at before the run is started.
    """

    sections: dict[str, list[Setting]] = field(default_factory=dict)
    sized: Sized | None = None
    speed: Speed | None = None
    detectable: float | None = None
    memory: int | None = None
    warnings: list[str] = field(default_factory=list)


def choose_values(wanted: Wanted) -> Choice:
    """Every value that differs from the defaults or that a first user should look at.

    Raises:
        ConfigError: No prompt of a set leaves the model room for a completion.
    """
    choice = Choice()
    longest = _max_new_tokens(wanted)
    profile, model = wanted.profile, wanted.model
    speed = speed_of(profile.name, wanted.processors, profile.dtype())
    number = model.shape.num_parameters
    fitting = _fitting(wanted, longest.value)
    kept_lengths = [each for each in wanted.prompt_lengths if _fits(wanted, each, longest.value)]
    prompt_tokens = fmean(kept_lengths) if kept_lengths else _ASSUMED_LENGTH

    def work(size: RunSize) -> Work:
        return Work(
            train_samples=size.prompts * size.samples,
            dev_samples=size.dev * size.dev_samples,
            rows=profile.rows_in_flight(number),
            prompt_tokens=prompt_tokens,
            completion_tokens=_mean_tokens(wanted, longest.value),
            kept=size.kept(),
            checkpointing=number >= CHECKPOINTED,
        )

    there = (fitting["train"], fitting["dev"])
    available = tuple(_ASSUMED_PROMPTS[at] if size is None else size for at, size in enumerate(there))
    found_size = sized(wanted.seconds, model.shape, speed, work, (available[0], available[1]))
    choice.sized, choice.speed = found_size, speed
    size = found_size.size
    element = 4 if profile.dtype() == "float32" else 2
    choice.memory = least_memory_bytes(ModelSize(number, model.shape, element), profile, RANK)
    sections = {
        "model": [Setting("model_name_or_path", model.name)],
        "prompts": list(_prompts(wanted, size, fitting, longest.value)),
        "engine": list(_engine(wanted, longest)),
        "verifier": list(_verifier(wanted)),
        "selection": [_threshold(wanted)],
        "training": list(_training(wanted, size)),
        "lora": [
            Setting("r", RANK, "ranks of 1 to 32 do equally well on data of this size, with alpha fixed (published)"),
            Setting("lora_alpha", 32, "alpha / r multiplies the adapter: change it and the learning rate together"),
        ],
        "evaluation": [
            Setting("samples_per_prompt", size.dev_samples, "of each dev and test prompt; more prompts help more")
        ],
        "decisions": list(_decisions(wanted, size, choice)),
        "raft": list(_raft(size, fitting["train"])),
    }
    choice.sections = {name: settings for name, settings in sections.items() if settings}
    _warn(wanted, choice, fitting)
    return choice


# ---- what is asked


def measured_prompts(prompts: PromptsFound) -> list[Prompt]:
    """The prompts whose lengths are measured: all, or of a large set some, chosen by a hash."""
    return limited(prompts.every, MOST_MEASURED)


def _reference_lengths(wanted: Wanted) -> list[int]:
    texts = [prompt.info.get("reference") for prompt in measured_prompts(wanted.prompts)]
    return sorted(tokens(wanted.model, text) for text in texts if isinstance(text, str) and text.strip())


def _max_new_tokens(wanted: Wanted) -> Setting:
    template = wanted.model.template
    references = _reference_lengths(wanted)
    if template is not None and template.opens_reasoning:
        value, reason = _REASONING_TOKENS, "the model reasons first; completions that are cut off are never trained on"
    elif references:
        high = references[math.ceil(0.95 * len(references)) - 1]
        value = min(_MOST_TOKENS, max(_LEAST_TOKENS, 64 * math.ceil(2 * high / 64)))
        reason = f"twice what 95 % of the reference solutions need ({high} tokens), at least {_LEAST_TOKENS}"
    else:
        value = _PROGRAM_TOKENS
        reason = "about 50 lines of a program; no row has a reference solution to measure"
    prompts = wanted.prompt_lengths
    if prompts and wanted.model.positions is not None:
        room = wanted.model.positions - max(prompts) - _PREFIX_TOKENS
        if _LEAST_TOKENS <= room < value:
            value, reason = room, f"what the longest prompt ({max(prompts)} tokens) leaves of the model's positions"
    return Setting("max_new_tokens", value, f"{reason}; the report shows how many are cut off")


def _fits(wanted: Wanted, prompt_tokens: int, max_new_tokens: int) -> bool:
    """A prompt leaves room for a completion."""
    positions = wanted.model.positions
    return positions is None or prompt_tokens + _PREFIX_TOKENS + max_new_tokens <= positions


def _fitting(wanted: Wanted, max_new_tokens: int) -> dict[str, int | None]:
    """The number of prompts of each set that fit, estimated where not all were measured; None where it was not read.

    Raises:
        ConfigError: No prompt of a set fits.
    """
    measured = dict(zip((each.id for each in measured_prompts(wanted.prompts)), wanted.prompt_lengths, strict=True))
    found: dict[str, int | None] = dict.fromkeys(SETS)
    for name, own in ({} if wanted.prompts.sets is None else wanted.prompts.sets).items():
        lengths = [measured[each.id] for each in own if each.id in measured]
        left = sum(_fits(wanted, each, max_new_tokens) for each in lengths)
        if lengths and not left:
            raise ConfigError(
                f"none of the {name} prompts fits: the shortest has {min(lengths)} tokens, and the model has"
                f" {wanted.model.positions} positions for a prompt and a completion of {max_new_tokens}",
                "use a model with more positions, or shorter prompts",
            )
        found[name] = round(len(own) * left / len(lengths)) if lengths else len(own)
    return found


def _mean_tokens(wanted: Wanted, longest: int) -> float:
    """The assumed mean length of a completion."""
    references = _reference_lengths(wanted)
    return min(_USED * longest, _LONGER * fmean(references)) if references else _USED * longest


def number(value: float) -> str:
    """A number as people and YAML write it: 0.85, 3.3e-4."""
    text = f"{value:g}" if 1e-3 <= abs(value) < 1e6 or value == 0.0 else f"{value:e}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if exponent else text


def _prompts(
    wanted: Wanted, size: RunSize, fitting: Mapping[str, int | None], max_new_tokens: int
) -> Iterator[Setting]:
    prompts, model = wanted.prompts, wanted.model
    counts = {name: prompts.size(name) for name in SETS}
    for name in SETS:
        read = counts[name]
        rows = "number of rows unknown" if read is None else counted(read, "prompt")
        yield Setting(name, prompts.specs[name], f"{prompts.how}; {rows}" if name == "train" else rows)
    if counts["train"] is None:
        yield Setting("train_limit", size.prompts, "the number of rows is unknown: more would take longer")
    for name in ("dev", "test"):
        fit = fitting[name]
        if fit is None or fit > size.dev:
            yield Setting(f"{name}_limit", size.dev, "at most so many, chosen by a hash: they take time in each cycle")
    if over := sum(not _fits(wanted, each, max_new_tokens) for each in wanted.prompt_lengths):
        yield Setting(
            "overlong", "drop", f"{counted(over, 'prompt')} without room in the model's {model.positions} positions"
        )
    if (prefix := _prefix(wanted)) is not None:
        reasons = model.template is not None and model.template.mentions_reasoning
        skipped = "; it also skips the reasoning that this model may begin with" if reasons else ""
        yield Setting("response_prefix", prefix, f"every completion begins with its program: fewer tokens{skipped}")


def _prefix(wanted: Wanted) -> str | None:
    template = wanted.model.template
    fence = _FENCES.get(wanted.language)
    if fence is None or (template is not None and template.opens_reasoning):
        return None
    return f"```{fence}\n"


def _engine(wanted: Wanted, longest: Setting) -> Iterator[Setting]:
    yield longest
    yield Setting(
        "temperature", 1.0, "training on samples drawn below 1 sharpens the model further in every cycle (derived)"
    )
    if _prefix(wanted) is not None:
        yield Setting("stop", ["```"], "the closing fence")


def _verifier(wanted: Wanted) -> Iterator[Setting]:
    yield Setting("kind", wanted.language)
    seconds, memory = longest_limits(wanted.prompts.every)
    if seconds is not None:
        yield Setting("timeout_seconds", seconds, "the most that a row asks for; one limit applies to all")
    if memory is not None:
        yield Setting("memory_limit_bytes", memory, "the most that a row asks for, in bytes")


# ---- what is trained on


def _is_tested(wanted: Wanted) -> bool:
    return wanted.prompts.sets is None or wanted.prompts.num_tested > 0


def _is_small(wanted: Wanted) -> bool:
    return wanted.model.shape.num_parameters < SMALL


def _threshold(wanted: Wanted) -> Setting:
    if not _is_tested(wanted):
        return Setting("reward_threshold", "pass", "no prompt has tests: what compiles passes, whatever it does")
    if not _is_small(wanted):
        return Setting("reward_threshold", "pass", "only programs that pass all tests of their prompt")
    value, what = (0.71, "passes some of its tests") if wanted.language == "python" else (0.5, "compiles cleanly")
    return Setting(
        "reward_threshold",
        {"kind": "phases", "phases": [{"until": 2, "value": value}, {"value": "pass"}]},
        f"a small model may pass too little at first: two cycles keep what {what}, later ones what passes. Use plain"
        " `pass` if v0 passes more than a fifth",
    )


def _training(wanted: Wanted, size: RunSize) -> Iterator[Setting]:
    rows, model = size.rows_per_step(), wanted.model
    rate = lora_learning_rate(model.family, model.shape.hidden_size, rows)
    families = [model.family] if model.family is not None else list(EXPONENTS)
    exponents = " or ".join(f"{EXPONENTS[family]:g}" for family in families)
    named = {"llama": "models like Llama", "qwen": "Qwen models", None: "other families than this one: a guess"}
    reason = (
        f"{number(BASE)} x ({WIDTH} / {model.shape.hidden_size})^{exponents} x sqrt({rows} / {ROWS}) = {number(rate)}:"
        f" a published formula for LoRA on {named[model.family]}, from supervised training. For RAFT it is a"
        f" hypothesis; a quarter of it, {number(float(f'{rate / 4:.1e}'))}, is the careful end."
    )
    if size.cycles <= 2:
        yield Setting("learning_rate", rate, f"{reason} Constant: two cycles leave nothing to decay over")
    else:
        last = _DECAY ** (size.cycles - 1)
        reason += (
            f" Cycle {size.cycles} trains at {last:.0%} of it: constant rates were seen to decline late. Whether a"
            " decay is better than a constant rate of the same sum is open; a plain number is constant"
        )
        yield Setting("learning_rate", {"kind": "exponential", "base": rate, "decay": _DECAY, "min": 1e-6}, reason)
    yield Setting("lr_scheduler_type", "linear", "within a cycle; the shape hardly matters in so few steps")
    yield Setting("warmup_steps", 1, "capped at a fifth of a cycle's steps: longer ones leave nothing to train with")
    yield Setting(
        "per_device_train_batch_size",
        rows,
        f"rows of one optimizer step: about {max(1, size.kept() // rows)} steps, if {size.kept()} rows are kept. LoRA"
        " does worse with more than 32; memory does not limit it, because long steps are split",
    )
    yield Setting("gradient_accumulation_steps", 1)


# ---- how it is judged


def _decisions(wanted: Wanted, size: RunSize, choice: Choice) -> Iterator[Setting]:
    if not _is_tested(wanted):
        yield Setting("metric", "dev/compile_rate", "without tests there is no pass rate")
    elif _is_small(wanted):
        yield Setting(
            "metric", "dev/pass_rate", "if v0 passes fewer than 1 in 20, dev/reward_mean sees more: graded by tests"
        )
    if wanted.prompts.sets is None or size.dev < 1:
        return
    seen = between_versions(size.dev, size.dev_samples, Variation(rate=0.5))
    choice.detectable = seen.detectable
    reason = (
        f"{size.dev} dev prompts x {size.dev_samples} samples detect differences of {seen.detectable:.2f} at a rate of"
        f" 0.5 (expected standard error {seen.standard_error:.3f})"
    )
    if seen.standard_error > _DEFAULT_ERROR:
        value = math.ceil(100.0 * seen.standard_error) / 100.0
        yield Setting("max_standard_error", value, f"{reason}; the default, {_DEFAULT_ERROR:g}, is for larger sets")


def _raft(size: RunSize, there: int | None) -> Iterator[Setting]:
    why = (
        "the project's first runs were best at the sixth" if size.cycles == LADDER[0].cycles else "what the time allows"
    )
    yield Setting(
        "num_cycles", size.cycles, f"{why}; a confirmed decline returns to the best version and halves the rate"
    )
    yield Setting("samples_per_prompt", size.samples, "more find rarer solutions, and leave less to chance")
    if there is not None and there > size.prompts:
        yield Setting("prompts_per_cycle", size.prompts, "each cycle takes the next ones, so the data stay fresh")
    at_most = max(1, size.prompts * min(size.samples, PER_PROMPT) // 4)
    if at_most < 8:
        yield Setting("min_selected", at_most, "so few prompts cannot give the default of 8 for sure")


def _warn(wanted: Wanted, choice: Choice, fitting: Mapping[str, int | None]) -> None:
    prompts, found = wanted.prompts, choice.sized
    named = prompts.specs["train"].lower()
    if benchmark := next((name for name in _BENCHMARKS if name in named), None):
        choice.warnings.append(
            f"{benchmark} is a benchmark: a model that was trained on its rows cannot be compared with others on it"
        )
    assert found is not None and choice.memory is not None
    budget = wanted.profile.memory_budget_bytes() if wanted.is_here else None
    if budget is not None and choice.memory > budget:
        choice.warnings.append(
            f"the model needs {choice.memory / 1e9:.1f} GB, and a run may take {budget / 1e9:.1f} GB here: choose a"
            " smaller model, free some memory, or raise hardware.memory_fraction"
        )
    if prompts.sets is not None:
        left = sum(each for each in fitting.values() if each is not None)
        if left < _MOST_FIT * len(prompts.every):
            choice.warnings.append(
                f"about {left} of {len(prompts.every)} prompts leave the model room for a completion; prompts.overlong"
                " leaves the others out"
            )
        if found.size.dev < _MIN_PROMPTS:
            choice.warnings.append(
                f"{found.size.dev} dev prompts are too few: versions are not compared below {_MIN_PROMPTS}, so a run"
                f" would keep the start model; {_ENOUGH_ROWS} rows in all are nearly always enough"
            )
        if prompts.num_tested == 0:
            choice.warnings.append(
                "no prompt has tests: the model learns to write what compiles, whatever it does; give the rows `tests`"
            )
    if not found.fits:
        choice.warnings.append(
            f"the smallest run that can show something takes {roughly(found.run_seconds)}, more than the"
            f" {roughly(wanted.seconds).removeprefix('about ')} that you have"
        )
