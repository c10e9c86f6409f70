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


LONGEST = (
    "scripts/test_benchmarks.py",
    "loop/test_end_to_end.py",
    "cli/test_library_warnings.py",
    "scripts/test_gpu_check.py",
    "engines/test_served_runs.py",
    "verifiers/test_trivial.py",
    "training/test_carried_and_averaged.py",
    "verifiers/test_compiled_languages.py",
    "supervisor/test_supervisor.py",
    "experiments/test_execute.py",
    "loop/test_loop_kill.py",
    "scripts/test_soak_kill.py",
    "training/test_lora_sft.py",
    "sft/test_sft_run.py",
    "cli/test_notify.py",
    "training/test_quantized.py",
    "training/test_what_is_learned.py",
    "engines/test_policy_proof.py",
)
"""Files that take from half a minute to two, roughly the longest first."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, a long file that is begun last leaves the others idle; each file stays together."""
    here = Path(__file__).parent
    if gone := [name for name in LONGEST if not (here / name).is_file()]:
        raise pytest.UsageError(f"tests/conftest.py: LONGEST names files that are not there: {', '.join(gone)}")
    places = {str(here / name): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(LONGEST)))


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
