from typing import get_args

import pytest
import torch
from torch import nn

from hybridsearch.models import catalog
from hybridsearch.models.build import build
from hybridsearch.models.initialise import initialise
from hybridsearch.models.parts import DecayGate
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import Mixer
from hybridsearch.spec.mixers import FullAttention, GatedDelta, GatedLinear

ARCHITECTURE = Architecture(
    width=64,
    layers=(
        Layer(mixer=GatedDelta(heads=64, head_dim=1), feed_forward=0),
        Layer(mixer=FullAttention(heads=2, head_dim=16), feed_forward=96),
        Layer(mixer=GatedLinear(heads=2, head_dim=16), feed_forward=0),
    ),
)


def weights(seed: int | None) -> dict[str, torch.Tensor]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return build(ARCHITECTURE, 100, generator=generator).state_dict()


def test_one_seed_gives_one_set_of_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other, seedless = weights(3), weights(3), weights(4), weights(None)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
    assert torch.equal(seedless["embedding.weight"], weights(0)["embedding.weight"])
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_first_weights_follow_the_table() -> None:
    model = build(ARCHITECTURE, 1000).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.Linear):
            assert abs(float(module.weight.std(correction=0)) - 0.02) < 0.002
            assert abs(float(module.weight.mean())) < 0.002
    first = model.blocks[0].get_submodule("mixer")
    gate = first.get_submodule("inputs.decay")
    assert isinstance(gate, DecayGate)
    assert 0 < float(gate.a_log.exp().min()) < float(gate.a_log.exp().max()) < 16
    dt = nn.functional.softplus(gate.dt_bias)
    assert 1e-3 * 0.99 < float(dt.min()) < float(dt.max()) < 0.1 * 1.01
    assert float(first.get_parameter("inputs.convolution.weight").abs().max()) <= 0.5
    assert torch.equal(model.norm.weight, torch.ones(64))


def test_no_weight_is_left_as_it_was_allocated() -> None:
    model = build(ARCHITECTURE, 100, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    initialise(model, torch.Generator().manual_seed(0))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_a_module_without_a_rule_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"`1` \(LayerNorm\)"):
        initialise(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), torch.Generator())


def test_tied_embeddings_share_one_matrix() -> None:
    tied, untied = (
        build(ARCHITECTURE.model_copy(update={"tied_embeddings": tied}), 10, dtype=torch.float64)
        for tied in (True, False)
    )
    hidden = torch.ones(2, 64, dtype=torch.float64)
    assert tied.head is None
    assert torch.equal(tied.logits(hidden), hidden @ tied.embedding.weight.T)
    assert untied.head is not None
    assert torch.equal(untied.logits(hidden), hidden @ untied.head.weight.T)


def test_meta_models_hold_no_storage() -> None:
    model = build(ARCHITECTURE, 10, device="meta", dtype=torch.bfloat16)
    assert {(parameter.device.type, parameter.dtype) for parameter in model.parameters()} == {("meta", torch.bfloat16)}


def test_every_mixer_of_the_grammar_has_a_module() -> None:
    assert set(get_args(get_args(Mixer)[0])) == set(catalog.MIXERS)


def test_a_branch_without_a_projection_says_so() -> None:
    branch = catalog.mixer(FullAttention(heads=1, head_dim=2), 4, project=False)
    initialise(branch, torch.Generator())
    x = torch.ones(1, 3, 4)
    assert branch.inner(x).shape == (1, 3, 2)
    with pytest.raises(RuntimeError, match="head split"):
        branch(x)
