"""Delta rule with a decay a key channel (Kimi Delta Attention) and a decoding step, beside flash-linear-attention."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from hybridsearch.kernels.kimi_delta import chunked, fused, reference
from kernel_cases.case import Operation, Run, Shape, floor


def channel_gated_inputs(shape: Shape) -> list[Tensor]:
    """q, k, v, g, beta as a trained layer gives them: unit keys, decays sigmoid(N(3, 1)), beta sigmoid(N(0, 1))."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens + shape.size)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device="cuda", generator=generator)

    rows = (shape.batch, shape.tokens, shape.heads)
    q, k = (normalize(normal(*rows, shape.size), dim=-1).bfloat16() for _ in range(2))
    v = normal(*rows, shape.size).bfloat16()
    return [q, k, v, logsigmoid(normal(*rows, shape.size) + 3), normal(*rows).sigmoid().bfloat16()]


def kimi_delta_rule(shape: Shape) -> Operation:
    """Training."""
    implementations: dict[str, Run] = {"triton": lambda *inputs: fused.kimi_delta_rule(*inputs)[0]}
    try:
        from fla.ops.kda import chunk_kda
    except ImportError:
        pass
    else:
        implementations["fla"] = lambda *inputs: chunk_kda(*inputs)[0]
    rows, size = shape.rows, shape.size
    least = floor(
        # inputs and outputs once, g in float32; products of the chunked form with chunks of 64
        rows * (12 * size + 2),
        rows * (6 * size**2 + 640 * size),
        rows * (22 * size + 4),
        rows * (12 * size**2 + 1152 * size),
    )
    exact: Run = lambda *inputs: chunked.kimi_delta_rule(*inputs, chunk=64)[0]  # noqa: E731
    return Operation([x.requires_grad_() for x in channel_gated_inputs(shape)], implementations, exact, least)


def kimi_delta_step(shape: Shape) -> Operation:
    """One decoding step; the state is read and written once."""
    token = [x[:, 0] for x in channel_gated_inputs(shape)]
    state = torch.randn(shape.batch, shape.heads, shape.size, shape.size, device="cuda")
    implementations: dict[str, Run] = {
        "triton": lambda *inputs: fused.kimi_delta_step(*inputs)[0],
        "torch": lambda *inputs: reference.kimi_delta_step(*inputs)[0],
    }
    try:
        from fla.ops.kda import fused_recurrent_kda
    except ImportError:
        pass
    else:

        def peer(*inputs: Tensor) -> Tensor:
            q, k, v, g, beta, now = inputs
            lone = (x[:, None] for x in (q, k, v, g, beta))
            output: Tensor = fused_recurrent_kda(*lone, initial_state=now, output_final_state=True)[0]
            return output[:, 0]

        implementations["fla"] = peer
    exact: Run = lambda *inputs: reference.kimi_delta_step(*inputs)[0]  # noqa: E731
    return Operation([*token, state], implementations, exact, floor(8 * state.numel()))
