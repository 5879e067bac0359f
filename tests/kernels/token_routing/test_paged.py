"""Attention over kept chunks against the dense reference: whole prompts, and the last token as a decode step."""

from itertools import product

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.token_routing import paged, reference

CHUNK = 8
SHARES = (0.0, 0.5, 1.0)
OWN = ("both", "softmax", "linear")


def inputs(tokens: int, share: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values of four softmax heads, and the types of the complete chunks of two linear heads."""
    rng = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(2, tokens, 4, size, generator=rng, dtype=torch.float64).to(dtype) for size in (3, 3, 5))
    return q, k, v, torch.rand(2, tokens // CHUNK, 2, generator=rng) < share


def expected(q: Tensor, k: Tensor, v: Tensor, typed: Tensor, own_chunk: reference.OwnChunk) -> Tensor:
    """The softmax branch of the reference; its linear branch runs on nothing that matters here."""
    batch, tokens, heads = *q.shape[:2], typed.shape[2]
    unused = q.new_zeros(batch, tokens, heads, 1)
    route = torch.stack((typed, ~typed), -1).to(q.dtype)
    softmax_out, _, _ = reference.token_routed_attention(
        q, k, v, unused, unused, unused, None, unused[..., 0], route, chunk=CHUNK, own_chunk=own_chunk
    )
    return softmax_out


def pages_of(x: Tensor, typed: Tensor) -> Tensor:
    """The softmax-typed chunks of [B, T, 2 G, D]: [P, G, C, D]."""
    chunks = x[:, : typed.shape[1] * CHUNK].reshape(len(x), -1, CHUNK, 2, x.shape[2] // 2, x.shape[3])
    found = [chunks[b, n, :, h].transpose(0, 1) for b, n, h in typed.nonzero().tolist()]
    return torch.stack(found) if found else x.new_empty(0, chunks.shape[4], CHUNK, x.shape[3])


def rows_of(typed: Tensor) -> Tensor:
    """The sequence and head of every page, as one number."""
    return torch.tensor([b * 2 + h for b, _, h in typed.nonzero().tolist()], dtype=torch.int64)


@pytest.mark.parametrize(("tokens", "share", "own_chunk"), [*product((5, 8, 37), SHARES, OWN)])
def test_prompts_agree_with_the_reference(
    tokens: int, share: float, own_chunk: reference.OwnChunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(tokens, share)
    truth = expected(*given, own_chunk)
    for rows in (CHUNK, 3 * CHUNK, 64):  # one chunk a block; blocks that end inside the open chunk; one block
        monkeypatch.setattr(paged, "BLOCK_ROWS", rows)
        found = paged.prompt_attention(*given, chunk=CHUNK, own_chunk=own_chunk)
        torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("own_chunk", OWN)
@pytest.mark.parametrize("decay_through", [True, False])
def test_both_branches_of_a_prompt_in_segments(
    own_chunk: reference.OwnChunk, decay_through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged, "SEGMENT", 20)  # two chunks of eight
    q, k, v, typed = inputs(61, 0.5)
    rng = torch.Generator().manual_seed(1)
    linear_q, linear_k = (
        torch.nn.functional.normalize(torch.randn(2, 61, 2, 6, generator=rng, dtype=torch.float64), dim=-1)
        for _ in range(2)
    )
    g, beta = (torch.rand(2, 61, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    linear_v = torch.randn(2, 61, 2, 10, generator=rng, dtype=torch.float64)
    given = (q, k, v, linear_q, linear_k, linear_v, -g, beta, torch.stack((typed, ~typed), -1).double())
    found, truth = (
        run(*given, chunk=CHUNK, own_chunk=own_chunk, decay_through=decay_through)
        for run in (paged.token_routed_prompt, reference.token_routed_attention)
    )
    for mine, theirs in zip((*found[:2], *found[2]), (*truth[:2], *truth[2]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("share", "own_chunk"), [*product(SHARES, OWN)])
def test_a_step_is_the_last_query(share: float, own_chunk: reference.OwnChunk) -> None:
    q, k, v, typed = inputs(61, share)
    pages = pages_of(k, typed), pages_of(v, typed)
    own = None if own_chunk == "linear" else (k[:, 56:].transpose(1, 2), v[:, 56:].transpose(1, 2))
    shuffled = torch.randperm(len(pages[0]), generator=torch.Generator().manual_seed(0))
    rows = rows_of(typed)[shuffled]
    found = paged.paged_attention_step(q[:, -1], (pages[0][shuffled], pages[1][shuffled]), rows, own)
    torch.testing.assert_close(found, expected(q, k, v, typed, own_chunk)[:, -1], rtol=1e-10, atol=1e-12)


def test_large_scores_do_not_overflow() -> None:
    q, k, v, typed = inputs(61, 0.5, torch.float32)
    q = q * 200
    found = paged.prompt_attention(q, k, v, typed, chunk=CHUNK, own_chunk="both")
    assert found.isfinite().all()
    step = paged.paged_attention_step(
        q[:, -1],
        (pages_of(k, typed), pages_of(v, typed)),
        rows_of(typed),
        (k[:, 56:].transpose(1, 2), v[:, 56:].transpose(1, 2)),
    )
    torch.testing.assert_close(step, found[:, -1], rtol=1e-4, atol=1e-4)


def test_bfloat16_prompts_are_computed_in_float32() -> None:
    q, k, v, typed = inputs(61, 0.5, torch.bfloat16)
    found = paged.prompt_attention(q, k, v, typed, chunk=CHUNK, own_chunk="both")
    exact = expected(q.double(), k.double(), v.double(), typed, "both")
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).norm() / exact.norm() < 5e-3
