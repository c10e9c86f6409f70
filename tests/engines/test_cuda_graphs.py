"""Capturing and replaying, with stand-ins for CUDA's graphs that run operators on the CPU again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from halo_forge.core.errors import ConfigError

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from halo_forge.engines._cuda_graphs import CudaGraphs  # noqa: E402


class Stream:
    def wait_stream(self, stream: Stream) -> None:
        pass


class FakeGraph(TorchDispatchMode):
    """Remembers each operator, its arguments and its result; a replay writes the results again."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = {} if options is None else options
        result = function(*arguments, **options)
        self.done.append((function, arguments, options, result))
        return result

    def replay(self) -> None:
        for function, arguments, options, result in self.done:
            result.copy_(function(*arguments, **options))


class Cuda:
    """What `torch.cuda` has of it; leaving a capture during an error raises another one and leaves the stream set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.own = self.stream = Stream()
        values = {
            "CUDAGraph": FakeGraph,
            "Stream": Stream,
            "graph": self.graph,
            "stream": self.within,
            "current_stream": lambda: self.stream,
            "set_stream": lambda stream: setattr(self, "stream", stream),
            "graph_pool_handle": lambda: (0, 1),
        }
        for name, value in values.items():
            patch.setattr(torch.cuda, name, value)

    @contextmanager
    def within(self, stream: Stream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        yield
        self.stream = before

    @contextmanager
    def graph(self, graph: FakeGraph, pool: object) -> Iterator[None]:
        before, self.stream = self.stream, Stream()
        try:
            with graph:
                yield
        except RuntimeError:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")  # noqa: B904
        self.stream = before


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def test_each_shape_is_captured_once_and_all_leave_their_result_in_one_place(cuda: Cuda) -> None:
    inputs, calls = torch.zeros(8, 3), []

    def step_of(rows: int) -> Callable[[], Any]:
        def step() -> Any:
            calls.append(rows)
            return inputs[:rows] * 2 + 1

        return step

    graphs = CudaGraphs(max_rows=8)
    places = set()
    for number, rows in enumerate((2, 8, 4, 2, 8)):
        inputs.fill_(number)
        found = graphs.run((rows, 64), step_of(rows))
        assert found.shape == (rows, 3) and bool((found == 2 * number + 1).all())
        places.add(found.data_ptr())
    assert calls == [2, 2, 8, 8, 4, 4], "once before the capture, and once in it"
    assert len(places) == 1
    assert cuda.stream is cuda.own


def failing(error: Exception) -> Callable[[], Any]:
    """A step that fails when it is captured."""
    calls: list[int] = []

    def step() -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise error
        return torch.zeros(2, 3)

    return step


def test_a_step_that_cannot_be_captured_is_an_error_that_says_what_to_do(cuda: Cuda) -> None:
    step = failing(RuntimeError("operation not permitted when stream is capturing\nsee the manual"))
    with pytest.raises(ConfigError) as caught:
        CudaGraphs(max_rows=2).run((2, 64), step)
    assert caught.value.message == (
        "engine.cuda_graphs: a decoding step cannot be captured: operation not permitted when stream is capturing"
    )
    assert "--resume with --set engine.cuda_graphs=false" in caught.value.hint
    assert cuda.stream is cuda.own


def test_a_capture_without_memory_is_still_an_error_of_memory(cuda: Cuda) -> None:
    """What halves the rows in flight."""
    with pytest.raises(torch.OutOfMemoryError, match="no 3 GiB"):
        CudaGraphs(max_rows=2).run((2, 64), failing(torch.OutOfMemoryError("no 3 GiB")))
    assert cuda.stream is cuda.own


def test_a_step_that_fails_before_its_capture_fails_as_it_is(cuda: Cuda) -> None:
    def step() -> Any:
        raise ValueError("not of the graph")

    with pytest.raises(ValueError, match="not of the graph"):
        CudaGraphs(max_rows=2).run((2, 64), step)
