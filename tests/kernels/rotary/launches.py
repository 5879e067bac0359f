"""The launch forwards, which is also that backwards, for `offline_compile`."""

import torch

from hybridsearch.kernels.rotary import operators


def launch_all(element: str, size: int) -> None:
    x = torch.zeros(2, 64, 2, size, dtype=getattr(torch, element))
    operators.rotate(x, x[0, :, :1], x[0, :, :1], 1.0)
