"""Every launch of training, with all options and with none, for `offline_compile`."""

import torch

from hybridsearch.kernels.rms_norm import operators


def launch_all(element: str, size: int) -> None:
    x = torch.zeros(1024, 2, size, dtype=getattr(torch, element))
    weight, share = torch.zeros(size), torch.zeros(1024, 2)
    for options in ((weight, x), (weight, None), (None, None)):
        y = operators.norm(x, *options, 8.0, 1e-6)
        operators.norm_backward(y, x, *options, 8.0, 1e-6)
    for options in ((share, x), (None, None)):
        y = operators.norm_mix(x, x, weight, weight, *options, 8.0, 1e-6)
        operators.norm_mix_backward(y, x, x, weight, weight, *options, 8.0, 1e-6)
