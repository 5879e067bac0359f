"""Mixers made of mixers: head mixtures and token routing. With them layer, head and token hybrids are one grammar."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hybridsearch.spec.mixers import Count, Delta, Description, FullAttention, GatedDelta, GatedLinear, SlidingWindow


class HeadSplit(Description):
    """Groups of heads side by side, each with a mixer of its own; outputs are normed per branch and concatenated.

    Per-branch normalisation is what makes head mixtures train (2510.04800). The order of the branches carries no
    meaning, so the canonical form sorts them.
    """

    kind: Literal["head_split"] = "head_split"
    branches: Annotated[tuple["Branch", ...], Field(min_length=2)]
    normalise: bool = True
    """RMS norm with weight on each branch's output."""


class TokenRoute(Description):
    """NAtS-L (2602.03681): a router sends each chunk of each head to softmax attention or to a linear state.

    Both branches share the linear branch's projections, viewed in another head geometry. A query sees its own chunk
    in the branches that `own_chunk` names, earlier softmax-typed chunks through attention, and earlier linear-typed
    chunks through the state.
    """

    kind: Literal["token_route"] = "token_route"
    softmax: FullAttention
    """Geometry, positions and qk-norm of the softmax branch; its convolution and gate are the linear branch's."""
    linear: GatedDelta | Delta = Field(discriminator="kind")
    chunk: Annotated[int, Field(ge=4)] = 64
    """Tokens of one routing decision."""
    scope: Literal["head", "layer"] = "head"
    """Whether every linear head routes for itself or all heads share one decision."""
    own_chunk: Literal["both", "softmax", "linear"] = "both"
    decay_through: bool = True
    """Whether the state decays through softmax-typed chunks."""
    mix: Literal["query", "scalar", "sum"] = "query"
    """Weights of the two outputs: from the query per token and head, learned per head, or 1 and 1."""
    branch_norm: bool = True
    score: Literal["mean", "mean_max", "last"] = "mean"
    """What the router reads of a chunk."""
    routing: Literal["learned", "gumbel", "periodic", "first", "random"] = "learned"
    """Straight-through argmax, hard Gumbel-softmax, or a fixed control: every n-th chunk, the first, a fixed draw."""
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of softmax-typed chunks, for the fixed controls only."""

    @model_validator(mode="after")
    def _geometries_agree(self) -> "TokenRoute":
        linear, softmax = self.linear, self.softmax
        if isinstance(linear, GatedDelta) and linear.groups != linear.heads:
            raise ValueError("token routing needs value_heads equal to heads in its linear branch")
        if softmax.heads % linear.heads:
            raise ValueError(f"softmax heads {softmax.heads} is not a multiple of linear heads {linear.heads}")
        if softmax.heads * softmax.head_dim != linear.heads * linear.head_dim:
            raise ValueError(
                f"softmax keys {softmax.heads}x{softmax.head_dim} differ from "
                f"linear keys {linear.heads}x{linear.head_dim} in total size"
            )
        if softmax.heads * softmax.value_size != linear.heads * linear.value_size:
            raise ValueError(
                f"softmax values {softmax.heads}x{softmax.value_size} differ from "
                f"linear values {linear.heads}x{linear.value_size} in total size"
            )
        if softmax.groups != softmax.heads or softmax.short_conv or softmax.gate:
            raise ValueError(
                "the softmax branch shares the linear branch's projections: leave kv_heads, short_conv and gate out"
            )
        return self

    @model_validator(mode="after")
    def _share_belongs_to_fixed_routing(self) -> "TokenRoute":
        fixed = self.routing in ("periodic", "first", "random")
        if fixed != (self.share is not None):
            raise ValueError(f"routing {self.routing!r} {'needs a' if fixed else 'takes no'} share")
        return self


Branch = Annotated[
    FullAttention | SlidingWindow | GatedDelta | Delta | GatedLinear | TokenRoute, Field(discriminator="kind")
]
Mixer = Annotated[
    FullAttention | SlidingWindow | GatedDelta | Delta | GatedLinear | TokenRoute | HeadSplit,
    Field(discriminator="kind"),
]
HeadSplit.model_rebuild()

__all__ = ["Branch", "Count", "HeadSplit", "Mixer", "TokenRoute"]
