"""Sliding-window attention beside the torch form, flex_attention with a block mask, and full attention by cuDNN."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from hybridsearch.kernels.attention import pytorch as attention
from hybridsearch.kernels.sliding_window import blocked, fused, reference
from kernel_cases.case import Operation, Run, Shape, floor

WINDOWS = {512: 128, 2048: 256, 4096: 512}
"""Window by the length of a sequence; 1024 for longer ones."""
SINKS = 4
LARGEST_EXACT = 600
"""Tokens; beyond, all T x T scores in float64 do not fit."""


def seen_pairs(tokens: int, window: int) -> int:
    """Keys that all queries of a sequence see."""
    return sum(min(i + 1, window) + min(max(i + 1 - window, 0), SINKS) for i in range(tokens))


@lru_cache(maxsize=8)
def block_mask(tokens: int, window: int) -> Any:
    """What flex_attention may skip."""

    def seen(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & ((i - j < window) | (j < SINKS))

    return create_block_mask(seen, None, None, tokens, tokens, device="cuda")


def flex(window: int) -> Run:
    """flex_attention, compiled."""
    compiled: Any = torch.compile(flex_attention, dynamic=False)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = (x.transpose(1, 2) for x in (q, k, v))
        output: Tensor = compiled(*heads, block_mask=block_mask(q.shape[1], window))
        return output.transpose(1, 2)

    return run


def sliding_window_attention(shape: Shape) -> Operation:
    """Training; the floor is bytes of inputs and outputs once, or products of the seen pairs alone."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens + shape.size)
    sizes = (shape.batch, shape.tokens, shape.heads, shape.size)
    inputs = [torch.randn(sizes, device="cuda", generator=generator).bfloat16().requires_grad_() for _ in range(3)]
    options = {"window": WINDOWS.get(shape.tokens, 128 if shape.tokens <= LARGEST_EXACT else 1024), "sinks": SINKS}
    implementations: dict[str, Run] = {
        "triton": lambda *qkv: fused.sliding_window_attention(*qkv, **options),
        "torch": lambda *qkv: blocked.sliding_window_attention(*qkv, **options),
        "flex": flex(options["window"]),
        "cuDNN, full": attention.causal_attention_cuda,
    }
    products = 4 * shape.batch * shape.heads * shape.size * seen_pairs(shape.tokens, options["window"])
    exact: Run = lambda *qkv: reference.sliding_window_attention(*qkv, **options)  # noqa: E731
    floors = floor(8 * shape.rows * shape.size, products, 14 * shape.rows * shape.size, 2.5 * products)
    return Operation(inputs, implementations, exact, floors, peers_only=frozenset({"cuDNN, full"}))
