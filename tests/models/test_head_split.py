"""Head splits: their branches' inner outputs, normed, side by side and projected once."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hybridsearch.models import catalog
from hybridsearch.models.attention import FullAttention as FullModule
from hybridsearch.models.head_split import HeadSplit as SplitModule
from hybridsearch.models.initialise import initialise
from hybridsearch.models.memory import MemoryGroup
from hybridsearch.models.mixer import Mixer
from hybridsearch.spec.combinators import HeadSplit
from hybridsearch.spec.mixers import FullAttention, GatedDelta

WIDTH = 16
SPLIT = HeadSplit(branches=(FullAttention(heads=1, head_dim=8), GatedDelta(heads=2, head_dim=4, value_head_dim=6)))


def module_of(description: HeadSplit) -> SplitModule:
    module = catalog.mixer(description, WIDTH)
    assert isinstance(module, SplitModule)
    initialise(module, torch.Generator().manual_seed(0))
    return module.double()


def mixers(module: SplitModule) -> list[Mixer[Any]]:
    return [branch for branch in module.branches if isinstance(branch, Mixer)]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 21, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_output_is_one_projection_of_normed_branches(x: Tensor) -> None:
    module = module_of(SPLIT)
    parts = [branch.inner(x) for branch in mixers(module)]
    normed = [part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() for part in parts]
    assert module.output is not None
    torch.testing.assert_close(module(x), torch.cat(normed, -1) @ module.output.weight.T, rtol=1e-10, atol=1e-12)
    assert all(branch.output is None for branch in module.branches)


def test_without_norms_branches_are_only_joined(x: Tensor) -> None:
    module = module_of(SPLIT.model_copy(update={"normalise": False}))
    parts = [branch.inner(x) for branch in mixers(module)]
    torch.testing.assert_close(module.inner(x), torch.cat(parts, -1))


def test_a_louder_branch_does_not_drown_the_other(x: Tensor) -> None:
    """What per-branch norms are for: the scale of one branch's values is divided out, and the other is untouched."""
    module = module_of(SPLIT)
    full = module.branches[0]
    assert isinstance(full, FullModule)
    before = module.inner(x)
    with torch.no_grad():
        full.projection.weight[16:] *= 100
    after = module.inner(x)
    assert torch.equal(after[..., 8:], before[..., 8:])
    full_before, full_after = (y[..., :8] / y[..., :8].norm(dim=-1, keepdim=True) for y in (before, after))
    torch.testing.assert_close(full_after, full_before, rtol=1e-6, atol=1e-8)


def test_a_branch_does_not_project_by_itself(x: Tensor) -> None:
    with pytest.raises(RuntimeError, match="branch of a head split"):
        module_of(SPLIT).branches[0](x)


def test_memory_is_that_of_the_branches(x: Tensor) -> None:
    module = module_of(SPLIT)
    memory = module.empty_memory(2)
    with torch.inference_mode():
        module(x, memory)
        for _ in range(3):
            module.step(x[:, 0], memory)
    assert isinstance(memory, MemoryGroup)
    assert len(memory.parts) == 2
    assert memory.bytes() == sum(part.bytes() for part in memory.parts)
    full, linear = SPLIT.branches
    held = 24
    # The state of a float64 model is float64 too: 8 bytes an element instead of the 4 that are counted.
    state = 2 * 4 * 6 * 4
    assert memory.bytes() == 2 * (full.state_bytes(held, 8) + linear.state_bytes(held, 8) + state)
