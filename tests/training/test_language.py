import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from hybridsearch.errors import InvalidFile, InvalidSetting, StoreUnavailable, TrialFailure
from hybridsearch.models.build import build
from hybridsearch.models.generation import Sampling
from hybridsearch.seeds import stream as random_stream
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.mixers import FullAttention, GatedDelta
from hybridsearch.training import language
from hybridsearch.training.language import Update, train
from hybridsearch.training.language_files import LanguageSettings, RunFolder
from hybridsearch.training.language_text import generate, load, stream

SETTINGS = LanguageSettings(
    steps=40, batch=8, context=32, learning_rate=1e-2, validate_every=20, validation_tokens=512, device="cpu", seed=5
)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]
"""On a GPU the matrix products are in bfloat16."""
WORDS = ("river", "stone", "light", "under", "never", "again", "seven", "bread")
HYBRID = Architecture(
    width=16,
    layers=(
        Layer(mixer=GatedDelta(heads=2, head_dim=8), feed_forward=32),
        Layer(mixer=FullAttention(heads=2, head_dim=8), feed_forward=32),
    ),
)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Text with structure beyond letter frequencies: words drawn at random from eight."""
    rng = random_stream(1, "book")
    words = [rng.choice(WORDS) for _ in range(3000)]
    path = tmp_path / "book.txt"
    path.write_text(" ".join(words) + "\n")
    return path


def unigram_nats(path: Path) -> float:
    counts = Counter(path.read_bytes())
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


@pytest.mark.parametrize("device", DEVICES)
def test_training_learns_more_than_letter_frequencies(
    tmp_path: Path, book: Path, device: Literal["cpu", "cuda"]
) -> None:
    updates: list[Update] = []
    settings = replace(SETTINGS, device=device)
    train(HYBRID, [book], tmp_path / "run", settings, stop=interrupted_after(15), on_update=updates.append)
    result = train(HYBRID, [], tmp_path / "run", settings, resume=True, on_update=updates.append)
    assert result.finished
    assert result.best is not None
    assert result.last is not None
    assert result.last.loss < 0.9 * unigram_nats(book)
    assert result.last.bits_per_byte == pytest.approx(result.last.loss / math.log(2))
    assert [u.step for u in updates] == [10, 20, 30, 40]
    assert [u.step for u in updates if u.validation] == [20, 40]
    assert updates[-1].loss < updates[0].loss
    written = generate(
        load(tmp_path / "run", device=device), "the river ", tokens=40, sampling=Sampling(temperature=0.5)
    )
    assert set(written.encode()) <= set(book.read_bytes()), "only letters of the book were learnt"


def interrupted_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(10**9))
    return lambda: next(asked) >= steps


def test_an_interrupted_run_goes_on_bit_by_bit(tmp_path: Path, book: Path) -> None:
    settings = replace(SETTINGS, steps=12, validate_every=5)
    whole = train(HYBRID, [book], tmp_path / "whole", settings)
    for steps in (3, 4):
        part = train(HYBRID, [book], tmp_path / "parts", settings, resume=True, stop=interrupted_after(steps))
        assert not part.finished
    book.unlink()
    end = train(HYBRID, [book], tmp_path / "parts", settings, resume=True)
    assert (end.step, end.last, end.best) == (whole.step, whole.last, whole.best)
    for name in ("last", "best"):
        first, second = (RunFolder(tmp_path / run).load(name) for run in ("whole", "parts"))
        assert first is not None
        assert second is not None
        assert first.validations == second.validations
        assert set(first.tensors) == set(second.tensors)
        assert all(torch.equal(first.tensors[key], second.tensors[key]) for key in first.tensors)


def test_the_best_checkpoint_is_that_of_the_lowest_validation(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0])
    real = language.validate
    monkeypatch.setattr(language, "validate", lambda *given: replace(real(*given), loss=next(losses)))
    result = train(HYBRID, [book], tmp_path / "run", replace(SETTINGS, steps=6, validate_every=2))
    assert result.best is not None
    assert result.best.step == 4
    assert load(tmp_path / "run").step == 4
    assert load(tmp_path / "run", which="last").step == 6


def test_generation_is_decided_by_its_seed_and_streams_the_same_text(tmp_path: Path, book: Path) -> None:
    train(HYBRID, [book], tmp_path / "run", replace(SETTINGS, steps=2))
    trained = load(tmp_path / "run", device="cpu")
    texts = [generate(trained, "", tokens=30, sampling=Sampling(temperature=1.0), seed=s) for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    pieces = list(stream(trained, "", tokens=30, sampling=Sampling(temperature=1.0), seed=1))
    assert "".join(pieces) == texts[0]
    assert len(pieces) > 5
    with pytest.raises(InvalidSetting, match="at least 1"):
        generate(trained, "a", tokens=0)


def test_a_large_vocabulary_is_scored_in_pieces_with_the_same_loss_and_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(HYBRID, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    windows = torch.randint(50, (3, 17), generator=torch.Generator().manual_seed(2))
    found = []
    for limit in (2**26, 300):
        monkeypatch.setattr(language, "LOGITS_AT_ONCE", limit)
        model.zero_grad()
        value = language.loss(model, windows)
        value.backward()  # type: ignore[no-untyped-call]
        assert model.embedding.weight.grad is not None
        found.append((value.detach(), model.embedding.weight.grad.clone()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)


def test_a_run_refuses_what_is_not_its_own(tmp_path: Path, book: Path) -> None:
    short = replace(SETTINGS, steps=2, validate_every=2)
    train(HYBRID, [book], tmp_path / "run", short)
    with pytest.raises(InvalidSetting, match="holds a training run already"):
        train(HYBRID, [book], tmp_path / "run", short)
    with pytest.raises(InvalidSetting, match=r"learning_rate 0\.5 differs"):
        train(HYBRID, [book], tmp_path / "run", replace(short, learning_rate=0.5), resume=True)
    other = HYBRID.model_copy(update={"tied_embeddings": False})
    with pytest.raises(InvalidSetting, match="choose another folder"):
        train(other, [book], tmp_path / "run", short, resume=True)
    assert train(HYBRID, [], tmp_path / "run", replace(short, steps=4), resume=True).step == 4
    assert RunFolder(tmp_path / "run").read()[1].steps == 4


def test_what_is_missing_or_damaged_is_said(tmp_path: Path, book: Path) -> None:
    with pytest.raises(InvalidFile, match="no training run here"):
        load(tmp_path)
    with pytest.raises(InvalidSetting, match="give more text"):
        train(HYBRID, [book], tmp_path / "long", replace(SETTINGS, context=10**6))
    assert not RunFolder(tmp_path / "long").exists, "a run that cannot begin leaves the folder free"
    with pytest.raises(StoreUnavailable):
        train(HYBRID, [book], book / "run", SETTINGS)
    train(HYBRID, [book], tmp_path / "run", replace(SETTINGS, steps=1))
    for name in ("best", "last"):
        (tmp_path / "run" / f"{name}.safetensors").write_bytes(b"torn")
    with pytest.raises(InvalidFile, match=r"best\.safetensors: damaged"):
        load(tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tmp_path: Path, book: Path) -> None:
    wild = replace(SETTINGS, steps=100, learning_rate=1e30, clip=1e30, warmup=0.0, weight_decay=1e9)
    with pytest.raises(TrialFailure, match="learning rate below"):
        train(HYBRID, [book], tmp_path / "run", wild)


@pytest.mark.parametrize("values", [{"steps": 0}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"weight_decay": -1.0}])
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(values))):
        LanguageSettings(**values)  # type: ignore[arg-type]
