"""Every launch of training, inference and decoding, unsplit and in two segments, for `offline_compile`."""

import torch

from hybridsearch.kernels.kimi_delta import operators


def launch_all(element: str, key_size: int, value_size: int) -> None:
    dtype = getattr(torch, element)
    q = torch.zeros(1, 256, 1, key_size, dtype=dtype)
    v = torch.zeros(1, 256, 1, value_size, dtype=dtype)
    decay, beta = torch.zeros(1, 256, 1, key_size), torch.zeros(1, 256, 1)
    state = torch.zeros(1, 1, key_size, value_size)
    for segments in (1, 2):
        saved = operators.kimi_delta(q, q, v, decay, beta, state, 1.0, segments, True)
        operators.kimi_delta_backward(v, state, q, q, beta, *saved[2:], 1.0, segments)
    operators.kimi_delta(q, q, v, decay, beta, None, 1.0, 1, False)
    token = (x[:, 0] for x in (q, q, v, decay, beta))
    operators.kimi_delta_step(*token, state, 1.0)
