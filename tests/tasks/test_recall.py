"""MQAR against its published definition: what is asked, where, from which ranges, and with which law."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridsearch.errors import InvalidSetting
from hybridsearch.settings import RecallLevel, TaskSettings
from hybridsearch.tasks import recall
from hybridsearch.tasks.catalog import TASKS


def make(length: int, pairs: int, vocabulary: int = 256, count: int = 8, seed: int = 0, **task: object) -> recall.Batch:
    level = RecallLevel(length=length, pairs=pairs)
    chosen = TaskSettings.model_validate({"vocabulary": vocabulary, "train": [level], "test": [level], **task})
    return recall.batch(level, chosen, count, torch.Generator().manual_seed(seed))


@given(
    pairs=st.integers(1, 40),
    slack=st.integers(0, 37),
    spare=st.integers(0, 300),
    fill=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_every_question_is_a_key_of_the_pairs_and_its_answer_the_value_beside_it(
    pairs: int, slack: int, spare: int, fill: bool, seed: int
) -> None:
    length, vocabulary = 4 * pairs + slack, max(2 * (pairs + 1), 8) + spare
    made = make(length, pairs, vocabulary, count=5, seed=seed, random_non_queries=fill)
    half = vocabulary // 2
    for row, positions, answers in zip(
        made.tokens.tolist(), made.positions.tolist(), made.answers.tolist(), strict=True
    ):
        keys, values = row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert all(1 <= key < half for key in keys)
        assert all(half <= value < vocabulary for value in values)
        assert len(set(positions)) == pairs
        assert all(place >= 2 * pairs and place % 2 == 0 and place < length for place in positions)
        assert [row[place] for place in positions] == keys
        assert answers == values
        assert all(0 <= token < vocabulary for token in row)


def test_unused_places_are_zero_or_cover_the_whole_vocabulary() -> None:
    asked = make(64, 4, vocabulary=16, count=400, random_non_queries=False)
    zero = torch.ones_like(asked.tokens, dtype=torch.bool)
    zero[:, :8] = False
    zero.scatter_(1, asked.positions, False)
    assert asked.tokens[zero].eq(0).all()
    filled = make(64, 4, vocabulary=16, count=400).tokens[zero]
    counts = torch.bincount(filled, minlength=16).double()
    expected = filled.numel() / 16
    assert chi_square(counts, torch.full((16,), expected)) < 37.7  # 15 degrees of freedom, p = 0.001


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("power", [0.01, 1.0, 2.5])
def test_the_first_gap_follows_the_power_law(power: float) -> None:
    level, count = RecallLevel(length=48, pairs=8), 40_000
    first = recall.gaps(level, power, count, torch.Generator().manual_seed(1))[:, 0]
    law = torch.arange(1, 17, dtype=torch.float64) ** (power - 1)
    assert chi_square(torch.bincount(first, minlength=16).double(), count * law / law.sum()) < 37.7


def test_all_gaps_together_follow_draws_without_replacement() -> None:
    """Against numpy's `choice(replace=False, p=...)`, which the published generator uses."""
    level, count, slots = RecallLevel(length=24, pairs=3), 6_000, 9
    law = np.arange(1, slots + 1) ** (0.01 - 1)
    rng = np.random.default_rng(5)
    published = np.stack([rng.choice(slots, 3, replace=False, p=law / law.sum()) for _ in range(count)])
    ours = recall.gaps(level, 0.01, count, torch.Generator().manual_seed(2)).numpy()
    for place in range(3):
        theirs = np.bincount(published[:, place], minlength=slots)
        mine = np.bincount(ours[:, place], minlength=slots)
        two_samples = float(((mine - theirs) ** 2 / np.maximum(mine + theirs, 1)).sum())
        assert two_samples < 26.1  # 8 degrees of freedom, p = 0.001


def test_keys_and_values_are_uniform() -> None:
    made = make(32, 4, vocabulary=32, count=8_000)
    keys = torch.bincount(made.tokens[:, 0], minlength=16)[1:].double()
    values = torch.bincount(made.answers[:, 3] - 16, minlength=16).double()
    assert chi_square(keys, torch.full((15,), 8_000 / 15)) < 36.2  # 14 degrees of freedom
    assert chi_square(values, torch.full((16,), 500.0)) < 37.7


def test_a_seed_gives_the_same_batch_and_another_seed_another() -> None:
    once, again, other = make(64, 8, seed=3), make(64, 8, seed=3), make(64, 8, seed=4)
    assert torch.equal(once.tokens, again.tokens)
    assert torch.equal(once.positions, again.positions)
    assert not torch.equal(once.tokens, other.tokens)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="9 pairs need a length of at least 36, found 35"):
        RecallLevel(length=35, pairs=9)
    with pytest.raises(InvalidSetting, match="300 pairs need a vocabulary of at least 602, found 256"):
        recall.batch(RecallLevel(length=1200, pairs=300), TaskSettings(vocabulary=256), 1, torch.Generator())


def test_timing_tokens_are_whole_sequences_of_the_hardest_level() -> None:
    level = RecallLevel(length=32, pairs=8)
    task = TaskSettings(vocabulary=64, train=(level,), test=(RecallLevel(length=16, pairs=2), level))
    made = TASKS["recall"].tokens(task, 3, 80, torch.Generator().manual_seed(0))
    assert made.shape == (3, 80)
    for row in made.tolist():
        for start in (0, 32):
            keys = row[start : start + 16 : 2]
            assert set(keys) <= set(row[start + 16 : start + 32])
            assert all(token >= 32 for token in row[start + 1 : start + 16 : 2])
