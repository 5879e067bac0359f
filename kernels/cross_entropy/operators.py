"""Cross entropy of logits as operators of torch: `hybridsearch::cross_entropy` and its backward pass, in place.

One launch each. Opaque to torch.compile, usable in a CUDA graph: no host waits for the device, and no size depends on
data.
"""

from typing import Any

import torch
from torch import Tensor

from hybridsearch.kernels.cross_entropy.tiles import tile
from hybridsearch.kernels.cross_entropy.triton_kernels import backward_kernel, forward_kernel
from hybridsearch.kernels.registration import define, differentiate, on


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and log of the sums of exponentials, both float32 [N], of dense logits [N, V]."""
    losses, sums = _fake_cross_entropy(logits, targets)
    chosen = tile(logits.shape[1])
    if logits.shape[0]:
        with on(logits):
            forward_kernel[(logits.shape[0],)](
                logits, targets, losses, sums, logits.stride(0), logits.shape[1],
                BV=chosen.columns, num_warps=chosen.warps,
            )  # fmt: skip
    return losses, sums


def _fake_cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    rows = logits.shape[:1]
    return logits.new_empty(rows, dtype=torch.float32), logits.new_empty(rows, dtype=torch.float32)


def _cross_entropy_backward(logits: Tensor, targets: Tensor, sums: Tensor, d_losses: Tensor) -> None:
    """Writes the gradient of the logits in their place."""
    chosen = tile(logits.shape[1])
    if logits.shape[0]:
        with on(logits):
            backward_kernel[(logits.shape[0],)](
                logits, targets, sums, d_losses, d_losses.stride(0), logits.stride(0), logits.shape[1],
                BV=chosen.columns, num_warps=chosen.warps,
            )  # fmt: skip


def _fake_cross_entropy_backward(logits: Tensor, targets: Tensor, sums: Tensor, d_losses: Tensor) -> None:
    return None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, targets = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, targets, output[1])


def _backward(ctx: Any, d_losses: Tensor, *_: None) -> tuple[Tensor, None]:
    logits, targets, sums = ctx.saved_tensors
    logits = logits.detach()
    cross_entropy_backward(logits, targets, sums, d_losses)
    # a second backward pass through the same logits must raise, not read gradients for logits
    torch.autograd.graph.increment_version(logits)
    return logits, None


cross_entropy = define(
    "cross_entropy", "(Tensor logits, Tensor targets) -> (Tensor, Tensor)", _cross_entropy, _fake_cross_entropy
)
cross_entropy_backward = define(
    "cross_entropy_backward",
    "(Tensor(a!) logits, Tensor targets, Tensor sums, Tensor d_losses) -> ()",
    _cross_entropy_backward,
    _fake_cross_entropy_backward,
)
differentiate("cross_entropy", _keep, _backward, results=1)
