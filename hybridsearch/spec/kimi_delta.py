"""The mixer of Kimi Linear (2510.26692); counting as in `mixers`."""

from typing import Literal

from hybridsearch.spec.mixers import ConvWidth, Count, MatrixState


class KimiDelta(MatrixState):
    """Delta rule with a decay a key channel: S = (I - b k k^T) diag(a) S + b k v^T, o = S^T q."""

    kind: Literal["kimi_delta"] = "kimi_delta"
    heads: Count
    head_dim: Count
    value_head_dim: Count | None = None
    short_conv: ConvWidth = 4
    gate: bool = True
    """Whether the normed output is multiplied by the sigmoid of a gate."""
    negative_eigenvalues: bool = False
    """Whether b lies in (0, 2) instead of (0, 1)."""

    def _matrices(self, width: int) -> int:
        keys, values, rank = self.heads * self.head_dim, self.heads * self.value_size, self.value_size
        low_rank = rank * (width + keys) + rank * (width + values) * self.gate  # decays and gate, both of rank V
        return width * (self.channels + self.heads + values) + low_rank

    def _vectors(self) -> int:
        return self.heads + self.heads * (self.head_dim + self.value_size * self.gate)  # A_log and two biases
