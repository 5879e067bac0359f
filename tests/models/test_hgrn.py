"""The gated recurrence against its formula, token by token."""

import pytest
import torch
from torch.nn import functional as F

from hybridsearch.models.hgrn import GatedRecurrence
from hybridsearch.models.initialise import initialise
from hybridsearch.spec.hgrn import Hgrn


@torch.no_grad()
@pytest.mark.parametrize("bound", [0.0, 0.9])
def test_follows_its_formula(bound: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mixer = GatedRecurrence(Hgrn(heads=2, head_dim=4, least_forget=bound), 6).double()
    initialise(mixer, generator)
    mixer.projection.weight.mul_(100.0)  # gates from 0 to 1
    x = torch.randn(1, 9, 6, generator=generator, dtype=torch.float64)
    i, forget, gate = mixer.projection(x).split(8, dim=-1)
    f = bound + (1 - bound) * forget.sigmoid()
    h = torch.zeros(1, 8, dtype=torch.float64)
    for t in range(9):
        h = f[:, t] * h + (1 - f[:, t]) * F.silu(i[:, t])
        normed = F.rms_norm(h.view(1, 2, 4), (4,), eps=1e-6).flatten(1)
        torch.testing.assert_close(mixer.inner(x)[:, t], normed * F.silu(gate[:, t]))
    assert bool((f > bound).all()) and float(f.max() - f.min()) > 0.05 * (1 - bound)
