"""What can be checked of a configuration without loading a model, and what is left: behind `config check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from halo_forge.config import RaftConfig
from halo_forge.core.errors import ConfigError, RunDirError, ToolMissing, raise_together
from halo_forge.core.records import Prompt
from halo_forge.policy import check_local
from halo_forge.policy.local_template import check_template
from halo_forge.prompts.summary import lines_of
from halo_forge.runtime.assembly import planned_with
from halo_forge.runtime.prompt_sets import SETS, load_local_sets, with_system
from halo_forge.store.run import check_root

_PROBE = Prompt("probe", ({"role": "user", "content": "Write a program."},))


@dataclass(frozen=True)
class ConfigCheck:
    """The result for a configuration in which nothing was found that any machine would refuse.

    Attributes:
        checked: What was looked at, in words.
        not_checked: What could still be wrong, and which command tells.
        warnings: Those of the dry run, what this machine would refuse included.
        notes: What the chat template does to every prompt.
    """

    checked: tuple[str, ...]
    not_checked: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()


def check_config(config: RaftConfig) -> ConfigCheck:
    """Look at the prompt sets, the model's folder and the run directory; loads no model and writes nothing.

    Raises:
        ConfigError: Everything that is missing or contradicts itself.
    """
    problems: list[ConfigError] = []
    local: dict[str, tuple[Prompt, ...]] = {}
    notes: list[str] = []

    def attempt(check: Callable[[], None]) -> None:
        try:
            check()
        except ConfigError as error:
            problems.append(error)
        except RunDirError as error:  # output_dir is a value like any other
            problems.append(ConfigError(error.message, error.hint))
        except ToolMissing:
            pass  # another machine may have it; the dry run's warnings name it

    attempt(lambda: local.update(load_local_sets(config)))
    if config.engine.needs_policy:
        attempt(lambda: notes.extend(_check_model(config, local)))
    attempt(config.engine.check)
    attempt(lambda: check_root(Path(config.output_dir)))
    raise_together(problems)
    found = planned_with(config, local)
    return ConfigCheck(
        checked=(*_checked(config, local), *lines_of(found.prompts)),
        not_checked=tuple(_not_checked(config, local)),
        warnings=found.warnings,
        notes=(*notes, *found.notes),
    )


def _check_model(config: RaftConfig, local: Mapping[str, Sequence[Prompt]]) -> list[str]:
    """Look at the model's folder, and render a prompt of each sequence of roles with its chat template.

    Raises:
        ConfigError: A part of the model is missing, or the chat template cannot be used.
    """
    check_local(config.model)
    if not _renders(config):
        return []
    every = [prompt for prompts in local.values() for prompt in prompts]
    prefix, date = config.prompts.response_prefix, config.prompts.date
    return check_template(
        config.model.model_name_or_path,
        every if every else [with_system(_PROBE, config.prompts.system_prompt)],
        "" if prefix is None else prefix,
        date=None if date is None else datetime.fromisoformat(date),
        reasoning_marks=config.verifier.own_marks,
        when="the time at which the run is started",
    )


def _checked(config: RaftConfig, local: Mapping[str, Sequence[Prompt]]) -> Iterator[str]:
    yield "keys, values and the rules between them"
    if local:
        counted = ", ".join(f"{name} {len(local[name])}" for name in SETS if name in local)
        yield f"prompts: {counted}; no id is in two sets"
    if config.engine.needs_policy and _is_local(config):
        yield (
            f"{config.model.model_name_or_path}: a model folder with settings, weights"
            f"{'' if config.model.trust_remote_code else ', a tokenizer and a chat template'}"
        )
    if config.engine.needs_policy and _renders(config):
        yield "the chat template renders the prompts" if local else "the chat template renders a prompt"


def _not_checked(config: RaftConfig, local: Mapping[str, Sequence[Prompt]]) -> Iterator[str]:
    for name in SETS:
        if name not in local:
            yield f"prompts.{name}: {getattr(config.prompts, name)} is on the Hub; only a run reads it"
    if config.engine.needs_policy:
        name = config.model.model_name_or_path
        what = "loads" if _is_local(config) else "exists on the Hub, has a chat template, loads"
        if _is_local(config) and not _renders(config):
            what = "has a chat template (its own code may bring one), loads"
        yield f"whether {name} {what}, fits into the memory, and leaves room for the prompts"
    yield "whether compilers and the sandbox work here (halo-forge doctor)"
    yield "whether the tests of the prompts are right (halo-forge tasks check)"


def _renders(config: RaftConfig) -> bool:
    """Whether the chat template is known without running code that the model brings."""
    return _is_local(config) and not config.model.trust_remote_code


def _is_local(config: RaftConfig) -> bool:
    return Path(config.model.model_name_or_path).expanduser().is_dir()
