"""Rows of a data set on the hub (or in its local cache), read with `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from halo_forge.core.errors import ConfigError
from halo_forge.prompts._row import Row, plain

_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def read(spec: str) -> Iterator[Row]:
    """The rows of `id`, `id:split` or `id:config:split`, counted from 1.

    Raises:
        ConfigError: `spec` has none of these forms, the data set cannot be loaded (offline, unknown, no such split), or
            it has several splits and none is named.
    """
    parts = parts_of(spec)
    data = _load(spec, parts[0], parts[1] if len(parts) == 3 else None, parts[-1] if len(parts) > 1 else None)
    for number, row in enumerate(data, start=1):
        place = f"{spec} row {number}"
        yield Row(place, {str(column): plain(place, str(column), value) for column, value in row.items()})


def parts_of(spec: str) -> list[str]:
    """What a name of a data set consists of: `id`, `id:split` or `id:config:split`.

    Raises:
        ConfigError: `spec` has none of these forms.
    """
    parts = spec.split(":")
    if len(parts) > 3 or "://" in spec or not all(part.strip() for part in parts) or not _ID.fullmatch(parts[0]):
        raise ConfigError(
            f"prompt source {spec!r} is none of `id`, `id:split`, `id:config:split`",
            "write a file ending in .jsonl or .parquet, builtin:NAME, or a data set id (NAME or OWNER/NAME)",
        )
    return parts


def _load(spec: str, dataset_id: str, config: str | None, split: str | None) -> Any:
    # Imported late: it takes a second and imports half of the numeric stack.
    import datasets

    try:
        data = datasets.load_dataset(dataset_id, name=config, split=split)
    # Whatever the hub client raises (its own errors, HTTP errors, ValueError ...) means that loading failed.
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
        raise ConfigError(
            f"data set {spec!r} cannot be loaded: {reason}",
            "check the id, the split and the network (offline, only data sets that were loaded before are available), "
            "or give a file: a path ending in .jsonl or .parquet",
        ) from error
    if not isinstance(data, datasets.DatasetDict):
        return data
    if len(data) == 1:
        return next(iter(data.values()))
    raise ConfigError(
        f"data set {spec!r} has the splits {', '.join(data)}", f"name one: {dataset_id}:{next(iter(data))}"
    )
