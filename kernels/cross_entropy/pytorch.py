"""Cross entropy of targets under a vocabulary matrix in plain PyTorch; the logits are copied to float32."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(
    hidden: Tensor, vocabulary: Tensor, targets: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Mean or sum, in nats and float32, of -log softmax(vocabulary hidden)[target].

    hidden [N, width] at the scored positions, vocabulary [V, width], targets [N] in 0 ... V - 1.
    """
    return F.cross_entropy(F.linear(hidden, vocabulary).float(), targets, reduction=reduction)


def reference(
    hidden: Tensor, vocabulary: Tensor, targets: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """As `cross_entropy`, by its definition: the oracle of the tests."""
    logits = hidden @ vocabulary.T
    losses = logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]
    return losses.mean() if reduction == "mean" else losses.sum()
