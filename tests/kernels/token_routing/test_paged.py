"""Attention over kept chunks against the dense reference: whole prompts, and the last token as a decode step."""

from itertools import product

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.token_routing import chunked, paged, reference

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


@pytest.mark.parametrize(("tokens", "share", "own_chunk"), [*product((5, 8, 37), SHARES, OWN)])
def test_prompts_agree_with_the_reference(
    tokens: int, share: float, own_chunk: reference.OwnChunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(tokens, share)
    truth = expected(*given, own_chunk)
    for rows in (CHUNK, 3 * CHUNK, 64):  # one chunk a block; blocks that end inside the open chunk; one block
        monkeypatch.setattr(paged, "BLOCK_ROWS", rows)
        for form in (paged, chunked):
            found = form.prompt_attention(*given, chunk=CHUNK, own_chunk=own_chunk)
            torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("share", "own_chunk"), [*product(SHARES, OWN)])
def test_a_step_is_the_last_query(share: float, own_chunk: reference.OwnChunk) -> None:
    q, k, v, typed = inputs(61, share)
    pages = paged.gather_pages(k, typed, CHUNK), paged.gather_pages(v, typed, CHUNK)
    own = None if own_chunk == "linear" else (k[:, 56:].transpose(1, 2), v[:, 56:].transpose(1, 2))
    shuffled = torch.randperm(len(pages[0]), generator=torch.Generator().manual_seed(0))
    rows = paged.page_rows(typed)[shuffled]
    found = paged.paged_attention_step(q[:, -1], (pages[0][shuffled], pages[1][shuffled]), rows, own)
    torch.testing.assert_close(found, expected(q, k, v, typed, own_chunk)[:, -1], rtol=1e-10, atol=1e-12)


def test_pages_hold_exactly_the_kept_chunks() -> None:
    _, k, _, typed = inputs(61, 0.5)
    pages, rows = paged.gather_pages(k, typed, CHUNK), paged.page_rows(typed)
    assert len(pages) == len(rows) == int(typed.sum()) < typed.numel()
    seen = {(int(row), float(page[1, 3, 2])) for row, page in zip(rows, pages, strict=True)}
    for sequence, chunk, head in typed.nonzero().tolist():
        assert (sequence * 2 + head, float(k[sequence, chunk * CHUNK + 3, head * 2 + 1, 2])) in seen


def test_large_scores_do_not_overflow() -> None:
    q, k, v, typed = inputs(61, 0.5, torch.float32)
    q = q * 200
    found = paged.prompt_attention(q, k, v, typed, chunk=CHUNK, own_chunk="both")
    assert found.isfinite().all()
    step = paged.paged_attention_step(
        q[:, -1],
        (paged.gather_pages(k, typed, CHUNK), paged.gather_pages(v, typed, CHUNK)),
        paged.page_rows(typed),
        (k[:, 56:].transpose(1, 2), v[:, 56:].transpose(1, 2)),
    )
    torch.testing.assert_close(step, found[:, -1], rtol=1e-4, atol=1e-4)


def test_bfloat16_prompts_are_computed_in_float32() -> None:
    q, k, v, typed = inputs(61, 0.5, torch.bfloat16)
    found = paged.prompt_attention(q, k, v, typed, chunk=CHUNK, own_chunk="both")
    exact = expected(q.double(), k.double(), v.double(), typed, "both")
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).norm() / exact.norm() < 5e-3
