"""One class per leaf mixer: its fields, its rules, and its own counting.

Sizes are per head: `head_dim` is the key size K, `value_head_dim` the value size V. Every mixer counts itself, exactly:

`parameters(width)`: all weights of the mixer, its norms, convolution, gates and output projection.

`state_bytes(context, element_bytes=2)`: decode memory of one sequence that holds `context` tokens: recurrent states in
float32 (4 bytes), keys, values and the last inputs of convolutions in `element_bytes`. Spare capacity does not count.

`flops_per_token(width, context)`: one decode step of one sequence with `context` tokens in memory; the new token is
seen too, so attention reads context + 1. One multiply-add is 2 FLOPs, and only products of matrices and vectors count:
projections, q K^T and P V, and for a state of K x V each read (S^T k, S^T q) and each write (k v^T) 2 K V. What is done
element by element does not count: norms, activations, gates, decays, rotary positions, short convolutions (at width
4 they are under 1 % of the projections).
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
ConvWidth = Annotated[int, Field(ge=0, le=16)]
STATE_ELEMENT_BYTES = 4
DECAY_RANK = 16
"""Rank of the map from the residual stream to one decay a key channel (GLA)."""


class Description(BaseModel):
    """Base of everything in an architecture: frozen, hashable, strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Softmax(Description):
    """What both forms of softmax attention share; the fields are theirs."""

    if TYPE_CHECKING:
        heads: int
        kv_heads: int | None
        head_dim: int
        rope_theta: float | None

    @model_validator(mode="after")
    def _grouped(self) -> Self:
        if self.heads % self.groups:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.groups}")
        if self.rope_theta is not None and self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} is odd; rotary positions need an even one (or rope_theta: null)"
            )
        return self

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads


class FullAttention(Softmax):
    """Causal softmax attention over the whole past, with grouped keys and values (Ainslie et al., 2305.13245)."""

    kind: Literal["full"] = "full"
    heads: Count
    kv_heads: Count | None = None
    """Heads of keys and values; none means `heads`."""
    head_dim: Count
    value_head_dim: Count | None = None
    """None means `head_dim`."""
    rope_theta: Annotated[float, Field(gt=0)] | None = 10000.0
    """Base of the rotary angles; null for no positions (NoPE)."""
    qk_norm: bool = True
    """RMS norm with weight on every query and key head."""
    short_conv: ConvWidth = 0
    """Width of the causal convolution with SiLU on q, k and v; 0 for none."""
    gate: bool = False
    """Whether the output is multiplied by SiLU of a gate."""

    @property
    def value_size(self) -> int:
        """V, the value size of one head."""
        return self.value_head_dim or self.head_dim

    @property
    def channels(self) -> int:
        """Channels of q, k and v together."""
        return (self.heads + self.groups) * self.head_dim + self.groups * self.value_size

    def parameters(self, width: int) -> int:
        """Weights at this residual width."""
        values = self.heads * self.value_size
        norms = 2 * self.head_dim * self.qk_norm
        return width * (self.channels + values * self.gate + values) + self.short_conv * self.channels + norms

    def state_bytes(self, context: int, element_bytes: int = 2) -> int:
        """Decode memory of one sequence after `context` tokens, in bytes."""
        cache = context * self.groups * (self.head_dim + self.value_size)
        return (cache + tail_inputs(self.short_conv) * self.channels) * element_bytes

    def flops_per_token(self, width: int, context: int) -> int:
        """One decode step with `context` tokens in memory."""
        values = self.heads * self.value_size
        scores = (context + 1) * self.heads * (self.head_dim + self.value_size)
        return 2 * (width * (self.channels + values * self.gate + values) + scores)


class SlidingWindow(Softmax):
    """Causal softmax attention over the last `window` tokens (the query's own is one) and the first `sinks` tokens."""

    kind: Literal["sliding"] = "sliding"
    heads: Count
    kv_heads: Count | None = None
    head_dim: Count
    window: Count
    sinks: Annotated[int, Field(ge=0)] = 0
    rope_theta: Annotated[float, Field(gt=0)] | None = 10000.0
    qk_norm: bool = True

    @property
    def channels(self) -> int:
        """Channels of q, k and v together."""
        return (self.heads + 2 * self.groups) * self.head_dim

    def parameters(self, width: int) -> int:
        """Weights at this residual width."""
        return width * (self.channels + self.heads * self.head_dim) + 2 * self.head_dim * self.qk_norm

    def state_bytes(self, context: int, element_bytes: int = 2) -> int:
        """Decode memory of one sequence after `context` tokens, in bytes."""
        return min(context, self.window + self.sinks) * 2 * self.groups * self.head_dim * element_bytes

    def flops_per_token(self, width: int, context: int) -> int:
        """One decode step with `context` tokens in memory."""
        scores = min(context + 1, self.window + self.sinks) * 2 * self.heads * self.head_dim
        return 2 * (width * (self.channels + self.heads * self.head_dim) + scores)


class MatrixState(Description):
    """What mixers with a state of K x V per head share: projections, convolution, states, normed heads. The fields are
    theirs."""

    products: ClassVar[int] = 3
    """Products of a vector with the state in one step: S^T k and S^T q are read, and k v^T is written."""

    if TYPE_CHECKING:
        heads: int
        head_dim: int
        value_head_dim: int | None
        short_conv: int
        gate: bool

    @property
    def groups(self) -> int:
        """Heads of values and states."""
        return self.heads

    @property
    def value_size(self) -> int:
        """V, the value size of one head."""
        return self.value_head_dim or self.head_dim

    @property
    def channels(self) -> int:
        """Channels of q, k and v together."""
        return 2 * self.heads * self.head_dim + self.groups * self.value_size

    def parameters(self, width: int) -> int:
        """Weights at this residual width: matrices, convolution, vectors, and the norm of the outputs."""
        return self._matrices(width) + self.short_conv * self.channels + self._vectors() + self.value_size

    def state_bytes(self, context: int, element_bytes: int = 2) -> int:
        """Decode memory of one sequence, in bytes; the same for every `context`."""
        return self._state() * STATE_ELEMENT_BYTES + tail_inputs(self.short_conv) * self.channels * element_bytes

    def flops_per_token(self, width: int, context: int) -> int:
        """One decode step; the same for every `context`."""
        return 2 * (self._matrices(width) + self.products * self._state())

    def _state(self) -> int:
        return self.groups * self.head_dim * self.value_size

    def _matrices(self, width: int) -> int:
        """Weights of q, k, v, the gate and the output; mixers add their own."""
        values = self.groups * self.value_size
        return width * (self.channels + values * self.gate + values)

    def _vectors(self) -> int:
        """Weights that are neither matrices nor norms nor convolutions."""
        return 0


class GatedDelta(MatrixState):
    """Gated delta rule (Yang et al., 2412.06464): S = a (I - b k k^T) S + b k v^T, o = S^T q."""

    kind: Literal["gated_delta"] = "gated_delta"
    heads: Count
    """Heads of queries and keys."""
    value_heads: Count | None = None
    """Heads of values, gates and states, a multiple of `heads`; none means `heads`."""
    head_dim: Count
    value_head_dim: Count | None = None
    short_conv: ConvWidth = 4
    gate: bool = True
    """Whether the normed output is multiplied by SiLU of a gate."""
    negative_eigenvalues: bool = False
    """Whether b lies in (0, 2) instead of (0, 1)."""

    @model_validator(mode="after")
    def _grouped(self) -> "GatedDelta":
        if self.groups % self.heads:
            raise ValueError(f"value_heads {self.groups} is not a multiple of heads {self.heads}")
        return self

    @property
    def groups(self) -> int:
        """Heads of values and states."""
        return self.value_heads or self.heads

    def _matrices(self, width: int) -> int:
        return super()._matrices(width) + width * 2 * self.groups

    def _vectors(self) -> int:
        return 2 * self.groups  # A_log and dt_bias


class Delta(MatrixState):
    """Delta rule without decay (Yang et al., 2406.06484): S = (I - b k k^T) S + b k v^T, o = S^T q."""

    kind: Literal["delta"] = "delta"
    heads: Count
    head_dim: Count
    value_head_dim: Count | None = None
    short_conv: ConvWidth = 4
    gate: bool = False
    negative_eigenvalues: bool = False

    def _matrices(self, width: int) -> int:
        return super()._matrices(width) + width * self.heads


class GatedLinear(MatrixState):
    """Gated linear attention (Yang et al., 2312.06635): S = diag(a) S + k v^T, o = S^T q."""

    products: ClassVar[int] = 2  # nothing is read before it is written
    kind: Literal["gated_linear"] = "gated_linear"
    heads: Count
    head_dim: Count
    value_head_dim: Count | None = None
    decay: Literal["scalar", "vector"] = "vector"
    """One decay a head (as Mamba-2) or one a key channel (GLA)."""
    short_conv: ConvWidth = 4
    gate: bool = True

    def _matrices(self, width: int) -> int:
        low_rank = DECAY_RANK * (width + self.heads * self.head_dim)
        return super()._matrices(width) + (low_rank if self.decay == "vector" else width * self.heads)

    def _vectors(self) -> int:
        return self.heads * self.head_dim if self.decay == "vector" else 2 * self.heads


def tail_inputs(short_conv: int) -> int:
    """Inputs per channel that a causal convolution of this width keeps while decoding."""
    return max(short_conv - 1, 0)
