"""Rows of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from halo_forge.core.errors import ConfigError
from halo_forge.prompts._row import Row, plain


def read(path: Path) -> Iterator[Row]:
    """The rows of `path`, counted from 1.

    Raises:
        ConfigError: The file is missing, unreadable or not Parquet, or a cell has a value that JSON cannot represent.
    """
    # Imported late: a run on JSONL files should not pay for it.
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        # OSFile, so that a path is never interpreted as a partitioned data set or a remote address.  Without threads of
        # Arrow: one that was still running when the process ended with an error has aborted it (seen once in 60).
        with pyarrow.OSFile(str(path)) as source:
            cells = pyarrow.parquet.read_table(source, use_threads=False, pre_buffer=False).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(
            f"prompt file {path} cannot be read: {reason}", "check the path, and that it is a Parquet file"
        ) from error
    for number, row in enumerate(cells, start=1):
        place = f"{path} row {number}"
        yield Row(place, {str(column): plain(place, str(column), value) for column, value in row.items()})
