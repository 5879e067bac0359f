"""Many launches as one: work on a GPU, recorded once as a CUDA graph and replayed."""

from collections.abc import Callable
from functools import partial

import torch


def captured(work: Callable[[], object], device: torch.device) -> Callable[[], object] | None:
    """A replay of `work` that costs one launch, or none: no GPU, or the work reads from the device as it runs.

    `work` has run before (kernels are compiled and libraries loaded), and does the same at every call. A replay writes
    where the recorded call wrote.
    """
    if device.type != "cuda":
        return None
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph):
            work()
    except RuntimeError:  # a read of the host inside ends the recording, whatever CUDA calls it
        torch.cuda.synchronize(device)
        return None
    return partial(_replay, graph, work)


def _replay(graph: torch.cuda.CUDAGraph, work: Callable[[], object]) -> None:
    """`work` is held for the tensors that it reads: the graph knows only their addresses."""
    graph.replay()
