"""Shared fixtures: tiny models that are made once for all tests."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# A shell ignores Ctrl-C for what it starts in the background, CI too; programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The workers of pytest-xdist have COLUMNS=80, which would narrow what commands write into a pipe.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models: one per architecture, and `llama_pad_is_eos`."""
    import torch
    from tiny_models import ARCHITECTURES, save_model

    torch.set_num_threads(1)  # tensors this small only lose by threads
    root = tmp_path_factory.mktemp("tiny-models")
    found = {name: save_model(root / name, name) for name in ARCHITECTURES}
    found["llama_pad_is_eos"] = save_model(root / "llama_pad_is_eos", "llama", pad_is_eos=True)
    return found


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that every user can reach and write to: jobs of root run as a user of their own."""
    with tempfile.TemporaryDirectory(prefix="halo-forge-test-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder
