"""Loads the prompts that a prompt set names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from halo_forge.core.errors import ConfigError, raise_together
from halo_forge.core.records import Prompt
from halo_forge.core.source import canonical
from halo_forge.prompts import builtin, hub, jsonl, parquet
from halo_forge.prompts._conversion import NOT_READ, file_hint
from halo_forge.prompts._row import Row, left_out
from halo_forge.prompts._shapes import to_prompts
from halo_forge.prompts.split import SPLITS, Split, apply, limited

_ENDINGS = (".jsonl", ".parquet")
_SHOWN = 5
_FORMS = "a path ending in .jsonl or .parquet, builtin:NAME, or a data set id (id, id:split, id:config:split)"


def load_prompts(
    spec: str,
    *,
    language: str | None,
    where: Mapping[str, Sequence[Any]] | None = None,
    limit: int | None = None,
    check: Callable[[Prompt], object] | None = None,
    broken: list[ConfigError] | None = None,
) -> list[Prompt]:
    """The prompts that `spec` names, in the order of their rows.

    Args:
        spec: `builtin:c/train` (or dev, test, all); a `.jsonl` or `.parquet` path, or `PATH:train` (or dev, test)
            for the rows of that split by the hash of their id; anything else is a data set id for `datasets`:
            `id`, `id:split` or `id:config:split`.
        language: The language that the verifier checks: rows without a language get it, a row in another language
            is an error.  None accepts every language and leaves rows without one as they are.
        where: Use only prompts whose info has, under each key, one of the values; None uses all.
        limit: Use at most this many prompts, chosen by a hash of their ids; None uses all.
        check: Is called with every prompt that is used, and raises a ConfigError about one that cannot be used.
        broken: Receives the errors of single rows, skipped as long as other rows remain; None raises the first error.

    Raises:
        ConfigError: The source cannot be read or is empty, or a row is wrong; the message names file and line.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the prompt limit is {limit}; at least 1 is needed", "raise it, or remove it to use all")
    rows, split = open_rows(spec, broken)
    prompts, places = [], {}
    for row, prompt in to_prompts(rows, broken):
        with left_out(broken):
            prompts.append(_in_language(row, prompt, language))
            places[prompt.id] = row.place
    if not prompts and broken:
        raise broken[0]
    if not prompts:
        raise ConfigError(f"the prompt set {spec!r} is empty", "add rows, or name another prompt set")
    if split is not None:
        num_rows, prompts = len(prompts), apply(prompts, split)
        if not prompts:
            raise ConfigError(
                f"none of the {num_rows} rows of {spec!r} falls into the split {split}",
                "add rows, or use a separate file for each split",
            )
    if where:
        prompts = filtered(spec, prompts, where)
    if limit is not None:
        prompts = limited(prompts, limit)
    return prompts if check is None else _usable(prompts, check, places, broken)


def _usable(
    prompts: list[Prompt],
    check: Callable[[Prompt], object],
    places: Mapping[str, str],
    broken: list[ConfigError] | None,
) -> list[Prompt]:
    refused: dict[str, ConfigError] = {}
    for prompt in prompts:
        try:
            check(prompt)
        except ConfigError as error:
            refused[prompt.id] = ConfigError(f"{places[prompt.id]}: {error.message}", error.hint)
    if broken is not None:
        broken += refused.values()
    elif refused:
        shown = list(refused.values())[:_SHOWN]
        if len(refused) > len(shown):
            more = f" (and {len(refused) - len(shown)} more prompts of this file are refused)"
            shown[-1] = ConfigError(shown[-1].message + more, shown[-1].hint)
        raise_together(shown)
    return [prompt for prompt in prompts if prompt.id not in refused]


def filtered(spec: str, prompts: list[Prompt], where: Mapping[str, Sequence[Any]]) -> list[Prompt]:
    """The prompts whose info has, under each key of `where`, one of its values.

    Raises:
        ConfigError: None has.
    """
    for key, values in where.items():
        found = {str(prompt.info[key]) for prompt in prompts if key in prompt.info}
        prompts = [prompt for prompt in prompts if prompt.info.get(key) in values]
        if not prompts:
            there = ", ".join(sorted(found)[:8]) if found else "none has this key"
            raise ConfigError(
                f"prompts.where: no prompt of {spec!r} has {key} in {list(values)}; found: {there}",
                "correct prompts.where, or remove it",
            )
    return prompts


def is_remote(spec: str) -> bool:
    """Whether `spec` names a data set to be downloaded, not a packaged set or a file.

    Raises:
        ConfigError: It names a file, but a split that there is not.
    """
    if spec.startswith(builtin.PREFIX) or not spec.strip():
        return False
    path, _ = _path_and_split(spec)
    looks_local = spec.startswith((".", "/", "~")) or path.suffix in NOT_READ
    return not (path.suffix in _ENDINGS or looks_local or path.exists())


def open_rows(spec: str, broken: list[ConfigError] | None = None) -> tuple[Iterator[Row], Split | None]:
    """The rows that `spec` names, whatever their shape, and the split to use; None uses all rows.

    Raises:
        ConfigError: The source cannot be read.
    """
    if not spec.strip():
        raise ConfigError("the name of the prompt set is empty", f"give {_FORMS}")
    if spec.startswith(builtin.PREFIX):
        return builtin.read(spec)
    if is_remote(spec):
        return hub.read(spec), None
    path, split = _path_and_split(spec)
    if path.suffix == ".jsonl":
        return jsonl.read(path, broken=broken), split
    if path.suffix == ".parquet":
        return parquet.read(path), split
    if path.suffix in NOT_READ:
        raise ConfigError(f"prompt file {spec!r} is neither .jsonl nor .parquet", file_hint(path))
    raise ConfigError(f"prompt file {spec!r} is neither .jsonl nor .parquet", f"give {_FORMS}")


def _path_and_split(spec: str) -> tuple[Path, Split | None]:
    """`FILE:train` as file and split; a colon that does not follow the ending of a file is part of the name.

    Raises:
        ConfigError: What follows a file is no split.
    """
    file, _, last = spec.rpartition(":")
    if not file.endswith(_ENDINGS) or spec.endswith(_ENDINGS):
        return Path(spec).expanduser(), None
    split = next((name for name in SPLITS if name == last), None)
    if split is None:
        meant = "dev" if last.strip().lower() in ("valid", "val", "validation", "eval") else "train"
        raise ConfigError(
            f"{spec!r}: splits of a file are {', '.join(SPLITS)}, found {last!r}",
            f"write {file}:{meant} for the rows of that split by the hash of their id, or {file} for all rows",
        )
    return Path(file).expanduser(), split


def _in_language(row: Row, prompt: Prompt, language: str | None) -> Prompt:
    if prompt.language is None:
        return dataclasses.replace(prompt, language=language)
    known = canonical(prompt.language)
    named = prompt.language if known is None else known
    if language is not None and named != language:
        raise row.error(
            f"the prompt is in {named}, but the verifier checks {language}",
            f"use the verifier for {named}, or other prompts",
        )
    return dataclasses.replace(prompt, language=named)
