"""Every launch of training, inference and decoding, unsplit and in two segments, for `offline_compile`."""

import torch

from hybridsearch.kernels.linear_attention import triton_operators as operators


def launch_all(element: str, key_size: int, value_size: int, vector: bool) -> None:
    dtype = getattr(torch, element)
    q = torch.zeros(1, 1024, 1, key_size, dtype=dtype)
    v = torch.zeros(1, 1024, 1, value_size, dtype=dtype)
    g = torch.zeros(1, 1024, 1, key_size) if vector else torch.zeros(1, 1024, 1)
    state = torch.zeros(1, 1, key_size, value_size)
    for segments in (1, 2):
        saved = operators.gated_linear(q, q, v, g, state, 1.0, segments, True)
        operators.gated_linear_backward(v, state, q, q, v, *saved[2:], 1.0, segments, vector)
    operators.gated_linear(q, q, v, g, None, 1.0, 1, False)
    operators.linear_step(q[:, 0], q[:, 0], v[:, 0], g[:, 0], state, 1.0)
