"""Token routing by Triton kernels, with gradients; what `dispatch` runs on a GPU.

The softmax branch has kernels of its own. The linear branch is the gated delta rule's, whose state drops the writes of
softmax-typed chunks. Settings that the kernels of a branch do not know run in PyTorch (`chunked`). Triton is imported
by the first call, not with this module: a machine without a GPU need not have it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from hybridsearch.kernels.gated_delta import fused as gated_delta
from hybridsearch.kernels.gated_delta.tiles import chunk as delta_chunk
from hybridsearch.kernels.gated_delta.tiles import padded_sizes
from hybridsearch.kernels.registration import refuses_device
from hybridsearch.kernels.token_routing import chunked
from hybridsearch.kernels.token_routing.reference import LinearState, OwnChunk

CHUNKS = (16, 32, 64, 128)
"""Tokens of a chunk that the softmax kernels know."""

LARGEST = 128
"""The largest key and value size of a softmax head."""

DELTA_SIZES = ((64, 64), (128, 128))
"""Padded key and value sizes at which the linear branch was found right on a GPU (cf. `gated_delta.tiles`)."""


def refuses(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the kernels cannot serve this device, dtype and key size of a softmax head; empty if they can."""
    refused = refuses_device(device)
    if refused:
        return refused
    if torch.cuda.get_device_capability(device)[0] < 9:
        return "needs compute capability 9.0 or more"
    if dtype != torch.bfloat16:
        return f"needs bfloat16, found {dtype}"
    return f"key size {head_dim} is above {LARGEST}" if head_dim > LARGEST else ""


def refuses_step(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the decoding step cannot serve this device and dtype; it takes any size."""
    return refuses_device(device) or ("adds up in float32, found float64" if dtype == torch.float64 else "")


def token_routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    linear_q: Tensor,
    linear_k: Tensor,
    linear_v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    route: Tensor,
    *,
    chunk: int,
    own_chunk: OwnChunk = "both",
    decay_through: bool = True,
    scale: float | None = None,
    linear_scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor, LinearState]:
    """Outputs of the softmax branch [B, T, A, Va] and of the linear branch [B, T, H, V], and the linear state.

    Arguments as in `reference`; differentiable once. PyTorch computes the softmax branch of chunks that are not in
    `CHUNKS`, of values wider than `LARGEST` and of scales not above 0; and the linear branch where queries do not see
    their own chunk, where a state does not decay through, and of what `_refuses_delta` names.
    """
    by_kernels = chunk in CHUNKS and v.shape[-1] <= LARGEST and (scale is None or scale > 0.0)
    reads_own, decays = own_chunk != "softmax", decay_through or g is None
    delta_by_kernels = reads_own and decays and not _refuses_delta(linear_k, linear_v, g, beta, chunk)
    linear = (linear_q, linear_k, linear_v, g, beta, route[..., 1])
    if by_kernels and delta_by_kernels and _need_no_padding(v, k, linear_v, linear_k, chunk):
        return side_by_side(
            q, k, v, route[..., 0], *linear, chunk=chunk, reads_own=own_chunk != "linear",
            scale=scale, linear_scale=linear_scale, initial_state=initial_state,
        )  # fmt: skip
    if by_kernels:
        softmax_out = softmax_branch(q, k, v, route[..., 0], chunk=chunk, reads_own=own_chunk != "linear", scale=scale)
    else:
        softmax_out = chunked.softmax_branch(q, k, v, route[..., 0], chunk=chunk, own_chunk=own_chunk, scale=scale)
    if delta_by_kernels:
        linear_out, state = linear_branch(*linear, chunk=chunk, scale=linear_scale, initial_state=initial_state)
    else:
        linear_out, state = chunked.linear_branch(
            *linear,
            chunk=chunk,
            reads_own=reads_own,
            decay_through=decay_through,
            scale=linear_scale,
            initial_state=initial_state,
        )
    return softmax_out, linear_out, state


def _refuses_delta(k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, chunk: int) -> str:
    """Why the kernels of the linear branch cannot serve; what was not found right on a GPU is refused."""
    refused = gated_delta.refuses(v.device, v.dtype, k.shape[-1])
    if refused:
        return refused
    if v.dtype != torch.bfloat16 or beta.dtype != torch.bfloat16:
        return f"needs bfloat16, found {v.dtype} and {beta.dtype}"
    if chunk != delta_chunk(v.dtype):
        return f"needs chunks of {delta_chunk(v.dtype)}, found {chunk}"
    sizes = padded_sizes(k.shape[-1], v.shape[-1], v.dtype)
    if sizes not in DELTA_SIZES:
        return f"key and value sizes {sizes} are not among {DELTA_SIZES}"
    return "" if g is not None else "needs decay"


def _need_no_padding(v: Tensor, k: Tensor, linear_v: Tensor, linear_k: Tensor, chunk: int) -> bool:
    """Whether there is a complete chunk, and sizes that the kernels take as they are."""
    sizes = linear_k.shape[-1], linear_v.shape[-1]
    whole = sizes == padded_sizes(*sizes, linear_v.dtype) and v.shape[1] >= chunk
    return whole and k.shape[-1] in (64, 128) and v.shape[-1] in (64, 128)


def side_by_side(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_gate: Tensor,
    linear_q: Tensor,
    linear_k: Tensor,
    linear_v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    linear_gate: Tensor,
    *,
    chunk: int,
    reads_own: bool,
    scale: float | None = None,
    linear_scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor, LinearState]:
    """Both branches on two streams, for a complete chunk or more and sizes that the kernels take as they are.

    The open chunk of the linear branch follows alone.
    """
    from hybridsearch.kernels.token_routing.joint_operator import token_routed

    scale = k.shape[-1] ** -0.5 if scale is None else scale
    linear_scale = linear_k.shape[-1] ** -0.5 if linear_scale is None else linear_scale
    q, k, linear_q, linear_k = q.to(v.dtype), k.to(v.dtype), linear_q.to(linear_v.dtype), linear_k.to(linear_v.dtype)
    g, initial_state = (None if x is None else x.to(torch.float32) for x in (g, initial_state))
    softmax_gate, linear_gate = softmax_gate.to(torch.float32), linear_gate.to(torch.float32)
    linear = linear_q, linear_k, linear_v, g, beta
    closed = _part(linear, slice(v.shape[1] // chunk * chunk))
    rows = q, k, v, softmax_gate, *closed, linear_gate, initial_state
    segments = gated_delta._segments(closed[2], linear_k.shape[-1])
    # As in training, without gradients too: only that form of the kernels was checked on a GPU.
    outputs = token_routed(*rows, scale, linear_scale, segments, chunk, reads_own, True)
    linear_out, state = _with_open_chunk(outputs[4], outputs[5], linear, linear_scale)
    return outputs[0], linear_out, state


def softmax_branch(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *, chunk: int, reads_own: bool, scale: float | None = None
) -> Tensor:
    """[B, T, A, Va] in v's dtype; `gate` [B, N, H] is 1 for softmax-typed chunks, 0 for the others."""
    from hybridsearch.kernels.token_routing import operators

    key_size, value_size = k.shape[-1], v.shape[-1]
    scale = key_size**-0.5 if scale is None else scale
    more_keys, more_values = (64 - key_size if key_size <= 64 else 128 - key_size), -value_size % 64
    q, k = q.to(v.dtype), k.to(v.dtype)
    if more_keys:
        q, k = pad(q, (0, more_keys)), pad(k, (0, more_keys))
    if more_values:
        v = pad(v, (0, more_values))
    gate = gate.to(torch.float32)
    output: Tensor = operators.routed_softmax(q, k, v, gate, scale, chunk, reads_own)[0]
    return output[..., :value_size] if more_values else output


def linear_branch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    gate: Tensor,
    *,
    chunk: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, LinearState]:
    """[B, T, H, V] in v's dtype and the state; `gate` [B, N, H] is 1 for linear-typed chunks, 0 for the others.

    The open chunk, whose writes never end with it, is a call of its own from the state that the complete ones left.
    """
    batch, tokens, heads, size = k.shape
    closed = tokens // chunk * chunk
    g = None if g is None else g.to(torch.float32)
    output, entering = v[:, :0], None if initial_state is None else initial_state.to(torch.float32)
    if closed:
        rows = _part((q, k, v, g, beta), slice(closed))
        # As in training, without gradients too: only that form of the kernels was checked on a GPU.
        output, entering = gated_delta.gated_delta_rule(
            *rows, scale=scale, initial_state=entering, lasting=gate.to(torch.float32), train=True
        )
    if entering is None:
        entering = k.new_zeros(batch, heads, size, v.shape[-1], dtype=torch.float32)
    return _with_open_chunk(output, entering, (q, k, v, g, beta), scale)


Rows = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]
"""q, k, v, g and beta of the linear branch."""


def _part(rows: Rows, tokens: slice) -> Rows:
    q, k, v, g, beta = rows
    return q[:, tokens], k[:, tokens], v[:, tokens], None if g is None else g[:, tokens], beta[:, tokens]


def _with_open_chunk(output: Tensor, entering: Tensor, rows: Rows, scale: float | None) -> tuple[Tensor, LinearState]:
    """The linear branch for all tokens, from the output of its complete chunks and the state that they left."""
    running, decay, closed = entering, entering.new_ones(entering.shape[:2]), output.shape[1]
    if closed < rows[2].shape[1]:
        rest = _part(rows, slice(closed, None))
        more, running = gated_delta.gated_delta_rule(*rest, scale=scale, initial_state=entering, train=True)
        output = torch.cat((output, more), 1) if closed else more
        if rest[3] is not None:
            decay = rest[3].clamp(min=chunked.LOWEST_LOG_DECAY).sum(1).exp()
    return output, LinearState(entering, running, decay)


def paged_attention_step(
    q: Tensor,
    pages: tuple[Tensor, Tensor],
    rows: Tensor,
    own: tuple[Tensor, Tensor] | None,
    *,
    scale: float | None = None,
) -> Tensor:
    """As `paged.paged_attention_step`, in two launches; without gradients."""
    from hybridsearch.kernels.token_routing import operators

    scale = q.shape[-1] ** -0.5 if scale is None else scale
    output: Tensor = operators.paged_attention_step(q, *pages, rows, *((None, None) if own is None else own), scale)
    return output
