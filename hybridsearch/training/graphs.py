"""Many launches as one: work on a GPU, recorded once as a CUDA graph and replayed."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import torch
from torch import Tensor


def captured(work: Callable[[], object], device: torch.device, reads: object = ()) -> Callable[[], object] | None:
    """A replay of `work` that costs one launch, or none: no GPU, or the work reads from the device as it runs.

    Such work has run before (kernels are compiled and libraries loaded). A replay reads and writes where the recorded
    call did: tensors that `work` or anything in `reads` holds at the start are kept, even if the work drops them.
    """
    if device.type != "cuda":
        return None
    graph = torch.cuda.CUDAGraph()
    kept = (work, list(tensors(reads)))
    torch.cuda.synchronize(device)
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph):
            work()
    except RuntimeError:  # a read of the host inside ends the recording, whatever CUDA calls it
        torch.cuda.synchronize(device)
        return None
    return partial(_replay, graph, kept)


def tensors(holder: object) -> Iterator[Tensor]:
    """All tensors in an object's fields, lists and tuples, however deep."""
    if isinstance(holder, Tensor):
        yield holder
    elif isinstance(holder, list | tuple):
        yield from chain.from_iterable(map(tensors, holder))
    elif hasattr(holder, "__dict__"):
        yield from chain.from_iterable(map(tensors, vars(holder).values()))


def _replay(graph: torch.cuda.CUDAGraph, kept: object) -> None:
    """The graph knows only addresses; `kept` keeps what lies there."""
    graph.replay()
