"""Every launch of training and of a decoding step, for `offline_compile`."""

import torch

from hybridsearch.kernels.short_conv import operators


def launch_all(element: str, width: int) -> None:
    x = torch.zeros(2, 1024, 256, dtype=getattr(torch, element))
    weight = torch.zeros(width, 256)
    operators.short_conv_backward(operators.short_conv(x, weight), x, weight)
    operators.short_conv_step(x[:, 0], weight, x[:, : width - 1])
