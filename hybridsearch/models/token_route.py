"""Token routing as a module (NAtS-L, 2602.03681): softmax attention and a linear state over the same projections.

y = SiLU(gate) * (w_s norm(o_softmax) + w_l norm(o_linear)), where the router decides, chunk by chunk and head by head,
which branch goes on seeing a chunk once it is complete.

Axes: B sequences, T tokens, H linear heads with sizes K and V, A softmax heads with sizes Ka and Va; A Ka = H K and
A Va = H V.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.kernels import dispatch
from hybridsearch.models.attention import AttentionHeads
from hybridsearch.models.gated_delta import DeltaInputs, DeltaProjections
from hybridsearch.models.mixer import Mixer
from hybridsearch.models.parts import EPSILON, RMSNorm, unit_length
from hybridsearch.models.routed_memory import RoutedMemory
from hybridsearch.models.routing import Router
from hybridsearch.spec import combinators as spec


class TokenRoute(Mixer[RoutedMemory]):
    """Both branches, the router and the mix of their outputs."""

    def __init__(self, description: spec.TokenRoute, width: int, *, project: bool = True) -> None:
        super().__init__(width, description.value_width, project=project)
        self.description = description
        softmax = description.softmax
        self.inputs = DeltaProjections(description.linear, width)
        self.heads = AttentionHeads(
            softmax.heads, softmax.heads, softmax.head_dim, softmax.value_size, softmax.rope_theta, softmax.qk_norm
        )
        self.router = Router(description, width)
        self.mix = BranchMix(description)

    def empty_memory(self, batch: int) -> RoutedMemory:
        """No pages, an open chunk of no tokens, and a state of zeros."""
        return RoutedMemory.empty(self.description, batch, like=self.inputs.projection.weight)

    def inner(self, x: Tensor, memory: RoutedMemory | None = None) -> Tensor:
        """Whole sequences [B, T, width] -> [B, T, H V]."""
        inputs: DeltaInputs = self.inputs(x, None if memory is None else memory.tail)
        q, k, v = self.heads(inputs.mixed)
        route, pooled = self.router(x)
        run = dispatch.token_routed_attention if memory is None else dispatch.token_routed_prompt
        softmax_out, linear_out, states = run(
            q,
            k,
            v,
            unit_length(inputs.q),
            unit_length(inputs.k),
            inputs.v,
            inputs.g,
            inputs.beta,
            route,
            chunk=self.description.chunk,
            own_chunk=self.description.own_chunk,
            decay_through=self.description.decay_through,
        )
        if memory is not None:
            memory.fill(k, v, route[..., 0] > 0.5, states, pooled)
        return self._gated(softmax_out, linear_out, inputs)

    def inner_step(self, x: Tensor, memory: RoutedMemory) -> Tensor:
        """One token [B, width] -> [B, H V]; a full chunk is typed, and kept or dropped, before it returns."""
        inputs = self.inputs.step(x, memory.tail)
        softmax_out = self._softmax_step(inputs.mixed, memory)
        linear_out = self._linear_step(inputs, memory)
        scores = self.router.token_scores(x)
        memory.scores = self.router.pool_step(memory.scores, scores, memory.filled)
        memory.seen += 1
        if memory.filled == 0:
            index = memory.seen // self.description.chunk - 1
            memory.close_chunk(
                self.router.close(memory.scores, scores, index), decay_through=self.description.decay_through
            )
        return self._gated(softmax_out, linear_out, inputs)

    def _softmax_step(self, mixed: Tensor, memory: RoutedMemory) -> Tensor:
        """The query over all kept chunks and, if it reads it, the open chunk: [B, A, Va]."""
        q, k, v = self.heads(mixed[:, None], memory.seen)
        place = memory.filled
        memory.open_chunk.keys[:, :, place] = k[:, 0]
        memory.open_chunk.values[:, :, place] = v[:, 0]
        own = None if self.description.own_chunk == "linear" else memory.open_tokens(place + 1)
        return dispatch.paged_attention_step(q[:, 0], memory.pages.held, memory.pages.rows, own)

    def _linear_step(self, inputs: DeltaInputs, memory: RoutedMemory) -> Tensor:
        """The state's reading [B, H, V]; the running state takes the token in, whatever its chunk's type will be."""
        q, k = unit_length(inputs.q), unit_length(inputs.k)
        o, memory.running = dispatch.gated_delta_step(q, k, inputs.v, inputs.g, inputs.beta, memory.running)
        if inputs.g is not None:
            memory.decay = memory.decay * inputs.g.exp()
        if self.description.own_chunk != "softmax":
            return o
        query = q.to(memory.entering.dtype) * q.shape[-1] ** -0.5
        read: Tensor = (query[:, :, None] @ memory.entering)[:, :, 0]
        return (read if inputs.g is None else read * memory.decay[..., None]).to(o.dtype)

    def _gated(self, softmax_out: Tensor, linear_out: Tensor, inputs: DeltaInputs) -> Tensor:
        queries = inputs.mixed[..., : self.description.key_width]
        mixed: Tensor = self.mix(softmax_out, linear_out.reshape(softmax_out.shape), queries, inputs.gate)
        return mixed


class BranchMix(nn.Module):
    """Norms the two outputs of every softmax head and adds them, with weights that sum to 1 or with 1 and 1; gates."""

    def __init__(self, description: spec.TokenRoute) -> None:
        super().__init__()
        heads, size = description.softmax.heads, description.softmax.value_size
        self.norms = nn.ModuleList([RMSNorm(size), RMSNorm(size)]) if description.branch_norm else None
        self.of_query = nn.Linear(description.key_width, 2 * heads, bias=False) if description.mix == "query" else None
        self.logits = nn.Parameter(torch.empty(2, heads)) if description.mix == "scalar" else None

    def forward(self, softmax_out: Tensor, linear_out: Tensor, queries: Tensor, gate: Tensor | None) -> Tensor:
        """Both outputs [..., A, Va], the queries [..., H K] and the gate [..., A Va] or none -> [..., A Va]."""
        share = self._weight(queries)
        if self.norms is not None:
            softmax_weight, linear_weight = self.norms.parameters()
            gate = None if gate is None else torch.unflatten(gate, -1, linear_out.shape[-2:])
            mixed = dispatch.mixed_rms_norm(
                softmax_out, linear_out, softmax_weight, linear_weight, share, gate, EPSILON
            )
            return mixed.flatten(-2)
        softmax_out = softmax_out.to(linear_out.dtype)  # under autocast a decode step reads pages in the weights' dtype
        if share is None:
            mixed = (softmax_out + linear_out).flatten(-2)
        else:
            mixed = torch.lerp(linear_out, softmax_out, share.to(linear_out.dtype)[..., None]).flatten(-2)
        return mixed if gate is None else mixed * F.silu(gate)

    def _weight(self, queries: Tensor) -> Tensor | None:
        """Weight of the softmax branch, [..., A] or [A]: a softmax of two logits is the sigmoid of their difference."""
        if self.of_query is not None:
            softmax, linear = self.of_query(queries).chunk(2, -1)
        elif self.logits is not None:
            softmax, linear = self.logits
        else:
            return None
        weight: Tensor = (softmax - linear).sigmoid()
        return weight
