"""The elementwise gated scan, token by token: what every faster form is checked against.

h_t = exp(g_t) h_{t-1} + x_t, every channel for itself (HGRN, Qin et al., 2311.04823). Axes: B batch, T tokens,
D channels.
"""

import torch
from torch import Tensor


def gated_scan(x: Tensor, g: Tensor, *, initial_state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Output h [B, T, D] in x's dtype and the final state [B, D] in float32 (float64 for float64 inputs).

    Args:
        x: [B, T, D].
        g: [B, T, D], the logarithm of the decay, at most 0.
        initial_state: [B, D]; none means zeros.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    state = x.new_zeros(x[:, 0].shape, dtype=exact) if initial_state is None else initial_state.to(exact)
    outputs = []
    for t in range(x.shape[1]):
        state = g[:, t].to(exact).exp() * state + x[:, t].to(exact)
        outputs.append(state)
    return torch.stack(outputs, 1).to(x.dtype), state


def gated_scan_step(x: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: output [B, D] in x's dtype and the new state; the given state is left as it was.

    Args:
        x: [B, D].
        g: [B, D].
        state: [B, D], float32 or float64.
    """
    after = torch.addcmul(x.to(state.dtype), g.to(state.dtype).exp(), state)
    return after.to(x.dtype), after
