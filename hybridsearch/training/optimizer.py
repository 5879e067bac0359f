"""AdamW with parameter groups, and the learning-rate schedule. It knows no task and no architecture."""

import math

import torch
from torch import nn

BETAS = (0.9, 0.95)
"""Second moment over about 20 steps: proxies run for hundreds of steps, not for 1,000s as 0.999 assumes."""


def adamw(
    model: nn.Module, *, learning_rate: float, weight_decay: float, embedding_factor: float = 1.0
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 1711.05101), fused where the device allows.

    Decay falls on matrices only: norms, biases and the gates' own parameters are vectors. Embeddings learn
    `embedding_factor` times as fast as the rest (Yang et al., 2203.03466: their rate need not shrink with the width).
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    looked_up = [p for p in trained if id(p) in embeddings]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    vectors = [p for p in trained if p.ndim < 2]
    groups = [
        {"params": looked_up, "weight_decay": weight_decay, "factor": embedding_factor},
        {"params": matrices, "weight_decay": weight_decay, "factor": 1.0},
        {"params": vectors, "weight_decay": 0.0, "factor": 1.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=BETAS, fused=True)
    set_learning_rate(optimizer, learning_rate)
    return optimizer


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
    """Use `learning_rate` for the next step, times each group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]
