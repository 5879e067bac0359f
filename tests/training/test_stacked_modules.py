import pytest
import torch

from hybridsearch.models import catalog
from hybridsearch.models.initialise import initialise
from hybridsearch.spec.combinators import Mixer
from hybridsearch.spec.hgrn import Hgrn
from hybridsearch.spec.kimi_delta import KimiDelta
from hybridsearch.training.stacked_modules import stack


@pytest.mark.parametrize(
    "mixer",
    [KimiDelta(heads=2, head_dim=8, value_head_dim=12), Hgrn(heads=2, head_dim=8, short_conv=3, least_forget=0.5)],
    ids=["kimi delta", "hgrn"],
)
def test_a_stack_answers_as_its_members(mixer: Mixer) -> None:
    modules = [catalog.mixer(mixer, 24).double() for _ in range(3)]
    for seed, module in enumerate(modules):
        initialise(module, torch.Generator().manual_seed(seed))
    x = torch.randn(6, 20, 24, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = stack(modules)(x)
    for n, module in enumerate(modules):
        torch.testing.assert_close(found[2 * n : 2 * n + 2], module(x[2 * n : 2 * n + 2]))
