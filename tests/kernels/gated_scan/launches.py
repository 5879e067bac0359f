"""Every launch of training, inference and decoding, unsplit and in two segments, for `offline_compile`."""

import torch

from hybridsearch.kernels.gated_scan import operators


def launch_all(element: str, channels: int) -> None:
    x = torch.zeros(1, 4096, channels, dtype=getattr(torch, element))
    state = torch.zeros(1, channels)
    for segments in (1, 2):
        for first in (None, state):
            output, _ = operators.gated_scan(x, x, first, segments)
            operators.gated_scan_backward(x, first, x, output, first, segments)
    operators.gated_scan_step(x[:, 0], x[:, 0], state)
