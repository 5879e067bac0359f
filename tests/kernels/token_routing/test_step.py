"""The Triton kernels of a decoding step against the PyTorch form: on the GPU, or else in Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.token_routing import fused, paged


def draw(
    device: torch.device, pages: int, own_tokens: int, *, sizes: tuple[int, int] = (24, 40), dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, tuple[Tensor, Tensor]]:
    """Two sequences, two linear heads, four softmax heads; pages of 8 tokens with owners in any order."""
    rng = torch.Generator().manual_seed(pages)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(device, dtype)

    key, value = sizes
    # The owner 2 never has a page.
    rows = torch.tensor([0, 1, 3])[torch.randint(0, 3, (pages,), generator=rng)].to(device)
    room = normal(2, 4, 64, key), normal(2, 4, 64, value)
    own = room[0][:, :, :own_tokens], room[1][:, :, :own_tokens]
    return normal(2, 4, key), (normal(pages, 2, 8, key), normal(pages, 2, 8, value)), rows, own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("pages", "own_tokens"), [(0, 5), (3, 1), (70, 40)])
def test_a_step_agrees(device: torch.device, pages: int, own_tokens: int, dtype: torch.dtype) -> None:
    q, held, rows, own = draw(device, pages, own_tokens, dtype=dtype)
    doubled = tuple(x.double() for x in held), tuple(x.double() for x in own)
    expected = paged.paged_attention_step(q.double(), doubled[0], rows, doubled[1], scale=0.3)  # type: ignore[arg-type]
    found = fused.paged_attention_step(q, held, rows, own, scale=0.3)
    assert found.dtype == dtype
    assert (found.double() - expected).norm() <= (1e-5 if dtype == torch.float32 else 5e-3) * expected.norm()


def test_a_query_without_any_key_is_zero(device: torch.device) -> None:
    q, held, rows, _ = draw(device, 5, 1, dtype=torch.float32)
    found = fused.paged_attention_step(q, held, rows, None)
    torch.testing.assert_close(found, paged.paged_attention_step(q, held, rows, None))
    assert not found[1, :2].any()
    assert found[0, 2:].any()


def test_large_scores_do_not_overflow(device: torch.device) -> None:
    q, held, rows, own = draw(device, 9, 20, dtype=torch.float32)
    found = fused.paged_attention_step(200 * q, held, rows, own)
    torch.testing.assert_close(found, paged.paged_attention_step(200 * q, held, rows, own), rtol=1e-3, atol=1e-3)


def test_refuses_what_no_kernel_serves() -> None:
    assert "needs cuda" in fused.refuses_step(torch.device("cpu"), torch.bfloat16, 64)
