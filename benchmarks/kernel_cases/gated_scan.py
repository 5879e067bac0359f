"""The elementwise gated scan and a decoding step, beside flash-linear-attention's HGRN."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from hybridsearch.kernels.gated_scan import chunked, fused, reference
from kernel_cases.case import Operation, Run, Shape, floor


def scan_inputs(shape: Shape) -> list[Tensor]:
    """x and g, heads times size channels; decay sigmoid(N(2, 1))."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens + shape.size)

    def normal() -> Tensor:
        sizes = shape.batch, shape.tokens, shape.heads * shape.size
        return torch.randn(*sizes, device="cuda", generator=generator)

    return [normal().bfloat16(), logsigmoid(normal() + 2).bfloat16()]


def fla_hgrn() -> dict[str, Run]:
    """Both of flash-linear-attention's ways; the better one counts."""
    try:
        from fla.ops.hgrn import chunk_hgrn, fused_recurrent_hgrn
    except ImportError:
        return {}
    return {
        "fla chunk": lambda x, g: chunk_hgrn(x, g)[0],
        "fla recurrent": lambda x, g: fused_recurrent_hgrn(x, g)[0],
    }


def gated_scan(shape: Shape) -> Operation:
    """Training of the scan; every input and output is moved once."""
    implementations: dict[str, Run] = {"triton": lambda x, g: fused.gated_scan(x, g)[0]}
    inputs = [x.requires_grad_() for x in scan_inputs(shape)]
    moved = inputs[0].numel() * 2
    return Operation(
        inputs,
        implementations | fla_hgrn(),
        lambda x, g: chunked.gated_scan(x, g)[0],
        floor(3 * moved, backward_bytes=5 * moved),
    )


def gated_scan_step(shape: Shape) -> Operation:
    """One decoding step; the state is read and written once."""
    x, g = (x[:, 0] for x in scan_inputs(shape))
    state = torch.randn(x.shape, device="cuda")
    implementations: dict[str, Run] = {
        "triton": lambda *inputs: fused.gated_scan_step(*inputs)[0],
        "torch": lambda *inputs: reference.gated_scan_step(*inputs)[0],
    }
    try:
        from fla.ops.hgrn import fused_recurrent_hgrn
    except ImportError:
        pass
    else:

        def peer(x: Tensor, g: Tensor, now: Tensor) -> Tensor:
            output: Tensor = fused_recurrent_hgrn(x[:, None], g[:, None], initial_state=now, output_final_state=True)[0]
            return output[:, 0]

        implementations["fla recurrent"] = peer
    exact: Run = lambda *inputs: reference.gated_scan_step(*inputs)[0]  # noqa: E731
    return Operation([x, g, state], implementations, exact, floor(14 * x.numel()))
