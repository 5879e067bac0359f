"""One class per leaf mixer: its fields, its rules, and its own counting.

Sizes are per head: `head_dim` is the key size K, `value_head_dim` the value size V. Counting follows one convention:
one multiply-add is 2 FLOPs, only matrix products, outer products and state updates count; recurrent states are
float32 (4 bytes), keys, values and convolution inputs take `element_bytes`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
ConvWidth = Annotated[int, Field(ge=0, le=16)]
DECAY_RANK = 16
"""Rank of the map from the residual stream to one decay a key channel (GLA)."""


class Description(BaseModel):
    """Base of everything in an architecture: frozen, hashable, strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FullAttention(Description):
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

    @model_validator(mode="after")
    def _grouped(self) -> "FullAttention":
        _check_attention(self.heads, self.groups, self.head_dim, self.rope_theta)
        return self

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def value_size(self) -> int:
        """V, the value size of one head."""
        return self.value_head_dim or self.head_dim


class SlidingWindow(Description):
    """Causal softmax attention over the last `window` tokens (the query's own is one) and the first `sinks` tokens."""

    kind: Literal["sliding"] = "sliding"
    heads: Count
    kv_heads: Count | None = None
    head_dim: Count
    window: Count
    sinks: Annotated[int, Field(ge=0)] = 0
    rope_theta: Annotated[float, Field(gt=0)] | None = 10000.0
    qk_norm: bool = True

    @model_validator(mode="after")
    def _grouped(self) -> "SlidingWindow":
        _check_attention(self.heads, self.groups, self.head_dim, self.rope_theta)
        return self

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads


class GatedDelta(Description):
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

    @property
    def value_size(self) -> int:
        """V, the value size of one head."""
        return self.value_head_dim or self.head_dim


class Delta(Description):
    """Delta rule without decay (Yang et al., 2406.06484): S = (I - b k k^T) S + b k v^T, o = S^T q."""

    kind: Literal["delta"] = "delta"
    heads: Count
    head_dim: Count
    value_head_dim: Count | None = None
    short_conv: ConvWidth = 4
    gate: bool = False
    negative_eigenvalues: bool = False

    @property
    def value_size(self) -> int:
        """V, the value size of one head."""
        return self.value_head_dim or self.head_dim


class GatedLinear(Description):
    """Gated linear attention (Yang et al., 2312.06635): S = diag(a) S + k v^T, o = S^T q."""

    kind: Literal["gated_linear"] = "gated_linear"
    heads: Count
    head_dim: Count
    value_head_dim: Count | None = None
    decay: Literal["scalar", "vector"] = "vector"
    """One decay a head (as Mamba-2) or one a key channel (GLA)."""
    short_conv: ConvWidth = 4
    gate: bool = True

    @property
    def value_size(self) -> int:
        """V, the value size of one head."""
        return self.value_head_dim or self.head_dim


Leaf = FullAttention | SlidingWindow | GatedDelta | Delta | GatedLinear


def _check_attention(heads: int, groups: int, head_dim: int, rope_theta: float | None) -> None:
    if heads % groups:
        raise ValueError(f"heads {heads} is not a multiple of kv_heads {groups}")
    if rope_theta is not None and head_dim % 2:
        raise ValueError(f"head_dim {head_dim} is odd; rotary positions need an even one (or rope_theta: null)")
