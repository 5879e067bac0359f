"""Every launch of training and decoding, for `offline_compile`."""

import torch

from hybridsearch.kernels.token_routing import operators


def launch_all(key_size: int, value_size: int, chunk: int, tokens: int = 256) -> None:
    q = torch.zeros(1, tokens, 1, key_size, dtype=torch.bfloat16)
    v = torch.zeros(1, tokens, 1, value_size, dtype=torch.bfloat16)
    gate = torch.zeros(1, tokens // chunk, 1)
    for reads_own in (True, False):
        saved = operators.routed_softmax(q, q, v, gate, 1.0, chunk, reads_own)
        operators.routed_softmax_backward(v, q, q, v, gate, *saved, 1.0, chunk, reads_own)
    own = torch.zeros(1, 1, 64, key_size, dtype=torch.bfloat16), torch.zeros(1, 1, 64, value_size, dtype=torch.bfloat16)
    operators.paged_attention_step(q[:, 0], *own, torch.zeros(1, dtype=torch.int64), *own, 1.0)
