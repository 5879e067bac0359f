from itertools import pairwise

import pytest
import torch
from torch import nn

from hybridsearch.models.build import build
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.mixers import GatedDelta
from hybridsearch.training.optimizer import adamw, factor, set_learning_rate


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero_at_the_last_step() -> None:
    rates = [factor(step, 100, 0.1) for step in range(101)]
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert rates[10] == 1.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[0] > 0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert factor(0, 10, 0.0) == 1.0


def test_decay_spares_vectors_and_embeddings_have_their_own_rate() -> None:
    layer = Layer(mixer=GatedDelta(heads=2, head_dim=4), feed_forward=8)
    model = build(Architecture(width=8, layers=(layer,)), 12)
    optimizer = adamw(model, learning_rate=0.5, weight_decay=0.1, embedding_factor=4.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    assert set(found) == set(names.values())
    assert found["embedding.weight"] == (0.1, 2.0)
    assert found["blocks.0.mixer.output.weight"] == (0.1, 0.5)
    vectors = [name for name, parameter in model.named_parameters() if parameter.ndim < 2]
    assert any("norm" in name for name in vectors)
    assert any("a_log" in name for name in vectors)
    assert all(found[name] == (0.0, 0.5) for name in vectors)


def test_decay_is_decoupled_from_the_gradient() -> None:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = adamw(layer, learning_rate=1.0, weight_decay=0.5)
    set_learning_rate(optimizer, 0.1)
    layer.weight.grad = torch.zeros(2, 2)
    optimizer.step()
    assert torch.allclose(layer.weight, torch.full((2, 2), 1 - 0.1 * 0.5))
