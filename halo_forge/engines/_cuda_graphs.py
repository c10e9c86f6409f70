"""CUDA graphs of a decoding step; imported late, because it needs torch.

**Not run on a GPU**: no machine of this project has one, so this is off unless `engine.cuda_graphs: true` asks for it.
What a graph needs of the step (no host reads, the same shapes and addresses every time) is proved by tests on a
pretended GPU; capturing and replaying are tested where a real one is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from halo_forge.core.errors import ConfigError


class CudaGraphs:
    """One graph for each shape of the step; all share one pool of memory, as they never run at the same time.

    Args:
        max_rows: The most rows that a step returns.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._captured: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # What a step returns would stay in the pool once for each shape, so all graphs copy it here.
        self._output: torch.Tensor | None = None

    def run(self, shape: tuple[int, ...], step: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `step` returns, by a graph; the first time for a shape it runs once, and is captured.

        Args:
            shape: All that the shapes of the step's tensors depend on.
            step: Reads and writes tensors at fixed addresses only; to run it twice is the same as once.

        Returns:
            (rows, ...) A tensor that the next call overwrites.

        Raises:
            ConfigError: The step cannot be captured.
            torch.OutOfMemoryError: The capture needs more than there is.
        """
        if shape not in self._captured:
            self._captured[shape] = self._capture(step)
        graph, output = self._captured[shape]
        graph.replay()
        return output

    def _capture(self, step: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        # Outside the graph first: libraries choose their kernels and make their workspaces in the first call.
        before, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            made = step()
        before.wait_stream(stream)
        if self._output is None:
            self._output = made.new_empty(self._max_rows, *made.shape[1:])
        output = self._output[: len(made)]
        del made
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                output.copy_(step())
        except RuntimeError as error:
            # Leaving a capture that failed raises too, before the stream is put back, and hides what came first.
            torch.cuda.set_stream(before)
            first, no_memory = _first_line(error)
            if no_memory:
                raise torch.OutOfMemoryError(first) from error
            raise ConfigError(
                f"engine.cuda_graphs: a decoding step cannot be captured: {first}",
                "--resume with --set engine.cuda_graphs=false: results do not depend on it",
            ) from error
        return graph, output


def _first_line(error: BaseException) -> tuple[str, bool]:
    """Of the error that came first; and whether one of them all was that there is no memory.

    Texts only: an error in a variable of a frame that it was raised in keeps all memory of that frame.
    """
    no_memory = isinstance(error, torch.OutOfMemoryError)
    if isinstance(error.__context__, RuntimeError):
        first, earlier = _first_line(error.__context__)
        return first, no_memory or earlier
    return str(error).partition("\n")[0], no_memory
