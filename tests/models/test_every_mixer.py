"""What must hold of every mixer, whatever it does inside."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hybridsearch.models import catalog
from hybridsearch.models.build import build
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.models.memory import MemoryGroup
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.combinators import Mixer

Maker = Callable[..., LanguageModel]


def close(found: Tensor, expected: Tensor) -> None:
    """Equal but for the rounding, in float64, of another order of sums."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def attention_flops(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: object, **__: object) -> int:
    batch, heads, queries, key_size = q
    return 2 * batch * heads * queries * k[2] * (key_size + v[3])


COUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
"""The one matrix product of a decode step that torch's counter does not know."""


def follow(model: LanguageModel, tokens: Tensor, memory: MemoryGroup) -> Tensor:
    """The hidden states [B, n, width] of decoding `tokens` [B, n] one by one."""
    return torch.stack([model.step(token, memory)[0] for token in tokens.unbind(1)], 1)


@pytest.mark.parametrize("width", [16, 24])
def test_counted_parameters_are_those_of_the_module(example: Mixer, width: int) -> None:
    with torch.device("meta"):
        module = catalog.mixer(example, width)
    assert sum(parameter.numel() for parameter in module.parameters()) == example.parameters(width)


def test_counted_parameters_are_those_of_the_model(architecture: Architecture) -> None:
    for tied in (True, False):
        changed = architecture.model_copy(update={"tied_embeddings": tied})
        model = build(changed, 50, device="meta")
        assert sum(parameter.numel() for parameter in model.parameters()) == cost.parameters(changed, 50)


@pytest.mark.parametrize(("prompt", "steps"), [(0, 0), (0, 3), (1, 1), (4, 3), (40, 2), (85, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_counted_state_is_the_real_memory(
    make: Maker, architecture: Architecture, tokens: Tensor, prompt: int, steps: int, dtype: torch.dtype
) -> None:
    model = make(dtype)
    with torch.inference_mode():
        memory = model.prefill(tokens[:, :prompt])[1] if prompt else model.empty_memory(3)
        for token in range(prompt, prompt + steps):
            model.step(tokens[:, token], memory)
    assert memory.bytes() == 3 * cost.state_bytes(architecture, prompt + steps, dtype.itemsize)


@pytest.mark.parametrize("context", [0, 1, 7, 60])
def test_counted_flops_are_those_of_the_decode_step(
    make: Maker, architecture: Architecture, tokens: Tensor, context: int
) -> None:
    model = make(torch.float32)
    with torch.no_grad():
        memory = model.prefill(tokens[:, :context])[1] if context else model.empty_memory(3)
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            hidden, _ = model.step(tokens[:, context], memory)
            model.logits(hidden)
    assert counter.get_total_flops() == 3 * cost.flops_per_token(architecture, context, 32)


@pytest.mark.parametrize("position", [1, 8, 40, 89])
def test_nothing_looks_ahead(make: Maker, tokens: Tensor, position: int) -> None:
    model = make(torch.float32)
    changed = tokens.clone()
    changed[:, position] = (tokens[:, position] + 1) % 32
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :position], after[:, :position])
    assert not torch.equal(before[:, position], after[:, position])


def test_sequences_of_a_batch_do_not_meet(make: Maker, tokens: Tensor) -> None:
    model = make()
    with torch.no_grad():
        together = model(tokens)
        alone = model(tokens[1:2])
    close(together[1:2], alone)


def test_token_by_token_is_the_whole_sequence(make: Maker, tokens: Tensor) -> None:
    model = make()
    with torch.inference_mode():
        stepped = follow(model, tokens, model.empty_memory(3))
        close(stepped, model(tokens))


@pytest.mark.parametrize("prompt", [1, 2, 8, 64, 77])
def test_a_prompt_and_steps_are_the_whole_sequence(make: Maker, tokens: Tensor, prompt: int) -> None:
    model = make()
    with torch.inference_mode():
        hidden, memory = model.prefill(tokens[:, :prompt])
        continued = follow(model, tokens[:, prompt:], memory)
        close(torch.cat((hidden, continued), 1), model(tokens))


def test_a_copied_memory_goes_its_own_way(make: Maker, tokens: Tensor) -> None:
    model = make()
    with torch.inference_mode():
        _, memory = model.prefill(tokens[:, :20])
        copy = memory.copy()
        held = copy.bytes()
        first = follow(model, tokens[:, 20:30], memory)
        assert copy.bytes() == held
        assert torch.equal(follow(model, tokens[:, 20:30], copy), first)


def test_every_weight_gets_a_gradient(make: Maker, tokens: Tensor) -> None:
    model = make()
    logits = model.logits(model(tokens)[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    names, parameters = zip(*model.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


def test_every_weight_gets_a_gradient_under_autocast(make: Maker, tokens: Tensor) -> None:
    model = make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(tokens[:, :20])
    assert (hidden.float() - model(tokens[:, :20])).norm() < 0.2 * hidden.norm()
    for gradient in torch.autograd.grad(hidden[:, ::3].float().sum(), list(model.parameters())[:-1]):
        assert torch.isfinite(gradient).all()
        assert gradient.dtype == torch.float32


def test_a_measured_model_trains_on(make: Maker, tokens: Tensor) -> None:
    """Tables made in inference mode must not be kept: autograd would refuse them in the training that follows."""
    model = make(torch.float32)
    with torch.inference_mode():
        model.prefill(tokens)
    model(tokens).sum().backward()


def test_bfloat16_is_close(make: Maker, tokens: Tensor) -> None:
    exact, rounded, tokens = make(torch.float32), make(torch.bfloat16), tokens[:, :20]
    with torch.inference_mode():
        expected, found = exact(tokens), rounded(tokens).float()
        stepped = follow(rounded, tokens, rounded.empty_memory(3)).float()
    assert (found - expected).norm() < 0.2 * expected.norm()
    assert (stepped - expected).norm() < 0.2 * expected.norm()
