"""Token routing with a quarter of its chunks typed softmax, beside full attention and FlexAttention on a quarter."""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from hybridsearch.kernels.token_routing import chunked, fused
from kernel_cases.case import Operation, Run, Shape, floor
from kernel_cases.gated_delta import delta_floor, gated_inputs

CHUNK, SHARE = 64, 0.25
"""Tokens of a chunk; the share of chunks that are typed softmax."""


def cudnn_attention(*inputs: Tensor) -> Tensor:
    """Causal attention over all tokens: what routing replaces."""
    q, k, v = (x.transpose(1, 2) for x in inputs[:3])
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def flex_attention(shape: Shape) -> Run | None:
    """FlexAttention over its own block of 128 and a quarter of the earlier ones: the softmax branch alone."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    blocks = shape.tokens // 128
    if blocks < 2:
        return None
    earlier = torch.tril(torch.ones(blocks, blocks, dtype=torch.bool), -1)
    earlier &= torch.rand(blocks, blocks, generator=torch.Generator().manual_seed(0)) < SHARE

    def listed(seen: Tensor) -> tuple[Tensor, ...]:
        order = seen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
        return tuple(x.to("cuda", torch.int32)[None, None].contiguous() for x in (seen.sum(-1), order))

    causal = BlockMask.from_kv_blocks(
        *listed(torch.eye(blocks, dtype=torch.bool)),
        *listed(earlier),
        BLOCK_SIZE=128,
        mask_mod=lambda b, h, query, key: query >= key,
    )
    compiled = torch.compile(flex_attention, dynamic=False)

    def run(*inputs: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in inputs[:3])
        output: Tensor = compiled(q, k, v, block_mask=causal)
        return output.transpose(1, 2)

    return run


def routed_floor(shape: Shape) -> dict[str, float]:
    """Both branches: bytes of inputs and outputs once, products of the pairs that are seen."""
    pairs = shape.rows * (SHARE * shape.tokens / 2 + CHUNK / 2)
    size = shape.size
    softmax = floor(shape.rows * 8 * size, pairs * 4 * size, shape.rows * 16 * size, pairs * 10 * size)
    linear = delta_floor(shape, gated=True)
    return {name: softmax[name] + linear[name] for name in softmax}


def token_routed_attention(shape: Shape) -> Operation:
    """Training of both branches, as many softmax heads as linear ones; their outputs are added."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens)
    rows = (shape.batch, shape.tokens, shape.heads, shape.size)
    q, k, v = (torch.randn(*rows, device="cuda", generator=generator).bfloat16() for _ in range(3))
    chunks = (shape.batch, shape.tokens // CHUNK, shape.heads)
    softmax = torch.rand(chunks, device="cuda", generator=generator) < SHARE
    route = torch.stack((softmax, ~softmax), -1).float()
    inputs = [x.requires_grad_() for x in (q, k, v, *gated_inputs(shape, gated=True), route)]

    def ours(*given: Tensor) -> Tensor:
        of_softmax, of_delta, _ = fused.token_routed_attention(*given, chunk=CHUNK)
        return of_softmax + of_delta

    def exact(*given: Tensor) -> Tensor:
        of_softmax, of_delta, _ = chunked.token_routed_attention(*given, chunk=CHUNK)
        return of_softmax + of_delta

    implementations: dict[str, Run] = {"triton": ours, "cuDNN, all keys": cudnn_attention}
    flex = flex_attention(shape)
    if flex is not None:
        implementations["flex, a quarter"] = flex
    peers = frozenset(implementations) - {"triton"}
    return Operation(inputs, implementations, exact, routed_floor(shape), peers)
