"""CUDA graphs of a decoding step; imported late, because it needs torch.

**Not run on a GPU**: no machine of this project has one, so this is off unless `engine.cuda_graphs: true` asks for it.
What a graph needs of the step (no host reads, the same shapes and addresses every time) is proved by tests on a
pretended GPU; capturing and replaying are tested where a real one is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

_log = logging.getLogger(__name__)


class Graphs:
    """One graph for each shape of the step; all share one pool of memory, as they never run at the same time."""

    def __init__(self) -> None:
        self._captured: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._is_refused = False

    def run(self, shape: tuple[int, ...], step: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `step` returns, by a graph; the first time for a shape it runs once, and is captured.

        Args:
            shape: All that the shapes of the step's tensors depend on.
            step: Reads and writes tensors at fixed addresses only; to run it twice is the same as once.

        Returns:
            A tensor that the next call may overwrite.
        """
        if self._is_refused:
            return step()
        if shape not in self._captured:
            try:
                self._captured[shape] = self._capture(step)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._is_refused = True
                self._captured.clear()
                _log.warning("engine.cuda_graphs: the step cannot be captured (%s); sampling goes on without", error)
                return step()
        graph, output = self._captured[shape]
        graph.replay()
        return output

    def _capture(self, step: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        # Outside the graph first: libraries choose their kernels and make their workspaces in the first call.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = step()
        return graph, output
