"""The prompt sets of a run: what is read, what is refused, how each is checked, and what fits into the model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from halo_forge.config import RaftConfig
from halo_forge.config.problems import dotted
from halo_forge.config.rules import SCHEDULED, value_at
from halo_forge.core.errors import ConfigError, raise_together
from halo_forge.core.plan import PromptSets
from halo_forge.core.records import Prompt
from halo_forge.policy.lengths import Overlong, overlong_prompts
from halo_forge.prompts import hub, is_remote, load_prompts
from halo_forge.prompts.row_limits import limit_warnings
from halo_forge.prompts.summary import SetSummary, shared_tasks, summarise, warnings_of
from halo_forge.runtime.preview import cut_prompts
from halo_forge.verifiers.limits import refuse_long_outputs

SETS = ("train", "dev", "test")


def load_prompt_sets(config: RaftConfig) -> PromptSets:
    """Read the three prompt sets and put the system prompt in front.

    Raises:
        ConfigError: A set cannot be read, nothing of it is left by `prompts.where`, or a prompt id is in two sets.
    """
    sets = {name: load_prompt_set(config, name) for name in SETS}
    _refuse_shared_ids(sets)
    return PromptSets(**sets)


def prompts_as_started(config: RaftConfig, identity: Mapping[str, Any]) -> tuple[dict[str, Prompt], list[str]]:
    """The prompts of a run by id, as far as they are on this machine and the same as when the run was started.

    Returns:
        The prompts, and for each set that is missing, why.
    """
    found: dict[str, Prompt] = {}
    missing = []
    for name in SETS:
        source = getattr(config.prompts, name)
        if is_remote(source):
            missing.append(f"prompts.{name}: {source} is a data set that would have to be downloaded")
            continue
        try:
            prompts = load_prompt_set(config, name)
        except ConfigError as error:
            missing.append(f"prompts.{name}: {error.message}")
            continue
        if identity.get("prompts", {}).get(name) != prompt_digest(prompts):
            missing.append(f"prompts.{name}: {source} has changed since the run was started")
            continue
        found |= {prompt.id: prompt for prompt in prompts}
    return found, missing


def load_local_sets(config: RaftConfig) -> dict[str, tuple[Prompt, ...]]:
    """The prompt sets that are not on a hub, by name.

    Raises:
        ConfigError: A set cannot be read or has no name that a hub can know (all of these are named), a prompt id is
            in two of them, or no program may print what tests expect.
    """
    local, problems = {}, []
    for name in SETS:
        try:
            if is_remote(source := getattr(config.prompts, name)):
                hub.parts_of(source)
            else:
                local[name] = load_prompt_set(config, name)
        except ConfigError as error:
            problems.append(error)
    raise_together(problems)
    _refuse_shared_ids(local)
    every = (prompt for prompts in local.values() for prompt in prompts)
    refuse_long_outputs(config.verifier, ((prompt.id, config.verifier.tests_of(prompt)[0]) for prompt in every))
    return local


def _refuse_shared_ids(sets: Mapping[str, Sequence[Prompt]]) -> None:
    seen: dict[str, str] = {}
    for name, prompts in sets.items():
        for prompt in prompts:
            other = seen.setdefault(prompt.id, name)
            if other != name:
                raise ConfigError(
                    f"prompt id {prompt.id!r} is in prompts.{other} and in prompts.{name}",
                    "keep the sets apart: a model must not be measured on what it was trained on; give a file that"
                    " holds them all as FILE.jsonl:train, FILE.jsonl:dev and FILE.jsonl:test",
                )


def load_prompt_set(config: RaftConfig, name: str) -> tuple[Prompt, ...]:
    """Read one of the three prompt sets and put the system prompt in front.

    Raises:
        ConfigError: It cannot be read, or nothing of it is left by `prompts.where`.
    """
    section = config.prompts
    try:
        prompts = load_prompts(
            getattr(section, name),
            language=config.verifier.language,
            where=section.where,
            limit=getattr(section, f"{name}_limit"),
            check=lambda prompt: _check_tests(config, prompt),
        )
    except ConfigError as error:
        raise ConfigError(f"prompts.{name}: {error.message}", error.hint) from error
    return tuple(with_system(prompt, section.system_prompt) for prompt in prompts)


def _check_tests(config: RaftConfig, prompt: Prompt) -> None:
    """Whether the verifier can use the prompt's tests, as far as no program has to be run.

    Raises:
        ConfigError: It cannot.
    """
    tests, _ = config.verifier.tests_of(prompt)
    try:
        config.verifier.refuse_unsupported(tests)
    except ConfigError as error:
        raise ConfigError(f"prompt {prompt.id!r}: {error.message}", error.hint) from error


def with_system(prompt: Prompt, system_prompt: str | None) -> Prompt:
    """The prompt with a system message, unless it has one or `system_prompt` is None."""
    if system_prompt is None or prompt.messages[0]["role"] == "system":
        return prompt
    return dataclasses.replace(prompt, messages=({"role": "system", "content": system_prompt}, *prompt.messages))


def summaries(config: RaftConfig, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, SetSummary]:
    """How each set is checked.

    A schedule that reads the pass rate of a set without tests would never act, and nobody would notice.

    Raises:
        ConfigError: There is one.
    """
    sets = {name: summarise(own) for name, own in prompts.items()}
    for path in SCHEDULED:
        metric = getattr(value_at(config, path), "metric", None)
        name, _, bare = str(metric).partition("/")
        untested = name in sets and (sets[name].num_tested == 0 or config.verifier.stages == ["compile"])
        if untested and config.verifier.runs_programs and (bare == "pass_rate" or bare.startswith("pass@")):
            raise ConfigError(
                f"{dotted(path)}.metric is {metric}, but no prompt of prompts.{name} is tested, so there is only a"
                " compile rate",
                f"write metric: {name}/compile_rate, or give the prompts tests",
            )
    return sets


def prompt_warnings(config: RaftConfig, sets: Mapping[str, SetSummary]) -> Iterator[str]:
    """What a "pass" does not mean in these sets, where that is less than it seems."""
    named = {f"prompts.{name}": summary for name, summary in sets.items()}
    return warnings_of(named, config.verifier.runs_programs, config.verifier.stages)


def row_warnings(config: RaftConfig, prompts: Mapping[str, Sequence[Prompt]]) -> Iterator[str]:
    """Tasks that are in two sets, and limits of rows that the verifier does not apply."""
    named = {f"prompts.{name}": own for name, own in prompts.items()}
    yield from shared_tasks(named)
    yield from limit_warnings(named, config.verifier.timeout_seconds, config.verifier.memory_limit_bytes)


def start_warnings(
    config: RaftConfig, sets: Mapping[str, SetSummary], prompts: PromptSets, dropped: Overlong | None
) -> Iterator[str]:
    """All warnings about the prompts of a run that starts."""
    if dropped is not None:
        yield f"{dropped}; prompts.overlong leaves them out"
    yield from prompt_warnings(config, sets)
    yield from cut_prompts(config, len(prompts.train))
    yield from row_warnings(config, prompts.by_name())


def fitting_prompts(config: RaftConfig, prompts: PromptSets, date: datetime) -> tuple[PromptSets, Overlong | None]:
    """The prompts that leave room for a completion, and those that `prompts.overlong` drops; None where there are none.

    Which these are follows from the prompts, the tokenizer and the configuration, which identify the run.

    Raises:
        ConfigError: Some leave none and are not to be dropped, or no prompt of a set is left.
        ModelError: The tokenizer or its chat template cannot be used.
    """
    if not config.engine.needs_policy:
        return prompts, None
    prefix, limit = config.prompts.response_prefix, config.engine.max_new_tokens
    marks = config.verifier.own_marks
    every = prompts.by_id().values()
    found = overlong_prompts(config.model, every, prefix, limit, date=date, reasoning_marks=marks)
    if not found.num_tokens:
        return prompts, None
    if config.prompts.overlong == "error":
        raise ConfigError(
            str(found),
            "shorten or remove them, leave them out with prompts.overlong: drop, lower engine.max_new_tokens, or use a"
            " model with more positions",
        )
    left = {
        name: tuple(each for each in own if each.id not in found.num_tokens) for name, own in prompts.by_name().items()
    }
    for name, own in left.items():
        if not own:
            raise ConfigError(f"prompts.overlong: no prompt of prompts.{name} is left: {found}", "lower max_new_tokens")
    return PromptSets(**left), found


def prompt_digest(prompts: Sequence[Prompt]) -> str:
    """The SHA-256 of the prompts as rows."""
    rows = [prompt.to_row() for prompt in prompts]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
