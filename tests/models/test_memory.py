import torch

from hybridsearch.models.build import build
from hybridsearch.models.memory import BLOCK, ConvolutionTail, KeyValueCache, KeyValueRing
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.mixers import FullAttention


def numbered(start: int, stop: int) -> torch.Tensor:
    """[1, 1, n, 1] holding start ... stop - 1."""
    return torch.arange(start, stop, dtype=torch.float64).view(1, 1, -1, 1)


def test_a_cache_grows_by_blocks_and_keeps_what_it_holds() -> None:
    nothing = torch.empty(0, dtype=torch.float64)
    cache = KeyValueCache.empty((1, 1, 1, 1), ConvolutionTail.empty(1, 0, 1, like=nothing), like=nothing)
    addresses = set()
    for token in range(BLOCK + 3):
        cache.append(numbered(token, token + 1), -numbered(token, token + 1))
        addresses.add(cache.keys.data_ptr())
    assert len(addresses) == 2
    assert torch.equal(cache.keys, numbered(0, BLOCK + 3))
    assert torch.equal(cache.values, -numbered(0, BLOCK + 3))
    assert cache.bytes() == (BLOCK + 3) * 2 * 8


def test_decoding_over_the_edge_of_a_block_is_the_whole_sequence() -> None:
    mixer = FullAttention(heads=2, head_dim=4)
    model = build(Architecture(width=8, layers=(Layer(mixer=mixer, feed_forward=0),)), 16, dtype=torch.float64)
    tokens = torch.randint(0, 16, (2, BLOCK + 6), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        _, memory = model.prefill(tokens[:, : BLOCK - 2])
        steps = [model.step(token, memory)[0] for token in tokens[:, BLOCK - 2 :].unbind(1)]
        torch.testing.assert_close(torch.stack(steps, 1), model(tokens)[:, BLOCK - 2 :], rtol=1e-10, atol=1e-10)


def test_a_ring_holds_the_sinks_and_the_window_however_it_was_filled() -> None:
    window, sinks = 4, 2
    for prompt in range(12):
        ring = KeyValueRing.empty((1, 1, 1, 1), window=window, sinks=sinks, like=torch.empty(0, dtype=torch.float64))
        ring.fill(numbered(0, prompt), numbered(0, prompt))
        for token in range(prompt, 12):
            expected = {t for t in range(token) if t < sinks or token - t <= window}
            assert set(ring.keys.flatten().tolist()) == expected
            assert torch.equal(ring.keys, ring.values)
            assert ring.bytes() == len(expected) * 2 * 8
            ring.append(numbered(token, token + 1), numbered(token, token + 1))
