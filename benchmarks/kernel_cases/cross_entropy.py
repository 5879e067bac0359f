"""Cross entropy at scored positions beside torch, compiled torch, and flash-linear-attention."""

from typing import Any

import torch
from torch import Tensor

from hybridsearch.kernels.cross_entropy import fused, pytorch
from kernel_cases.case import Operation, Run, Shape, floor

ENTROPY_SHAPES = (Shape(256, 64, 1, 128), Shape(8, 1024, 1, 1024))
"""Batch, scored positions of a sequence, and width; the first is a proxy's step, the second trains a text model."""
VOCABULARIES = {128: 8192, 1024: 32000}
"""By width."""


def cross_entropy(shape: Shape) -> Operation:
    """Training; logits are written and read forwards, read, written and read twice by the products backwards."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens + shape.size)
    rows, vocabulary = shape.batch * shape.tokens, VOCABULARIES[shape.size]
    hidden = torch.randn(rows, shape.size, device="cuda", generator=generator) * shape.size**-0.5
    matrix = torch.randn(vocabulary, shape.size, device="cuda", generator=generator)
    targets = torch.randint(vocabulary, (rows,), device="cuda", generator=generator)
    compiled: Any = torch.compile(pytorch.cross_entropy, dynamic=False)
    implementations: dict[str, Run] = {
        "triton": fused.cross_entropy,
        "torch": pytorch.cross_entropy,
        "compiled": compiled,
    }
    try:
        from fla.modules.fused_linear_cross_entropy.ops import fused_linear_cross_entropy_loss
    except ImportError:
        pass
    else:

        def peer(hidden: Tensor, matrix: Tensor, targets: Tensor) -> Tensor:
            loss: Tensor = fused_linear_cross_entropy_loss(hidden, targets, matrix)
            return loss

        implementations["fla"] = peer
    inputs = [hidden.bfloat16().requires_grad_(), matrix.bfloat16().requires_grad_(), targets]
    logits, products = 2 * rows * vocabulary, 2 * rows * vocabulary * shape.size
    floors = floor(2 * logits, products, 4 * logits, 2 * products)
    return Operation(inputs, implementations, pytorch.reference, floors)
