"""Results of a rung as arrays: always the same as made anew from their entries."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.objectives import Score
from hybridsearch.search.results import Entry, Results


def entry(trial: int, loss: float, errors: tuple[float, ...] = ()) -> Entry:
    return Entry(trial=trial, score=Score(values=(loss, 2.0), directions=("minimize", "maximize"), errors=errors))


def same(found: Results, entries: list[Entry]) -> bool:
    fresh = Results(entries)
    arrays = ("trials", "values", "violations", "errors")
    return found.entries == fresh.entries and all(
        getattr(found, name).tolist() == getattr(fresh, name).tolist() for name in arrays
    )


def test_values_are_minimised_and_errors_default_to_none() -> None:
    results = Results([entry(3, 0.5, (0.1, 0.2)), entry(1, 0.25)])
    assert results.trials.tolist() == [1, 3]
    assert results.values.tolist() == [[0.25, -2.0], [0.5, -2.0]]
    assert results.errors.tolist() == [[0.0, 0.0], [0.1, 0.2]]
    assert (results.index(3), results.index(2), results.index(9)) == (1, None, None)


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1), st.booleans()), max_size=20))
def test_after_any_changes_they_are_as_if_made_anew(changes: list[tuple[int, float, bool]]) -> None:
    results, known = Results(), dict[int, Entry]()
    for trial, loss, gone in changes:
        before = results.copy()
        kept = list(known.values())
        if gone:
            results.discard(trial)
            known.pop(trial, None)
        else:
            results.record(entry(trial, loss))
            known[trial] = entry(trial, loss)
        assert same(results, list(known.values()))
        assert same(before, kept)  # a copy does not change with its original
    assert same(results, random.Random(0).sample(list(known.values()), len(known)))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.floats(0, 1), st.sampled_from([0.0, 0.0, 0.1]), st.booleans())),
    st.sampled_from([0.0, 1.0]),
)
def test_fronts_that_grow_are_those_of_all_entries_ranked_anew(
    changes: list[tuple[int, float, float, bool]], margin: float
) -> None:
    results = Results()
    results.layers(margin)
    for trial, loss, error, gone in changes:
        if gone:
            results.discard(trial)
        else:
            results.record(entry(trial, loss, (error, 0.0) if error else ()))
        fresh = Results(results.entries)
        assert [set(front) for front in results.layers(margin)] == [set(front) for front in fresh.layers(margin)]
        for known in results.entries:
            assert results.layers(margin).standing(results.place(known)).front == next(
                index for index, front in enumerate(fresh.layers(margin)) if known.trial in front
            )


def test_an_entry_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        Results([entry(3, 0.5)]).entry(2)
