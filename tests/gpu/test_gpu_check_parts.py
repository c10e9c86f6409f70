"""Parts of scripts/gpu_check.py that a pretended GPU can only try in part: no profiler of kernels, and no graphs."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import benchmarks
import pytest

pytest.importorskip("torch")

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("pretended")]


@pytest.fixture
def parts() -> Iterator[ModuleType]:
    with benchmarks.script("_gpu_parts") as module:
        yield module


def counted_as_profiled(action: Callable[[], object]) -> Counter[str]:
    """The pretended GPU's count in place of the profiler's."""
    from support.pretended_gpu import counted

    with counted() as found:
        action()
    return Counter({"launches": found.launches, "waits": found.waits, "copies": found.async_copies})


def options(model: Path, pretended: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(model=str(model), device="cuda", tiny=True, output=None, pretended=pretended)


def test_launches_of_a_step_are_those_of_the_benchmark(
    parts: ModuleType, monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    monkeypatch.setattr(parts, "profiled", counted_as_profiled)
    monkeypatch.setattr(parts, "TIMED_STEPS", 2)
    carried = tmp_path / "counted.txt"
    carried.write_text('{"benchmark": "launches of a decode step, tiny, 16 rows", "ours": 20.0}\n')
    found = parts.launches(options(tiny_models["llama"], carried))
    step = found["values"]["counts"]["decode"]
    assert 40 < step["launches"] <= 2 * 25 + 35 and step["waits"] <= 1
    assert not found["passed"], "more than 1.5 times what was carried"
    assert f"decode step: {step['launches']:g} launches (simulated 20)" in found["found"]
    found = parts.launches(options(tiny_models["llama"]))
    assert found["passed"] and "no counts of the simulated GPU" in found["found"]
    monkeypatch.setattr(parts, "profiled", lambda action: Counter())
    found = parts.launches(options(tiny_models["llama"]))
    assert not found["passed"] and "the profiler saw no launches" in found["found"]


def test_graphs_that_fall_back_have_not_passed(parts: ModuleType, tiny_models: dict[str, Path]) -> None:
    arguments = options(tiny_models["llama"])
    arguments.device = "cpu"
    found = parts.graphs(arguments)
    assert not found["passed"] and "2 of 2 completions equal" in found["found"]
    assert "WARNED: engine.cuda_graphs: ignored on cpu" in found["found"]
