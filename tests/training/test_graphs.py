"""Recording work as a CUDA graph."""

import pytest
import torch

from hybridsearch.models.build import build
from hybridsearch.models.memory import ConvolutionTail, MemoryGroup, RecurrentState
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.mixers import FullAttention, GatedDelta, SlidingWindow
from hybridsearch.training.graphs import captured, tensors

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert captured(lambda: None, torch.device("cpu")) is None


@GPU
def test_a_replayed_row_of_steps_gives_what_the_steps_give() -> None:
    mixers = (
        GatedDelta(heads=2, head_dim=32),
        FullAttention(heads=2, head_dim=32),
        SlidingWindow(heads=2, head_dim=32, window=16),
    )
    layers = tuple(Layer(mixer=mixer, feed_forward=64) for mixer in mixers)
    model = build(Architecture(width=64, layers=layers), 50, device="cuda", dtype=torch.bfloat16).eval()
    tokens = torch.randint(50, (3, 80), device="cuda")
    with torch.inference_mode():
        start = model.prefill(tokens[:, :70])[1]
        found = torch.empty(3, 50, dtype=torch.bfloat16, device="cuda")

        def row() -> None:
            memory = start.copy()
            for token in tokens[:, 70:].unbind(1):
                hidden, memory = model.step(token, memory)
            found.copy_(model.logits(hidden))

        row()
        expected = found.clone()
        replay = captured(row, torch.device("cuda"))
        assert replay is not None
        for _ in range(2):
            found.zero_()
            replay()
            torch.testing.assert_close(found, expected)


@GPU
def test_what_the_work_drops_is_kept() -> None:
    class Memory:
        state = torch.empty(0)

    memory, out = Memory(), torch.zeros(1 << 20, device="cuda")

    def step() -> None:
        out.copy_(memory.state)
        memory.state = memory.state + 1

    for _ in range(2):  # once to warm up
        memory.state = torch.ones(1 << 20, device="cuda")
        replay = captured(step, torch.device("cuda"), reads=memory)
    assert replay is not None
    torch.cuda.empty_cache()
    others = [torch.full((1 << 20,), 7.0, device="cuda") for _ in range(8)]
    replay()
    assert torch.equal(out, torch.ones_like(out)) and len(others) == 8


def test_tensors_are_found_however_deep() -> None:
    memory = MemoryGroup([RecurrentState(torch.ones(1), ConvolutionTail(torch.ones(2)))])
    assert [x.shape[0] for x in tensors([memory, (torch.ones(3), 4, "five")])] == [1, 2, 3]


@GPU
def test_work_that_reads_the_device_is_not_recorded_and_leaves_it_usable() -> None:
    x = torch.ones(3, device="cuda")
    assert captured(lambda: x.sum().item(), torch.device("cuda")) is None
    assert float((x + 1).sum()) == 6.0
