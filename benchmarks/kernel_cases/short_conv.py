"""The short convolution with SiLU and its decoding step, beside torch, compiled torch, and flash-linear-attention."""

from typing import Any

import torch
from torch import Tensor

from hybridsearch.kernels.short_conv import fused, pytorch
from kernel_cases.case import Operation, Run, Shape, floor

WIDTH = 4


def inputs_of(shape: Shape) -> tuple[Tensor, Tensor]:
    """x [B, T, 3 H D], as q, k and v side by side, and the weight in bfloat16 as the peer wants it."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens + shape.size)
    channels = 3 * shape.heads * shape.size
    x = torch.randn(shape.batch, shape.tokens, channels, device="cuda", generator=generator)
    weight = torch.randn(WIDTH, channels, device="cuda", generator=generator) * WIDTH**-0.5
    return x.bfloat16(), weight.bfloat16()


def short_conv(shape: Shape) -> Operation:
    """Training; bytes of x, y and their gradients once."""
    x, weight = inputs_of(shape)
    compiled: Any = torch.compile(pytorch.short_conv, dynamic=False)
    implementations: dict[str, Run] = {"triton": fused.short_conv, "torch": pytorch.short_conv, "compiled": compiled}
    try:
        from fla.modules.causal_conv1d.ops import causal_conv1d
    except ImportError:
        pass
    else:

        def peer(x: Tensor, weight: Tensor) -> Tensor:
            y: Tensor = causal_conv1d(x, weight.T.contiguous(), activation="silu")[0]
            return y

        implementations["fla"] = peer
    moved = 2 * x.numel()
    inputs = [x.requires_grad_(), weight.requires_grad_()]
    return Operation(inputs, implementations, pytorch.short_conv, floor(2 * moved, 0, 3 * moved))


def short_conv_step(shape: Shape) -> Operation:
    """One decoding step; the tail is read and written once."""
    x, weight = inputs_of(shape)
    tail = torch.randn(shape.batch, WIDTH - 1, x.shape[-1], device="cuda").bfloat16()
    implementations: dict[str, Run] = {
        "triton": lambda *given: fused.short_conv_step(*given)[0],
        "torch": lambda *given: pytorch.short_conv_step(*given)[0],
    }
    moved = 2 * 2 * (x[:, 0].numel() + tail.numel())
    return Operation([x[:, 0], weight, tail], implementations, implementations["torch"], floor(moved))
