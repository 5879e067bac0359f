"""The meter against a clock that only the model moves, and on real models."""

import time
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from hybridsearch.models.build import build
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.settings import ThroughputSettings
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.mixers import FullAttention, GatedDelta
from hybridsearch.tasks.recall import Batch
from hybridsearch.training.meter import measure
from hybridsearch.training.scoring import answer_loss

SETTINGS = ThroughputSettings(contexts=(8, 32), batches=(1, 4), decode_tokens=4, repeats=5)
CPU = torch.device("cpu")


class Clock:
    now = 0.0


class Held:
    """A memory that only knows how many tokens it holds."""

    def __init__(self, length: int, batch: int) -> None:
        self.length, self.batch = length, batch

    def copy(self) -> "Held":
        Clock.now += 100.0  # preparing a repeat takes time that may not count
        return Held(self.length, self.batch)

    def bytes(self) -> int:
        return 10 * self.length * self.batch


class Paced(nn.Module):
    """Prefill takes 0.5 ms a token and sequence; a decode step 0.5 ms a held token; either can be made slower."""

    slowness = 1.0
    seen: list[tuple[int, int]]
    prompts: list[tuple[int, ...]]

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Held]:
        type(self).prompts.append(tuple(tokens.shape))
        Clock.now += 5e-4 * tokens.numel() * self.slowness
        return torch.zeros(*tokens.shape, 2), Held(tokens.shape[1], tokens.shape[0])

    def step(self, tokens: Tensor, memory: Held) -> tuple[Tensor, Held]:
        type(self).seen.append((memory.batch, memory.length))
        Clock.now += 5e-4 * memory.length * self.slowness
        memory.length += 1
        return torch.zeros(len(tokens), 2), memory

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Paced:
    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    Paced.seen, Paced.prompts = [], []
    return Paced()


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(16, (batch, length), generator=torch.Generator().manual_seed(batch))


def test_rates_are_exact_under_a_known_pace(paced: Paced) -> None:
    found = measure(cast(LanguageModel, paced), SETTINGS, tokens, CPU)
    assert [(m.phase, m.context, m.batch) for m in found.measurements] == [
        (phase, context, batch) for context in (8, 32) for batch in (1, 4) for phase in ("prefill", "decode")
    ]
    for m in found.measurements:
        held = [m.context + 1 + token for token in range(4)]  # one token is fed before the memory is copied
        expected = 2e3 if m.phase == "prefill" else 4 * m.batch / (5e-4 * sum(held))
        assert (m.low, m.tokens_per_second, m.high) == pytest.approx((expected,) * 3)
        assert m.repeats == 5
    assert found.metrics["prefill_tokens_per_second"] == pytest.approx(2e3)
    assert found.metrics["decode_tokens_per_second"] == found.metrics["decode_tokens_per_second/32x4"]
    assert found.cache_bytes == found.metrics["cache_bytes"] == 10 * 32


def test_every_repeat_of_decode_starts_from_the_same_context(paced: Paced) -> None:
    measure(cast(LanguageModel, paced), SETTINGS, tokens, CPU)
    longest = [length for batch, length in Paced.seen if batch == 4 and length > 32]
    assert sorted(set(longest)) == [33, 34, 35, 36]
    assert longest.count(33) == longest.count(36) == 6  # a warm-up and five repeats


def test_slow_shapes_are_repeated_less_but_never_below_three(paced: Paced) -> None:
    paced.slowness = 4.0
    found = measure(cast(LanguageModel, paced), SETTINGS, tokens, CPU)
    repeats = {(m.phase, m.context, m.batch): m.repeats for m in found.measurements}
    assert repeats["prefill", 8, 1] == 5
    assert repeats["prefill", 32, 4] == 3  # 0.256 s each
    paced.slowness = 10.0
    Paced.prompts = []
    slower = measure(cast(LanguageModel, paced), SETTINGS, tokens, CPU)
    assert {m.repeats for m in slower.measurements if (m.phase, m.batch) == ("prefill", 4)} == {3, 4}
    assert Paced.prompts.count((4, 32)) == 3  # 0.64 s: the first counts
    assert Paced.prompts.count((4, 8)) == 5  # 0.16 s: the first was a warm-up
    assert repeats["decode", 32, 4] == 3


def test_quartiles_tell_the_spread(paced: Paced, monkeypatch: pytest.MonkeyPatch) -> None:
    def uneven(self: Paced, tokens: Tensor) -> tuple[Tensor, Held]:
        Clock.now += 1e-4 * tokens.numel() * (1 + len(Paced.seen) % 5)
        return torch.zeros(*tokens.shape, 2), Held(tokens.shape[1], tokens.shape[0])

    monkeypatch.setattr(Paced, "prefill", uneven)
    found = measure(cast(LanguageModel, paced), SETTINGS, tokens, CPU)
    assert all(m.low <= m.tokens_per_second <= m.high for m in found.measurements)
    assert any(m.low < m.high for m in found.measurements if m.phase == "prefill")


def real(*mixers: FullAttention | GatedDelta) -> LanguageModel:
    layers = tuple(Layer(mixer=mixer, feed_forward=0) for mixer in mixers)
    return build(Architecture(width=16, layers=layers), 16)


def test_a_model_that_was_measured_can_be_trained_on() -> None:
    """Tables made in inference mode cannot be saved for a backward pass: the meter may not leave any behind."""
    model = real(FullAttention(heads=1, head_dim=16), GatedDelta(heads=2, head_dim=8)).train()
    measure(model, SETTINGS, tokens, CPU)
    assert model.training
    made = tokens(2, 24)
    positions = torch.tensor([[4, 8], [6, 10]])
    answer_loss(model, Batch(made, positions, made[:, :2])).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and not parameter.grad.is_inference() for parameter in model.parameters())


def test_cache_bytes_are_those_of_one_sequence_at_the_last_context() -> None:
    full = measure(real(FullAttention(heads=2, head_dim=8, short_conv=0)), SETTINGS, tokens, CPU)
    assert full.cache_bytes == 32 * 2 * (8 + 8) * 4
    state = measure(real(GatedDelta(heads=2, head_dim=8, short_conv=0)), SETTINGS, tokens, CPU)
    assert state.cache_bytes == 2 * 8 * 8 * 4
