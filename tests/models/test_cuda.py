"""Every mixer on a GPU against the same weights on the CPU; skipped where there is none."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels import dispatch
from hybridsearch.models.language_model import LanguageModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
Maker = Callable[..., LanguageModel]


def far(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double().cpu() - expected.detach()).norm() / expected.detach().norm())


def test_outputs_and_gradients(make: Maker, tokens: Tensor) -> None:
    exact, model = make(torch.float64), make(torch.float32).cuda()
    expected, found = exact(tokens), model(tokens.cuda())
    assert far(found, expected) < 1e-4
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ours = torch.autograd.grad((found * weights.float().cuda()).sum(), list(model.parameters())[:-1])
    theirs = torch.autograd.grad((expected * weights).sum(), list(exact.parameters())[:-1])
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        assert far(ours_, theirs_) < 1e-3


def test_a_prompt_and_steps(make: Maker, tokens: Tensor) -> None:
    exact, model = make(torch.float64), make(torch.float32).cuda()
    with torch.inference_mode():
        hidden, memory = model.prefill(tokens[:, :40].cuda())
        steps = [model.step(token, memory)[0] for token in tokens[:, 40:].cuda().unbind(1)]
        found = torch.cat((hidden, torch.stack(steps, 1)), 1)
        assert far(found, exact(tokens)) < 1e-4


def test_bfloat16_runs(make: Maker, tokens: Tensor) -> None:
    exact, model, tokens = make(torch.float64), make(torch.bfloat16).cuda(), tokens[:, :20]
    with torch.inference_mode():
        hidden, memory = model.prefill(tokens.cuda())
        assert far(hidden, exact(tokens)) < 0.2
        model.step(tokens[:, 0].cuda(), memory)
    model.train()
    model(tokens.cuda()).float().sum().backward()


def test_autocast_trains(make: Maker, tokens: Tensor) -> None:
    exact, model, tokens = make(torch.float64), make(torch.float32).cuda(), tokens[:, :20]
    with torch.autocast("cuda", torch.bfloat16):
        hidden = model(tokens.cuda())
    assert far(hidden, exact(tokens)) < 0.2
    for gradient in torch.autograd.grad(hidden.float().square().sum(), list(model.parameters())[:-1]):
        assert torch.isfinite(gradient).all()


def test_attention_takes_the_first_backend_of_the_order() -> None:
    rows = {operation: reason for operation, _, reason in dispatch.describe(torch.device("cuda"), torch.bfloat16)}
    assert rows["causal_attention"].startswith("backend: ")
