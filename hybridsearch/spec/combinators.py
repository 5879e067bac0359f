"""Mixers made of mixers: head mixtures and token routing. With them layer, head and token hybrids are one grammar."""

import random
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hybridsearch.spec.hgrn import Hgrn
from hybridsearch.spec.kimi_delta import KimiDelta
from hybridsearch.spec.mixers import (
    STATE_ELEMENT_BYTES,
    Delta,
    Description,
    FullAttention,
    GatedDelta,
    GatedLinear,
    SlidingWindow,
    tail_inputs,
)

PAGE_ENTRY_BYTES = 8
"""One entry of the table that says to which sequence and head a kept chunk belongs."""


class HeadSplit(Description):
    """Groups of heads side by side, each with a mixer of its own; outputs are normed per branch and concatenated.

    Per-branch normalisation is what makes head mixtures train (2510.04800). The order of the branches carries no
    meaning, so the canonical form sorts them.
    """

    kind: Literal["head_split"] = "head_split"
    branches: Annotated[tuple["Branch", ...], Field(min_length=2)]
    normalise: bool = True
    """RMS norm with weight on each branch's output."""

    @property
    def value_width(self) -> int:
        """Channels of all branches' outputs together, before the output projection."""
        return sum(value_width(branch) for branch in self.branches)

    def parameters(self, width: int) -> int:
        """Weights at this residual width; the one output projection is as large as the branches' own together."""
        return sum(branch.parameters(width) for branch in self.branches) + self.value_width * self.normalise

    def state_bytes(self, context: int, element_bytes: int = 2) -> int:
        """Decode memory of one sequence after `context` tokens, in bytes."""
        return sum(branch.state_bytes(context, element_bytes) for branch in self.branches)

    def flops_per_token(self, width: int, context: int) -> int:
        """One decode step with `context` tokens in memory."""
        return sum(branch.flops_per_token(width, context) for branch in self.branches)


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
    """The router's scores of a chunk: the mean over its tokens, that plus the largest of any token, or the last's."""
    routing: Literal["learned", "gumbel", "periodic", "first", "random"] = "learned"
    """Straight-through argmax, hard Gumbel-softmax, or a fixed control: in every window of 1 / share chunks one is
    softmax-typed: its last, its first, or a fixed draw per head. No control knows the length of the sequence."""
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of softmax-typed chunks, for the fixed controls only."""

    @property
    def value_width(self) -> int:
        """Channels of the output before its projection."""
        return self.linear.heads * self.linear.value_size

    @property
    def key_width(self) -> int:
        """Channels of the queries, and of the keys."""
        return self.linear.heads * self.linear.head_dim

    @property
    def routed_heads(self) -> int:
        """Decisions per chunk."""
        return self.linear.heads if self.scope == "head" else 1

    @property
    def fixed(self) -> bool:
        """Whether the routing is a fixed control, without a router."""
        return self.routing in ("periodic", "first", "random")

    @property
    def router_scores(self) -> int:
        """Numbers that the router computes of a token: two a decision, twice that if it takes mean and largest."""
        return 0 if self.fixed else 2 * self.routed_heads * (2 if self.score == "mean_max" else 1)

    def fixed_types(self, chunks: int) -> tuple[tuple[bool, ...], ...]:
        """For each of the first `chunks` chunks and each linear head, whether a fixed control types it softmax."""
        return _fixed_types(self.routing, self.share or 0.0, chunks, self.routed_heads, self.linear.heads)

    def parameters(self, width: int) -> int:
        """Weights at this residual width."""
        linear = self.linear.parameters(width) - self.linear.value_size
        norms = 2 * self.softmax.head_dim * self.softmax.qk_norm + 2 * self.softmax.value_size * self.branch_norm
        scalars = 2 * self.softmax.heads * (self.mix == "scalar")
        return linear + norms + scalars + self._routing_matrices(width)

    def state_bytes(self, context: int, element_bytes: int = 2, share: float | None = None) -> int:
        """Decode memory of one sequence after `context` tokens, in bytes.

        Args:
            context: tokens in memory.
            element_bytes: of keys, values and convolution inputs.
            share: of all heads' complete chunks that are softmax-typed; none means that of a fixed control, and the
                worst case 1 of a router. Their keys and values are kept, besides those of the open chunk.
        """
        complete, open_tokens = divmod(context, self.chunk)
        pages = self._pages(complete, share)
        tokens = open_tokens * self.linear.heads + pages * self.chunk
        kept = tokens * (self.linear.head_dim + self.linear.value_size)
        tail = tail_inputs(self.linear.short_conv) * self.linear.channels
        states = 2 * self.key_width * self.linear.value_size + self.linear.heads * isinstance(self.linear, GatedDelta)
        router = self.router_scores * (self.score != "last")
        return (kept + tail) * element_bytes + (states + router) * STATE_ELEMENT_BYTES + pages * PAGE_ENTRY_BYTES

    def flops_per_token(self, width: int, context: int, share: float | None = None) -> int:
        """One decode step with `context` tokens in memory; `share` as in `state_bytes`."""
        complete, open_tokens = divmod(context, self.chunk)
        tokens = self._pages(complete, share) * self.chunk
        if self.own_chunk != "linear":
            tokens += (open_tokens + 1) * self.linear.heads
        scores = tokens * (self.linear.head_dim + self.linear.value_size)
        # Without its own chunk, the linear branch's output is one more read, of the state before the chunk.
        read = self.key_width * self.linear.value_size * (self.own_chunk == "softmax")
        return self.linear.flops_per_token(width, context) + 2 * (self._routing_matrices(width) + scores + read)

    def _routing_matrices(self, width: int) -> int:
        return width * self.router_scores + self.key_width * 2 * self.softmax.heads * (self.mix == "query")

    def _pages(self, complete: int, share: float | None) -> int:
        """Softmax-typed chunks of all linear heads together."""
        if share is None and self.fixed:
            return sum(map(sum, self.fixed_types(complete)))
        return round((1.0 if share is None else share) * complete * self.linear.heads)

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
        if self.fixed != (self.share is not None):
            raise ValueError(f"routing {self.routing!r} {'needs a' if self.fixed else 'takes no'} share")
        return self


Branch = Annotated[
    FullAttention | SlidingWindow | GatedDelta | Delta | GatedLinear | KimiDelta | Hgrn | TokenRoute,
    Field(discriminator="kind"),
]
Mixer = Annotated[
    FullAttention | SlidingWindow | GatedDelta | Delta | GatedLinear | KimiDelta | Hgrn | TokenRoute | HeadSplit,
    Field(discriminator="kind"),
]
HeadSplit.model_rebuild()

LEAVES = (FullAttention, SlidingWindow, GatedDelta, Delta, GatedLinear, KimiDelta, Hgrn)
"""Every mixer that is not made of mixers."""


def value_width(mixer: Mixer) -> int:
    """Channels of a mixer's output before its projection."""
    if isinstance(mixer, HeadSplit | TokenRoute):
        return mixer.value_width
    if isinstance(mixer, SlidingWindow):
        return mixer.heads * mixer.head_dim
    heads = mixer.groups if isinstance(mixer, GatedDelta) else mixer.heads
    return heads * mixer.value_size


@lru_cache(maxsize=256)
def _fixed_types(
    routing: str, share: float, chunks: int, routed_heads: int, heads: int
) -> tuple[tuple[bool, ...], ...]:
    rate = Fraction(str(share))
    rows = []
    for chunk in range(chunks):
        typed = [_fixed_type(routing, rate, chunk, head) for head in range(routed_heads)]
        rows.append(tuple(typed * (heads // routed_heads)))
    return tuple(rows)


def _fixed_type(routing: str, rate: Fraction, chunk: int, head: int) -> bool:
    if routing == "first":
        return ceil((chunk + 1) * rate) > ceil(chunk * rate)
    if routing == "periodic":
        return floor((chunk + 1) * rate) > floor(chunk * rate)
    if not rate:
        return False
    window = floor(chunk * rate)
    start, stop = ceil(window / rate), ceil((window + 1) / rate)
    return chunk == random.Random(f"{head} {window}").randrange(start, stop)
