"""The gated scan by Triton kernels, with gradients; what `dispatch` runs on a GPU.

Triton is imported by the first call, not with this module: a machine without a GPU need not have it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from hybridsearch.kernels.gated_scan.tiles import DTYPES, PIECE
from hybridsearch.kernels.registration import refuses_device


def gated_scan(
    x: Tensor, g: Tensor, *, initial_state: Tensor | None = None, segments: int = 0
) -> tuple[Tensor, Tensor]:
    """Output h [B, T, D] in x's dtype and the final state [B, D] in float32; arguments as in `reference`.

    x is bfloat16 or float32, g either. `segments`, the parts that T is split into so that few channels fill the device,
    follows from the shapes if 0.
    """
    from hybridsearch.kernels.gated_scan import operators

    channels = x.shape[-1]
    missing = -channels % PIECE
    state = None if initial_state is None else initial_state.to(torch.float32)
    if missing:
        x, g = pad(x, (0, missing)), pad(g, (0, missing))
        state = None if state is None else pad(state, (0, missing))
    output, last = operators.gated_scan(x, g, state, segments)
    return (output[..., :channels], last[:, :channels]) if missing else (output, last)


def gated_scan_step(x: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token, as `reference.gated_scan_step`, for a float32 state; not differentiable."""
    from hybridsearch.kernels.gated_scan import operators

    output, after = operators.gated_scan_step(x, g, state)
    return output, after


def refuses(device: torch.device, dtype: torch.dtype, channels: int) -> str:
    """Why the kernels cannot serve this device and dtype; empty if they can."""
    unsupported = "" if dtype in DTYPES else f"needs bfloat16 or float32, found {dtype}"
    return refuses_device(device) or unsupported
