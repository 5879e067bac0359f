"""Every launch of training, inference and decoding, unsplit and in two segments, for `offline_compile`."""

import torch

from hybridsearch.kernels.gated_delta import operators
from hybridsearch.kernels.gated_delta.tiles import chunk


def launch_all(element: str, key_size: int, value_size: int, gated: bool) -> None:
    dtype = getattr(torch, element)
    q = torch.zeros(1, 256, 1, key_size, dtype=dtype)
    v = torch.zeros(1, 256, 1, value_size, dtype=dtype)
    beta = torch.zeros(1, 256, 1)
    state = torch.zeros(1, 1, key_size, value_size)
    decay = beta if gated else None
    lasting = torch.ones(1, -(-256 // chunk(dtype)), 1)
    for segments, strength, writes in ((1, beta, None), (2, beta, None), (1, beta.to(dtype), None), (1, beta, lasting)):
        saved = operators.gated_delta(q, q, v, decay, strength, state, 1.0, segments, True, writes)
        operators.gated_delta_backward(v, state, q, q, v, strength, *saved[2:], 1.0, segments, gated, writes)
    operators.gated_delta(q, q, v, decay, beta, None, 1.0, 1, False, None)
    token = (q[:, 0], q[:, 0], v[:, 0], None if decay is None else decay[:, 0], beta[:, 0])
    operators.gated_delta_step(*token, state, 1.0)
