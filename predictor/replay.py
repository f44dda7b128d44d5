"""Runs a graph on a GPU by replaying it: one launch for all of its kernels.

In so small a network, launching a kernel takes longer than running it; docs/decisions/gpu.md has
figures from an NVIDIA H200. See "CUDA Graphs" in PyTorch's CUDA semantics.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

LARGEST = 256
"""Largest batch that is replayed; beyond it, the launches no longer matter."""
WARM_UP = 3
"""Runs before a capture, in which cuDNN chooses its algorithms."""

Compute = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    images: torch.Tensor
    outputs: tuple[torch.Tensor, ...]


class Replay:
    """A function of a batch in main memory, computed on the GPU; for one thread at a time.

    A batch is padded to the next power of two, and each of these sizes is captured when it is
    first needed. Rows do not depend on one another, so the padding may hold anything.
    """

    def __init__(self, compute: Compute) -> None:
        """``compute`` takes and returns tensors on the GPU, with the batch as first dimension."""
        self._compute = compute
        self._captured: dict[int, _Captured] = {}

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs for ``images``, [N, …], in main memory."""
        count = len(images)
        size = 1 << max(count - 1, 0).bit_length()
        if size > LARGEST:
            outputs = self._compute(images.cuda())
        else:
            if size not in self._captured:
                self._captured[size] = self._capture(size, images)
            captured = self._captured[size]
            captured.images[:count].copy_(images)
            captured.graph.replay()
            outputs = captured.outputs
        return tuple(output[:count].cpu() for output in outputs)

    def _capture(self, size: int, images: torch.Tensor) -> _Captured:
        batch = torch.zeros((size, *images.shape[1:]), dtype=images.dtype, device="cuda")
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._compute(batch)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._compute(batch)
        return _Captured(graph, batch, outputs)
