"""Gated delta rule, delta rule, and a decoding step, beside flash-linear-attention's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from hybridsearch.kernels.gated_delta import chunked, fused, reference
from kernel_cases.case import Operation, Run, Shape, floor


def gated_inputs(shape: Shape, gated: bool) -> list[Tensor]:
    """q, k, v, (g,) beta as a trained layer gives them: unit keys, decay sigmoid(N(3, 1)), beta sigmoid(N(0, 1))."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens + shape.size)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device="cuda", generator=generator)

    rows = (shape.batch, shape.tokens, shape.heads)
    q, k = (normalize(normal(*rows, shape.size), dim=-1).bfloat16() for _ in range(2))
    inputs = [q, k, normal(*rows, shape.size).bfloat16()]
    return [*inputs, *([logsigmoid(normal(*rows) + 3)] if gated else []), normal(*rows).sigmoid().bfloat16()]


def delta_floor(shape: Shape, gated: bool) -> dict[str, float]:
    """Bytes of inputs and outputs once; products of the chunked form with chunks of 64."""
    rows, size, gates = shape.rows, shape.size, 6 if gated else 2
    return floor(
        rows * (8 * size + gates),
        rows * (6 * size**2 + 640 * size),
        rows * (14 * size + 2 * gates),
        rows * (12 * size**2 + 1152 * size),
    )


def fla_gated_delta(gated: bool) -> Run | None:
    """flash-linear-attention's operation; its guard against Triton before 3.7.1 on Hopper is lifted (errors tell)."""
    try:
        from fla.ops.common import chunk_o
        from fla.ops.delta_rule import chunk_delta_rule
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    except ImportError:
        return None
    chunk_o.TRITON_ABOVE_3_7_1 = True
    rule = chunk_gated_delta_rule if gated else chunk_delta_rule
    return lambda *inputs: rule(*inputs)[0]


def gated_delta_rule(shape: Shape, gated: bool = True) -> Operation:
    """Training of the gated delta rule (or, without g, the delta rule)."""

    def with_gate(rule: Callable[..., tuple[Tensor, Tensor]], **options: Any) -> Run:
        def run(*inputs: Tensor) -> Tensor:
            q, k, v, *gates = inputs
            return rule(q, k, v, gates[0] if gated else None, gates[-1], **options)[0]

        return run

    implementations = {"triton": with_gate(fused.gated_delta_rule)}
    peer = fla_gated_delta(gated)
    if peer is not None:
        implementations["fla"] = peer
    inputs = [x.requires_grad_() for x in gated_inputs(shape, gated)]
    return Operation(inputs, implementations, with_gate(chunked.gated_delta_rule, chunk=64), delta_floor(shape, gated))


def delta_rule(shape: Shape) -> Operation:
    """Training of the delta rule."""
    return gated_delta_rule(shape, gated=False)


def gated_delta_step(shape: Shape) -> Operation:
    """One decoding step; the state is read and written once."""
    token = [x[:, 0] for x in gated_inputs(shape, gated=True)]
    state = torch.randn(shape.batch, shape.heads, shape.size, shape.size, device="cuda")

    def run(*inputs: Tensor) -> Tensor:
        return fused.gated_delta_step(*inputs)[0]

    implementations: dict[str, Run] = {"triton": run, "torch": lambda *inputs: reference.gated_delta_step(*inputs)[0]}
    try:
        from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule
    except ImportError:
        pass
    else:

        def peer(*inputs: Tensor) -> Tensor:
            q, k, v, g, beta, now = inputs
            lone = (x[:, None] for x in (q, k, v, g))
            step = fused_recurrent_gated_delta_rule
            output: Tensor = step(*lone, beta=beta[:, None], initial_state=now, output_final_state=True)[0]
            return output[:, 0]

        implementations["fla"] = peer
    exact: Run = lambda *inputs: reference.gated_delta_step(*inputs)[0]  # noqa: E731
    return Operation([*token, state], implementations, exact, floor(8 * state.numel()))
