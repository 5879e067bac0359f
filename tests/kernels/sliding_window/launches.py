"""Every launch of training, with sinks far behind the window, for `offline_compile`."""

import torch

from hybridsearch.kernels.sliding_window import operators


def launch_all(element: str, key_size: int, value_size: int) -> None:
    dtype = getattr(torch, element)
    q = torch.zeros(1, 1024, 2, key_size, dtype=dtype)
    v = torch.zeros(1, 1024, 1, value_size, dtype=dtype)
    k = q[:, :, :1]
    output, sums = operators.sliding_window(q, k, v, 100, 4, 1.0)
    operators.sliding_window_backward(output, q, k, v, output, sums, 100, 4, 1.0)
