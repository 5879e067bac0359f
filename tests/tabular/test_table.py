"""Tables in memory: what is complete, the best front, and what a table refuses."""

from dataclasses import replace

import pytest

from hybridsearch.errors import InvalidSetting
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import content_hash
from hybridsearch.tabular.table import Run, Table, merged


def test_the_front_is_of_means_over_seeds(table: Table, architectures: tuple[Architecture, ...]) -> None:
    best, fast, _, broken = (content_hash(a) for a in architectures)
    assert table.finals()[best]["recall"] == pytest.approx(0.9)
    assert broken not in table.finals()
    assert table.front().keys == {best, fast}
    assert table.front().hypervolume == pytest.approx(0.9 * 10 + 0.3 * 40)


def test_a_run_without_its_last_rung_is_not_played_and_a_failed_one_is(
    table: Table, architectures: tuple[Architecture, ...]
) -> None:
    runs = [replace(run, reports=run.reports[:1]) if run.seed == 1 else run for run in table.runs]
    short = Table(about=table.about, candidates=table.candidates, runs=runs)
    best, *_, broken = (content_hash(a) for a in architectures)
    assert [run.seed for run in short.playable[best]] == [0]
    assert [run.failure is not None for run in short.playable[broken]] == [True]


def test_runs_that_do_not_fit_are_refused(table: Table) -> None:
    first = table.runs[0]

    def built(*runs: Run) -> Table:
        return Table(about=table.about, candidates=table.candidates, runs=runs)

    for runs, said in (
        ((first, first), "twice"),
        ((replace(first, hash="0" * 64),), "no candidate"),
        ((replace(first, reports=first.reports[1:]),), "expected rung 0 at 10"),
        ((replace(first, reports=(*first.reports, first.reports[-1])),), "has 3 rungs"),
    ):
        with pytest.raises(InvalidSetting, match=said):
            built(*runs)


def test_merging_keeps_all_runs_and_refuses_other_meanings(table: Table) -> None:
    def part(runs: tuple[Run, ...], source: str) -> Table:
        about = replace(table.about, sources=(source,))
        return Table(about=about, candidates={r.hash: table.candidates[r.hash] for r in runs}, runs=runs)

    runs = tuple(table.runs)
    both = merged([part(runs[:2], "a"), part(runs[2:], "b")])
    assert (set(both.candidates), len(both.runs)) == (set(table.candidates), len(table.runs))
    assert both.about.sources == ("a", "b")
    with pytest.raises(InvalidSetting, match="twice"):
        merged([part(runs[:2], "a"), part(runs[1:], "b")])
    other = Table(about=replace(table.about, seconds="hours"), candidates=table.candidates, runs=runs)
    with pytest.raises(InvalidSetting, match="differ in their seconds"):
        merged([table, other])
