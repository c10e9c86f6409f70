"""Rows of a data set on the hub (or in its local cache), read with `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from halo_forge.core.errors import ConfigError
from halo_forge.prompts._row import Row, plain


class UnknownDataSet(ConfigError):
    """The Hub was asked and has no such data set."""


_BETWEEN = re.compile(r":(?![^\[\]]*\])")
"""A colon between parts, and none within a slice such as `train[:60%]`."""
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
    """What a name of a data set consists of: `id`, `id:split` or `id:config:split`; a split may be a slice of one.

    Raises:
        ConfigError: `spec` has none of these forms.
    """
    parts = _BETWEEN.split(spec)
    if len(parts) > 3 or "://" in spec or not all(part.strip() for part in parts) or not _ID.fullmatch(parts[0]):
        raise ConfigError(
            f"prompt source {spec!r} is none of `id`, `id:split`, `id:config:split`",
            "write a file ending in .jsonl or .parquet, builtin:NAME, or a data set id (NAME or OWNER/NAME)",
        )
    return parts


def splits_of(spec: str) -> dict[str, int]:
    """The splits of a data set and their numbers of rows: of `id`, or of `id:config:split` those of its config.

    Raises:
        ConfigError: `spec` has none of these forms, or the data set cannot be loaded.
    """
    parts = parts_of(spec)
    _check_reachable(spec, parts[0])
    found = _loaded(spec, parts[0], parts[1] if len(parts) == 3 else None, None)
    return {str(name): len(rows) for name, rows in found.items()} if isinstance(found, dict) else {"train": len(found)}


def _check_reachable(spec: str, dataset_id: str) -> None:
    """Ask the Hub once: `datasets` retries for half a minute where there is no network.

    Raises:
        ConfigError: There is no network, or the Hub has no such data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().dataset_info(dataset_id, timeout=10)
    except OfflineModeIsEnabled:
        return  # it may have been loaded before
    except RepositoryNotFoundError as error:
        raise UnknownDataSet(
            f"data set {spec!r}: the Hub has no data set {dataset_id} that may be read",
            "correct the id, log in to the Hub if it is private, or give a path ending in .jsonl or .parquet",
        ) from error
    except Exception as error:  # an OSError or one of the HTTP client's
        raise ConfigError(
            f"no network, or the Hub does not answer: {type(error).__name__}", "check the network, or give a file"
        ) from error


def _load(spec: str, dataset_id: str, config: str | None, split: str | None) -> Any:
    import datasets

    data = _loaded(spec, dataset_id, config, split)
    if not isinstance(data, datasets.DatasetDict):
        return data
    if len(data) == 1:
        return next(iter(data.values()))
    raise ConfigError(
        f"data set {spec!r} has the splits {', '.join(data)}", f"name one: {dataset_id}:{next(iter(data))}"
    )


def _loaded(spec: str, dataset_id: str, config: str | None, split: str | None) -> Any:
    # Imported late: it takes a second and imports half of the numeric stack.
    import datasets

    try:
        return datasets.load_dataset(dataset_id, name=config, split=split)
    # Whatever the hub client raises (its own errors, HTTP errors, ValueError ...) means that loading failed.
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
        raise ConfigError(
            f"data set {spec!r} cannot be loaded: {reason}",
            "check the id, the split and the network (offline, only data sets that were loaded before are available), "
            "or give a file: a path ending in .jsonl or .parquet",
        ) from error
