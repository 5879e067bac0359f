"""Gated linear attention, one decay a head or a key channel, and a decoding step, beside flash-linear-attention's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from hybridsearch.kernels.linear_attention import chunked, fused
from hybridsearch.kernels.linear_attention.step import gated_linear_attention_step
from kernel_cases.case import Operation, Run, Shape, floor


def linear_inputs(shape: Shape, vector: bool) -> list[Tensor]:
    """q, k, v and g: unit keys, decay sigmoid(N(3, 1))."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens + shape.size)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device="cuda", generator=generator)

    rows = (shape.batch, shape.tokens, shape.heads)
    q, v = (normal(*rows, shape.size).bfloat16() for _ in range(2))
    k = normalize(normal(*rows, shape.size), dim=-1).bfloat16()
    return [q, k, v, logsigmoid(normal(*rows, shape.size) + 3 if vector else normal(*rows) + 3)]


def linear_floor(shape: Shape, vector: bool) -> dict[str, float]:
    """Bytes of inputs and outputs once; products of the chunked form with chunks of 64."""
    rows, size, gate = shape.rows, shape.size, 4 * (shape.size if vector else 1)
    return floor(
        rows * (8 * size + gate),
        rows * (4 * size**2 + 256 * size),
        rows * (14 * size + 2 * gate),
        rows * (8 * size**2 + 512 * size),
    )


def fla_rule(vector: bool) -> Run | None:
    """flash-linear-attention's operation; its guard against Triton before 3.7.1 on Hopper is lifted (errors tell)."""
    try:
        from fla.ops.common import chunk_o
        from fla.ops.gla import chunk_gla
        from fla.ops.simple_gla import chunk_simple_gla
    except ImportError:
        return None
    chunk_o.TRITON_ABOVE_3_7_1 = True
    rule = chunk_gla if vector else chunk_simple_gla
    return lambda *inputs: rule(*inputs)[0]


def gated_linear_attention(shape: Shape, vector: bool = False) -> Operation:
    """Training, with one decay a head or, `vector`, a key channel."""

    def run(rule: Callable[..., tuple[Tensor, Tensor]], **options: Any) -> Run:
        return lambda *inputs: rule(*inputs, **options)[0]

    implementations = {"triton": run(fused.gated_linear_attention)}
    peer = fla_rule(vector)
    if peer is not None:
        implementations["fla"] = peer
    inputs = [x.requires_grad_() for x in linear_inputs(shape, vector)]
    exact = run(chunked.gated_linear_attention, chunk=64)
    return Operation(inputs, implementations, exact, linear_floor(shape, vector))


def channel_linear_attention(shape: Shape) -> Operation:
    """Training with one decay a key channel."""
    return gated_linear_attention(shape, vector=True)


def gated_linear_step(shape: Shape, vector: bool = False) -> Operation:
    """One decoding step; the state is read and written once."""
    token = [x[:, 0] for x in linear_inputs(shape, vector)]
    state = torch.randn(shape.batch, shape.heads, shape.size, shape.size, device="cuda")
    implementations: dict[str, Run] = {
        "triton": lambda *inputs: fused.gated_linear_attention_step(*inputs)[0],
        "torch": lambda *inputs: gated_linear_attention_step(*inputs)[0],
    }
    try:
        from fla.ops.gla import fused_recurrent_gla
        from fla.ops.simple_gla import fused_recurrent_simple_gla
    except ImportError:
        pass
    else:

        def peer(*inputs: Tensor) -> Tensor:
            *token, now = (x[:, None] for x in inputs)
            step = fused_recurrent_gla if vector else fused_recurrent_simple_gla
            output: Tensor = step(*token, initial_state=now[:, 0], output_final_state=True)[0]
            return output[:, 0]

        implementations["fla"] = peer
    exact: Run = lambda *inputs: gated_linear_attention_step(*inputs)[0]  # noqa: E731
    return Operation([*token, state], implementations, exact, floor(8 * state.numel()))


def channel_linear_step(shape: Shape) -> Operation:
    """One decoding step with one decay a key channel."""
    return gated_linear_step(shape, vector=True)
