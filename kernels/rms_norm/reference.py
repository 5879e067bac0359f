"""The norms by their formulas, in plain PyTorch: the oracle of the tests."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """x / sqrt(mean x^2 + epsilon) over the last axis, times `weight` [K] or, a row a head, [H, K]."""
    y = x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()
    return y if weight is None else weight * y


def unit_length(x: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(sum x^2 + epsilon) over the last axis."""
    return x / (x.square().sum(-1, keepdim=True) + epsilon).sqrt()


def gated_rms_norm(x: Tensor, weight: Tensor, gate: Tensor, epsilon: float) -> Tensor:
    """weight * x / rms(x) * SiLU(gate); x and gate are [..., V], weight is [V]."""
    return rms_norm(x, weight, epsilon) * gate * torch.sigmoid(gate)


def mixed_rms_norm(
    first: Tensor,
    second: Tensor,
    first_weight: Tensor,
    second_weight: Tensor,
    share: Tensor | None,
    gate: Tensor | None,
    epsilon: float,
) -> Tensor:
    """SiLU(gate) (share w1 first / rms(first) + (1 - share) w2 second / rms(second)), as in NAtS-L (2602.03681).

    first, second and gate are [..., H, V], the weights [V], the share of the first [..., H] or [H]. Without a share
    both count in full.
    """
    y, other = rms_norm(first, first_weight, epsilon), rms_norm(second, second_weight, epsilon)
    y = y + other if share is None else share[..., None] * y + (1 - share)[..., None] * other
    return y if gate is None else y * gate * torch.sigmoid(gate)
