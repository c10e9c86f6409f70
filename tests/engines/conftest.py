"""Engines and servers leave no temporary folder behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_temporary_folder_is_left(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Each test has a directory for temporary files of its own; only the logs of servers may stay in it."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    left = [path.name for path in folder.glob("halo-forge-*") if not path.name.startswith("halo-forge-logs-")]
    assert left == []
