"""AdamW with parameter groups, and the learning-rate schedule. It knows no task and no architecture."""

import math

import torch
from torch import nn

BETAS = (0.9, 0.95)
"""Second moment over about 20 steps: proxies run for hundreds of steps, not for 1,000s as 0.999 assumes."""


def adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 1711.05101), fused where the device allows.

    Decay falls on matrices only: norms, biases and the gates' own parameters are vectors.
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    spared = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=BETAS, fused=True)


def factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`: linear rise, then cosine to 0.

    The rise takes the share `warmup` of all steps. `steps` is the last rung's, so that an early rung is a prefix of
    the same run.
    """
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - rising) / max(1.0, steps - rising))))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use `learning_rate` for the next step, in all groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
