"""The norms beside torch, compiled torch, and flash-linear-attention's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridsearch.kernels.rms_norm import fused, pytorch, reference
from kernel_cases.case import Operation, Run, Shape, floor

EPSILON = 1e-6


def draw(shape: Shape, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """`count` tensors [B, T, H, D] in bfloat16, and two weights [D]."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens + shape.size)
    sizes = (shape.batch, shape.tokens, shape.heads, shape.size)
    wholes = [torch.randn(sizes, device="cuda", generator=generator).bfloat16() for _ in range(count)]
    weights = [torch.rand(shape.size, device="cuda", generator=generator) + 0.5 for _ in range(2)]
    return [x.requires_grad_() for x in wholes], [x.bfloat16().requires_grad_() for x in weights]


def forms(name: str) -> tuple[dict[str, Run], Run]:
    """Ours, torch and compiled torch, and the formula."""

    def closed(norm: Callable[..., Tensor]) -> Run:
        return lambda *given: norm(*given, EPSILON)

    torch_form = closed(getattr(pytorch, name))
    compiled: Any = torch.compile(torch_form, dynamic=False)
    ours = {"triton": closed(getattr(fused, name)), "torch": torch_form, "compiled": compiled}
    return ours, closed(getattr(reference, name))


def fla_norm(name: str) -> Run | None:
    """flash-linear-attention's norm of this name."""
    try:
        from fla.modules.norm import layernorm
        from fla.modules.norm.fused_norm_gate import rms_norm_gated
        from fla.modules.norm.l2norm import l2norm
    except ImportError:
        return None
    found: dict[str, Run] = {
        "rms_norm": lambda x, weight: layernorm.rms_norm(x, weight, None, eps=EPSILON),
        "unit_length": lambda x: l2norm(x, EPSILON),
        "gated_rms_norm": lambda x, weight, gate: rms_norm_gated(x, gate, weight, None, eps=EPSILON),
    }
    return found.get(name)


def operation(name: str, inputs: list[Tensor], forward: int, backward: int) -> Operation:
    """A norm that moves so many tensors the size of the first at least."""
    implementations, exact = forms(name)
    peer = fla_norm(name)
    if peer is not None:
        implementations["fla"] = peer
    moved = 2 * inputs[0].numel()
    return Operation(inputs, implementations, exact, floor(forward * moved, 0, backward * moved))


def rms_norm(shape: Shape) -> Operation:
    """With a weight, over heads."""
    (x,), weights = draw(shape, 1)
    return operation("rms_norm", [x, weights[0]], 2, 3)


def unit_length(shape: Shape) -> Operation:
    """Of queries or keys."""
    (x,), _ = draw(shape, 1)
    return operation("unit_length", [x], 2, 3)


def gated_rms_norm(shape: Shape) -> Operation:
    """Of a mixer's output."""
    (x, gate), weights = draw(shape, 2)
    return operation("gated_rms_norm", [x, weights[0], gate], 3, 5)


def mixed_rms_norm(shape: Shape) -> Operation:
    """Of the two branches of token routing."""
    (first, second, gate), weights = draw(shape, 3)
    share = torch.rand(first.shape[:-1], device="cuda").bfloat16().requires_grad_()
    return operation("mixed_rms_norm", [first, second, *weights, share, gate], 4, 7)
