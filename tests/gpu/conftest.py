"""Tests on cuda:0: of the pretended GPU, or of a real one with HALO_FORGE_TEST_GPU=real.

They need a process of their own, `pytest tests/gpu`: the device cannot be taken away again, and every other test would
see it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from halo_forge.hardware import Machine, Profile, profile_class

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "loop"))  # tests/loop, run again here on the GPU
IS_REAL = os.environ.get("HALO_FORGE_TEST_GPU") == "real"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    alone = len(ours) == len(items)
    for item in ours:
        if not alone:
            item.add_marker(pytest.mark.skip(reason="needs a process of its own: pytest tests/gpu"))
        elif IS_REAL and item.get_closest_marker("pretended_gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="needs the pretended GPU, and HALO_FORGE_TEST_GPU is real"))


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """cuda:0 is there."""
    import torch

    torch.set_num_threads(1)
    if IS_REAL:
        assert torch.cuda.is_available(), "HALO_FORGE_TEST_GPU is real, and torch sees no GPU"
        # Products in full float32, as on the CPU.
        torch.backends.cuda.matmul.allow_tf32 = False
        return
    if torch.version.cuda is not None or torch.version.hip is not None:
        pytest.skip("the pretended GPU needs a CPU build of torch; HALO_FORGE_TEST_GPU=real runs these on the GPU")
    from support.pretended_gpu import install
    from support.pretended_gpu.building import has_compiler

    if not has_compiler():
        pytest.skip("the pretended GPU is compiled with g++, and there is none")
    install()


@pytest.fixture
def pretended(gpu: None) -> Iterator[None]:
    """The pretended GPU as `install()` makes it, before the test and after it, without earlier tests' garbage."""
    from support.pretended_gpu import install

    gc.collect()
    install()
    yield
    install()


@pytest.fixture(scope="session")
def on_cpu() -> Profile:
    """What puts a policy on the CPU although there is a GPU."""
    return profile_class("cpu")(Machine(), "a test compares with it", given=True)
