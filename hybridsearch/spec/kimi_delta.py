"""The mixer of Kimi Linear (2510.26692); counting as in `mixers`."""

from typing import Literal

from hybridsearch.spec.mixers import STATE_ELEMENT_BYTES, ConvWidth, Count, Description, tail_inputs


class KimiDelta(Description):
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

    @property
    def value_size(self) -> int:
        """V, the value size of one head; also the rank of the maps to the decays and to the gate."""
        return self.value_head_dim or self.head_dim

    @property
    def channels(self) -> int:
        """Channels of q, k and v together."""
        return self.heads * (2 * self.head_dim + self.value_size)

    def parameters(self, width: int) -> int:
        """Weights at this residual width: matrices, convolution, A_log, two biases, and the norm of the outputs."""
        biases = self.heads * (self.head_dim + self.value_size * self.gate)
        return self._matrices(width) + self.short_conv * self.channels + self.heads + biases + self.value_size

    def state_bytes(self, context: int, element_bytes: int = 2) -> int:
        """Decode memory of one sequence, in bytes; the same for every `context`."""
        state = self.heads * self.head_dim * self.value_size
        return state * STATE_ELEMENT_BYTES + tail_inputs(self.short_conv) * self.channels * element_bytes

    def flops_per_token(self, width: int, context: int) -> int:
        """One decode step; the same for every `context`."""
        return 2 * (self._matrices(width) + 3 * self.heads * self.head_dim * self.value_size)

    def _matrices(self, width: int) -> int:
        keys, values, rank = self.heads * self.head_dim, self.heads * self.value_size, self.value_size
        low_rank = rank * (width + keys) + rank * (width + values) * self.gate
        return width * (self.channels + self.heads + values) + low_rank
