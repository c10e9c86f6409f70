"""What can be checked of a configuration without loading a model, and what is left: behind `config check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from halo_forge.config import RaftConfig
from halo_forge.core.errors import ConfigError, RunDirError, ToolMissing, raise_together
from halo_forge.core.records import Prompt
from halo_forge.policy import check_local
from halo_forge.prompts.summary import lines_of
from halo_forge.runtime.assembly import SETS, load_local_sets, planned_with
from halo_forge.store.run import check_root


@dataclass(frozen=True)
class ConfigCheck:
    """The result for a configuration in which nothing was found that any machine would refuse.

    Attributes:
        checked: What was looked at, in words.
        not_checked: What could still be wrong, and which command tells.
        warnings: Those of the dry run, what this machine would refuse included.
    """

    checked: tuple[str, ...]
    not_checked: tuple[str, ...]
    warnings: tuple[str, ...]


def check_config(config: RaftConfig) -> ConfigCheck:
    """Look at the prompt sets, the model's folder and the run directory; loads no model and writes nothing.

    Raises:
        ConfigError: Everything that is missing or contradicts itself.
    """
    problems: list[ConfigError] = []
    local: dict[str, tuple[Prompt, ...]] = {}

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
        attempt(lambda: check_local(config.model))
    attempt(config.engine.check)
    attempt(lambda: check_root(Path(config.output_dir)))
    raise_together(problems)
    found = planned_with(config, local)
    return ConfigCheck(
        checked=(*_checked(config, local), *lines_of(found.prompts)),
        not_checked=tuple(_not_checked(config, local)),
        warnings=found.warnings,
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


def _not_checked(config: RaftConfig, local: Mapping[str, Sequence[Prompt]]) -> Iterator[str]:
    for name in SETS:
        if name not in local:
            yield f"prompts.{name}: {getattr(config.prompts, name)} is on the Hub; only a run reads it"
    if config.engine.needs_policy:
        name = config.model.model_name_or_path
        what = "loads" if _is_local(config) else "exists on the Hub, has a chat template, loads"
        yield f"whether {name} {what}, fits into the memory, and leaves room for the prompts"
    yield "whether compilers and the sandbox work here (halo-forge doctor)"
    yield "whether the tests of the prompts are right (halo-forge tasks check)"


def _is_local(config: RaftConfig) -> bool:
    return Path(config.model.model_name_or_path).expanduser().is_dir()
