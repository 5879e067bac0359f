from collections.abc import Sequence

import pytest
import torch

from hybridsearch.errors import InvalidSetting
from hybridsearch.models.build import build
from hybridsearch.models.generation import Sampling, choose, generate
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import Mixer
from hybridsearch.spec.mixers import FullAttention, GatedDelta, SlidingWindow

GREEDY = Sampling(temperature=0.0)


@pytest.mark.parametrize(
    "mixers",
    [
        (GatedDelta(heads=2, head_dim=8), FullAttention(heads=2, head_dim=8)),
        (SlidingWindow(heads=2, head_dim=8, window=4),),
    ],
    ids=["delta and full", "window"],
)
def test_greedy_generation_equals_the_argmax_of_whole_forwards(mixers: Sequence[Mixer]) -> None:
    architecture = Architecture(width=16, layers=tuple(Layer(mixer=mixer, feed_forward=16) for mixer in mixers))
    model = build(architecture, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        model.embedding.weight.mul_(20)  # spread the logits: near-ties would be decided by rounding
    tokens = torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(1))
    generated = torch.stack(list(generate(model, tokens, 9, GREEDY)), dim=1)
    for _ in range(9):
        with torch.no_grad():
            following = model.logits(model(tokens)[:, -1]).argmax(-1)
        tokens = torch.cat((tokens, following[:, None]), dim=1)
    assert torch.equal(generated, tokens[:, 5:])
    assert len(set(generated.flatten().tolist())) > 2


def frequencies(sampling: Sampling, probabilities: Sequence[float], draws: int = 20_000) -> torch.Tensor:
    logits = torch.tensor(probabilities).log().expand(draws, -1)
    drawn = choose(logits, sampling, torch.Generator().manual_seed(5))
    return torch.bincount(drawn, minlength=len(probabilities)) / draws


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), (0.1, 0.5, 0.15, 0.25)),
        (Sampling(temperature=0.5), (1 / 34.5, 25 / 34.5, 2.25 / 34.5, 6.25 / 34.5)),
        (Sampling(temperature=1.0, top_k=2), (0.0, 2 / 3, 0.0, 1 / 3)),
        (Sampling(temperature=1.0, top_p=0.76), (0.0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9)),
        (Sampling(temperature=1.0, top_p=0.3), (0.0, 1.0, 0.0, 0.0)),
        (Sampling(temperature=1.0, top_k=2, top_p=0.6), (0.0, 1.0, 0.0, 0.0)),
        (GREEDY, (0.0, 1.0, 0.0, 0.0)),
    ],
)
def test_tokens_are_drawn_with_the_probabilities_of_the_rule(sampling: Sampling, expected: Sequence[float]) -> None:
    """Four standard errors at 20,000 draws are 0.014."""
    found = frequencies(sampling, (0.1, 0.5, 0.15, 0.25))
    assert found.tolist() == pytest.approx(list(expected), abs=0.014)
    assert [f == 0 for f in found.tolist()] == [e == 0 for e in expected]


def test_the_generator_decides_alone() -> None:
    logits = torch.zeros(64, 50)
    first, again, other = (
        choose(logits, Sampling(temperature=1.0), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 0}, "top-k"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.5}, "top-p"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        Sampling(**values)  # type: ignore[arg-type]
